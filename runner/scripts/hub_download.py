"""Download files of the hub at pinned commits into spec.scratch/hub, each checked by its digest.

spec.hashed: wanted, a list of {id, kind, revision, file, code, weights, place}: `file` alone, or
without one (null) a model's configuration, tokenizer and template (TAKEN), with its Python files
when `code` is true and its weights unless `weights` is false; `place` is the folder below
spec.scratch/hub. copies: how many times what is downloaded must fit the disk again, for what is
made of it. Files of an earlier try are gone on with.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.scripts.hub_client import Hub, RemoteFile, Repository, Transfer, no_file, partial_of
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.weights.model_folder import COPIED
from runner.scripts.weights.safetensors_stream import INDEX, SINGLE, DamagedFileError, shard_names
from runner.system.hardware import disk_free

# What is taken of a model repository beside its weights: nothing that can run code. Another choice
# raises POLICY in runner/stages/fetch.py.
TAKEN = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    *COPIED,
)
NEEDED = ("config.json", "tokenizer.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file to have, and where."""

    repository: Repository
    file: RemoteFile
    target: Path


def hub_download(spec: Spec, events: Events) -> None:
    """List, see whether it all fits, download."""
    hub = Hub()
    folder = spec.scratch / "hub"
    with told_of_a_full_disk(folder):
        wanted = [
            each
            for item in spec.hashed["wanted"]
            for each in list_files(hub, item, folder / item["place"], events)
        ]
        check_room(wanted, folder, spec.hashed["copies"])
        download(hub, wanted, events)


def download(hub: Hub, wanted: Sequence[Wanted], events: Events) -> None:
    """Have all of `wanted`, and measure how much that was."""
    total = sum(each.file.size for each in wanted)
    transfer = Transfer(events, total)
    for each in wanted:
        hub.download(each.repository, each.file, each.target, transfer)
    events.measure(downloaded_files=len(wanted), downloaded_bytes=total)


@contextlib.contextmanager
def told_of_a_full_disk(folder: Path) -> Iterator[None]:
    """A disk without room as an error for the user (E410). `folder`: of the downloads.

    Where there would be room, the runner puts before the hint: it knows whose folder this is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise ScriptError(
            f"no space left while downloading into {folder}: {error.strerror}",
            hint="then run the same command again: it goes on where it stopped",
            code="E410",
        ) from error


def list_files(hub: Hub, item: dict[str, Any], place: Path, events: Events) -> list[Wanted]:
    """What to download for one entry of `wanted`. Raises ScriptError."""
    repository = Repository(item["id"], item["kind"], item["revision"])
    if repository.kind == "dataset":
        files = [hub.file(repository, item["file"])]
    else:
        known = hub.files(repository)
        if item["file"] is not None:
            files = [_one(repository, known, item["file"])]
        else:
            with_weights = item.get("weights", True)
            check_complete(repository, known, with_weights)
            files = [known[name] for name in TAKEN if name in known]
            files += [known[name] for name in sorted(known) if item["code"] and _is_code(name)]
            if with_weights:
                files += weights(hub, repository, known, place, events)
    return [Wanted(repository, file, place / file.path) for file in files]


def _one(repository: Repository, known: dict[str, RemoteFile], path: str) -> RemoteFile:
    if path not in known:
        raise no_file(repository, path, sorted(n for n in known if n.endswith(Path(path).suffix)))
    return known[path]


def _is_code(name: str) -> bool:
    return name.endswith(".py") and not name.startswith("/") and ".." not in Path(name).parts


def check_complete(
    repository: Repository, known: dict[str, RemoteFile], with_weights: bool
) -> None:
    """Said before a byte is downloaded. Raises ScriptError E311."""
    missing = [name for name in NEEDED[: None if with_weights else 1] if name not in known]
    if with_weights and not any(name in known for name in (INDEX, SINGLE)):
        missing.insert(0, SINGLE)
    if not missing:
        return
    ggufs = sorted(name for name in known if name.endswith(".gguf"))
    pickles = sorted(name for name in known if name.endswith(PICKLES))
    message = f"{repository.id} holds no {' and no '.join(missing)} at {repository.revision}"
    hint = "choose a repository in the form that Transformers saves"
    if ggufs:
        hint = f"for a GGUF name it in model.file: {', '.join(ggufs[:10])}"
    elif missing[0] == SINGLE and pickles:
        message += f", only pickles ({', '.join(pickles[:3])}), and these can run code"
        hint = "choose a repository with safetensors; pickles are never read"
    raise ScriptError(message, hint=hint, code="E311")


def weights(
    hub: Hub, repository: Repository, known: dict[str, RemoteFile], place: Path, events: Events
) -> list[RemoteFile]:
    """The safetensors files that belong to the model. Raises ScriptError E311 or E312.

    The index names them, so that no copy in another form (`consolidated.safetensors`, `original/`)
    is taken too.
    """
    if INDEX not in known:
        return [known[SINGLE]]
    index = known[INDEX]
    hub.download(repository, index, place / INDEX, Transfer(events, index.size))
    try:
        shards = shard_names(place)
    except DamagedFileError as error:
        raise ScriptError(f"{repository.id}/{INDEX} is damaged: {error}", code="E312") from error
    missing = [name for name in shards if name not in known]
    if missing:
        raise ScriptError(
            f"{repository.id} holds no {missing[0]}, which its {INDEX} names",
            hint="take another revision, or another repository",
            code="E311",
        )
    return [index, *(known[name] for name in shards)]


def check_room(wanted: list[Wanted], folder: Path, copies: int) -> None:
    """Raises ScriptError E410 with the numbers when it cannot fit."""
    total = sum(each.file.size for each in wanted)
    there = sum(_size(each.target) or _size(partial_of(each.target)) for each in wanted)
    need, free = max(0, total - there) + copies * total, disk_free(folder)
    if need > free:
        again = " and again as much for the converted model" if copies else ""
        raise ScriptError(
            f"not enough space at {folder}: {max(0, total - there):,} bytes to download{again} "
            f"make {need:,}, and {free:,} are free",
            hint="then run the same command again",
            code="E410",
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


if __name__ == "__main__":
    main(hub_download)
