"""A training by LLaMA Factory's own trainers, in this process: every step is reported.

A checkpoint counts only when all of it is on the disk, and success only when the last step was
trained and the weights lie where the recipe says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback

from runner.scripts.spec import Events, ScriptError, Spec
from runner.scripts.training.canary.canary import canary_of
from runner.scripts.training.checkpoints import complete_checkpoints, is_finished, remove_incomplete
from runner.scripts.training.llamafactory.llamafactory_inputs import adapter_of, write_inputs
from runner.scripts.training.token_rows import IGNORED, TokenRows
from runner.scripts.training.torch_setup import check_finite, check_still_set_up, peak_memory
from runner.scripts.training.trained_files import copy_adapter, copy_model
from runner.scripts.training.training_record import TrainingRecord, kept_of


def train_by_llamafactory(
    spec: Spec,
    events: Events,
    device: torch.device,
    bare: Any,
    data: TokenRows,
    pad_token_id: int,
    report: Callable[[TrainingRecord], None],
    traced: tuple[str, ...] = (),
) -> None:
    """Train on `data`, or go on where the last complete checkpoint stands; write the outputs.

    `bare`: the model without weights. `report` makes the trainers tell a record. `traced`: what
    of a step's log stands in the trace beside the loss. Raises ScriptError E523, E524.
    """
    settings = spec.hashed["settings"]
    job = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    targets, weights = adapter_of(bare, settings["adapter"])
    checkpoints = spec.scratch / "checkpoints"
    remove_incomplete(checkpoints, job)
    record = TrainingRecord(events, checkpoints, job, device, traced, kept=kept_of(spec))
    newest = (complete_checkpoints(checkpoints, job) or [None])[-1]
    if newest is not None:
        record.go_on_from(newest)
    if newest is None or not is_finished(newest):
        configuration = {
            **settings["configuration"],
            **targets,
            **write_inputs(spec, data, pad_token_id),
            "output_dir": str(checkpoints),
            "overwrite_output_dir": True,  # what may be in the way is ours, and was looked at
            "resume_from_checkpoint": None if newest is None else str(newest),
            "save_steps": spec.hashed["save_steps"],
            "use_cpu": device.type == "cpu",
        }
        report(record)
        looking = canary_of(spec, events, data)
        run_llamafactory(configuration, [record, *looking], spec.scratch)
    record.check_not_stopped()

    check_still_set_up()
    saved = finished_checkpoint(checkpoints, job)
    if settings["adapter"]["type"] == "none":
        copy_model(saved, spec.folder / "model", spec.inputs)
    else:
        check_weights(copy_adapter(saved, spec.folder / "adapter"), weights)
    record.write_trace(spec.folder / "trace.jsonl")
    events.measure(**record.measures(), peak_memory=peak_memory(device))


def run_llamafactory(
    configuration: dict[str, Any], callbacks: list[TrainerCallback], scratch: Path
) -> None:
    """Train as `llamafactory-cli train` does. Raises ScriptError E523 for what it refuses."""
    text = yaml.safe_dump(configuration, sort_keys=True)
    (scratch / "configuration.yaml").write_text(text, encoding="utf-8")
    try:
        run_exp(dict(configuration), callbacks=callbacks)
    except (ValueError, ImportError) as error:
        raise ScriptError(
            f"LLaMA Factory refuses: {str(error).splitlines()[0]}",
            hint=f"its configuration is {scratch / 'configuration.yaml'}; or use backend: native",
            code="E523",
        ) from error


def reporting(trainer: Any, record: TrainingRecord) -> Any:
    """LLaMA Factory's trainer, which counts tokens, and ends with a loss that is not finite.

    Its loss is told as it is: this release of Transformers logs it with four decimals.
    """

    class Reporting(trainer):  # type: ignore[misc]
        loss_of_step: Any = 0.0

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            record.count(counts(inputs))
            loss = super().training_step(model, inputs, *args, **kwargs)
            check_finite(loss, self.state.global_step + 1)
            self.loss_of_step = self.loss_of_step + loss
            return loss

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if "loss" in logs:
                logs["loss"], self.loss_of_step = self.loss_of_step.item(), 0.0
            super().log(logs, *args, **kwargs)

    return Reporting


def counts(inputs: dict[str, torch.Tensor]) -> list[int]:
    """Tokens of a batch: without padding, with padding, supervised."""
    mask = inputs["attention_mask"]
    # In the 4-D mask of packs every real token sees itself: 0 on the diagonal.
    real = mask.diagonal(dim1=-2, dim2=-1) == 0 if mask.dim() == 4 else mask > 0
    return [
        int(real.sum()),
        inputs["input_ids"].numel(),
        int((inputs["labels"] != IGNORED).sum()),
    ]


# --- what came out


def finished_checkpoint(checkpoints: Path, job: str) -> Path:
    """The checkpoint of the last step. LLaMA Factory may end well without one. Raises E524."""
    found = [path for path in complete_checkpoints(checkpoints, job) if is_finished(path)]
    if not found:
        raise ScriptError(
            "LLaMA Factory ended without an error and has not trained to the last step",
            hint="read the log, then run the same command again",
            code="E524",
        )
    return found[-1]


def check_weights(found: set[str], wanted: set[str]) -> None:
    """Raise ScriptError E524 unless the adapter lies on the layers that the recipe means."""
    if found != wanted:
        first = sorted(found ^ wanted)[0]
        which = "has" if first in found else "lacks"
        raise ScriptError(
            f"LLaMA Factory put the adapter on other layers than the recipe says: it {which} "
            f"{first}",
            hint="name the layers in train.adapter.target_modules, or use backend: native",
            code="E524",
        )
