"""The one form of a bundle's tar: nothing in it is left to choose, so there is nothing to abuse.

Every member is a regular file of mode 0644 with owner 0, time 0 and no name of an owner: one block
of header, the bytes, zeros up to the next block. Two blocks of zeros end the archive. A reader that
knows name and size knows every byte of the header, so it compares instead of interpreting: links,
devices, sparse files, extended headers and odd modes cannot be said at all.
"""

from __future__ import annotations

import tarfile

BLOCK = 512
END = bytes(2 * BLOCK)
MAX_NAME = 100  # bytes: what fits in the header itself
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.GNUTYPE_LONGNAME: "an extended header",
    tarfile.GNUTYPE_LONGLINK: "an extended header",
    tarfile.XHDTYPE: "an extended header",
    tarfile.XGLTYPE: "an extended header",
    tarfile.SOLARIS_XHDTYPE: "an extended header",
}


def header(name: str, size: int) -> bytes:
    """The block before the bytes of member `name`. Sizes of 8 GiB and more are written in binary.

    `name` has at most MAX_NAME bytes.
    """
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    block = member.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
    assert len(block) == BLOCK, f"{name} does not fit into one header"
    return block


def padding(size: int) -> int:
    """How many zeros follow `size` bytes."""
    return -size % BLOCK


def size_in(block: bytes) -> int | None:
    """The size that a header claims, if it is the header of an ordinary file; else None."""
    member = _parsed(block)
    return member.size if member is not None and member.isreg() else None


def describe(block: bytes) -> tuple[str, str]:
    """Name of the member that a foreign header announces, and what is odd about it, in words."""
    member = _parsed(block)
    if member is None:
        return "", "bytes that are no header"
    if kind := _KINDS.get(member.type):
        return member.name, kind
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        return member.name, f"of the unknown kind {member.type!r}"
    if member.mode & 0o7000:
        return member.name, f"of mode {member.mode:04o}"
    return member.name, "otherwise than a bundle writes it"


def _parsed(block: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except (tarfile.HeaderError, ValueError):
        return None
