"""A file system of a few pages, seen by the calling process and its children alone.

Root mounts it in a mount namespace of its own; anybody else in a user namespace, too.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20, 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)


class SmallDisk:
    """A tmpfs of `size` bytes at `folder`. It goes when the process and its children have ended.

    To be called in a process of one thread: it leaves the mount namespace of all others.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        _own_mounts()
        self._mount(0, size)

    def resize(self, size: int) -> None:
        """Make it larger, in bytes; what is in it stays."""
        self._mount(MS_REMOUNT, size)

    def _mount(self, flags: int, size: int) -> None:
        _call("mount", b"tmpfs", bytes(self.folder), b"tmpfs", flags, f"size={size}".encode())


def _own_mounts() -> None:
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", CLONE_NEWNS)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        _call("unshare", CLONE_NEWNS | CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)


def _call(name: str, *arguments: bytes | int | None) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
