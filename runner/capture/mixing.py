"""How much LLaMA Factory takes of each data set, as weights and limits of a recipe's files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from runner.capture.captured import Captured, Fate

EVERY_ROW = 100_000  # the web UI's own max_samples, which is there to mean all
_BY_HASH = "other rows: those that come first by the hash of their content"

Counts = Sequence[int | None]


def most_of(values: Mapping[str, Any]) -> int | None:
    """Rows that it takes of each data set at most; None for all."""
    most = values.get("max_samples")
    counts = isinstance(most, int) and not isinstance(most, bool) and 0 < most < EVERY_ROW
    return most if counts else None


def how_many(wanted: Any, most: int | None, rows: int | None) -> dict[str, Any]:
    """`limit` or `repeat` for a data set of `rows` rows (None: unknown), of which `num_samples`
    (`wanted`) rows are drawn, some of them again where there are fewer, and then `most` taken."""
    drawn = wanted if isinstance(wanted, int) and wanted > 0 else rows
    taken = min(each for each in (drawn, most, math.inf) if each is not None)
    if taken == math.inf or taken == rows:
        return {}
    if rows and taken > rows:
        return {"repeat": taken / rows}
    return {"limit": int(taken)}


def note_most(
    files: Sequence[Mapping[str, Any]], values: Mapping[str, Any], made: Captured
) -> None:
    """What became of max_samples."""
    most = most_of(values)
    if most is None:
        return
    if not any("limit" in file or "repeat" in file for file in files):
        why = "no data set has more rows"
        made.note(Fate.NO_EFFECT, "max_samples", most, why=why)
        return
    why = _BY_HASH + ("; all rows of eval_dataset are held out" if values["eval_dataset"] else "")
    made.note(Fate.CLOSE, "max_samples", most, becomes="limit of each file", why=why)


def note_drawn(name: str, wanted: int, file: Mapping[str, Any], made: Captured) -> None:
    """What became of a data set's num_samples."""
    becomes = ", ".join(f"{key}: {file[key]:g}" for key in ("limit", "repeat") if key in file)
    becomes = becomes or "every row"
    made.note(Fate.CLOSE, f"{name}.num_samples", wanted, becomes=becomes, why=_BY_HASH)


def weigh(
    files: Sequence[dict[str, Any]],
    places: Sequence[int],
    counts: Counts,
    values: Mapping[str, Any],
    made: Captured,
) -> None:
    """Give `files` what mix_strategy says. `places`: which of its data sets each of them is;
    `counts`: their rows. What cannot be said is left to be listed as lost.
    """
    strategy = values.get("mix_strategy")
    if strategy in (None, "concat") or not files:
        return
    if strategy == "interleave_once" or len(files) == _named(values) == 1:
        why = "every row once, in the order that the seed draws"
        made.note(Fate.CLOSE, "mix_strategy", strategy, becomes="data.train", why=why)
        return
    shares = _shares(values)
    if shares is None or max(places) >= len(shares) or len(files) < 2:
        return
    weights = [shares[place] for place in places]
    if strategy == "interleave_over":
        for file, weight in zip(files, weights, strict=True):
            file.pop("repeat", None)
            file["weight"] = weight
        becomes = "a weight of each file"
    elif strategy == "interleave_under" and _cut(files, weights, counts):
        becomes = "limit of each file"
    else:
        return
    why = "these very shares, where LLaMA Factory draws them; rows are held out before the mix"
    made.note(Fate.CLOSE, "mix_strategy", strategy, becomes=becomes, why=why)
    if values.get("interleave_probs") is not None:
        written = ", ".join(f"{weight:g}" for weight in weights)
        made.note(Fate.MAPPED, "interleave_probs", values.get("interleave_probs"), becomes=written)


def _cut(files: Sequence[dict[str, Any]], weights: Sequence[float], counts: Counts) -> bool:
    """Limit all files to the shares of the one that ends first; False where rows are unknown."""
    rows = [
        None if count is None else min(count, file.get("limit", count))
        for file, count in zip(files, counts, strict=True)
    ]
    if not all(rows):
        return False
    ends = min(n / weight for n, weight in zip(rows, weights, strict=True) if n is not None)
    for file, weight in zip(files, weights, strict=True):
        file.pop("repeat", None)
        file["limit"] = max(1, round(weight * ends))
    return True


def _named(values: Mapping[str, Any]) -> int:
    """How many data sets are named."""
    return len(as_list(values["dataset"]))


def _shares(values: Mapping[str, Any]) -> list[float] | None:
    """The share of each data set that is named; None where they are no numbers above 0."""
    given = values.get("interleave_probs")
    if given is None:
        return [1.0] * _named(values)
    try:
        shares = [float(part) for part in as_list(given)]
    except (TypeError, ValueError):
        return None
    return shares if all(0 < share < math.inf for share in shares) else None


def as_list(given: Any) -> list[Any]:
    """Names or numbers as a list, given as one, as one of them, or with commas between."""
    if given is None:
        return []
    parts = given.split(",") if isinstance(given, str) else given
    parts = parts if isinstance(parts, list) else [parts]
    return [
        part
        for part in (p.strip() if isinstance(p, str) else p for p in parts)
        if part not in ("", None)
    ]
