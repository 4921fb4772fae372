"""A training by LLaMA Factory's own programs: what they are given, and what they leave behind.

Tokens and model are laid out as for the backend's script; the process that trains is not ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from datasets import load_from_disk
from transformers import PreTrainedTokenizerFast

from runner.scripts.spec import Events, ScriptError, Spec
from runner.scripts.training import adapter_targets
from runner.scripts.training.llamafactory.llamafactory_inputs import adapter_of, write_inputs
from runner.scripts.training.token_rows import IGNORED, read_token_rows
from runner.scripts.training.trained_files import copy_adapter, copy_model

LOSS_DECIMALS = 4  # with which this release of Transformers logs a loss


def lay_out(spec: Spec, events: Events) -> dict[str, Any]:
    """Write model view and tokens below spec.scratch; the configuration of a training on them.

    Measures `tokens_sha256`, read back from what LLaMA Factory will read.
    """
    settings = spec.hashed["settings"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    data = read_token_rows(spec.inputs["tokens"])
    trust = settings["configuration"]["trust_remote_code"]
    bare = adapter_targets.skeleton(spec.inputs["model"], trust)
    targets, _ = adapter_of(bare, settings["adapter"])
    places = write_inputs(spec, data, tokenizer.pad_token_id)
    measure_tokens(Path(places["tokenized_path"]), events)
    return {
        **settings["configuration"],
        **targets,
        **places,
        "save_steps": spec.hashed["save_steps"],
        "use_cpu": spec.hashed["device"] == "cpu",
        **spec.hashed["more"],
    }


def measure_tokens(folder: Path, events: Events) -> None:
    """`tokens_sha256`, of what LLaMA Factory reads."""
    events.measure(tokens_sha256=tokens_sha256(load_from_disk(str(folder))))


def tokens_sha256(rows: Iterable[Mapping[str, list[int]]]) -> str:
    """Over ids and labels of every row, in order, as int64, without what pads a pack.

    A pair is two rows, the better answer first. Texts of pre-training come without labels: they are
    the ids behind the first.
    """
    made = hashlib.sha256()
    for row in rows:
        for side in ("chosen_", "rejected_") if "chosen_input_ids" in row else ("",):
            real = np.array(row[f"{side}attention_mask"]) != 0
            ids = np.array(row[f"{side}input_ids"], "<i8")[real]
            labels = np.array([IGNORED, *ids[1:]], "<i8")
            if f"{side}labels" in row:
                labels = np.array(row[f"{side}labels"], "<i8")[real]
            for values in (ids, labels):
                made.update(len(values).to_bytes(8, "little") + values.tobytes())
    return made.hexdigest()


def collect(saved: Path, spec: Spec, events: Events) -> None:
    """Write `adapter/` or `model/`, and `trace.jsonl`, of the training that ended in `saved`.

    Raises ScriptError E892 when it has not trained to its last step.
    """
    state = _state(saved)
    steps = [line for line in state["log_history"] if "loss" in line]
    if spec.hashed["settings"]["adapter"]["type"] == "none":
        copy_model(saved, spec.folder / "model", spec.inputs)
    else:
        copy_adapter(saved, spec.folder / "adapter")
    names = ("step", "loss", "grad_norm", "learning_rate")
    lines = [json.dumps({name: line[name] for name in names}) + "\n" for line in steps]
    (spec.folder / "trace.jsonl").write_text("".join(lines), encoding="utf-8")
    events.measure(**_measures(state, steps, packed=spec.hashed["settings"]["packing"]))


def _state(saved: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((saved / "trainer_state.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ScriptError(
            f"LLaMA Factory ended, and {saved} holds no finished training: {error}",
            hint="read the log, then run the same command again",
            code="E892",
        ) from error
    if state["global_step"] != state["max_steps"]:
        raise ScriptError(
            f"LLaMA Factory trained {state['global_step']} of {state['max_steps']} steps",
            hint="read the log, then run the same command again",
            code="E892",
        )
    return state


def _measures(
    state: dict[str, Any], steps: list[dict[str, Any]], *, packed: bool
) -> dict[str, Any]:
    """`training_seconds` is the whole loop, checkpoints and all: its steps are not timed alone."""
    seconds = next(line["train_runtime"] for line in state["log_history"] if "train_loss" in line)
    kind = "padded" if packed else "non_pad"
    return {
        "steps": len(steps),
        "loss_last_step": steps[-1]["loss"],
        "loss_decimals": LOSS_DECIMALS,
        "training_seconds": seconds,
        f"{kind}_tokens_per_second": state["num_input_tokens_seen"] / seconds,
    }


def write_configuration(configuration: Mapping[str, Any], path: Path) -> None:
    """The YAML file that `llamafactory-cli train` takes."""
    path.write_text(yaml.safe_dump(dict(configuration), sort_keys=True), encoding="utf-8")
