"""Write JSON lines as Parquet, or compress a file by Zstandard.

spec.hashed: columns, name -> kind as of data/kinds.py, or null for what is to be compressed.
spec.inputs: rows. Written: `packed`. The same rows give the same bytes. Runs in the environment
`parquet`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-not-found, unused-ignore]
import pyarrow.parquet  # type: ignore[import-not-found, unused-ignore]

from runner.scripts.data.kinds import JSON, SPOKEN_BY, Kind
from runner.scripts.spec import Events, Spec, main

GROUP_ROWS, GROUP_BYTES = 10_000, 64 << 20  # of a row group, at most
PART = 1 << 20  # bytes
Kinds = Mapping[str, Kind]


def pack_rows(spec: Spec, events: Events) -> None:
    """Write `packed` into spec.folder."""
    kinds, made = spec.hashed["columns"], spec.folder / "packed"
    if kinds is None:
        compress(spec.inputs["rows"], made)
    else:
        write_parquet(spec.inputs["rows"], made, kinds)
    events.progress(1, 1, message=made.name)


def compress(path: Path, made: Path) -> None:
    """By Zstandard."""
    with path.open("rb") as file, pyarrow.CompressedOutputStream(str(made), "zstd") as out:
        while part := file.read(PART):
            out.write(part)


def write_parquet(path: Path, made: Path, kinds: Kinds) -> None:
    """A row a line of `path`."""
    schema = pyarrow.schema([(name, arrow_type(kind)) for name, kind in kinds.items()])
    settings = {"compression": "zstd", "write_page_checksum": True}
    with pyarrow.parquet.ParquetWriter(made, schema, **settings) as writer:
        for rows in groups(path):
            cells = [{key: cell(key, row.get(key), kinds[key]) for key in kinds} for row in rows]
            writer.write_table(pyarrow.Table.from_pylist(cells, schema=schema))


def groups(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows, some at a time."""
    rows, size = [], 0
    with path.open("rb") as file:
        for line in file:
            rows.append(json.loads(line))
            size += len(line)
            if len(rows) == GROUP_ROWS or size > GROUP_BYTES:
                yield rows
                rows, size = [], 0
    if rows:
        yield rows


def arrow_type(kind: Kind) -> Any:
    """The type of Arrow that holds values of the kind."""
    if isinstance(kind, str):
        integer, text = pyarrow.int64(), pyarrow.string()
        return {
            "null": pyarrow.null(),
            "bool": pyarrow.bool_(),
            "int": integer,
            "long": integer,
            "float": pyarrow.float64(),
            "text": text,
            JSON: text,
        }[kind]
    if "list" in kind:
        return pyarrow.list_(arrow_type(kind["list"]))
    return pyarrow.struct([(name, arrow_type(each)) for name, each in kind["fields"].items()])


def cell(key: str, value: Any, kind: Kind) -> Any:
    """The value as one of the kind."""
    if kind == JSON and value is not None and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and not isinstance(kind, str):
        return [{"role": SPOKEN_BY[key], "content": value}]
    return value


if __name__ == "__main__":
    main(pack_rows)
