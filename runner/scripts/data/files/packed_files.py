"""Files of rows that are compressed, told by their first bytes. Standard library only."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from runner.scripts.data.files.rows import RowError

if TYPE_CHECKING:
    import gzip
    import lzma

SUFFIXES = (".gz", ".xz", ".zst")
TEXTS = "texts"  # of the columns of Parquet: those that hold texts, and nothing that is no JSON
WRITABLE = "writable"  # of the columns of Parquet: those that can be JSON
LEFT_OUT = "left_out.json"  # the others: column -> why
LIBRARY_SUFFIXES = (".parquet", ".zst")  # of files that take one to read
PARQUET = b"PAR1"
_GZIP, _XZ, _ZSTD = b"\x1f\x8b", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
# Other files of rows, or around them, by their first bytes.
_OTHERS = {
    **{b"BZh%d1AY&SY" % level: "bzip2" for level in range(1, 10)},
    b"PK\x03\x04": "a zip archive, as .xlsx is",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x04\x22\x4d\x18": "compressed by LZ4",
    b"ARROW1\0\0": "Arrow",
    b"Obj\x01": "Avro",
    b"SQLite format 3": "a data base of SQLite",
    b"%PDF-": "PDF",
}
# What stands where rows were expected, by its first characters: what to say of it.
_NO_ROWS = {
    b"version https://git-lfs.github.com/spec/": "this is a pointer of Git LFS, which stands for "
    "the file; in its repository, git lfs pull gets the file itself",
    b"<!doctype html": "this is a web page (HTML), not a file of rows: get the file itself",
    b"<html": "this is a web page (HTML), not a file of rows: get the file itself",
}
_READ = "Parquet, and JSON lines, a JSON list, .csv or .tsv, plain or packed by gzip, xz or zstd"
_BUFFER = 1 << 16  # bytes


def is_packed(start: bytes) -> bool:
    """By the first bytes of a file."""
    return start.startswith((PARQUET, _GZIP, _XZ, _ZSTD))


def takes_library(start: bytes) -> bool:
    """Is it made plain by `runner/scripts/plain_rows` before it is read? By the first 4 bytes."""
    return start.startswith((PARQUET, _ZSTD))


def check_rows_at_all(start: bytes) -> None:
    """Raises RowError E347 for what stands in place of a file of rows; `start`: its beginning."""
    lower = start[:64].lower()
    for begin, what in _NO_ROWS.items():
        if lower.startswith(begin):
            raise RowError(what, "E347")


def bare_name(name: str) -> str:
    """The name in small letters, without the suffix of a compression."""
    lower = name.lower()
    return next((lower.removesuffix(each) for each in SUFFIXES if lower.endswith(each)), lower)


@contextmanager
def unpacked(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """What is in `file`, which is closed by the caller.

    Raises RowError E347 for what takes a library, or is not read at all; so does reading what is
    damaged.
    """
    start = file.read(16)
    file.seek(0)
    if kind := next((kind for begin, kind in _OTHERS.items() if start.startswith(begin)), ""):
        raise RowError(f"this is {kind}, which is not read; what is read: {_READ}", "E347")
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

    with gzip.GzipFile(fileobj=file, mode="rb") as inner:
        yield _told(inner, (gzip.BadGzipFile, EOFError, zlib.error))


@contextmanager
def _xz(file: IO[bytes]) -> Iterator[IO[bytes]]:
    import lzma

    with lzma.LZMAFile(file, "rb") as inner:
        yield _told(inner, (lzma.LZMAError, EOFError))


def _told(inner: gzip.GzipFile | lzma.LZMAFile, damage: tuple[type[Exception], ...]) -> IO[bytes]:
    return io.BufferedReader(_Inner(inner, damage), _BUFFER)


class _Inner(io.RawIOBase):
    """What a compressed file holds up to its damage; reading that raises RowError E347."""

    def __init__(
        self, inner: gzip.GzipFile | lzma.LZMAFile, damage: tuple[type[Exception], ...]
    ) -> None:
        super().__init__()
        self._inner, self._damage = inner, damage

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._inner.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        try:
            part = self._inner.read1(len(buffer))  # at once what is whole: damage comes behind it
        except self._damage as error:
            raise RowError(f"the compressed file is damaged: {error}", "E347") from None
        buffer[: len(part)] = part
        return len(part)
