"""A small finished run without a training, its bundle, and bundles that nobody should trust."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.bundle import tar
from runner.bundle.contents import contents_of
from runner.bundle.index import FILE, Index, Member
from runner.bundle.write import Source, write_archive
from runner.execution.run_folder import SHOWN_AS
from runner.lock.of_run import write_run_lock
from runner.recipe.load import load_recipe
from runner.stages.contract import Class, FileEntry, Outputs
from runner.store.manifest import build_manifest
from runner.store.store import Store
from runner.verify.run import open_run
from tests.tiny_model import write_tiny_model

RECIPE = """
schema: 1
name: small
model: {path: MODEL, dtype: float32}
data:
  train: [{path: rows.jsonl, format: alpaca}]
  max_length: 256
train: {adapter: {type: lora, r: 4}, max_steps: 1}
merge: {}
"""
RESULTS = {
    "prepare": {"prompts.jsonl": b"{}\n"},
    "train": {"adapter/adapter_model.safetensors": b"adapter" * 300, "trace.jsonl": b"{}\n"},
    "merge": {"model/model.safetensors": b"merged" * 9000},
}


@dataclass
class SmallRun:
    """Where it lies: `folder` is the run's; `project` has recipe, rows and model."""

    project: Path
    folder: Path
    store: Store

    def bundle(self, target: Path, *, base: bool = True) -> Path:
        contents = contents_of(open_run(self.folder), self.store, base=base)
        write_archive(contents.index, contents.sources, target)
        return target


def small_run(place: Path, *, absolute: bool = False) -> SmallRun:
    """A run of the small recipe below `place`, with results that nobody computed."""
    project = place / "project"
    model = write_tiny_model(project / "model")
    (project / "rows.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n')
    (project / "small.yaml").write_text(
        RECIPE.replace("MODEL", str(model) if absolute else "model")
    )
    folder = project / "runs" / "small" / "20260101-000000"
    folder.mkdir(parents=True)
    recipe = load_recipe(project / "small.yaml")
    fetched = {f"model/{path.name}": path.read_bytes() for path in model.iterdir()}
    outputs = {
        "fetch": _outputs("fetch", model.parent, fetched),
        **{stage: _shown(stage, folder, files) for stage, files in RESULTS.items()},
    }
    manifest = build_manifest(outputs, "test-platform")
    (folder / "manifest.json").write_bytes(manifest)
    write_run_lock(recipe, outputs, folder)
    record = {
        "schema": 1,
        "recipe": "small",
        "recipe_file": str(project / "small.yaml"),
        "resolved": recipe.resolved(),
        "runner": "0",
        "until": None,
        "host": {"name": str(place)},
        "started": str(place),
        "platform": {"name": "test-platform", "device": "cpu"},
        "environments": {},
        "tools": {},
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "stages": [
            {
                "name": stage,
                "key": "0" * 64,
                "material": {"stage": stage, "version": 1},
                "measures": {},
            }
            for stage in outputs
        ],
    }
    (folder / "run.json").write_text(json.dumps(record))
    return SmallRun(project, folder, Store(place / "store"))


def _outputs(stage: str, folder: Path, files: Mapping[str, bytes]) -> Outputs:
    entries = {
        path: FileEntry(path, len(data), hashlib.sha256(data).hexdigest(), Class.PORTABLE)
        for path, data in files.items()
    }
    return Outputs(stage, "0" * 64, folder, entries, {"parameters": 1})


def _shown(stage: str, run: Path, files: Mapping[str, bytes]) -> Outputs:
    for path, data in files.items():
        target = run / SHOWN_AS[stage] / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return _outputs(stage, run, files)


# --- archives that nobody should trust


@dataclass
class Forger:
    """Writes archives block by block. `members` and `index` start as those of a good bundle."""

    members: list[tuple[bytes, bytes]]  # (header, bytes) in order, the index left out
    index: dict[str, Any]
    holes: dict[int, int] = field(default_factory=dict)  # number of a member -> bytes of nothing
    end: bytes = tar.END
    spelled: bytes | None = None  # instead of the index as a bundle spells it
    index_header: bytes | None = None
    _found: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, good: Path) -> Forger:
        from runner.bundle.archive import open_archive

        with open_archive(good) as archive:
            found = {name: archive.read(name) for name in sorted(archive.index.files)}
            index = json.loads(archive.index.text())
        members = [(tar.header(name, len(data)), data) for name, data in found.items()]
        return cls(members, index, _found=found)

    def content(self, name: str) -> bytes:
        """The bytes of a member."""
        return self._found[name]

    def put(self, name: str, data: bytes) -> None:
        """Add or replace a member as a bundle would write it, whatever its name is."""
        self._found[name] = data
        self.index["files"][name] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
        }
        self._settle()

    def drop(self, name: str) -> None:
        """A bundle that never had the member."""
        del self._found[name]
        del self.index["files"][name]
        self._settle()

    def edit(self, name: str, change: Callable[[bytes], bytes]) -> None:
        """Another content, with an index that agrees."""
        self.put(name, change(self._found[name]))

    def _settle(self) -> None:
        self.members = [
            (_header(name, len(data)), data) for name, data in sorted(self._found.items())
        ]

    def place(self, name: str) -> int:
        """Which of the members has the name."""
        return sorted(self._found).index(name)

    def swap_header(self, name: str, **fields: Any) -> None:
        """The same member with other words in its header."""
        number = self.place(name)
        block, data = self.members[number]
        self.members[number] = (forged(block, **fields), data)

    def write(self, path: Path) -> Path:
        text = self.spelled
        if text is None:
            text = json.dumps(self.index, indent=1, sort_keys=True).encode() + b"\n"
        blocks = [(self.index_header or tar.header(FILE, len(text)), text), *self.members]
        with path.open("wb") as file:
            for number, (header, data) in enumerate(blocks, -1):
                file.write(header + data + bytes(tar.padding(len(data))))
                file.seek(self.holes.get(number, 0), io.SEEK_CUR)
            file.write(self.end)
        return path


def _header(name: str, size: int) -> bytes:
    import tarfile

    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def forged(block: bytes, **fields: Any) -> bytes:
    """A header with some of tarfile's fields changed, its checksum right."""
    import tarfile

    member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    for name, value in fields.items():
        setattr(member, name, value)
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def tiny_index(files: Mapping[str, bytes]) -> tuple[Index, dict[str, Source]]:
    """An index of these files, and where their bytes are."""
    members = {
        name: Member(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()
    }
    return Index("small", "0", members), dict(files)
