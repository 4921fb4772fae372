"""The Python packages that an environment had, read from its hash lock."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.errors import LockStale
from runner.store.digest import canonical_sha256
from runner.system.environments import environment_lock_path, without_supplied

if TYPE_CHECKING:
    from runner.attest.finished import Finished

_LINE = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;\\]+)(?:\s*;\s*([^\\\n]+?))?\s*(?:\\|$)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Package:
    """One package; `hashes` are the sha256 of every file that the lock takes for it."""

    name: str
    version: str
    hashes: tuple[str, ...] = ()


def packages_of(about: Finished, role: str, sha256: str) -> list[Package]:
    """What environment `role` of the run had, by name.

    Raises LockStale (E842) when the lock file of this installation is not the run's.
    """
    path = environment_lock_path(role)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise LockStale(
            f"{path} is not the one that the run was made with, so its packages are not known here",
            hint=f"use Spark Recipes {about.run.record['runner']} as it was then, or run the "
            "recipe again",
            code="E842",
        )
    text, machine = content.decode(), _machine(about.run.record)
    if not _is_whole(about.run.record, role, sha256):
        # A base image supplied torch and its companions; it alone knows the files.
        supplied = Package("torch", str(about.run.record["platform"]["torch"]))
        found = [*read_packages(without_supplied(text), machine), supplied]
    else:
        found = list(read_packages(text, machine))
    return sorted(found, key=lambda package: package.name)


def read_packages(lock: str, machine: Mapping[str, str]) -> Iterator[Package]:
    """The packages of a lock's text whose marker holds on `machine`."""
    from packaging.markers import Marker

    for entry in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE):
        if (found := _LINE.match(entry)) is None:
            continue
        name, version, marker = found.groups()
        if marker is None or Marker(marker).evaluate(dict(machine)):
            yield Package(name, version, tuple(sorted(_HASH.findall(entry))))


def _is_whole(record: Mapping[str, Any], role: str, sha256: str) -> bool:
    """Was the environment built from its lock alone? Its identity says so."""
    facts = {"lock": sha256, "python": _minor(record), "base": ""}
    return bool(record["environments"][role] == canonical_sha256(facts))


def _machine(record: Mapping[str, Any]) -> dict[str, str]:
    """The variables of markers on the machine of the run."""
    return {
        "python_version": _minor(record),
        "python_full_version": record["host"]["python"],
        "implementation_name": "cpython",
        "implementation_version": record["host"]["python"],
        "platform_python_implementation": "CPython",
        "platform_machine": record["host"]["machine"],
        "platform_system": "Linux",
        "platform_release": "",
        "platform_version": "",
        "sys_platform": "linux",
        "os_name": "posix",
        "extra": "",
    }


def _minor(record: Mapping[str, Any]) -> str:
    return ".".join(record["host"]["python"].split(".")[:2])
