"""Files and folders that a stranger may have made: read without waiting, and only so much of them.

A name can be a pipe that nobody writes to, a link to /dev/zero, or a file of the kernel that says
it is empty and never ends; folders can lie deeper than Python's stack.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


class NotReadable(ValueError):
    """What is there cannot be read, or is no regular file; the text says why."""


class TooLarge(NotReadable):
    """There is more than the reader wants."""


def open_regular(path: Path) -> IO[bytes]:
    """The regular file `path`, to be closed by the caller. Raises NotReadable.

    Opened without blocking, so that a named pipe or a terminal is refused, not waited for.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise NotReadable(getattr(error, "strerror", None) or str(error)) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise NotReadable(f"it is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}")
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file, at most `limit` of them. Raises NotReadable, TooLarge.

    The size that the file system tells is not believed.
    """
    with open_regular(path) as file:
        parts, left = [], limit + 1
        try:
            while left and (part := file.read(min(left, 1 << 20))):
                parts.append(part)
                left -= len(part)
        except OSError as error:
            raise NotReadable(error.strerror or str(error)) from None
    if not left:
        raise TooLarge(f"it has more than {limit} bytes")
    return b"".join(parts)


def is_regular(path: Path) -> bool:
    """A regular file, links followed; never raises."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """A folder, links followed; never raises."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def walk(
    folder: Path, enter: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[Path, list[str], str]]:
    """Every folder below, itself first, in order of path, with the sorted names in it that are no
    folders; and, in words, why it could not be read ("" when it could).

    Links to folders are names, and not followed. `enter(name)` says which folders are gone into.
    """
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                found = sorted(
                    (entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries
                )
        except OSError as error:
            yield here, [], error.strerror or str(error)
            continue
        yield here, [name for name, is_dir in found if not is_dir], ""
        waiting += [here / name for name, is_dir in reversed(found) if is_dir and enter(name)]
