"""`index.json`: the first member of a bundle, which names every other with its sha256 and size.

It has one spelling, and its own sha256 is the name of the whole archive: the same run, bundled
anywhere by anybody, gives the same index, and so the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from runner.bundle.tar import MAX_NAME
from runner.errors import UsageError
from runner.report.printable import quoted

VERSION = 1
FILE = "index.json"
MAX_BYTES = 16 << 20  # of the index: what is read before anything is known of the archive
MAX_MEMBERS = 50_000
MAX_SIZE = 1 << 48  # bytes of one member
BASE = "base"  # in `left_out`: the base model's files

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
# A part of a path that means the same on every file system: no dot at either end, nothing to quote.
_PART = re.compile(r"[A-Za-z0-9_+=@-](?:[A-Za-z0-9._+=@, -]*[A-Za-z0-9_+=@-])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Member:
    """One file: its sha256 (hex) and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Index:
    """`name` is the recipe's; `runner` the version that made the run; `left_out` what is absent."""

    name: str
    runner: str
    files: Mapping[str, Member]
    left_out: tuple[str, ...] = ()

    def text(self) -> bytes:
        """The one spelling."""
        data = {
            "bundle": VERSION,
            "name": self.name,
            "runner": self.runner,
            "left_out": list(self.left_out),
            "files": {
                path: {"sha256": member.sha256, "size": member.size}
                for path, member in self.files.items()
            },
        }
        return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=True).encode() + b"\n"

    @property
    def digest(self) -> str:
        """Hex sha256 of the index: what names the archive."""
        return sha256(self.text()).hexdigest()

    @property
    def title(self) -> str:
        """`NAME-DIGEST`, short: of the archive's file and of the folder it is unpacked to."""
        return f"{self.name}-{self.digest[:16]}"


def parse(text: bytes, archive: str) -> Index:
    """The index that `text` spells. Raises UsageError: E820 no index, E821 newer, E822 unsafe."""
    try:
        data = json.loads(text)
        version = data["bundle"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _no_index(archive, "it cannot be read") from None
    if type(version) is int and version > VERSION:
        raise UsageError(
            f"{archive} is a bundle of version {version}; this Spark Recipes knows {VERSION}",
            hint="use the version of Spark Recipes that wrote it, or a newer one",
            code="E821",
        )
    try:
        index = _built(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_index(archive, str(error)) from None
    if problem := name_problem(index.files):
        raise UsageError(
            f"{archive} is not safe to unpack: {problem}",
            hint="it was not written by `recipe bundle`; do not unpack it by other means either",
            code="E822",
        )
    if index.text() != text:
        raise _no_index(archive, "it is not spelled as a bundle spells it")
    return index


def _built(data: Mapping[str, Any]) -> Index:
    if data["bundle"] != VERSION or not _NAME.fullmatch(data["name"]):
        raise ValueError("its version or name is none")
    if len(data["files"]) > MAX_MEMBERS:
        raise ValueError(f"it names more than {MAX_MEMBERS} files")
    left_out = tuple(data["left_out"])
    if left_out not in ((), (BASE,)):
        raise ValueError(f"it leaves out {quoted(str(left_out), 40)}, which is unknown")
    files = {path: _member(path, facts) for path, facts in data["files"].items()}
    if not isinstance(data["runner"], str):
        raise TypeError("its runner is no text")
    return Index(data["name"], data["runner"], files, left_out)


def _member(path: str, facts: Mapping[str, Any]) -> Member:
    digest, size = facts["sha256"], facts["size"]
    if not _SHA256.fullmatch(digest) or type(size) is not int or not 0 <= size <= MAX_SIZE:
        raise ValueError(f"it gives {quoted(path, 80)} an impossible digest or size")
    return Member(digest, size)


def name_problem(paths: Mapping[str, Any]) -> str:
    """What is wrong with the first name that a bundle must not have; "" when all are good.

    A good name is relative, stays in its folder, fits a header, and meets no other name on any file
    system, not even on one that ignores case.
    """
    folders: dict[str, str] = {}
    files: dict[str, str] = {FILE: FILE}
    for path in sorted(paths):
        parts = path.split("/")
        if len(path.encode(errors="replace")) > MAX_NAME:
            return f"the name {quoted(path, 120)} has more than {MAX_NAME} bytes"
        if not all(map(_PART.fullmatch, parts)):
            return f"the name {quoted(path, 120)} may lead elsewhere or is not portable"
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folders.setdefault(folder.casefold(), folder) != folder:
                return (
                    f"the names {quoted(folders[folder.casefold()])} and {quoted(folder)} collide"
                )
        if (other := files.setdefault(path.casefold(), path)) != path or path == FILE:
            return f"the names {quoted(other)} and {quoted(path)} collide"
    both = sorted(set(folders) & set(files))
    return f"{quoted(folders[both[0]], 120)} is a file and a folder" if both else ""


def _no_index(archive: str, why: str) -> UsageError:
    return UsageError(
        f"{archive} is not a bundle: its index is damaged: {why}",
        hint="get the archive again from whoever made it with `recipe bundle`",
        code="E820",
    )
