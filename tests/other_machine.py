"""Commands as on another machine: another user, another home, an empty cache, and no network.

Root becomes `nobody` in namespaces of its own, where folders that are closed to others (root's
home) show nothing but the interpreter and the environments. Anybody else stays the same user, with
another home and without a network.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chain import ROOT

NOBODY = 65534
RECIPE = (sys.executable, "-m", "runner")
# Bring the loopback up: SIOCSIFFLAGS with IFF_UP and IFF_RUNNING.
LOOPBACK_UP = (
    "import fcntl, socket, struct; "
    "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 0x41))"
)


@dataclass(frozen=True)
class OtherMachine:
    """`folder` is where its commands run; `prebuilt` holds environments and tools."""

    folder: Path
    prebuilt: Path
    user: int = NOBODY
    groups: tuple[int, ...] = ()
    umask: int = 0o022

    def run(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, without a network."""
        process = self.start(*argv, **env)
        out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, *argv: str, **env: str) -> subprocess.Popen[str]:
        """Start a program; the process is the program itself."""
        base = self.folder.parent
        clean = {
            "PATH": os.environ["PATH"],
            "HOME": str(base / "home"),
            "TMPDIR": str(base / "tmp"),
            "SPARK_RECIPES_CACHE": str(base / "cache"),
            "SPARK_RECIPES_PREBUILT": str(self.prebuilt),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.Popen(
            [*self._isolation(base), *argv],
            cwd=self.folder,
            env=clean | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def recipe(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `recipe ...`."""
        return self.run(*RECIPE, *arguments, **env)

    def _isolation(self, base: Path) -> list[str]:
        if os.geteuid() != 0:
            up = f'{sys.executable} -c "{LOOPBACK_UP}" && exec "$@"'
            return ["unshare", "--map-root-user", "--net", "sh", "-c", up, "sh"]
        script = base / "isolate.sh"
        groups = ",".join(map(str, self.groups))
        groups = f"--groups={groups}" if groups else "--clear-groups"
        who = f"setpriv --reuid={self.user} --regid={self.user} {groups} --no-new-privs"
        lines = _way_to(self._needed(), base / "closed")
        lines += [f"umask {self.umask:03o}", f'exec {who} "$@"']
        script.write_text("\n".join(lines) + "\n")
        return ["unshare", "--mount", "--net", "sh", str(script)]

    def _needed(self) -> list[Path]:
        """What its commands read and do not own."""
        return [Path(sys.base_prefix), Path(sys.prefix), ROOT, self.prebuilt]


def _way_to(needed: list[Path], hold: Path) -> list[str]:
    """Shell commands that open closed folders to others, with nothing in them but `needed`."""
    loopback = f'{sys.executable} -c "{LOOPBACK_UP}"'
    lines = ["set -e", "mount --make-rprivate /", loopback]
    closed: dict[Path, list[Path]] = {}
    for path in needed:
        for above in reversed(path.parents):
            if not above.stat().st_mode & stat.S_IXOTH:
                closed.setdefault(above, []).append(path)
                break
    for number, (folder, inside) in enumerate(closed.items()):
        held = hold / str(number)
        held.mkdir(parents=True, exist_ok=True)
        lines.append(f"mount --rbind '{folder}' '{held}'")
        lines.append(f"mount -t tmpfs -o mode=755 none '{folder}'")
        for path in sorted(set(inside)):
            lines.append(f"mkdir -p '{path}'")
            lines.append(f"mount --rbind '{held / path.relative_to(folder)}' '{path}'")
    return lines


@contextmanager
def other_machine(
    prebuilt: Path, user: int = NOBODY, groups: tuple[int, ...] = (), umask: int = 0o022
) -> Iterator[OtherMachine]:
    """An empty place for it, removed at the end."""
    base = Path(tempfile.mkdtemp(prefix="other-machine-"))
    base.chmod(0o755)
    try:
        for name in ("work", "home", "cache", "tmp"):
            (base / name).mkdir()
            if os.geteuid() == 0:
                os.chown(base / name, user, user)
        yield OtherMachine(base / "work", prebuilt, user, groups, umask)
    finally:
        shutil.rmtree(base)
