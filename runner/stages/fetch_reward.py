"""Get the model that scores the answers of `ppo`: what another recipe trained, a folder, or one of
the hub.

Copied into outputs of its own, so that the training reads nothing that a run of the other recipe or
a change of the folder could take away. The script that trains looks at what it is.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.stages.contract import Class, Context, Outputs, Upstream
from runner.stages.fetch import POLICY, is_read
from runner.stages.models import hub, shrunken
from runner.stages.models.base_result import BELOW_SCORER, SCORER

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = "fetch_reward"
VERSION = 1
OUTPUTS = {
    "model/*": Class.PORTABLE,  # a model that scores, or the one below the adapter
    "adapter/*": Class.PORTABLE,
}
NEEDS: tuple[str, ...] = (SCORER, BELOW_SCORER)
ENVIRONMENT = "data"
TOOLS: tuple[str, ...] = ()
DEVICE = False


def wanted(recipe: Recipe) -> bool:
    """Only when the recipe has the section."""
    return recipe.reward is not None


def snapshot(recipe: Recipe) -> dict[str, Any]:
    """Digests of the files of `reward.path`, or of a bundle; nothing of the hub, and nothing of
    another recipe, whose outputs are known."""
    from runner.store.known_digests import known_sha256

    assert recipe.reward is not None
    if recipe.given is not None and recipe.given.holds(NAME):
        return recipe.given.key_facts(NAME)
    if recipe.reward.path is None:
        return {}
    folder = recipe.resolve(recipe.reward.path)
    read = [path for path in sorted(folder.iterdir()) if is_read(path)]
    if shrunken.is_shrunken(recipe):
        read = [path for path in read if shrunken.is_read(path)]
    return {path.name: known_sha256(path) for path in read}


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """The content of what another recipe gave, or the commit of a repository; of a folder
    `snapshot` has the digests."""
    assert recipe.reward is not None
    if recipe.reward.hub is not None:
        return {
            "hub": recipe.reward.hub,
            "revision": recipe.reward.revision,
            "policy": POLICY,
            "dtype": recipe.model.dtype,
            **shrunken.key_fact(recipe),
        }
    if SCORER not in upstream:
        return {"kind": "folder", "dtype": recipe.model.dtype, **shrunken.key_fact(recipe)}
    trained = upstream[SCORER]
    below = {} if _is_whole(trained) else {"below": upstream[BELOW_SCORER].digest("model/*")}
    kind = "model" if _is_whole(trained) else "adapter"
    return {
        "kind": kind,
        "dtype": recipe.model.dtype,
        "result": trained.digest(f"{kind}/*"),
        **below,
    }


def unresolved(recipe: Recipe) -> str:
    """Why the key cannot be known yet; "" when it can."""
    return "" if recipe.reward is None else hub.unpinned(recipe.reward)


def resumable(scratch: Path) -> bool:
    """Can a download go on?"""
    return hub.has_downloads(scratch)


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write `model/`, and `adapter/` where one lies on it, below `folder`.

    Raises StageFailed or MachineCannot.
    """
    assert recipe.reward is not None
    if recipe.given is not None and recipe.given.holds(NAME):
        recipe.given.unpack(NAME, folder)
        return
    if SCORER in inputs:
        trained = inputs[SCORER]
        source = (trained if _is_whole(trained) else inputs[BELOW_SCORER]).folder / "model"
        if not _is_whole(trained):
            shutil.copytree(trained.folder / "adapter", folder / "adapter")
    else:
        source = _download(recipe, context) if recipe.reward.path is None else _folder(recipe)
        if shrunken.is_shrunken(recipe):
            source = shrunken.make_twin(source, None, context)
    spec = {"kind": "folder", "file": None, "dtype": recipe.model.dtype, "trust_remote_code": None}
    context.run_script("fetch", spec, inputs={"source": source}, folder=folder)


def _folder(recipe: Recipe) -> Path:
    assert recipe.reward is not None
    assert recipe.reward.path is not None
    return recipe.resolve(recipe.reward.path)


def _download(recipe: Recipe, context: Context) -> Path:
    """Download the repository into scratch, where a next try finds it, and return its folder.

    Code of the repository is never taken: a reward model is one that Transformers knows.
    """
    assert recipe.reward is not None
    wanted = {
        "id": recipe.reward.hub,
        "kind": "model",
        "revision": recipe.reward.revision,
        "file": None,
        "code": False,
        "weights": not shrunken.is_shrunken(recipe),
        "place": "model",
    }
    downloaded = hub.download([wanted], 1, context)  # once more for what it is converted to
    context.measure("commit", recipe.reward.revision)
    return downloaded / "model"


def key_fact(upstream: Upstream) -> dict[str, Any]:
    """For the keys of stages that read the reward model; nothing where there is none."""
    return {"reward": upstream[NAME].digest()} if NAME in upstream else {}


def places(inputs: Upstream) -> dict[str, Path]:
    """Where it lies, by the names that scripts have for it; nothing where there is none."""
    if NAME not in inputs:
        return {}
    folder = inputs[NAME].folder
    has_adapter = any(path.startswith("adapter/") for path in inputs[NAME].files)
    return {
        "reward_model": folder / "model",
        **({"reward_adapter": folder / "adapter"} if has_adapter else {}),
    }


def _is_whole(trained: Outputs) -> bool:
    """Has every weight learnt, so that there is a model and no adapter?"""
    return any(path.startswith("model/") for path in trained.files)
