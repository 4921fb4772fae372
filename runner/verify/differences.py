"""Where two runs part: the first stage, file, and inside of the file the tensor, token or step.

Files are compared by their digests first; only the first pair that differs is opened, and read a
block at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.verify import contents

if TYPE_CHECKING:
    from runner.store.store import Store
    from runner.verify.run import Run


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference of two runs. `where` says in words what differs inside of the file."""

    stage: str
    file: str
    where: str
    more: int = 0  # further files of the same stage that differ

    def __str__(self) -> str:
        more = f" ({self.more} more of its files differ)" if self.more else ""
        return f"{self.stage}: {self.file}: {self.where}{more}"


# The name of a file ends like this -> how its contents are compared; the first that fits.
READERS: tuple[tuple[str, Callable[[Path, Path], str]], ...] = (
    (".tokens.safetensors", contents.tokens),
    (".safetensors", contents.tensors),
    (".gguf", contents.gguf),
    (".jsonl", contents.json_lines),
    (".json", contents.json_values),
)


def first_difference(
    old: Run, new: Run, stages: Iterable[str], old_store: Store, new_store: Store
) -> Difference | None:
    """The first difference in the given stages, in their order; None when every byte is equal."""
    for stage in stages:
        before, after = old.manifest.get(stage, {}), new.manifest.get(stage, {})
        unequal = [
            path for path in sorted({*before, *after}) if before.get(path) != after.get(path)
        ]
        if unequal:
            first = min(unequal, key=_telling)
            where = _where(old, new, stage, first, old_store, new_store)
            return Difference(stage, first, where, len(unequal) - 1)
    return None


def _telling(path: str) -> tuple[int, str]:
    """Weights and tokens tell more than what is written about them; the trace tells the step."""
    order = ("trace.jsonl", ".safetensors", ".gguf")
    return next((n for n, end in enumerate(order) if path.endswith(end)), len(order)), path


def _where(old: Run, new: Run, stage: str, path: str, old_store: Store, new_store: Store) -> str:
    before, after = old.manifest.get(stage, {}).get(path), new.manifest.get(stage, {}).get(path)
    if before is None or after is None:
        return f"only in the {'second' if before is None else 'first'} run"
    if before["sha256"] == after["sha256"]:
        return f"the same bytes, but {_facts_that_differ(before, after)}"
    places = [_find(old, stage, path, old_store), _find(new, stage, path, new_store)]
    if places[0] is None or places[1] is None:
        return f"sha256 {before['sha256'][:12]}… and {after['sha256'][:12]}…"
    return compare_files(places[0], places[1])


def _facts_that_differ(before: object, after: object) -> str:
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    return ", ".join(
        f"{name} {before.get(name)} and {after.get(name)}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )


def _find(run: Run, stage: str, path: str, store: Store) -> Path | None:
    """The file to open: the run folder's, else the store's."""
    shown = run.shown(stage, path)
    if shown is not None and shown.is_file():
        return shown
    stored = store.folder(stage, str(run.stage(stage)["key"])) / path
    return stored if stored.is_file() else None


def compare_files(first: Path, second: Path) -> str:
    """In words, the first difference inside of two files of the same name that are not equal."""
    for ending, read in READERS:
        if first.name.endswith(ending):
            try:
                if found := read(first, second):
                    return found
            except (ValueError, KeyError, IndexError, OSError):
                break  # not what its name says, or damaged: bytes can still be compared
            break
    return contents.first_byte(first, second)
