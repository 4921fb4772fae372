"""Count which rows of files the steps of `data.clean` leave out, as `prepare` does.

Only the steps that look at one row alone are done: those that compare rows would need all files.
spec.hashed: clean (step of data/cleaning/pipeline.py -> its setting), system and those of
data/systems.py where there are some, files (list of {name, format, input, columns where there are
some}). spec.inputs: the files under their `input` names. Written: rows.jsonl, for each file a line
{step: rows that it leaves out}. Rows that cannot be read are in no count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from runner.scripts.data.cleaning.pipeline import Cleaning
from runner.scripts.data.convert import read_to_clean
from runner.scripts.data.files.rows import Problem, RowError, read_rows
from runner.scripts.data.formats import PROMPTED
from runner.scripts.data.sides import bare_of
from runner.scripts.data.writing import Read
from runner.scripts.spec import Events, Spec, main

_BATCH = 1000  # rows that are in memory at a time


def count_dropped(spec: Spec, events: Events) -> None:
    """Write rows.jsonl into spec.folder."""
    with (spec.folder / "rows.jsonl").open("w", encoding="utf-8") as out:
        for number, file in enumerate(spec.hashed["files"], 1):
            counts = dropped_of(spec.inputs[file["input"]], file, spec.hashed)
            out.write(json.dumps(counts) + "\n")
            events.progress(number, len(spec.hashed["files"]), message="files")


def dropped_of(path: Path, file: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, int]:
    """Step -> rows of a file that it leaves out; steps that leave out none are not there."""
    if file["format"] in PROMPTED:  # they are not cleaned
        return {}
    cleaning = Cleaning(settings["clean"])
    rows = _readable(path, file, settings, orders_turns=cleaning.orders_turns)
    while batch := list(islice(rows, _BATCH)):
        cleaning.row_by_row(batch)
    return {step: told.dropped for step, told in cleaning.told.items() if told.dropped}


def _readable(
    path: Path, file: Mapping[str, Any], settings: Mapping[str, Any], *, orders_turns: bool
) -> Iterator[Read]:
    for item in read_rows(path, file["name"], file.get("columns")):
        if not isinstance(item, Problem):
            with suppress(RowError):
                read = read_to_clean(item[1], file["format"], orders_turns=orders_turns)
                yield bare_of(read, settings)


if __name__ == "__main__":
    main(count_dropped)
