"""Files of rows that are compressed, told by their first bytes. Standard library only."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from runner.scripts.data.files.rows import RowError

SUFFIXES = (".gz", ".xz", ".zst")
TEXTS = "texts"  # of the columns of Parquet: those that hold texts, and nothing that is no JSON
LIBRARY_SUFFIXES = (".parquet", ".zst")  # of files that take one to read
PARQUET = b"PAR1"
_GZIP, _XZ, _ZSTD = b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"


def is_packed(start: bytes) -> bool:
    """By the first bytes of a file."""
    return start.startswith((PARQUET, _GZIP, _XZ, _ZSTD))


def takes_library(start: bytes) -> bool:
    """Is it made plain by `runner/scripts/plain_rows` before it is read? By the first 4 bytes."""
    return start.startswith((PARQUET, _ZSTD))


def bare_name(name: str) -> str:
    """The name in small letters, without the suffix of a compression."""
    lower = name.lower()
    return next((lower.removesuffix(each) for each in SUFFIXES if lower.endswith(each)), lower)


@contextmanager
def unpacked(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """What is in `file`, which is closed by the caller.

    Raises RowError E347 for what takes a library, and from within where what is read is damaged.
    """
    start = file.read(len(_XZ))
    file.seek(0)
    if takes_library(start):
        kind = "Parquet" if start.startswith(PARQUET) else "zstd"
        raise RowError(f"{kind} is not read here: recipe data convert makes it JSON lines", "E347")
    if start.startswith(_GZIP):
        with _gzip(file) as inner:
            yield inner
    elif start.startswith(_XZ):
        with _xz(file) as inner:
            yield inner
    else:
        yield file


@contextmanager
def _gzip(file: IO[bytes]) -> Iterator[IO[bytes]]:
    import gzip

    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as inner:
            yield cast(IO[bytes], inner)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RowError(f"the compressed file is damaged: {error}", "E347") from None


@contextmanager
def _xz(file: IO[bytes]) -> Iterator[IO[bytes]]:
    import lzma

    try:
        with lzma.LZMAFile(file, "rb") as inner:
            yield cast(IO[bytes], inner)
    except (lzma.LZMAError, EOFError) as error:
        raise RowError(f"the compressed file is damaged: {error}", "E347") from None
