"""The training of LLaMA Factory's settings: method, adapter, optimizer, steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runner.backends.llamafactory_preferences import NAMES
from runner.backends.trainer_arguments import SAME
from runner.capture.captured import Captured, Fate
from runner.capture.data_sets import Place
from runner.capture.keys import DEFAULTS
from runner.capture.optimizers import optimizer_named
from runner.capture.steps import about_steps
from runner.errors import UsageError
from runner.recipe.methods import METHODS
from runner.recipe.paths import project_root

_OWN_SETTINGS = frozenset({*NAMES.values(), "pref_loss", "ref_model"})


def training_of(values: Mapping[str, Any], method: str, made: Captured) -> dict[str, Any]:
    steps = int(values["max_steps"])
    length = {"max_steps": steps} if steps > 0 else {"num_train_epochs": values["num_train_epochs"]}
    if values["data_seed"] not in (None, values["seed"]):
        made.note(Fate.LOST, "data_seed", values["data_seed"], why="a recipe has one seed")
    return {
        "backend": "llamafactory",
        "method": method,
        **_own_settings(values, method, made),
        "adapter": _adapter(values, method, made),
        **length,
        **{key: number(values[key], DEFAULTS[key]) for key in (*SAME, "save_steps")},
        "optim": _optimizer(str(values["optim"]), made),
        "gradient_checkpointing": not values["disable_gradient_checkpointing"],
    }


def _optimizer(word: str, made: Captured) -> str:
    name, why, lost = optimizer_named(word)
    if why:
        fate = Fate.LOST if lost else Fate.CLOSE
        made.note(fate, "optim", word, becomes=f"train.optim: {name}", why=why)
    return name


def _own_settings(values: Mapping[str, Any], method: str, made: Captured) -> dict[str, Any]:
    """What is the method's own."""
    own = {name: NAMES[name] for name in METHODS[method].settings if name in NAMES}
    found = {name: number(values[theirs], DEFAULTS[theirs]) for name, theirs in own.items()}
    if values["stage"] == "dpo":
        _loss(values, method, made)
        found |= {"loss_type": "sigmoid"} if method == "dpo" else {}
    _reference(values, method, made)
    return found


def note_other_methods(given: Mapping[str, Any], method: str, made: Captured) -> None:
    """Settings that this method does not read."""
    used = {NAMES[name] for name in METHODS[method].settings if name in NAMES}
    used |= {"pref_loss"} if given.get("stage") == "dpo" else set()
    noted = {note.name for note in made.notes}
    for name in sorted(_OWN_SETTINGS - used - noted):
        if name in given:
            made.note(Fate.NO_EFFECT, name, given[name], why=f"{method} does not read it")


def _loss(values: Mapping[str, Any], method: str, made: Captured) -> None:
    """LLaMA Factory calls TRL's loss without saying which, and that is the sigmoid one."""
    word = values["pref_loss"]
    if word == method:
        made.note(Fate.MAPPED, "pref_loss", word, becomes=f"train.method: {method}")
    if word in (method, "sigmoid"):
        return
    becomes = "train.loss_type: sigmoid"
    if word in ("hinge", "kto_pair"):
        why = "LLaMA Factory 0.9.5 computes the sigmoid loss whatever it is told"
        made.note(Fate.CLOSE, "pref_loss", word, becomes=becomes, why=why)
    elif word == "ipo":
        why = "LLaMA Factory 0.9.5 computes the sigmoid loss there, of likelihoods by token, "
        why += "which no recipe has"
        made.note(Fate.LOST, "pref_loss", word, becomes=becomes, why=why)
    else:
        why = "LLaMA Factory 0.9.5 has no such loss"
        made.note(Fate.LOST, "pref_loss", word, becomes=becomes, why=why)


def _reference(values: Mapping[str, Any], method: str, made: Captured) -> None:
    """A recipe's reference is its base, as it is held."""
    name = values["ref_model"]
    if not name or method not in ("dpo", "kto"):
        return
    if name == values["model_name_or_path"] and values["quantization_bit"] is None:
        made.note(Fate.MAPPED, "ref_model", name, becomes="the base")
        return
    other = "another model" if name != values["model_name_or_path"] else "the base in 16 bits"
    why = f"the reference of a recipe is its base as it is held, and this is {other}"
    made.note(Fate.LOST, "ref_model", name, why=why)


def _adapter(values: Mapping[str, Any], method: str, made: Captured) -> dict[str, Any]:
    if values["finetuning_type"] == "full":
        return {"type": "none"}
    if values["finetuning_type"] == "freeze":
        return _some_layers(values, made)
    rank = int(values["lora_rank"])
    alpha = values["lora_alpha"]
    if values["additional_target"]:
        made.note(
            Fate.LOST,
            "additional_target",
            values["additional_target"],
            why="with backend llamafactory a recipe trains no module as a whole",
        )
    dropout = float(values["lora_dropout"])
    if dropout and METHODS[method].compares:
        why = "it is switched off where answers are compared"
        made.note(Fate.NO_EFFECT, "lora_dropout", dropout, why=why)
        dropout = 0.0
    target = values["lora_target"]
    if isinstance(target, list):
        target = ",".join(map(str, target))
    target = str(target)
    return {
        "type": "lora",
        "r": rank,
        "lora_alpha": 2 * rank if alpha is None else int(alpha),
        "lora_dropout": dropout,
        "use_dora": bool(values["use_dora"]),
        "use_rslora": bool(values["use_rslora"]),
        "target_modules": "all-linear"
        if target == "all"
        else [name.strip() for name in target.split(",")],
    }


def _some_layers(values: Mapping[str, Any], made: Captured) -> dict[str, Any]:
    """LLaMA Factory takes more layers than there are for all of them, and 0 for none."""
    names = values["freeze_trainable_modules"]
    names = names if isinstance(names, list) else str(names).split(",")
    names = [str(name).strip() for name in names if str(name).strip()]
    count = int(values["freeze_trainable_layers"])
    if count == 0:
        raise UsageError(
            "freeze_trainable_layers is 0: no layer would learn",
            hint="say how many of the last layers learn",
            code="E851",
        )
    return {
        "type": "none",
        "trainable_layers": count,
        **({} if "all" in names else {"trainable_modules": names}),
    }


def warm_up(ratio: float, place: Place, made: Captured) -> None:
    """A part of the steps as a number of them: rows, passes and batch say how many there are."""
    root = project_root(place.recipe / "x.yaml")
    steps = about_steps(made.recipe, place.recipe, root)
    if steps is None:
        why = "how many steps it has is not counted here"
        made.note(Fate.LOST, "warmup_ratio", ratio, why=why)
        return
    warm = math.ceil(ratio * steps)
    made.recipe["train"]["warmup_steps"] = warm
    made.note(
        Fate.CLOSE,
        "warmup_ratio",
        ratio,
        becomes=f"train.warmup_steps: {warm}",
        why=f"of about {steps} steps; a recipe counts them",
    )


def number(value: Any, usual: Any) -> Any:
    """YAML 1.1 reads 5e-5 as text; LLaMA Factory then makes a number of it, and so do we."""
    if isinstance(value, str) and isinstance(usual, float):
        try:
            value = float(value)
        except ValueError:
            return value
    if isinstance(usual, int) and not isinstance(usual, bool) and isinstance(value, float):
        return int(value) if value.is_integer() else value
    return value
