"""Write the rows of a Parquet file as JSON lines, a batch at a time.

spec.inputs: file. Written: rows.jsonl. Runs in the environment `parquet`. A value that JSON has no
kind for (bytes, times, NaN) is an error that names its column: what it stood for is not guessed.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow  # type: ignore[import-not-found, unused-ignore]
import pyarrow.parquet  # type: ignore[import-not-found, unused-ignore]

from runner.scripts.spec import Events, ScriptError, Spec, main

BATCH = 1024  # rows


def parquet_rows(spec: Spec, events: Events) -> None:
    """Raises ScriptError E353."""
    try:
        file = pyarrow.parquet.ParquetFile(spec.inputs["file"])
        with (spec.folder / "rows.jsonl").open("w", encoding="utf-8", newline="\n") as out:
            for batch in file.iter_batches(batch_size=BATCH):
                out.writelines(line(row) for row in batch.to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise damaged(f"the Parquet file cannot be read: {error}") from None


def line(row: dict[str, Any]) -> str:
    """One row; columns that are null in it stay null."""
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError):
        raise damaged(f'the column "{unwritable(row)}" has values that are no JSON') from None


def unwritable(row: dict[str, Any]) -> str:
    """The first column that JSON has no kind for."""
    for name, value in row.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            return name
    return next(iter(row), "")


def damaged(message: str) -> ScriptError:
    """What is said of the whole file."""
    return ScriptError(message, hint="write it again, with texts and lists", code="E353")


if __name__ == "__main__":
    main(parquet_rows)
