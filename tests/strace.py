"""The words that start strace, and what a traced process tried: to write, or to reach a network."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.debian import unpacked

# `?`: a call that not every processor has.
_CHANGES = (
    *("?creat", "?mkdir", "mkdirat", "?mknod", "mknodat", "?rename", "renameat", "?renameat2"),
    *("?unlink", "unlinkat", "?rmdir", "?link", "linkat", "?symlink", "symlinkat", "?truncate"),
    *("ftruncate", "?chmod", "fchmod", "fchmodat", "?chown", "fchown", "fchownat", "utimensat"),
    *("?setxattr", "?fsetxattr", "?lsetxattr"),
)
_OPENS = ("?open", "openat", "?openat2")
_SENDS = ("connect", "sendto", "sendmsg", "?sendmmsg", "bind")
_CALL = re.compile(r"^(?:\d+\s+)?(\w+)\((.*)$")
_ADDRESS = re.compile(r'(?:inet_addr\("([^"]*)"\)|inet_pton\(AF_INET6, "([^"]*)")')
_PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')
_WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND|O_TMPFILE")
DEVICES = {"/dev/null", "/dev/tty"}


def words(cache: Path) -> list[str]:
    """The machine's strace, else Debian's, unpacked with its libraries."""
    if found := shutil.which("strace"):
        return [found]
    return unpacked_words(cache)


def unpacked_words(cache: Path) -> list[str]:
    """Debian's, with its own loader and libraries."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    root = unpacked(("strace",), cache, architecture=architecture, whole=True)
    loader = next(iter(sorted(root.glob("lib*/ld-linux-*.so.*"))))
    libraries = sorted({str(path.parent) for path in root.glob("**/*.so.*")})
    return [str(loader), "--library-path", ":".join(libraries), str(root / "usr/bin/strace")]


def options(output: Path) -> list[str]:
    """What follows strace's own name, so that `crimes` can read `output`."""
    traced = ",".join((*_CHANGES, *_OPENS, *_SENDS))
    return ["-f", "-qq", "-s", "400", "-o", str(output), "-e", f"trace={traced}"]


def crimes(output: Path) -> Iterator[str]:
    """Each call of the process or its children that changes a file or names another machine.

    Also those that failed: trying is enough. Devices that keep nothing are no files.
    """
    changes = {name.lstrip("?") for name in _CHANGES}
    opens = {name.lstrip("?") for name in _OPENS}
    for line in output.read_text(encoding="utf-8", errors="replace").split("\n"):
        call = _CALL.match(line)
        if call is None:
            continue
        name, arguments = call.groups()
        writes = name in changes or (name in opens and _opens_for_writing(arguments))
        if writes or any(not _is_loopback(*found) for found in _ADDRESS.findall(arguments)):
            yield line


def _opens_for_writing(arguments: str) -> bool:
    path = _PATH.search(arguments)
    known = path is not None and path[1] in DEVICES
    return _WRITES.search(arguments) is not None and not known


def _is_loopback(four: str, six: str) -> bool:
    return four.startswith("127.") or six in ("::1", "::ffff:127.0.0.1")
