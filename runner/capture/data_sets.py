"""LLaMA Factory's data sets, by its dataset_info.json, as the files of a recipe."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from runner.capture.mixing import how_many
from runner.recipe.methods import METHODS
from runner.recipe.paths import is_readable_file, project_root
from runner.system.regular import read_regular

INFO = "dataset_info.json"
_MOST = 4 * 1024 * 1024  # bytes of it
# formatting -> columns that LLaMA Factory takes where an entry names none
USUAL_COLUMNS = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "sharegpt": {"messages": "conversations"},
}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_CHAT_COLUMNS = {"messages": "messages"}
_CHAT_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
_OPTIONAL = {"system": "system", "history": "history"}  # columns that the formats know, too
# Format of answers that are compared -> its key -> the column of LLaMA Factory's that it is.
_COMPARED = {
    "preference": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    "kto": {"prompt": "prompt", "completion": "response", "label": "kto_tag"},
}


class Inexpressible(Exception):
    """A data set that a recipe cannot name; the message says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where paths start: LLaMA Factory's working folder, and the recipe's.

    `rows`: items of data.train that stand for its data sets.
    """

    workspace: Path
    recipe: Path
    rows: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class DataSet:
    """One of LLaMA Factory's data sets as an item of data.train: the `number`-th that was named,
    of `rows` rows (None: not known), of which it draws `drawn` (None: it takes them all)."""

    name: str
    number: int
    item: dict[str, Any]
    rows: int | None
    drawn: int | None


def file_of(
    name: str, folder: str, place: Place, method: str, number: int = 0, most: int | None = None
) -> DataSet:
    """Data set `name`, the `number`-th that is named, from which `method` learns at most `most`
    rows. Raises Inexpressible.
    """
    entry = _entry(name, place.workspace / folder)
    if "hf_hub_url" in entry:
        _of_the_hub(entry)
    if "file_name" not in entry:
        raise Inexpressible("it comes from a script, or from another hub")
    path = place.workspace / folder / str(entry["file_name"])
    if path.is_dir():
        raise Inexpressible("it is a folder; name its files in data.train")
    written = os.path.relpath(path, place.recipe)
    _require_all_rows(entry)
    columns = entry.get("columns")
    if method == "pretrain":
        item = {"path": written, **_text(entry, path, place)}
    elif entry.get("ranking") or (isinstance(columns, dict) and columns.get("kto_tag")):
        item = {"path": written, **_compared(entry, path, place)}
    else:
        item = {"path": written, "format": _format(entry)}
    known = METHODS[method].formats
    if item["format"] not in known:
        compares = "ranking" if entry.get("ranking") else item["format"]
        raise Inexpressible(f"its rows are {compares}, and {method} learns from {', '.join(known)}")
    drawn = entry.get("num_samples") or None
    rows = _count(path, place)
    return DataSet(name, number, item | how_many(drawn, most, rows), rows, drawn)


def _entry(name: str, folder: Path) -> dict[str, Any]:
    path = folder / INFO
    try:
        entries = json.loads(read_regular(path, _MOST))
    except (ValueError, RecursionError) as error:
        raise Inexpressible(f"{path} cannot be read ({type(error).__name__})") from None
    entry = entries.get(name) if isinstance(entries, dict) else None
    if not isinstance(entry, dict):
        raise Inexpressible(f"{path} has no data set of that name")
    return entry


def _of_the_hub(entry: dict[str, Any]) -> NoReturn:
    raise Inexpressible(
        f"it is {entry['hf_hub_url']} of the hub, and a recipe names a file of it: "
        "write hub, file and format in data.train"
    )


def _format(entry: dict[str, Any]) -> str:
    """The recipe's name for the rows' form. Raises Inexpressible."""
    formatting = entry.get("formatting", "alpaca")
    columns, tags = entry.get("columns"), entry.get("tags")
    if formatting == "alpaca" and _fits(columns, USUAL_COLUMNS["alpaca"]):
        return "alpaca"
    turns = formatting == "openai" and columns is None
    turns = turns or (formatting in ("openai", "sharegpt") and _fits(columns, _CHAT_COLUMNS))
    if turns and ((formatting == "openai" and tags is None) or _fits(tags, _CHAT_TAGS)):
        return "messages"
    if (
        formatting == "sharegpt"
        and _fits(columns, USUAL_COLUMNS["sharegpt"])
        and _fits(tags, _TAGS)
    ):
        return "sharegpt"
    raise Inexpressible(f"its rows are of another form: {_shown(formatting, columns, tags)}")


def _require_all_rows(entry: dict[str, Any]) -> None:
    for setting in ("subset", "folder"):
        if entry.get(setting):
            raise Inexpressible(f"{setting}: {entry[setting]}")
    drawn = entry.get("num_samples") or 1
    if not isinstance(drawn, int) or isinstance(drawn, bool) or drawn < 1:
        raise Inexpressible(f"num_samples: {drawn}")
    if entry.get("split", "train") != "train":
        raise Inexpressible(f"split: {entry['split']}")


def _text(entry: dict[str, Any], path: Path, place: Place) -> dict[str, Any]:
    """Format and column of plain texts: LLaMA Factory learns its `prompt`. Raises Inexpressible."""
    columns = entry.get("columns")
    if columns is None:
        columns = USUAL_COLUMNS["alpaca"]
    if entry.get("formatting", "alpaca") != "alpaca" or not isinstance(columns, dict):
        raise Inexpressible("its rows are conversations, and pretrain learns from texts")
    column = str(columns.get("prompt") or "")
    if not column:
        raise Inexpressible("it names no column of texts: columns: {prompt: text}")
    if path.suffix == ".txt":
        raise Inexpressible("it is a plain text; write each text into a row of a JSONL file")
    beside = [str(columns[name]) for name in ("query", "history") if columns.get(name)]
    if filled := _filled(beside, path, place):
        raise Inexpressible(f"it reads {filled} beside the text; write both into one")
    return {"format": "text", **({} if column == "text" else {"columns": {"text": column}})}


def _compared(entry: dict[str, Any], path: Path, place: Place) -> dict[str, Any]:
    """Format and columns of rows whose answers are compared. Raises Inexpressible."""
    if entry.get("formatting", "alpaca") != "alpaca":
        raise Inexpressible(
            "its questions are turns beside the answers (ranking); write prompt, chosen and "
            "rejected, or prompt, completion and label, as docs/data.md has them"
        )
    columns = entry.get("columns")
    if columns is None:
        columns = USUAL_COLUMNS["alpaca"]
    if not isinstance(columns, dict):
        raise Inexpressible("its columns are no mapping of names")
    form = "kto" if columns.get("kto_tag") else "preference"
    theirs = {key: columns.get(column) for key, column in _COMPARED[form].items()}
    missing = [_COMPARED[form][key] for key, column in theirs.items() if not column]
    if missing:
        raise Inexpressible(f"its answers are compared (ranking) without {', '.join(missing)}")
    if columns.get("tools"):
        theirs["tools"] = columns["tools"]
    read = {*_COMPARED[form].values(), "tools"}
    others = [str(column) for name, column in columns.items() if name not in read and column]
    if filled := _filled(others, path, place):
        raise Inexpressible(
            f"it reads {filled} beside the prompt, for which rows of format {form} have no place; "
            "write both into prompt"
        )
    renamed = {key: str(column) for key, column in theirs.items() if column != key}
    return {"format": form, **({"columns": renamed} if renamed else {})}


def _filled(columns: list[str], path: Path, place: Place) -> str:
    """The first of the columns that some row has something in; "" for none.

    A file that is not in the project is not read, and taken to have something there.
    """
    from runner.scripts.data.files.rows import Problem, read_rows

    if not columns:
        return ""
    if not _is_in_the_project(path, place):
        return columns[0]
    for found in read_rows(path, str(path)):
        if not isinstance(found, Problem):
            for column in columns:
                if found[1].get(column):
                    return column
    return ""


def _count(path: Path, place: Place) -> int | None:
    """Rows of a file of the project; None where they cannot be counted."""
    from runner.recipe.checks.disk import count_rows

    return count_rows(path) if _is_in_the_project(path, place) else None


def _is_in_the_project(path: Path, place: Place) -> bool:
    root = project_root(place.recipe / "x.yaml")
    return path.resolve().is_relative_to(root) and is_readable_file(path)


def _fits(given: Any, usual: dict[str, str]) -> bool:
    """Does the entry say what is usual, or less? A column that is not named is not read."""
    if given is None:
        return usual in (*USUAL_COLUMNS.values(), _TAGS)
    known = {**usual, **_OPTIONAL}
    return isinstance(given, dict) and all(known.get(name) == given[name] for name in given)


def _shown(formatting: Any, columns: Any, tags: Any) -> str:
    parts = {"formatting": formatting, "columns": columns, "tags": tags}
    return json.dumps({name: part for name, part in parts.items() if part is not None})
