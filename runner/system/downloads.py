"""Pinned files from the user's package index, whichever that is.

`uv` finds them, so that its settings decide about indexes, proxies, certificates and passwords; no
address is written here. Every file is checked against its pinned sha256.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.errors import MachineCannot
from runner.system import offline, uv

ATTEMPTS = 4
TIMEOUT_SECONDS = 60
_OTHER_BYTES = "the index or a proxy serves another file; use one that serves the original"


@dataclass(frozen=True, slots=True)
class Pin:
    """One distribution: its name on the index, its version, and the sha256s it may have."""

    name: str
    version: str
    sha256s: tuple[str, ...]  # hex

    def requirement(self) -> str:
        """The line of a requirements file that admits these files alone."""
        hashes = " ".join(f"--hash=sha256:{digest}" for digest in self.sha256s)
        return f"{self.name}=={self.version} {hashes}"


def install_wheels(pins: list[Pin], target: Path, cache: Path) -> None:
    """Unpack pinned wheels into the folder `target`, without their dependencies.

    Raises MachineCannot when the index cannot be reached or has other bytes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wheels-") as name:
        requirements = Path(name) / "requirements.txt"
        requirements.write_text("".join(f"{pin.requirement()}\n" for pin in pins), encoding="utf-8")
        command = ["pip", "install", "--target", str(target), "--no-deps", "--require-hashes"]
        options = ["--only-binary", ":all:", "--link-mode", "copy", "--python", sys.executable]
        what = ", ".join(f"{pin.name} {pin.version}" for pin in pins)
        _run_uv([*command, *options, "--requirements", str(requirements)], what, cache)


def fetch_sdist(pin: Pin, folder: Path, cache: Path) -> Path:
    """Download a source distribution into `folder` and return its path.

    A file that is already there with the pinned sha256 is not downloaded again. Raises
    MachineCannot when the index cannot be reached or has other bytes.
    """
    (expected,) = pin.sha256s
    path = folder / f"{pin.name.replace('-', '_')}-{pin.version}.tar.gz"
    if path.is_file() and _sha256(path) == expected:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    _download(_sdist_address(pin, folder, cache), path, expected)
    return path


def _run_uv(arguments: list[str], what: str, cache: Path, cwd: Path | None = None) -> None:
    command = [uv.uv_binary(), *arguments, *uv.index_options()]
    result = subprocess.run(
        command, env=uv.uv_env(cache), cwd=cwd, capture_output=True, text=True, check=False
    )
    if "hash mismatch" in result.stderr.lower():
        raise MachineCannot(
            f"{what} from the package index has another sha256 than the pinned one",
            hint=_OTHER_BYTES,
            code="E422",
        )
    if result.returncode != 0:
        raise _cannot_get(what, result.stderr)


def _sdist_address(pin: Pin, folder: Path, cache: Path) -> str:
    """Where the index keeps the source distribution.

    A resolution names it, and asks for nothing else when it is told that the package depends on
    nothing: no metadata is prepared, so nothing is built.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".resolve-") as name:
        project = Path(name)
        (project / "pyproject.toml").write_text(
            "[project]\n"
            'name = "resolve"\nversion = "0"\nrequires-python = ">=3.11"\n'
            f'dependencies = ["{pin.name}=={pin.version}"]\n'
            "[[tool.uv.dependency-metadata]]\n"
            f'name = "{pin.name}"\nversion = "{pin.version}"\nrequires-dist = []\n',
            encoding="utf-8",
        )
        what = f"{pin.name} {pin.version}"
        _run_uv(["lock", "--python", sys.executable], what, cache, cwd=project)
        lock = tomllib.loads((project / "uv.lock").read_text(encoding="utf-8"))
    return _address_in(lock, pin)


def _address_in(lock: Mapping[str, object], pin: Pin) -> str:
    packages = lock["package"]
    assert isinstance(packages, list)
    (package,) = [entry for entry in packages if entry["name"] == pin.name]
    sdist = package.get("sdist", {})
    if "url" in sdist:
        return str(sdist["url"])
    if "path" in sdist:  # a folder or page of files given as the index
        base = Path(str(package["source"]["registry"])).resolve()
        return (base / str(sdist["path"])).as_uri()
    raise MachineCannot(
        f"the package index has no source distribution of {pin.name} {pin.version}",
        hint="point uv to an index that has it (UV_DEFAULT_INDEX), then run the same command again",
        code="E421",
    )


def _download(address: str, path: Path, expected: str) -> None:
    """Stream to a temporary file, check its sha256, put it at `path`. Tries a few times."""
    what = path.name
    offline.require_network(what)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            partial = _stream(address, path)
            break
        except (urllib.error.URLError, TimeoutError, ConnectionError, OSError) as error:
            if attempt == ATTEMPTS or isinstance(error, PermissionError):
                raise _cannot_get(what, str(error)) from error
            time.sleep(2**attempt)
    actual = _sha256(partial)
    if actual != expected:
        partial.unlink()
        raise MachineCannot(
            f"{what} from the package index has sha256 {actual}, but {expected} is pinned",
            hint=_OTHER_BYTES,
            code="E422",
        )
    partial.replace(path)


def _stream(address: str, path: Path) -> Path:
    """Copy what `address` serves beside `path`; proxies and CA files as the environment says."""
    partial = path.with_name(f".{path.name}.partial")
    with (
        urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as response,
        partial.open("wb") as file,
    ):
        shutil.copyfileobj(response, file, 1 << 20)
        if response.length:  # what is left; reading in pieces does not complain about a short body
            raise ConnectionError(f"broke off, {response.length} bytes are missing")
    return partial


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cannot_get(what: str, words: str) -> MachineCannot:
    said = [line.strip() for line in words.strip().splitlines() if line.strip()]
    return MachineCannot(
        f"cannot get {what}: {said[-1] if said else 'no answer'}",
        hint="check the network, the proxy and uv's index, then run the same command again",
        code="E421",
    )
