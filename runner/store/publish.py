"""Put results from the store into a run folder, cheaply where possible, never to dangle.

The store may be a volume that is absent tomorrow, so a run folder never points into it. A reflink
shares blocks until one side is written; a hard link shares the file, which the store has made
read-only; else the bytes are copied.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from pathlib import Path

from runner.store.atomic import TEMPORARY_SUFFIX, disk_errors, fsync_folder

FICLONE = 0x40049409  # ioctl of linux/fs.h: share the blocks of another file
_NOT_LINKABLE = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)


def publish(source: Path, target: Path) -> str:
    """Make `target` a read-only file with the bytes of `source`, replacing what was there.

    Returns how: `reflink`, `hardlink` or `copy`. Raises MachineCannot on a full or read-only disk.
    """
    with disk_errors(f"putting {target.name} into the run folder", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
        try:
            how = _place(source, temporary)
            temporary.replace(target)
            # A rename between two names of one file does nothing at all and leaves both.
            temporary.unlink(missing_ok=True)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        fsync_folder(target.parent)
    return how


def _place(source: Path, target: Path) -> str:
    if _reflink(source, target):
        return "reflink"
    try:
        target.hardlink_to(source)
        return "hardlink"
    except OSError as error:
        if error.errno not in _NOT_LINKABLE:
            raise
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        os.fsync(writer.fileno())
    target.chmod(0o444)
    return "copy"


def _reflink(source: Path, target: Path) -> bool:
    """Clone the file where the file system can (btrfs, XFS, ZFS); False and no file where not."""
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
            os.fsync(writer.fileno())
        except OSError:
            target.unlink()
            return False
    target.chmod(0o444)
    return True
