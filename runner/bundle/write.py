"""Write a bundle: streaming, each file read once, there in whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from runner.bundle import tar
from runner.bundle.index import FILE, Index, Member
from runner.errors import MachineCannot, RecipeToolError
from runner.store.atomic import TEMPORARY_SUFFIX, fsync_folder

CHUNK = 1 << 20
_NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
Source = Path | bytes  # where a member's bytes are


def archive_size(index: Index) -> int:
    """Bytes of the whole archive."""
    sizes = [len(index.text()), *(member.size for member in index.files.values())]
    return sum(tar.BLOCK + size + tar.padding(size) for size in sizes) + len(tar.END)


def check_space(index: Index, target: Path) -> None:
    """Raises MachineCannot (E830) unless the archive fits on the disk of `target`."""
    need, folder = archive_size(index), target.absolute().parent
    if not folder.is_dir():
        raise MachineCannot(
            f"there is no folder {folder} for the bundle",
            hint="make it, or name another place with --output",
            code="E830",
        )
    free = shutil.disk_usage(folder).free
    if need > free:
        raise _no_space(f"it needs {need} bytes, and {free} are free", target)


def write_archive(index: Index, sources: Mapping[str, Source], target: Path) -> None:
    """Write the archive to `target`, replacing what was there.

    On an error, or a kill, `target` is as before and nothing else is left. Raises MachineCannot:
    E827 when a file is not what the index says, E830 when the disk is full or not writable.
    """
    try:
        with _nameless(target) as file:
            _write(index, sources, file)
    except OSError as error:
        raise _no_space(error.strerror or str(error), target) from error


def _write(index: Index, sources: Mapping[str, Source], file: IO[bytes]) -> None:
    text = index.text()
    _member(file, FILE, Member(hashlib.sha256(text).hexdigest(), len(text)), text)
    for name in sorted(index.files):
        _member(file, name, index.files[name], sources[name])
    file.write(tar.END)


def _member(file: IO[bytes], name: str, member: Member, source: Source) -> None:
    file.write(tar.header(name, member.size))
    if isinstance(source, bytes):
        assert hashlib.sha256(source).hexdigest() == member.sha256
        file.write(source)
    else:
        _copy(source, member, file)
    file.write(bytes(tar.padding(member.size)))


def _copy(source: Path, member: Member, file: IO[bytes]) -> None:
    found, size = hashlib.sha256(), 0
    for data in _chunks(source):
        found.update(data)
        size += len(data)
        if size > member.size:
            break
        file.write(data)
    if (size, found.hexdigest()) != (member.size, member.sha256):
        raise changed(source, "has other bytes than in the run")


def _chunks(source: Path) -> Iterator[bytes]:
    try:
        reader = source.open("rb", buffering=0)
    except OSError as error:
        raise changed(source, f"cannot be read: {error.strerror}") from None
    with reader:
        while True:
            try:
                data = reader.read(CHUNK)
            except OSError as error:
                raise changed(source, f"cannot be read: {error.strerror}") from None
            if not data:
                return
            yield data


def changed(source: Path, how: str) -> RecipeToolError:
    """What to say of a file of the run, or an input, that is not what it was."""
    return MachineCannot(
        f"{source} {how}",
        hint="restore it, or run the recipe again and bundle that run",
        code="E827",
    )


@contextlib.contextmanager
def _nameless(target: Path) -> Iterator[IO[bytes]]:
    """A file that gets the name `target` at the end of the block; until then it has none.

    A killed process leaves nothing, since the kernel drops a file without a name. Where the file
    system has no such files it has a hidden name, and a kill leaves that.
    """
    folder = target.absolute().parent
    hidden = folder / f".{target.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        named = False
    except OSError as error:
        if error.errno not in _NO_NAMELESS_FILES:
            raise
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor, named = os.open(hidden, flags, 0o666), True
    try:
        with os.fdopen(descriptor, "wb", CHUNK) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not named and _give_name(file.fileno(), target, folder):
                hidden = target
            elif not named:
                _give_name(file.fileno(), hidden, folder)
        if hidden != target:
            hidden.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            hidden.unlink()
        raise
    fsync_folder(folder)


def _give_name(descriptor: int, path: Path, folder: Path) -> bool:
    """Name the file; False when something of that name is there already."""
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # With folders given, Python uses linkat, which follows the link in /proc to the file.
        os.link(
            f"/proc/self/fd/{descriptor}",
            path.name,
            src_dir_fd=here,
            dst_dir_fd=here,
            follow_symlinks=True,
        )
        return True
    except FileExistsError:
        return False
    finally:
        os.close(here)


def _no_space(why: str, target: Path) -> MachineCannot:
    return MachineCannot(
        f"the bundle cannot be written to {target}: {why}",
        hint="name a place on another disk with --output, or leave the base model out with "
        "--without-base",
        code="E830",
    )
