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
from typing import IO

from runner.errors import MachineCannot, RecipeToolError

TEMPORARY_SUFFIX = ".partial"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST)  # a file where a folder should be
_NOT_WRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *_IN_THE_WAY,
    errno.EISDIR,
)
_FAILING = (errno.EIO, errno.ESTALE)  # a failing disk, a server that is gone


def write_atomic(path: Path, data: bytes | str, *, mode: int | None = None) -> None:
    """Put `data` (a str as UTF-8) at `path`, replacing what was there. Raises OSError.

    On an error the old file stays and the temporary file is removed. After a kill the old file
    stays too, and a hidden file ending in `.partial` may remain beside it. `mode` are the file's
    rights, else what the umask leaves.
    """
    text = data.encode() if isinstance(data, str) else data
    with _in_place_of(path) as temporary:
        # Not tempfile: its files have mode 0600 whatever the umask says.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o666)
        try:
            if mode is not None:
                os.fchmod(descriptor, mode)
            _write_all(descriptor, text)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which is at `path` once the block ends without an exception.

    As `write_atomic`, for what does not fit into memory. Raises OSError.
    """
    with _in_place_of(path) as temporary, temporary.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """A name to write under, which takes the place of `path` when the block ends well.

    Errors name `path`: nobody knows the other name, and those of a full disk name no file at all.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and _is_of(error, temporary):
            error.filename, error.filename2 = str(path), None
        raise
    fsync_folder(path.parent)


def _is_of(error: OSError, temporary: Path) -> bool:
    return error.filename == str(temporary) or (error.filename is None and error.errno in _FULL)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write until nothing is left: one write may be short without an error (full disk, limits)."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def make_folders(folder: Path) -> None:
    """Make `folder` and what is missing above it, and wait until their names are on the disk.

    Raises OSError, FileExistsError where a file is in the place of one of them.
    """
    if folder.is_dir():
        return
    make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


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


def write_as_told(path: Path, data: bytes | str) -> None:
    """`write_atomic` where the user points, with the folders above. Raises MachineCannot."""
    with disk_errors(f"writing {path}", path):
        make_folders(path.parent)
        write_atomic(path, data)


@contextlib.contextmanager
def disk_errors(doing: str, place: Path | None = None) -> Iterator[None]:
    """Turn the disk's refusals below into MachineCannot; `doing` says what was under way.

    Only what the user can do something about is translated: full, not writable, failing. `place`
    is what the hint is about where the error names no file itself, as those of a write do.
    """
    try:
        yield
    except OSError as error:
        translated = disk_failure(error, doing, place) or disk_refusal(error, doing, place)
        if translated is None:
            raise
        raise translated from error


@contextlib.contextmanager
def disk_failures(doing: str) -> Iterator[None]:
    """`disk_errors` around much code: a full or failing disk alone, which is never our bug."""
    try:
        yield
    except OSError as error:
        translated = disk_failure(error, doing)
        if translated is None:
            raise
        raise translated from error


def disk_failure(error: OSError, doing: str, place: Path | None = None) -> MachineCannot | None:
    """A full or failing disk in words; None for every other error."""
    named = _named(error)
    if error.errno in _FULL:
        return MachineCannot(
            f"no space left on the disk while {doing}{_colon(named)}",
            hint=more_room(named or place),
            code="E410",
        )
    if error.errno in _FAILING:
        return MachineCannot(
            f"the disk failed while {doing}: {error.strerror}{_colon(named)}",
            hint="see what the kernel says of the disk (dmesg), then run the same command again: "
            "what was finished is kept",
            code="E860",
        )
    return None


def disk_refusal(error: OSError, doing: str, place: Path | None = None) -> MachineCannot | None:
    """A place that takes no files in words; None for every other error."""
    named = _named(error)
    if error.errno not in _NOT_WRITABLE and not _holds_no_files(error, named):
        return None
    if error.errno == errno.ENOENT:
        why = "its file system takes no files"
    else:
        why = error.strerror or str(error)
    return MachineCannot(
        f"cannot write while {doing}: {why}{_colon(named)}",
        hint=_other_place(error, named or place),
        code="E411",
    )


def more_room(place: Path | None) -> str:
    """What to do where the disk that `place` is on is full."""
    if variable := variable_of(place):
        return (
            f"`recipe gc` shows and frees what no run needs; or set {variable} to a folder on a "
            "larger disk"
        )
    return "free some space (`recipe gc` shows what no run needs), or write to another disk"


def variable_of(place: Path | None) -> str:
    """The variable that says where `place` is: of the store, of the cache, or "" for neither."""
    from runner.system import folders

    if place is None:
        return ""
    with contextlib.suppress(RecipeToolError, OSError, RuntimeError):  # no home, a loop of links
        there = place.absolute().resolve()
        stored = (folders.store_variable(), folders.store_folder())
        for variable, folder in (stored, (folders.CACHE, folders.cache_folder())):
            root = folder.resolve()
            # A folder above it that cannot be made keeps it from being made.
            if there.is_relative_to(root) or (root.is_relative_to(there) and not there.is_dir()):
                return variable
    return ""


def _other_place(error: OSError, place: Path | None) -> str:
    variable = variable_of(place)
    if error.errno == errno.EISDIR:
        return "move the folder away that is in the place of the file, or write to another name"
    what = "make the folder writable for you"
    if error.errno in _IN_THE_WAY:
        what = "move the file away that is in the place of the folder"
    return f"{what}, or {f'set {variable} to another one' if variable else 'write to another one'}"


def _holds_no_files(error: OSError, named: Path | None) -> bool:
    """Was a new name refused by a file system like /proc, which says "no such file" then?"""
    if error.errno != errno.ENOENT or named is None:
        return False
    with contextlib.suppress(OSError):
        return os.statvfs(named.parent).f_blocks == 0
    return False


def _named(error: OSError) -> Path | None:
    """The file that the error is about; of a renaming the new name."""
    names = (error.filename2, error.filename)
    return next((Path(os.fsdecode(name)) for name in names if isinstance(name, str | bytes)), None)


def _colon(named: Path | None) -> str:
    return f": {named}" if named else ""
