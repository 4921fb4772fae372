"""What would be on the disk if the power went now: replays the system calls that strace saw.

A file's bytes are sure once it was fsynced after its last write; a name (of a new, renamed or
linked file or folder) is sure once the folder that it stands in was. A rename that puts a name into
place before the bytes behind it are sure can leave an empty file under a good name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

TRACED = (
    *("open", "openat", "creat", "write", "pwrite64", "writev", "ftruncate", "copy_file_range"),
    *("sendfile", "fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat"),
    *("symlink", "symlinkat", "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir"),
)
_CALL = re.compile(r"^([\d.]+) (\w+)\((.*)\)\s+= (-?\d+)(?:<(.*?)>)?")
_PATHS = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
_BY_NAME = {name for name in TRACED if name.startswith(("rename", "link", "sym", "mk", "un", "rm"))}
_FD = re.compile(r"^\d+<([^>]*)>")


@dataclass(frozen=True)
class Call:
    """One system call that succeeded; `paths` are absolute."""

    time: float
    name: str
    text: str  # its arguments as strace writes them
    paths: tuple[str, ...]


@dataclass
class Disk:
    """Which bytes and names are not sure yet, and what was done too early."""

    unsure_bytes: set[str] = field(default_factory=set)
    unsure_names: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    too_early: list[str] = field(default_factory=list)

    def do(self, call: Call) -> None:
        """What the call changes."""
        name = call.name
        if name in ("fsync", "fdatasync"):
            self.unsure_bytes.discard(call.paths[0])
            self.unsure_names.pop(call.paths[0], None)
        elif name.startswith("rename"):
            self._rename(*call.paths)
        elif name.startswith("link"):
            self._name(call.paths[1])
            if call.paths[0] in self.unsure_bytes:
                self.unsure_bytes.add(call.paths[1])
        elif name.startswith("symlink"):
            self._name(call.paths[-1])
        elif name.startswith("mkdir"):
            self._name(call.paths[0])
        elif name in ("unlink", "unlinkat", "rmdir"):
            self._forget(call.paths[0])
        elif name in ("open", "openat", "creat"):
            self._open(call)
        else:
            self.unsure_bytes.add(call.paths[0])

    def below(self, folder: str) -> list[str]:
        """What is not sure in and below the folder."""
        names = {name for names in self.unsure_names.values() for name in names}
        return sorted(each for each in names | self.unsure_bytes if _inside(each, folder))

    def _open(self, call: Call) -> None:
        if "O_CREAT" in call.text or call.name == "creat":
            self._name(call.paths[0])
        if re.search("O_WRONLY|O_RDWR", call.text):
            self.unsure_bytes.add(call.paths[0])

    def _name(self, path: str) -> None:
        self.unsure_names[str(PurePosixPath(path).parent)].add(path)

    def _rename(self, source: str, target: str) -> None:
        unsure = [each for each in self.below(source) if each != source]
        if source in self.unsure_bytes:
            unsure.append(source)
        if unsure:
            self.too_early.append(f"{target} got its name before these were sure: {unsure}")
        self.unsure_bytes = {_moved(each, source, target) for each in self.unsure_bytes}
        moved: dict[str, set[str]] = defaultdict(set)
        for folder, names in self.unsure_names.items():
            kept = {_moved(each, source, target) for each in names if each != source}
            if kept:
                moved[_moved(folder, source, target)] |= kept
        self.unsure_names = moved
        self._name(target)

    def _forget(self, path: str) -> None:
        self.unsure_bytes.discard(path)
        self.unsure_names.pop(path, None)
        for names in self.unsure_names.values():
            names.discard(path)


def read_calls(prefix: Path) -> list[Call]:
    """The calls of all traced processes (`strace -ff -ttt -y -o prefix`), in order of time."""
    calls = []
    for file in prefix.parent.glob(f"{prefix.name}.*"):
        for line in file.read_text(errors="replace").split("\n"):
            if (call := _parsed(line)) is not None:
                calls.append(call)
    return sorted(calls, key=lambda call: call.time)


def _parsed(line: str) -> Call | None:
    found = _CALL.match(line)
    if found is None or found[4].startswith("-"):
        return None
    time, name, text, _, opened = found.groups()
    if name in ("open", "openat", "creat"):
        paths = [opened or ""]
    elif name not in _BY_NAME and (on := _FD.match(text)):
        paths = [on[1]]
    else:
        paths = [str(PurePosixPath(folder, path)) for folder, path in _PATHS.findall(text)]
    return Call(float(time), name, text, tuple(paths))


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _moved(path: str, source: str, target: str) -> str:
    return target + path[len(source) :] if _inside(path, source) else path
