"""Write files of rows that take a library to read as files that `data/rows` reads.

spec.hashed: files, input -> {name, columns: those to read, null for all, "texts" for those that
hold texts and nothing that JSON has no kind for, or "writable" for those that hold nothing such}.
spec.inputs: the files. Written: INPUT.jsonl for each, one line a row of Parquet, so that the number
of a row is that of its line; what Zstandard compressed comes as it was before. For "writable" also
left_out.json, the other columns, each with the reason. Runs in the environment `parquet`.

A field of a nested value that is null is left out: Parquet has every field in every row, and null
where a row had none. Null columns stay. A value that JSON has no kind for (bytes, times, NaN) is an
error: what it stood for is not guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-not-found, unused-ignore]
import pyarrow.parquet  # type: ignore[import-not-found, unused-ignore]
from pyarrow import types  # type: ignore[import-not-found, unused-ignore]

from runner.scripts.data.files.packed_files import LEFT_OUT, PARQUET, TEXTS, WRITABLE
from runner.scripts.data.files.rows import MAX_LIST_BYTES, MAX_ROW_BYTES
from runner.scripts.spec import Events, ScriptError, Spec, main

BATCH = 64  # rows: a few bytes of a hostile file can be a text of many
PART = 1 << 20  # bytes
SHOWN = 10  # columns
Columns = Sequence[str] | str | None


def plain_rows(spec: Spec, events: Events) -> None:
    """Raises ScriptError E353, E371, E320, E349 and E347, in the words for the file's name."""
    for number, (given, file) in enumerate(spec.hashed["files"].items(), 1):
        path, name = spec.inputs[given], file["name"]
        with path.open("rb") as start:
            is_parquet = start.read(len(PARQUET)) == PARQUET
        made = spec.folder / f"{given}.jsonl"
        if is_parquet and file["columns"] == WRITABLE:
            left = write_what_is_json(path, name, made)
            (spec.folder / LEFT_OUT).write_text(json.dumps(left), encoding="utf-8")
        else:
            rows = lines(path, name, file["columns"]) if is_parquet else unpacked(path, name)
            with made.open("wb") as out:
                out.writelines(rows)
        events.progress(number, len(spec.hashed["files"]), message=name)


# --- Parquet


class NoJson(ScriptError):
    """A column has a value that JSON has no kind for."""

    def __init__(self, column: str, place: str) -> None:
        wrong = f'{place}: the column "{column}" has a value that is no JSON'
        hint = "write it as a text or a number, or leave the column out"
        super().__init__(wrong, hint=hint, code="E353")
        self.column = column


def write_what_is_json(path: Path, name: str, made: Path) -> dict[str, str]:
    """Write all columns but those that are no JSON: they are returned, with the reason.

    A column whose values show it, as NaN does, is left out from the first row on.
    """
    kinds = kinds_of(path, name)
    left = {each: f"it holds {kind}" for each, kind in kinds.items() if never_json(kind)}
    while chosen := [each for each in kinds if each not in left]:
        try:
            with made.open("wb") as out:
                out.writelines(lines(path, name, chosen))
            return left
        except NoJson as error:
            left[error.column] = error.message
    hint = "write it again with texts, numbers and lists"
    raise ScriptError(f"{name} has no column that can be JSON", hint=hint, code="E353")


def kinds_of(path: Path, name: str) -> dict[str, Any]:
    """The columns, each with its type of Arrow. Raises ScriptError E353."""
    with readable(name), pyarrow.parquet.ParquetFile(path) as file:
        return {field.name: field.type for field in file.schema_arrow}


def never_json(kind: Any) -> bool:
    """Is there something in a value of this type that JSON has no kind for?"""
    no_json = (types.is_temporal, types.is_decimal, types.is_binary, types.is_large_binary)
    no_json += (types.is_fixed_size_binary,)
    return any(holds(leaf) for leaf in leaves_of(kind) for holds in no_json)


def lines(path: Path, name: str, columns: Columns) -> Iterator[bytes]:
    """Each row as a line."""
    number = 0
    for batch in batches(path, name, columns):
        for row in objects(batch, name, number):
            number += 1
            yield line(row, f"{name}:{number}")


def batches(path: Path, name: str, columns: Columns) -> Iterator[Any]:
    """Some rows at a time. The checksums of pages are compared where the file has them."""
    with (
        readable(name),
        pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        chosen = chosen_of(file.schema_arrow, columns, name)
        yield from file.iter_batches(batch_size=BATCH, columns=chosen, use_threads=False)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raises ScriptError E353 where the file is damaged."""
    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        hint = "write it again with texts, numbers and lists, or fetch it again"
        raise ScriptError(f"{name} cannot be read: {said}", hint=hint, code="E353") from None


def chosen_of(schema: Any, columns: Columns, name: str) -> list[str] | None:
    """Those to read; None for all. Raises ScriptError E371 without one."""
    if columns == TEXTS:
        return [field.name for field in schema if holds_texts(field.type)]
    return None if columns is None else present(schema.names, columns, name)


def holds_texts(kind: Any) -> bool:
    """Is there a text in a value of this type of Arrow, and nothing that is no JSON?"""
    leaves = list(leaves_of(kind))
    texts = [types.is_string(each) or types.is_large_string(each) for each in leaves]
    others = (types.is_boolean, types.is_integer, types.is_floating, types.is_null)
    return any(texts) and all(
        text or any(holds(leaf) for holds in others)
        for text, leaf in zip(texts, leaves, strict=True)
    )


def leaves_of(kind: Any) -> Iterator[Any]:
    """The types of the values within a nested one."""
    if types.is_dictionary(kind):
        yield from leaves_of(kind.value_type)
    elif types.is_nested(kind):
        for number in range(kind.num_fields):
            yield from leaves_of(kind.field(number).type)
    else:
        yield kind


def present(names: Sequence[str], wanted: Sequence[str], name: str) -> list[str]:
    """Those of `wanted` that there are. Raises ScriptError E371 without one."""
    found = [each for each in names if each in wanted]
    if found:
        return found
    listed = ", ".join(map(json.dumps, names[:SHOWN])) + (" …" if len(names) > SHOWN else "")
    hint = "give the format that it has, or name its columns in columns of this file"
    wrong = f"{name} has no column that its format reads; its columns: {listed or 'none'}"
    raise ScriptError(wrong, hint=hint, code="E371")


def objects(batch: Any, name: str, before: int) -> list[dict[str, Any]]:
    """The rows of a batch, `before` of them read already. Raises ScriptError E320, E353."""
    try:
        return taken(batch)
    except UnicodeDecodeError:
        where = f"{name}:{before + bad_row(batch)}: a text is not UTF-8"
        raise ScriptError(where, hint="write the file again as UTF-8", code="E320") from None
    except (KeyError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        where = f"{name}:{before + bad_row(batch)}: {error}"
        raise ScriptError(where, hint="write the file again", code="E353") from None


def taken(batch: Any) -> list[dict[str, Any]]:
    """The rows of a batch. Raises what pyarrow does of a bad one."""
    return list(batch.to_pylist(maps_as_pydicts="strict"))


def bad_row(batch: Any) -> int:
    """The number, from 1, of the first row that cannot be taken."""
    for number in range(batch.num_rows):
        try:
            taken(batch.slice(number, 1))
        except (KeyError, ValueError, OverflowError, pyarrow.ArrowException):
            return number + 1
    return 1


def line(row: Mapping[str, Any], place: str) -> bytes:
    """One row; columns that are null in it stay null. Raises ScriptError E353, E349."""
    given = {key: without_absent(value) for key, value in row.items()}
    try:
        made = json.dumps(given, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError):
        raise NoJson(unwritable(given), place) from None
    if len(made) > MAX_ROW_BYTES:
        raise endless(f"{place}: a row of more than {MAX_ROW_BYTES >> 20} MiB is not read")
    return made


def without_absent(value: Any) -> Any:
    """The value, in which fields that are null are left out."""
    if isinstance(value, dict):
        return {key: without_absent(each) for key, each in value.items() if each is not None}
    return [without_absent(each) for each in value] if isinstance(value, list) else value


def unwritable(row: Mapping[str, Any]) -> str:
    """The first column that JSON has no kind for."""
    for name, value in row.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            return name
    return next(iter(row), "")


# --- Zstandard


def unpacked(path: Path, name: str) -> Iterator[bytes]:
    """What was compressed, in parts. Raises ScriptError E347, E349."""
    long = 0  # bytes since a line began
    for part in parts(path, name):
        long = len(part) - part.rfind(b"\n") - 1 if b"\n" in part else long + len(part)
        if long > MAX_LIST_BYTES:
            raise endless(f"{name}: a line of more than {MAX_LIST_BYTES >> 30} GiB is not read")
        yield part


def parts(path: Path, name: str) -> Iterator[bytes]:
    """Raises ScriptError E347."""
    try:
        with pyarrow.OSFile(str(path)) as file:
            plain = pyarrow.CompressedInputStream(file, "zstd")
            while part := plain.read(PART):
                yield part
    except (pyarrow.ArrowException, OSError) as error:
        hint = "fetch or compress it again"
        wrong = f"{name}: the compressed file is damaged: {error}"
        raise ScriptError(wrong, hint=hint, code="E347") from None


def endless(message: str) -> ScriptError:
    """More than is taken in."""
    return ScriptError(message, hint="write JSON lines: one row a line", code="E349")


if __name__ == "__main__":
    main(plain_rows)
