"""What a bundle holds in place of downloads: a stage that would fetch takes its outputs from it.

Its digests enter the key of that stage. So a bundle that says that a model of the hub has other
bytes than it has can spoil nothing: no recipe without this very bundle ever meets them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.bundle.archive import Archive, open_archive
from runner.bundle.contents import FETCHED
from runner.errors import UsageError

STAGES = ("fetch", "fetch_reward", "fetch_data", "fetch_tasks")


@dataclass(frozen=True, slots=True)
class Given:
    """`files`: stage -> path of an output -> sha256. `measures`: what such a stage measured."""

    archive: Path
    files: Mapping[str, Mapping[str, str]]
    measures: Mapping[str, Mapping[str, Any]]

    def holds(self, stage: str) -> bool:
        """Are the outputs of `stage` in the bundle?"""
        return stage in self.files

    def key_facts(self, stage: str) -> dict[str, Any]:
        """What decides the bytes of `stage`."""
        return {"given": dict(self.files[stage])}

    def unpack(self, stage: str, folder: Path) -> Mapping[str, Any]:
        """Write the outputs of `stage` into `folder` and return its measures.

        Raises UsageError when the bundle is gone (E820), another one (E825) or damaged (E824).
        """
        with open_archive(self.archive) as archive:
            for path, digest in self.files[stage].items():
                name = f"{FETCHED}/{stage}/{path}"
                member = archive.index.files.get(name)
                if member is None or member.sha256 != digest:
                    raise UsageError(
                        f"{self.archive} is another bundle than the one of this run",
                        hint="put the right one there, or run the recipe that you have now",
                        code="E825",
                    )
                archive.unpack(name, folder / path)
        return self.measures.get(stage, {})

    def as_data(self) -> dict[str, Any]:
        """For run.json."""
        return asdict(self) | {"archive": str(self.archive)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Given:
        """Of run.json."""
        return cls(Path(data["archive"]), data["files"], data["measures"])


def given_by(archive: Archive, lock: Mapping[str, Any]) -> Given:
    """What `archive`, of the locked recipe `lock`, holds in place of downloads."""
    files: dict[str, dict[str, str]] = {}
    for name, member in archive.index.files.items():
        folder, _, rest = name.partition("/")
        stage, _, path = rest.partition("/")
        if folder == FETCHED and stage in STAGES:
            files.setdefault(stage, {})[path] = member.sha256
    parameters = lock["facts"].get("parameters")
    return Given(archive.path.resolve(), files, {"fetch": {"parameters": parameters}})
