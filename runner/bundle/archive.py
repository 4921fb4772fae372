"""Read a bundle that may come from a stranger: nothing is believed that was not compared.

Opening it reads the index and then one block a member; the bytes of members are skipped. Whatever
is not exactly what the index lets expect ends the reading: see runner/bundle/tar.py.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from runner.bundle import tar
from runner.bundle.index import FILE, MAX_BYTES, Index, Member, parse
from runner.errors import UsageError
from runner.report.printable import quoted

CHUNK = 1 << 20
SMALL = 16 << 20  # bytes: of members that are read at once (manifest, lock, record)


@dataclass(frozen=True)
class Archive:
    """An open bundle whose form is right; `offsets` says where each member's bytes begin.

    The bytes themselves are not checked yet: `copy` and `read` do that as they go.
    """

    path: Path
    file: IO[bytes]
    index: Index
    offsets: Mapping[str, int]

    def copy(self, name: str, target: Path | None = None) -> str:
        """Read member `name` once, write it to the new file `target`, return the sha256 found.

        Memory does not grow with the member. Several threads may read at once.
        """
        if target is None:
            return self._stream(name, None)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as writer:
            return self._stream(name, writer)

    def _stream(self, name: str, writer: IO[bytes] | None) -> str:
        found = hashlib.sha256()
        offset, left = self.offsets[name], self.index.files[name].size
        while left:
            data = os.pread(self.file.fileno(), min(CHUNK, left), offset)
            if not data:
                raise _truncated(self.path, f"in the middle of {name}")
            found.update(data)
            if writer is not None:
                writer.write(data)
            offset, left = offset + len(data), left - len(data)
        return found.hexdigest()

    def unpack(self, name: str, target: Path) -> None:
        """Write member `name` to `target`. Raises UsageError (E824) when its bytes are others."""
        self.require(name, self.copy(name, target))

    def require(self, name: str, digest: str) -> None:
        """Raises UsageError (E824) unless `digest` is the one in the index."""
        if digest != self.index.files[name].sha256:
            raise UsageError(
                f"{self.path} is damaged: {name} has sha256 {digest[:12]}… instead of "
                f"{self.index.files[name].sha256[:12]}…",
                hint="get the archive again; `recipe verify` lists everything that is damaged",
                code="E824",
            )

    def read(self, name: str) -> bytes:
        """The bytes of a small member, checked. Raises UsageError (E820, E824)."""
        if name not in self.index.files or self.index.files[name].size > SMALL:
            raise UsageError(
                f"{self.path} is not a bundle: it holds no {name}, or one too large to be one",
                hint="get the archive again from whoever made it with `recipe bundle`",
                code="E820",
            )
        data = os.pread(self.file.fileno(), self.index.files[name].size, self.offsets[name])
        self.require(name, hashlib.sha256(data).hexdigest())
        return data

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def is_bundle(path: Path) -> bool:
    """By its name: what `recipe bundle` writes ends in .tar."""
    return path.suffix == ".tar"


def open_archive(path: Path) -> Archive:
    """The bundle at `path`, to be closed by the caller.

    Raises UsageError: E820 no bundle, E821 newer, E822 unsafe names, E823 another form or the end
    is missing.
    """
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise _no_bundle(path, f"it cannot be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _no_bundle(path, "it is no regular file")
        index, offset = _read_index(path, file)
        return Archive(path, file, index, _walk(path, file, index.files, offset))
    except BaseException:
        file.close()
        raise


def _read_index(path: Path, file: IO[bytes]) -> tuple[Index, int]:
    """The index, and where the next header is."""
    block = _exactly(file, tar.BLOCK, 0)
    size = tar.size_in(block)
    if size is None or block != tar.header(FILE, max(size, 0)):
        raise _no_bundle(path, f"it does not begin with {FILE} as a bundle writes it")
    if size > MAX_BYTES:
        raise _no_bundle(path, f"its index has {size} bytes, and {MAX_BYTES} are the most")
    text = _exactly(file, size + tar.padding(size), tar.BLOCK)
    if len(text) < size + tar.padding(size):
        raise _truncated(path, "inside of its index")
    if any(text[size:]):
        raise _foreign(path, "there are bytes behind its index that belong to nothing")
    return parse(text[:size], str(path)), tar.BLOCK + len(text)


def _walk(path: Path, file: IO[bytes], files: Mapping[str, Member], offset: int) -> dict[str, int]:
    """Compare every header and every gap; where each member's bytes begin."""
    offsets: dict[str, int] = {}
    for name in sorted(files):
        size = files[name].size
        block = _exactly(file, tar.BLOCK, offset)
        if len(block) < tar.BLOCK:
            raise _truncated(path, f"before {name}")
        if block != tar.header(name, size):
            raise _foreign(path, _what_instead(block, name, files, offsets))
        offsets[name] = offset + tar.BLOCK
        offset += tar.BLOCK + size
        gap = _exactly(file, tar.padding(size), offset)
        if len(gap) < tar.padding(size):
            raise _truncated(path, f"in the middle of {name}")
        if any(gap):
            raise _foreign(path, f"there are bytes behind {name} that belong to nothing")
        offset += len(gap)
    _check_end(path, file, files, offsets, offset)
    return offsets


def _check_end(
    path: Path,
    file: IO[bytes],
    files: Mapping[str, Member],
    offsets: Mapping[str, int],
    offset: int,
) -> None:
    end = _exactly(file, len(tar.END) + 1, offset)
    if len(end) < len(tar.END) and not any(end):
        raise _truncated(path, "at its end")
    if any(end[: tar.BLOCK]):
        raise _foreign(path, _what_instead(end[: tar.BLOCK], "", files, offsets))
    if end != tar.END:
        raise _foreign(path, "there are bytes behind its end")


def _what_instead(
    block: bytes, expected: str, files: Mapping[str, Member], seen: Mapping[str, int]
) -> str:
    """In words, what a header announces that is not the one of `expected` ("": of the end)."""
    if not any(block):
        return f"it ends, and {expected} is missing"
    name, oddity = tar.describe(block)
    if not name:
        return f"there are bytes that are no header where {expected or 'its end'} should be"
    if name in seen or name == FILE:
        return f"it holds {quoted(name, 120)} twice"
    if name not in files:
        return f"it holds {quoted(name, 120)}, which is not in its index"
    if name != expected:
        return f"it holds {quoted(name, 120)} where {quoted(expected)} should be"
    return f"it holds {quoted(name, 120)}, {oddity}"


def _exactly(file: IO[bytes], size: int, offset: int) -> bytes:
    """`size` bytes at `offset`, fewer only where the file ends."""
    parts = []
    while size and (data := os.pread(file.fileno(), size, offset)):
        parts.append(data)
        size, offset = size - len(data), offset + len(data)
    return b"".join(parts)


def _no_bundle(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} is not a bundle: {why}",
        hint="name an archive that `recipe bundle` wrote",
        code="E820",
    )


def _foreign(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path} is not as `recipe bundle` writes it: {what}",
        hint="do not unpack it by other means; get the archive again from somebody you trust",
        code="E823",
    )


def _truncated(path: Path, where: str) -> UsageError:
    return UsageError(
        f"{path} is cut off {where}",
        hint="copy it again, whole; compare the sizes",
        code="E823",
    )
