"""What a lock pins, as this machine and checkout have it now. No network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import runner
from runner.recipe.paths import is_readable_file, named_paths
from runner.store.known_digests import known_sha256

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.stages.contract import Outputs, Stage

LOCK = 1
# Environments of no stage, but for `parquet` of recipes with such files; `ray` is `data` with Ray.
NOT_OF_STAGES = ("parquet", "ray", "runner", "sign", "test")
# Of a model's config.json, in the lock's order; what a model does not have is left out.
FACTS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "sliding_window",
    "rope_scaling",
    "tie_word_embeddings",
)


def cheap_pins(recipe: Recipe) -> dict[str, Any]:
    """Everything a lock holds but what needs the model's bytes, in the lock's order."""
    stages = _stages_of_chain(recipe)
    return {
        "lock": LOCK,
        "runner": runner.__version__,
        "recipe": recipe.resolved(),
        "files": file_pins(recipe),
        "environments": environment_pins(recipe),
        "tools": tool_pins(stages),
        "stages": {stage.NAME: stage.VERSION for stage in stages},
    }


def _stages_of_chain(recipe: Recipe) -> list[Stage]:
    """All stages of the recipe, and those that the recipes it starts from run for it, each once."""
    from runner.plan.chain import stages_of_base, stages_to_compare
    from runner.recipe.base_recipe import recipes_of
    from runner.stages import ORDER, stages_of

    *bases, last = recipes_of(recipe)
    found: dict[str, Stage] = {}
    for each in recipe.compared:
        bases += list(recipes_of(each))[:-1]
        found |= {stage.NAME: stage for stage in stages_to_compare(each)}
    found |= {stage.NAME: stage for base in bases for stage in stages_of_base(base)}
    found |= {stage.NAME: stage for stage in stages_of(last)}
    return [found[name] for name in ORDER if name in found]


def file_pins(recipe: Recipe) -> dict[str, str]:
    """Path as the recipe names it -> sha256; for a model folder, of every file that is read."""
    from runner.stages.fetch import is_read

    found = {}
    for named in named_paths(recipe):
        path = recipe.resolve(named.text)
        if path.is_dir():
            for file in sorted(path.iterdir()):
                if is_read(file):
                    found[f"{named.text}/{file.name}"] = known_sha256(file)
        elif is_readable_file(path):
            found[named.text] = known_sha256(path)
    return dict(sorted(found.items()))


def environment_pins(recipe: Recipe) -> dict[str, str]:
    """Role -> sha256 of its lock file: not of the interpreter, which may differ between machines.

    All of them, since a stage may borrow another stage's environment; but for those of backends
    that do not train this recipe, and those of task metrics, of the harness and of Parquet where it
    asks for none.
    """
    from runner.backends import environments_beside
    from runner.recipe.compared_recipes import all_recipes
    from runner.stages import evaluate, harness, prepare
    from runner.system.folders import shipped

    chain = [*all_recipes(recipe)]
    beside = [set(environments_beside(each.train)) for each in chain]
    unused = {*NOT_OF_STAGES, *set.intersection(*beside)}
    if all(evaluate.environment(each) != evaluate.WITH_METRICS for each in chain):
        unused.add(evaluate.WITH_METRICS)
    if not any(harness.wanted(each) for each in chain):
        unused.add(harness.ENVIRONMENT)
    unused -= {role for each in chain for role in prepare.borrowed(each)}
    locks = sorted(shipped("environments").glob("*.txt"))
    return {
        path.stem: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in locks
        if path.stem not in unused
    }


def tool_pins(stages: list[Stage]) -> dict[str, dict[str, str]]:
    """Tool -> version and identity, for every tool that a stage uses."""
    from runner.system.tools import read_lock, tool_identity

    names = sorted({name for stage in stages for name in stage.TOOLS})
    pinned = read_lock()["tools"]
    return {
        name: {"version": pinned[name]["version"], "sha256": tool_identity(name)} for name in names
    }


def model_pins(outputs: Outputs) -> dict[str, str]:
    """Path -> sha256 of the files that `fetch` gave."""
    return {path: entry.sha256 for path, entry in sorted(outputs.files.items())}


def model_facts(outputs: Outputs) -> dict[str, Any]:
    """Shapes, vocabulary and context, from the configuration and the weights' headers."""
    import json

    config = json.loads(outputs.path("model/config.json").read_text(encoding="utf-8"))
    facts: dict[str, Any] = {"architectures": config.get("architectures", [])}
    facts |= {name: config[name] for name in FACTS if config.get(name) is not None}
    facts["parameters"] = outputs.measures.get("parameters")
    facts["modules"] = linear_modules(outputs.folder / "model")
    return facts


def linear_modules(folder: Path) -> dict[str, dict[str, Any]]:
    """Last name of each kind of matrix (`q_proj`) -> how many there are, and their shapes."""
    from runner.scripts.weights.safetensors_stream import ModelFolder

    found: dict[str, dict[str, Any]] = {}
    with ModelFolder(folder) as model:
        for name, spec in model.tensors.items():
            if name.endswith(".weight") and len(spec.shape) == 2:
                kind = found.setdefault(name.split(".")[-2], {"count": 0, "shapes": []})
                kind["count"] += 1
                if list(spec.shape) not in kind["shapes"]:
                    kind["shapes"].append(list(spec.shape))
    return {
        name: {**kind, "shapes": sorted(kind["shapes"])} for name, kind in sorted(found.items())
    }


def stale_entries(locked: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of `locked` is otherwise in `now`, one line each; entries that `now` lacks are skipped.

    The runner's version alone makes no lock stale.
    """
    from runner.plan.plan import list_changes

    return [
        change
        for section in now
        if section not in ("lock", "runner")
        for change in list_changes({section: locked.get(section)}, {section: now[section]})
    ]
