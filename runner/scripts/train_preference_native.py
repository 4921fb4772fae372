"""Learn from preferences: DPO and its kin, ORPO, SimPO, KTO, or a model that scores answers.

spec.hashed: `settings` (runner/backends/native.py) and `save_steps`. spec.inputs: model (folder of
`fetch`), tokens (of `prepare`), template. Writes `adapter/` or `model/`, and `trace.jsonl`.

Transformers' Trainer trains; the losses are in training/preferences/preference_losses.py, each
tested against TRL's own. TRL 1.16 computes them through a fused head, whose last bits differ from
LLaMA Factory's.
Checkpoints and bytes: as in train_native.py. There is no dropout, so that a model is compared with
itself and with its reference, not with noise.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from runner.scripts.spec import Events, Spec, main
from runner.scripts.training import adapter_targets, four_bits
from runner.scripts.training.answer_masks import check_answers, generation_prompt
from runner.scripts.training.batches import Batches
from runner.scripts.training.canary.canary import canary_of
from runner.scripts.training.checkpoints import remove_incomplete
from runner.scripts.training.native_model import (
    add_trainable_weights,
    in_float32,
    load_model,
    mask_dtype,
    seed_draws,
    train_to_the_end,
    trainer_settings,
)
from runner.scripts.training.preferences import preference_losses
from runner.scripts.training.preferences.preference_batches import JudgedBatches, PairBatches
from runner.scripts.training.preferences.preference_rows import (
    TRACED,
    check_pairs,
    mismatched,
    read_preferred,
)
from runner.scripts.training.token_rows import TokenRows, check_rows, read_token_rows
from runner.scripts.training.torch_setup import (
    check_finite,
    check_still_set_up,
    peak_memory,
    set_up_torch,
    told_of_gpu,
)
from runner.scripts.training.trained_files import write_adapter, write_model
from runner.scripts.training.training_record import TrainingRecord, kept_of
from runner.scripts.weights.model_folder import read_json, write_json

Inputs = dict[str, torch.Tensor]
Told = dict[str, float]
# What kind of model scores answers, and what of its configuration is not the base's.
SCORER = (AutoModelForSequenceClassification, {"num_labels": 1})


class PreferenceTrainer(Trainer):
    """Trains by one of the objectives below; what it tells of the batches of a step is logged."""

    record: TrainingRecord
    objective: Callable[[Any, Inputs], tuple[torch.Tensor, Told]]

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.model_accepts_loss_kwargs = False  # a batch's loss is a mean over its pairs
        self._told: dict[str, list[float]] = defaultdict(list)

    def compute_loss(self, model: Any, inputs: Inputs, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The objective's."""
        loss, told = self.objective(model, inputs)
        for name, value in told.items():
            self._told[name].append(value)
        return loss

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of one batch; its loss is its part of the step's mean."""
        self.record.count(inputs.pop("counts").tolist())
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        check_finite(loss, self.state.global_step + 1)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """With what the objective told of the step."""
        if "loss" in logs:
            logs |= of_step(self._told)
            self._told.clear()
        super().log(logs, *args, **kwargs)


def train(spec: Spec, events: Events) -> None:
    """Train, or go on where the last complete checkpoint stands, and write the outputs."""
    device = set_up_torch()
    settings = spec.hashed["settings"]
    scores = settings["method"] == "reward"
    family, changes = SCORER if scores else (AutoModelForCausalLM, {})
    job = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    modules = find_modules(spec.inputs["model"], settings, family, changes)
    checkpoints = spec.scratch / "checkpoints"
    remove_incomplete(checkpoints, job)

    seed_draws(settings)
    model = load_model(spec.inputs["model"], settings, device, family, **changes)
    without_dropout(model)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    model.config.pad_token_id = tokenizer.pad_token_id  # a scorer finds the last token by it
    data = read_token_rows(spec.inputs["tokens"])
    name = spec.inputs["tokens"].name
    check_rows(data, name, model.get_input_embeddings().num_embeddings)
    template = spec.inputs["template"].read_text(encoding="utf-8")
    check_answers(data, generation_prompt(tokenizer, template), name)
    rows, collator = batches_of(spec.inputs["tokens"], data, tokenizer.pad_token_id, settings)

    seed_draws(settings)
    adapter = settings["adapter"]
    model = add_trainable_weights(model, settings, modules, "SEQ_CLS" if scores else "CAUSAL_LM")
    if settings["gradient_checkpointing"] and adapter["type"] != "none":
        model.enable_input_require_grads()
    record = TrainingRecord(events, checkpoints, job, device, TRACED, kept=kept_of(spec))
    arguments = trainer_settings(settings, spec.hashed["save_steps"], checkpoints, device)
    trainer = PreferenceTrainer(
        model=model,
        args=TrainingArguments(**arguments),
        train_dataset=Dataset.from_dict({"row": range(rows)}),
        processing_class=tokenizer,
        data_collator=collator,
        callbacks=[record, *canary_of(spec, events, data)],
    )
    trainer.record = record
    reference = None
    if preference_losses.has_reference(settings) and adapter["type"] == "none":
        reference = frozen_copy(spec.inputs["model"], settings, device)
    trainer.objective = objective_of(settings, reference)
    in_float32(trainer.model)

    train_to_the_end(trainer, record, checkpoints, job)

    check_still_set_up()
    if adapter["type"] == "none":
        write_model(trainer.model, spec.folder / "model", spec.inputs)
        if scores:
            call_it_a_scorer(trainer.model, spec.folder / "model" / "config.json")
    else:
        write_adapter(trainer.model, spec.folder / "adapter")
    record.write_trace(spec.folder / "trace.jsonl")
    events.measure(**record.measures(), peak_memory=peak_memory(device))


# --- what is trained, on what


def find_modules(
    folder: Path, settings: dict[str, Any], family: Any, changes: dict[str, Any]
) -> dict[str, Any]:
    """What LoraConfig is told of the model's modules, before anything that takes long."""
    adapter = settings["adapter"]
    if adapter == adapter_targets.EVERY_WEIGHT:
        return {}
    bare = adapter_targets.skeleton(
        folder, settings.get("trust_remote_code", False), family, **changes
    )
    if changes and adapter["type"] != "none":
        adapter = {**adapter, "modules_to_save": [*adapter.get("modules_to_save", []), "score"]}
    modules = adapter_targets.resolve(bare, adapter)
    if "quantization" in settings:
        saved = [name for name in modules.get("modules_to_save", ()) if name != "score"]
        four_bits.check_saved(bare, saved)
    return modules


def without_dropout(model: Any) -> None:
    """Switch every dropout of the base off."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def batches_of(
    tokens: Path, data: TokenRows, pad_token_id: int, settings: dict[str, Any]
) -> tuple[int, Callable[..., Inputs]]:
    """How many pairs or answers there are, and what makes batches of them."""
    dtype = mask_dtype(settings, torch.device("cpu"))  # of packs, which there are none of
    preferred = read_preferred(tokens, data)
    batches = Batches(data, pad_token_id, dtype)
    if settings["method"] != "kto":
        check_pairs(data, preferred, tokens.name)
        return len(data.rows) // 2, PairBatches(batches)
    others = Batches(mismatched(data), pad_token_id, dtype)
    return len(data.rows), JudgedBatches(batches, others, preferred)


def frozen_copy(folder: Path, settings: dict[str, Any], device: torch.device) -> Any:
    """The model as it is before the first step, in float32 as the trained one."""
    model = load_model(folder, settings, device).float()
    without_dropout(model)
    return model.requires_grad_(False).to(device).eval()


def call_it_a_scorer(model: Any, path: Path) -> None:
    """Say in the configuration at `path` what Transformers must load it as."""
    more = {
        "architectures": [type(model).__name__],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "pad_token_id": model.config.pad_token_id,
    }
    write_json(path, read_json(path) | more)


# --- objectives: model, batch -> loss of the batch, what is told of it


def objective_of(
    settings: dict[str, Any], reference: Any
) -> Callable[[Any, Inputs], tuple[torch.Tensor, Told]]:
    """The objective of the method. `reference`: None where it is the model without its adapter."""
    if settings["method"] == "reward":
        return lambda model, inputs: score_objective(model, inputs, settings)
    objective = kto_objective if settings["method"] == "kto" else pair_objective
    return lambda model, inputs: objective(model, inputs, settings, reference)


def pair_objective(
    model: Any, inputs: Inputs, settings: dict[str, Any], reference: Any
) -> tuple[torch.Tensor, Told]:
    """Of DPO, ORPO and SimPO."""
    mean = preference_losses.is_mean(settings)
    chosen, rejected = logps(model, inputs, mean).chunk(2)
    if preference_losses.has_reference(settings):
        with torch.no_grad(), as_reference(model, reference) as other:
            before = logps(other, inputs, mean).chunk(2)
        found = preference_losses.dpo(chosen, rejected, *before, settings)
    else:
        by_method = {"orpo": preference_losses.orpo, "simpo": preference_losses.simpo}
        found = by_method[settings["method"]](chosen, rejected, settings)
    losses, good, bad = found
    return losses.mean(), told_of(good, bad)


def kto_objective(
    model: Any, inputs: Inputs, settings: dict[str, Any], reference: Any
) -> tuple[torch.Tensor, Told]:
    """Of KTO. A batch may hold good answers alone, or bad ones."""
    others = {name: inputs[f"kl_{name}"] for name in ("input_ids", "attention_mask", "labels")}
    answers = logps(model, inputs)
    with torch.no_grad():
        drifted = logps(model, others)
        with as_reference(model, reference) as other:
            before, drifted_before = logps(other, inputs), logps(other, others)
    good = inputs["desirable"]
    divergence = (drifted - drifted_before).mean()
    losses, gained, lost = preference_losses.kto(
        answers[good] - before[good], answers[~good] - before[~good], divergence, settings
    )
    told: Told = {"kl": divergence.clamp(min=0).item()}
    for side, rewards in (("chosen", gained), ("rejected", lost)):
        if len(rewards):
            told |= {f"sum/{side}": rewards.sum().item(), f"count/{side}": len(rewards)}
    return losses.mean(), told


def score_objective(
    model: Any, inputs: Inputs, settings: dict[str, Any]
) -> tuple[torch.Tensor, Told]:
    """Of a model that scores answers."""
    scores = model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
    ).logits.squeeze(-1)
    chosen, rejected = scores.float().chunk(2)
    loss = preference_losses.reward(chosen, rejected, settings)
    return loss, told_of(chosen.detach(), rejected.detach())


def logps(model: Any, inputs: Inputs, mean: bool = False) -> torch.Tensor:
    """Log-probabilities of the answers of a batch, summed over tokens or their mean. [rows]"""
    logits = model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
    ).logits.to(torch.float32)
    total, count = preference_losses.answer_logps(logits, inputs["labels"])
    return total / count if mean else total


@contextmanager
def as_reference(model: Any, reference: Any) -> Iterator[Any]:
    """The reference: a model of its own, or this one with its adapter switched off meanwhile."""
    if reference is not None:
        yield reference
        return
    with model.disable_adapter():
        yield model


def told_of(good: torch.Tensor, bad: torch.Tensor) -> Told:
    """Rewards of both sides, how often the better one leads, and by how much."""
    return {
        "rewards/chosen": good.mean().item(),
        "rewards/rejected": bad.mean().item(),
        "rewards/accuracies": (good > bad).float().mean().item(),
        "rewards/margins": (good - bad).mean().item(),
    }


def of_step(told: dict[str, list[float]]) -> Told:
    """What was told of all batches of a step, together: means over batches, or (KTO, whose batches
    have any number of good and bad answers) over answers."""
    found = {
        name: torch.tensor(values).mean().item()
        for name, values in told.items()
        if name.startswith(("rewards", "kl"))
    }
    for side in ("chosen", "rejected"):
        if f"sum/{side}" in told:
            total = torch.tensor(told[f"sum/{side}"]).sum().item()
            found[f"rewards/{side}"] = total / sum(told[f"count/{side}"])
    if "kl" in found and {"rewards/chosen", "rewards/rejected"} <= set(found):
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return found


if __name__ == "__main__":
    main(told_of_gpu(train))
