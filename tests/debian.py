"""Debian packages unpacked below the tests' cache; nothing is installed.

Everything apt writes lies in a folder of its own, so this needs no root, and packages of another
architecture need no change of the host's.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from runner.store.locks import Lock

SUITE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_MARKER = ".complete"


def unpacked(
    packages: Sequence[str], cache: Path, *, architecture: str = "amd64", whole: bool = False
) -> Path:
    """The root of a tree with the packages' files, made once; `whole` adds all they depend on."""
    asked = f"{SUITE} {architecture} {whole} {' '.join(sorted(packages))}"
    name = f"{architecture}-{packages[0]}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
    folder = cache / "test-debian" / name
    root = folder / "root"
    if (folder / _MARKER).exists():
        return root
    with Lock(cache / "locks" / f"test-debian-{name}.lock", f"the packages in {folder}"):
        if not (folder / _MARKER).exists():
            shutil.rmtree(folder, ignore_errors=True)
            root.mkdir(parents=True)
            for archive in _download(packages, folder / "apt", architecture, whole=whole):
                subprocess.run(["dpkg-deb", "-x", str(archive), str(root)], check=True)
            shutil.rmtree(folder / "apt")
            (folder / _MARKER).touch()
    return root


def _download(
    packages: Sequence[str], state: Path, architecture: str, *, whole: bool
) -> list[Path]:
    """The packages' archives, from the mirror that this machine uses."""
    for name in ("etc", "lists/partial", "cache/archives/partial", "log"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    (state / "etc" / "suite.sources").write_text(
        f"Types: deb\nURIs: {_mirror()}\nSuites: {SUITE}\nComponents: main\nSigned-By: {KEYRING}\n"
    )
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "true",
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": str(state / "etc"),
        "Dir::State": str(state),
        "Dir::State::Lists": str(state / "lists"),
        "Dir::State::status": str(state / "status"),
        "Dir::Cache": str(state / "cache"),
        "Dir::Log": str(state / "log"),
    }
    apt = ["apt-get", "-qq", "--yes"]
    for name, value in settings.items():
        apt += ["-o", f"{name}={value}"]
    archives = state / "cache" / "archives"
    how = ["install", "--download-only"] if whole else ["download"]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, *how, *packages], check=True, cwd=archives)
    return sorted(archives.glob("*.deb"))


def _mirror() -> str:
    """The address after `URIs:` or `deb` in the host's own list of sources."""
    for name in ("sources.list.d/debian.sources", "sources.list"):
        file = Path("/etc/apt") / name
        text = file.read_text() if file.is_file() else ""
        if found := re.search(r"^(?:URIs:|deb(?: \[.*?\])?)\s+(\S+)", text, re.MULTILINE):
            return found[1]
    raise AssertionError("no Debian mirror stands in /etc/apt")
