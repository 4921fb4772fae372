"""Files that are either the old ones or the new ones, never half of either.

The order is write, fsync, rename, fsync of the folder. A file renamed before its bytes are on the
disk can be empty after a power loss, and a rename is only on the disk once its folder is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from runner.errors import MachineCannot

TEMPORARY_SUFFIX = ".partial"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EEXIST),  # a file where a folder should be
    *(errno.EIO, errno.ESTALE),  # a failing disk, a server that is gone
)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Put `data` (a str as UTF-8) at `path`, replacing what was there. Raises OSError.

    On an error the old file stays and the temporary file is removed. After a kill the old file
    stays too, and a hidden file ending in `.partial` may remain beside it.
    """
    text = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    # Not tempfile: its files have mode 0600 whatever the umask says.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            _write_all(descriptor, text)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write until nothing is left: one write may be short without an error (full disk, limits)."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def fsync_file(path: Path) -> None:
    """Wait until the bytes of one file or folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk; files in it are not waited for."""
    try:
        fsync_file(folder)
    except OSError as error:
        # Some network file systems do not know fsync on folders; they need none.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def fsync_tree(folder: Path) -> None:
    """Wait until every regular file and folder below `folder`, and itself, is on the disk."""
    for child in folder.iterdir():
        mode = child.lstat().st_mode
        if stat.S_ISDIR(mode):
            fsync_tree(child)
        elif stat.S_ISREG(mode):
            fsync_file(child)
    fsync_folder(folder)


@contextlib.contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn the disk's refusals below into MachineCannot; `doing` says what was under way.

    Only what the user can do something about is translated: full, not writable, failing.
    """
    try:
        yield
    except OSError as error:
        translated = _in_words(error, doing)
        if translated is None:
            raise
        raise translated from error


def _in_words(error: OSError, doing: str) -> MachineCannot | None:
    where = str(error.filename or "")
    place = f": {where}" if where else ""
    if error.errno in _FULL:
        return MachineCannot(
            f"no space left on the disk while {doing}{place}",
            hint="`recipe gc` shows and frees what no run needs; or set SPARK_RECIPES_CACHE to a "
            "folder on a larger disk",
            code="E410",
        )
    if error.errno in _NOT_WRITABLE:
        return MachineCannot(
            f"cannot write while {doing}: {error.strerror}{place}",
            hint="make the folder writable for you, or set SPARK_RECIPES_CACHE to one that is",
            code="E411",
        )
    return None
