"""LLaMA Factory's settings as a recipe. Reads data_sets' files and a model's config; no network."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from runner.capture.captured import Captured, Fate
from runner.capture.data import data_of, prepared_data, template_of
from runner.capture.data_sets import Place
from runner.capture.keys import CANNOT, DEFAULTS, MAPPED, NO_EFFECT
from runner.capture.mixing import EVERY_ROW
from runner.capture.model import model_of
from runner.capture.prepared import Origin, origin_of
from runner.capture.source import Source
from runner.capture.training import note_other_methods, number, training_of, warm_up
from runner.errors import UsageError

_SECRET = re.compile(r"token|api_key|secret|webhook", re.I)
_WHOLE = ("lora_alpha", "data_seed", "quantization_bit")  # numbers that are null by default
# Stage -> why no recipe trains it by LLaMA Factory.
_OTHER_STAGES = {
    "rm": "LLaMA Factory's reward model gives a value for every token, by a layer with a bias that "
    "no other tool loads; a recipe's `reward` is trained by the native backend",
    "ppo": "it writes answers while it trains, and a recipe learns from rows alone",
}


def capture(source: Source, place: Place, name: str) -> Captured:
    """The recipe `name` that trains as `source` says, and what became of every setting.

    Where `recipe webui` had prepared what was trained on, model, data and what comes after the
    training are those of the recipe that it was prepared from.

    Raises UsageError (E851) where no recipe could train what it trains.
    """
    given = source.settings
    made = Captured()
    values = {**DEFAULTS, **dict(_readable(given, made))}
    _refuse_other_kinds(values)
    method = _method(values)
    origin = origin_of(given, place)
    made.recipe = {
        "schema": 1,
        "name": name,
        "seed": int(values["seed"]),
        "model": model_of(values, place, made),
        "data": data_of(values, method, place, made)
        if origin is None
        else prepared_data(given, origin, made),
        "train": training_of(values, method, made),
    }
    if origin is None:
        template_of(values, made)
    else:
        _by_origin(origin, given, made)
    if values["warmup_ratio"] and not values["warmup_steps"]:
        warm_up(float(values["warmup_ratio"]), place, made)
    _backend_that_can(made)
    note_other_methods(given, method, made)
    _what_is_left(given, made)
    _what_is_beside(source, values, made)
    _drop_what_no_recipe_takes(made)
    return made


def _readable(given: Mapping[str, Any], made: Captured) -> Iterator[tuple[str, Any]]:
    """Settings that say something; a value that is none of its setting is noted and left out."""
    for name, value in given.items():
        usual = DEFAULTS.get(name)
        if value is None:
            continue
        if name in _WHOLE:
            usual = 0
        if isinstance(usual, int | float) and not isinstance(usual, bool):
            value = number(value, usual)
            wanted: type = int if isinstance(usual, int) else float
            sound = isinstance(value, int | wanted) and not isinstance(value, bool)
            if not sound or not math.isfinite(value):
                made.note(Fate.LOST, name, value, why="it is no number that LLaMA Factory takes")
                continue
        yield name, value


def _refuse_other_kinds(values: Mapping[str, Any]) -> None:
    kind, tuning = values["stage"], values["finetuning_type"]
    if kind not in ("sft", "pt", "dpo", "kto"):
        why = _OTHER_STAGES.get(str(kind), "LLaMA Factory has no such stage")
        raise UsageError(
            f"stage: {kind} cannot be captured: {why}",
            hint="run it by llamafactory-cli as before",
            code="E851",
        )
    if tuning not in ("lora", "full", "freeze"):
        raise UsageError(
            f"finetuning_type: {tuning} cannot be captured: only a LoRA adapter or weights are",
            hint="run it by llamafactory-cli as before",
            code="E851",
        )
    if not values.get("model_name_or_path"):
        raise UsageError(
            "the settings name no model (model_name_or_path)",
            hint="capture the file that `llamafactory-cli train` was given",
            code="E851",
        )


def _backend_that_can(made: Captured) -> None:
    """Where LLaMA Factory does what a recipe refuses to have it do, the native backend trains."""
    train, why = made.recipe["train"], ""
    if train["method"] == "pretrain" and made.recipe["data"]["packing"]:
        why = "LLaMA Factory's packs are one text after the other, each seeing those before it"
    dtype = made.recipe["model"]["dtype"]
    if "trainable_layers" in train["adapter"] and dtype != "float32":
        why = f"LLaMA Factory leaves what does not learn in {dtype}; here all weights are float32"
    if why:
        train["backend"] = "native"
        made.note(Fate.CLOSE, "stage", train["method"], becomes="train.backend: native", why=why)


def _method(values: Mapping[str, Any]) -> str:
    """The recipe's method. ORPO and SimPO are losses of LLaMA Factory's stage dpo."""
    loss = values["pref_loss"]
    if values["stage"] == "pt":
        return "pretrain"
    if values["stage"] == "dpo" and loss in ("orpo", "simpo"):
        return str(loss)
    return str(values["stage"])


def _by_origin(origin: Origin, given: Mapping[str, Any], made: Captured) -> None:
    """What the recipe says in better words than LLaMA Factory's settings, where they still hold."""
    model = origin.model(given)
    if model is not None:
        kept = {"attn_implementation", "quantization"}
        chosen = {key: value for key, value in made.recipe["model"].items() if key in kept}
        made.recipe["model"] = {key: value for key, value in model.items() if value is not None}
        made.recipe["model"] |= chosen
        made.notes = [note for note in made.notes if note.name != "model_name_or_path"]
        source = model.get("wheel") or model.get("hub") or model.get("path")
        made.note(
            Fate.MAPPED, "model_name_or_path", given["model_name_or_path"], becomes=str(source)
        )
    targets, adapter = origin.targets(given), made.recipe["train"]["adapter"]
    if targets is not None and adapter["type"] != "none":
        adapter["target_modules"] = targets
    made.recipe |= origin.rest()


# --- everything else


def _what_is_left(given: Mapping[str, Any], made: Captured) -> None:
    """A note for every setting that the sections above have none for."""
    reasons = {name: (why, usual) for why, table in CANNOT.items() for name, usual in table.items()}
    noted = {note.name for note in made.notes}
    for name, value in sorted(given.items()):
        if name in noted:
            continue
        if name in NO_EFFECT:
            shown = "…" if _SECRET.search(name) and value else value
            made.note(Fate.NO_EFFECT, name, shown)
        elif name in MAPPED:
            made.note(Fate.MAPPED, name, value)
        elif name == "max_samples" and isinstance(value, int) and value >= EVERY_ROW:
            made.note(Fate.CLOSE, name, value, why="taken to mean all rows")
        elif name in reasons:
            why, usual = reasons[name]
            same = value == usual or (not value and not usual)
            fate = Fate.NO_EFFECT if same or not _switched_on(name, given) else Fate.LOST
            made.note(fate, name, value, why="" if fate is Fate.NO_EFFECT else why)
        else:
            made.note(Fate.LOST, name, value, why="LLaMA Factory 0.9.5 has no such setting")


def _switched_on(name: str, given: Mapping[str, Any]) -> bool:
    """Does the setting matter? Those of an optimizer that is not used do not."""
    switches = {
        "galore_": "use_galore",
        "apollo_": "use_apollo",
        "badam_": "use_badam",
        "fp8_": "fp8",
    }
    if name.startswith("freeze_extra"):
        return given.get("finetuning_type") == "freeze"
    for start, switch in switches.items():
        if name.startswith(start):
            return bool(given.get(switch))
    if name.startswith(("pref_", "ld_alpha")):
        return given.get("stage") in ("dpo", "kto")
    if name.startswith("ref_model"):
        return given.get("stage") in ("dpo", "kto") or bool(given.get("use_asft_loss"))
    return not name.startswith(("ppo_", "oft_", "reward_"))


def _what_is_beside(source: Source, values: Mapping[str, Any], made: Captured) -> None:
    if source.finished is False:
        made.note(
            Fate.WARNING,
            str(source.file.parent),
            "not finished",
            why="the run has no trainer_state.json: it failed or was stopped. This is what it was "
            "asked to do",
        )
    if "seed" not in source.settings:
        made.note(
            Fate.CLOSE,
            "seed",
            values["seed"],
            becomes=f"seed: {values['seed']}",
            why="none was given: this is what it used",
        )


def _drop_what_no_recipe_takes(made: Captured) -> None:
    """Values outside of the schema, such as another schedule: said, and left to the default."""
    from runner.recipe.schema import load_schema
    from runner.recipe.validate import findings

    for finding in findings(made.recipe, load_schema()):
        *above, last = finding.pointer.removeprefix("/").split("/")
        holder: Any = made.recipe
        for key in above:
            holder = holder[int(key)] if isinstance(holder, list) else holder.get(key, {})
        if isinstance(holder, dict) and last in holder:
            made.note(Fate.LOST, last, holder.pop(last), why=finding.message)
