"""Find the modules that an adapter is put on: by the model's real names, as PEFT understands them.

Works on a model without weights (the meta device, made from config.json alone), so that a slip of
the pen costs seconds, not the loading of a 70B. A name that matches nothing is an error even when
others do: PEFT would go on without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from runner.recipe.suggest import nearest
from runner.scripts.spec import ScriptError

EVERY_WEIGHT = {"type": "none"}  # full fine-tuning
ALL_LINEAR, ALL_ATTENTION = "all-linear", "all-attention"
_FIT = (torch.nn.Linear, Conv1D, torch.nn.Embedding)
_SHOWN = 40  # groups of modules in a message


def skeleton(
    folder: Path, trust_remote_code: bool, family: Any = AutoModelForCausalLM, **changes: Any
) -> Any:
    """The model of `folder` without weights. Raises ScriptError E519.

    `changes`: to the model's configuration.
    """
    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(
                folder, trust_remote_code=trust_remote_code, **changes
            )
            return family.from_config(config, trust_remote_code=trust_remote_code)
    except ValueError as error:
        raise ScriptError(
            f"the model cannot be loaded: {str(error).splitlines()[0]}",
            hint=f"choose a model that Transformers knows as {family.__name__}",
            code="E519",
        ) from error


def resolve(model: Any, adapter: dict[str, Any]) -> dict[str, Any]:
    """What is told of the model's modules: the settings of LoraConfig that name some, or, of
    `type: none`, the names of the `weights` that learn, where that is not every one.

    `model` may be on the meta device. `adapter` as in runner/backends/native.py. Raises
    ScriptError E516, E529.
    """
    if adapter == EVERY_WEIGHT:
        return {}
    if adapter["type"] == "none":
        return {"weights": _in_layers(model, adapter)}
    modules = dict(model.named_modules())
    saved = _saved(modules, adapter.get("modules_to_save", []))
    wanted, settings = _wanted(model, modules, adapter["target_modules"])
    free = {name for name in wanted if not any(_lies_in(name, each) for each in saved)}
    targets = _without(free, modules, adapter.get("exclude_modules", []))
    head = model.get_output_embeddings()
    for name in sorted(targets):
        if modules[name] is head:  # TRL refuses it, after the weights are loaded
            _refuse(
                modules, f"no adapter is trained on {name}; modules_to_save trains it as a whole"
            )
    if not targets:
        _refuse(modules, "exclude_modules and modules_to_save leave no layer for the adapter")
    if adapter.get("lora_bias"):
        _check_biases(modules, targets)
    for name in ("rank_pattern", "alpha_pattern"):
        if adapter.get(name):
            _check_patterns(modules, targets, name, adapter[name])
            settings[name] = adapter[name]
    if adapter.get("exclude_modules"):
        settings["exclude_modules"] = adapter["exclude_modules"]
    if saved:
        settings["modules_to_save"] = saved
    return settings


def _in_layers(model: Any, adapter: dict[str, Any]) -> set[str]:
    """Names of the weights in the first or last layers, and of a head that has none to start from.

    A layer's number is the first one in the name of its weights.
    """
    placed = {
        name: (int(found[1]), found[2])
        for name, _ in model.named_parameters()
        if (found := re.search(r"\.(\d+)\.(\w+)\.", name))
    }
    total = 1 + max((layer for layer, _ in placed.values()), default=-1)
    count = adapter["trainable_layers"]
    if abs(count) > total:
        raise ScriptError(
            f"train.adapter.trainable_layers is {count}, and the model has {total} layers",
            hint=f"write at most {total}, or leave it out: every weight learns then",
            code="E529",
        )
    layers = range(total - count, total) if count > 0 else range(-count)
    names = {module for _, module in placed.values()}
    wanted = adapter.get("trainable_modules") or names
    for module in wanted:
        if module not in names:
            close = nearest(module, sorted(names))
            raise ScriptError(
                f"no layer of the model has a module named {module}; there are: "
                f"{', '.join(sorted(names))}",
                hint=f"did you mean {close}?" if close else "correct trainable_modules",
                code="E529",
            )
    return {
        name
        for name, _ in model.named_parameters()
        if (name in placed and placed[name][0] in layers and placed[name][1] in wanted)
        or name.startswith("score.")
    }


def _wanted(
    model: Any, modules: dict[str, Any], targets: str | list[str]
) -> tuple[set[str], dict[str, Any]]:
    """Names of the modules that `target_modules` means, and what PEFT is told."""
    if targets == ALL_LINEAR:
        return _linear(model, modules), {"target_modules": ALL_LINEAR}
    if targets == ALL_ATTENTION:
        names = _attention(model, modules)
        return names, {"target_modules": _ends_of(names, modules)}
    if isinstance(targets, str):
        found = {name for name in modules if re.fullmatch(targets, name)}
        if not found:
            _refuse(modules, f"no module's whole name matches the regular expression {targets}")
    else:
        found = set()
        for target in targets:
            matches = {name for name in modules if _ends_with(name, target)}
            if not matches:
                _refuse(modules, f"the model has no module named {target}", target)
            found |= matches
    for name in sorted(found):
        if not isinstance(modules[name], _FIT):
            kind = type(modules[name]).__name__
            inside = {each: modules[each] for each in modules if each.startswith(f"{name}.")}
            _refuse(inside or modules, f"no adapter fits {name}, which is a {kind}")
    return found, {"target_modules": targets}


def _linear(model: Any, modules: dict[str, Any]) -> set[str]:
    """PEFT's all-linear: every linear layer but the output embedding."""
    head = model.get_output_embeddings()
    return {
        name
        for name, module in modules.items()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    }


def _attention(model: Any, modules: dict[str, Any]) -> set[str]:
    """The linear layers inside of a module whose class calls itself an attention."""
    blocks = [name for name, module in modules.items() if "Attention" in type(module).__name__]
    inside = {
        name
        for name in _linear(model, modules)
        if any(name.startswith(f"{block}.") for block in blocks)
    }
    if not inside:
        _refuse(modules, "the model has no module that calls itself an attention")
    return inside


def _ends_of(names: set[str], modules: dict[str, Any]) -> list[str]:
    """Ends of names that mean exactly `names`: as short as they can be, `self_attn.q_proj`."""
    for count in (1, 2, 3):
        ends = sorted({".".join(name.split(".")[-count:]) for name in names})
        if {name for name in modules if any(_ends_with(name, end) for end in ends)} == names:
            return ends
    return sorted(names)


def _saved(modules: dict[str, Any], wanted: Iterable[str]) -> list[str]:
    """Whole names of the modules that are trained as a whole."""
    found: set[str] = set()
    for target in wanted:
        matches = {
            name
            for name, module in modules.items()
            if _ends_with(name, target) and next(module.parameters(), None) is not None
        }
        if not matches:
            _refuse(modules, f"modules_to_save: the model has no module named {target}", target)
        found |= matches
    return sorted(found)


def _without(names: set[str], modules: dict[str, Any], excluded: str | list[str]) -> set[str]:
    if isinstance(excluded, str):
        gone = {name for name in names if re.fullmatch(excluded, name)}
        if not gone:
            _refuse(modules, f"exclude_modules: {excluded} matches no layer with an adapter")
        return names - gone
    left = set(names)
    for target in excluded:
        gone = {name for name in names if _ends_with(name, target)}
        if not gone:
            _refuse(modules, f"exclude_modules: no layer with an adapter is {target}", target)
        left -= gone
    return left


def _check_patterns(
    modules: dict[str, Any], targets: set[str], setting: str, patterns: dict[str, int]
) -> None:
    """Every pattern means a layer, and no layer has two: then their order decides nothing."""
    owners: dict[str, str] = {}
    for pattern, value in sorted(patterns.items()):
        matches = [name for name in sorted(targets) if re.match(rf"(.*\.)?({pattern})$", name)]
        if not matches:
            _refuse(modules, f"{setting}: {pattern} matches no layer with an adapter", pattern)
        for name in matches:
            other = owners.setdefault(name, pattern)
            if patterns[other] != value:
                _refuse(modules, f"{setting}: both {other} and {pattern} match {name}")


def _check_biases(modules: dict[str, Any], targets: set[str]) -> None:
    for name in sorted(targets):
        if getattr(modules[name], "bias", None) is None:
            _refuse(modules, f"lora_bias: {name} has no bias that the adapter's could be added to")


def _ends_with(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _lies_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _refuse(modules: dict[str, Any], message: str, slip: str | None = None) -> None:
    """Raise E516 with the model's own names, grouped."""
    groups = list(_groups(modules))
    names = {group.partition(" ")[0] for group in groups}
    meant = nearest(slip.rpartition(".")[2], sorted(names)) if slip else None
    more = f", and {len(groups) - _SHOWN} more kinds" if len(groups) > _SHOWN else ""
    hint = f"the model has {', '.join(groups[:_SHOWN])}{more}"
    raise ScriptError(message, hint=f"did you mean {meant}? {hint}" if meant else hint, code="E516")


def _groups(modules: dict[str, Any]) -> Iterator[str]:
    """`q_proj (32 of 4096x4096)`: the end of a name, how many, rows times columns."""
    found: dict[tuple[str, str], int] = {}
    for name, module in modules.items():
        if isinstance(module, _FIT):
            size = "x".join(str(axis) for axis in module.weight.shape)
            key = (name.rpartition(".")[2], size)
            found[key] = found.get(key, 0) + 1
    for (end, size), count in sorted(found.items()):
        yield f"{end} ({count} of {size})"
