"""What a bundle holds: laid out as a run's folder whose lock finds all its inputs beside it.

    index.json            every other member
    manifest.json         of the run
    recipe.lock.yaml      of the run; its paths start here
    run.json              of the run, without clock, host, path and measures
    inputs/               the files that the recipe names
    inputs/base/          those of the recipe that it starts from, whose result is what it fetched
    fetched/STAGE/        what the run got from the hub or an index
    adapter/ merged/ …    results, as in the run's folder

Names of inputs tell their part, not what they were called where the run was made: so equal runs
have equal bundles, whoever made them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runner.bundle.index import BASE, Index, Member, name_problem
from runner.bundle.write import Source, changed
from runner.errors import UsageError
from runner.execution import checksums
from runner.execution.run_folder import SHOWN_AS
from runner.lock.file import as_text, read_lock
from runner.lock.of_run import FILE as LOCK_FILE
from runner.lock.of_run import HEAD
from runner.plan.keys import key_of
from runner.recipe.base_recipe import PLACES, section_of
from runner.recipe.model import build_resolved
from runner.recipe.paths import NamedPath, named_paths
from runner.recipe.source import pointer_tokens
from runner.store.digest import file_sha256

if TYPE_CHECKING:
    from runner.store.store import Store
    from runner.verify.run import Run

MANIFEST_FILE = "manifest.json"
RECORD_FILE = "run.json"
INPUTS = "inputs"
FETCHED = "fetched"
MODEL = f"{INPUTS}/model"
GGUF = "model.gguf"
# Of run.json: what is the same for equal runs, and what deriving them again needs to know.
_RECORDED = ("schema", "recipe", "runner", "until", "platform", "environments", "tools")
REWARD = "reward-model"  # of a folder of inputs
_OF_MODEL = re.compile(rf"{INPUTS}/((base|scorer)/)*(model|{REWARD})/")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,12}")


@dataclass(frozen=True)
class Contents:
    """The index, and where the bytes of every member are."""

    index: Index
    sources: Mapping[str, Source]

    def size(self, folder: str = "") -> int:
        """Bytes of the members below `folder`."""
        return sum(m.size for name, m in self.index.files.items() if name.startswith(folder))

    @property
    def base_size(self) -> int:
        """Bytes of the base model's files."""
        models = [name for name in self.index.files if is_of_model(name)]
        return sum(self.index.files[name].size for name in models) + self.size(f"{FETCHED}/fetch/")


def is_of_model(name: str) -> bool:
    """Is the member a file of a base model that was a folder, of whichever recipe of the chain?"""
    return _OF_MODEL.match(name) is not None


def place(stage: str, path: str) -> str:
    """The name of a stage's output in a bundle."""
    folder = SHOWN_AS.get(stage)
    return str(PurePosixPath(f"{FETCHED}/{stage}" if folder is None else folder, path))


def contents_of(run: Run, store: Store, *, base: bool) -> Contents:
    """What the bundle of `run` holds; with `base` the base model too.

    Reads no large file: digests are the recorded ones, and are compared while writing. Raises
    UsageError (E826) when this run cannot be bundled, MachineCannot (E827) when a file is gone.
    """
    lock = _lock_of(run)
    moved = moved_lock(lock, run.folder)
    files: dict[str, Member] = {}
    sources: dict[str, Source] = {}
    for name, text in _texts(run, moved.lock).items():
        files[name] = Member(hashlib.sha256(text).hexdigest(), len(text))
        sources[name] = text
    for found in (_inputs(run, lock, moved, base), _outputs(run, store, lock, base)):
        for name, source, digest in found:
            files[name] = Member(digest, _size(source))
            sources[name] = source
    if problem := name_problem(files):
        raise UsageError(
            f"{run.folder} cannot be bundled: {problem}",
            hint=f"rename that file to at most {100 - len(MODEL)} letters, digits, -, _ and ., and "
            "run the recipe again",
            code="E826",
        )
    left_out = () if base else (BASE,)
    index = Index(str(run.record["recipe"]), str(lock["runner"]), files, left_out)
    return Contents(index, sources)


def _lock_of(run: Run) -> dict[str, Any]:
    path = run.folder / LOCK_FILE
    if run.record.get("shrink") is not None:
        raise UsageError(
            f"{run.folder} is of a shrunken twin, whose results nobody needs elsewhere",
            hint="run the recipe without --shrink, and bundle that run",
            code="E826",
        )
    if not path.is_file():
        raise UsageError(
            f"{run.folder} has no {LOCK_FILE}, so nothing pins its inputs",
            hint="run the recipe again, and bundle that run",
            code="E826",
        )
    _require_unchanged(run, path)
    return read_lock(path)


def _require_unchanged(run: Run, path: Path) -> None:
    """Raises MachineCannot (E827) when the file is not the one that the run's checksums list."""
    try:
        listed = dict(checksums.read_checksums(run.folder))
    except FileNotFoundError:  # a run of before there were checksums
        return
    except (OSError, ValueError) as error:
        raise changed(run.folder / checksums.NAME, f"cannot be read: {error}") from None
    if listed.get(path.name) != file_sha256(path):
        raise changed(path, "is not the one that the run wrote")


def _texts(run: Run, lock: Mapping[str, Any]) -> dict[str, bytes]:
    manifest = (run.folder / MANIFEST_FILE).read_bytes()
    if hashlib.sha256(manifest).hexdigest() != run.record.get("manifest_sha256"):
        raise changed(run.folder / MANIFEST_FILE, "is not the manifest that the run wrote")
    record = json.dumps(record_of(run, lock), indent=1, sort_keys=True, allow_nan=False)
    return {
        MANIFEST_FILE: manifest,
        LOCK_FILE: as_text(lock, HEAD).encode(),
        RECORD_FILE: record.encode() + b"\n",
    }


def record_of(run: Run, lock: Mapping[str, Any]) -> dict[str, Any]:
    """run.json as it is bundled: equal for equal runs."""
    return {
        **{name: run.record.get(name) for name in _RECORDED},
        "state": "done",
        "resolved": lock["recipe"],
        "recipe_file": LOCK_FILE,
        "manifest_sha256": run.record["manifest_sha256"],
        "stages": [_stage_record(each) for each in run.record["stages"]],
    }


def _stage_record(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage that took its outputs from a bundle is recorded as the one that had fetched them."""
    material = dict(stage["material"])
    if "given" in material.get("files", {}):
        del material["files"]
    return {
        "name": stage["name"],
        "key": key_of(material),
        "material": material,
        "measures": {},
    }


# --- inputs


@dataclass(frozen=True)
class Moved:
    """`lock` with its paths as in the bundle; `names`: (old, new) path of every pinned file.

    A file that the recipe names twice has two new ones.
    """

    lock: dict[str, Any]
    names: list[tuple[str, str]]


def moved_lock(lock: Mapping[str, Any], folder: Path) -> Moved:
    """`lock`, read in `folder`, as it stands in a bundle."""
    new = copy.deepcopy(dict(lock))
    names: list[tuple[str, str]] = []
    for named in named_paths(build_resolved(lock["recipe"], folder / LOCK_FILE)):
        names += _rename(new["recipe"], named, lock["files"])
    new["files"] = {new_name: lock["files"][old] for old, new_name in sorted(names, key=_second)}
    return Moved(new, names)


def _second(pair: tuple[str, str]) -> str:
    return pair[1]


def _rename(
    recipe: dict[str, Any], named: NamedPath, pinned: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Put the new path into `recipe`; (old, new) of every pinned file that it stands for."""
    pointer, folder = named.pointer, INPUTS
    while place := next((each for each in PLACES if pointer.startswith(f"{each}/")), ""):
        pointer, folder = pointer.removeprefix(place), f"{folder}/{PLACES[place]}"
        recipe = recipe[section_of(place)]["recipe"]
    if pointer == "/reward/path":
        recipe["reward"]["path"] = f"{folder}/{REWARD}"
        model = PurePosixPath(named.text)
        inside = [old for old in pinned if PurePosixPath(old).parent == model]
        return [(old, f"{folder}/{REWARD}/{PurePosixPath(old).name}") for old in inside]
    if named.kind == "model folder":
        recipe["model"]["path"] = f"{folder}/model"
        model = PurePosixPath(named.text)
        inside = [old for old in pinned if PurePosixPath(old).parent == model]
        return [(old, f"{folder}/model/{PurePosixPath(old).name}") for old in inside]
    if pointer == "/model/file":
        recipe["model"] |= {"path": f"{folder}/model", "file": GGUF}
        return [(named.text, f"{folder}/model/{GGUF}")]
    *sections, last = pointer_tokens(pointer)
    spot: Any = recipe
    for token in sections:
        spot = spot[int(token) if isinstance(spot, list) else token]
    spot[last] = f"{folder}/{_input_name(sections, last, named.text)}"
    return [(named.text, spot[last])]


def _input_name(sections: list[str], last: str, text: str) -> str:
    """`train-0.jsonl` for /data/train/0/path, `questions.txt` for the questions, `task-0.yaml` and
    `task-0-data.jsonl` for a task and its rows."""
    suffix = PurePosixPath(text).suffix
    suffix = suffix if _SUFFIX.fullmatch(suffix) else ""
    if sections[:2] == ["evaluate", "harness"]:
        part = "" if last == "path" else f"-{last}"
        return f"task-{sections[-1]}{part}{suffix}"
    if last != "path":
        return f"{last}{suffix}"
    kind = {"train": "train", "clean": "decontaminate"}.get(sections[1], "validation")
    return f"{kind}-{sections[-1]}{suffix}"


def _inputs(
    run: Run, lock: Mapping[str, Any], moved: Moved, base: bool
) -> Iterator[tuple[str, Path, str]]:
    for old, new in moved.names:
        if base or not is_of_model(new):
            yield new, run.folder / old, lock["files"][old]


# --- outputs


def _outputs(
    run: Run, store: Store, lock: Mapping[str, Any], base: bool
) -> Iterator[tuple[str, Path, str]]:
    """Every output in the manifest. The base model is not, where its own files are inputs."""
    for stage, listed in run.manifest.items():
        if stage == "fetch" and (not base or lock["recipe"]["model"].get("path") is not None):
            continue
        for path, facts in listed.items():
            yield place(stage, path), _find(run, store, stage, path), facts["sha256"]


def _find(run: Run, store: Store, stage: str, path: str) -> Path:
    shown = run.shown(stage, path)
    if shown is not None and shown.is_file():
        return shown
    stored = store.folder(stage, str(run.stage(stage)["key"])) / path
    if stored.is_file():
        return stored
    less = ", or leave it out with --without-base" if stage == "fetch" else ""
    raise UsageError(
        f"{path}, of the stage {stage}, is neither in {run.folder} nor in the store",
        hint=f"run the recipe again, which makes it anew{less}",
        code="E826",
    )


def _size(source: Path) -> int:
    try:
        return source.stat().st_size
    except OSError as error:
        raise changed(source, f"cannot be read: {error.strerror}") from None
