"""Supervised fine-tuning and continued pre-training with TRL's SFTTrainer.

LoRA or DoRA, or every weight.

spec.hashed: `settings` (runner/backends/native.py) and `save_steps`. spec.inputs: model (folder of
`fetch`), tokens (of `prepare`), template. Writes `adapter/` or `model/`, and `trace.jsonl`.

The adapter equals LLaMA Factory's byte for byte: docs/decisions/0001-processor-cap-and-equal-
adapters.md says what that takes. Checkpoints lie in spec.scratch; a run that finds a complete one
goes on from it and gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, Trainer
from trl import SFTConfig, SFTTrainer

from runner.scripts.spec import Events, Spec, main
from runner.scripts.training import adapter_targets, four_bits
from runner.scripts.training.answer_masks import check_answers, generation_prompt
from runner.scripts.training.base_model import read_model
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
from runner.scripts.training.token_rows import (
    IGNORED,
    check_rows,
    check_window,
    read_token_rows,
    with_first_labels,
)
from runner.scripts.training.torch_setup import (
    check_finite,
    check_still_set_up,
    peak_memory,
    set_up_torch,
    told_of_gpu,
)
from runner.scripts.training.trained_files import write_adapter, write_model
from runner.scripts.training.training_record import TrainingRecord, kept_of


class MeanTokenTrainer(SFTTrainer):
    """The loss as transformers' Trainer computes it: the mean over all tokens of one step.

    TRL's own goes through a fused head whose last bits differ. A loss that is not finite ends the
    training, since every later step would be lost time.
    """

    record: TrainingRecord

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's, past TRL's."""
        return Trainer.compute_loss(self, *args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        """Tokens that the step's loss is the mean over: all that have a label.

        This release of Transformers leaves out the first token of a row, which only pre-training
        labels; LLaMA Factory's counts it.
        """
        counted = super()._get_num_items_in_batch(batch_samples, device)
        firsts = sum(batch["labels"][:, 0].ne(IGNORED).sum() for batch in batch_samples)
        return counted + firsts

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of one batch; its loss is its part of the step's mean."""
        self.record.count(inputs.pop("counts").tolist())
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        check_finite(loss, self.state.global_step + 1)
        return loss


@dataclass(frozen=True)
class Job:
    """A training that is ready to begin. `digest`: of its settings, which its checkpoints carry."""

    trainer: MeanTokenTrainer
    record: TrainingRecord
    checkpoints: Path
    digest: str


def train(spec: Spec, events: Events) -> None:
    """Train, or go on where the last complete checkpoint stands, and write the outputs."""
    device = set_up_torch()
    digest = settings_digest(spec)
    remove_incomplete(spec.scratch / "checkpoints", digest)
    job = ready(spec, events, device)

    train_to_the_end(job.trainer, job.record, job.checkpoints, digest)

    check_still_set_up()
    model = job.trainer.model
    if spec.hashed["settings"]["adapter"]["type"] == "none":
        write_model(model, spec.folder / "model", spec.inputs)
    else:
        write_adapter(model, spec.folder / "adapter")
    job.record.write_trace(spec.folder / "trace.jsonl")
    held = {}
    if "quantization" in spec.hashed["settings"]:
        held = {"quantized_modules": len(four_bits.quantized_modules(model))}
    events.measure(**job.record.measures(), **held, peak_memory=peak_memory(device))


def settings_digest(spec: Spec) -> str:
    """Hex sha256 of the settings: a checkpoint of other ones is of no use."""
    return hashlib.sha256(json.dumps(spec.hashed["settings"], sort_keys=True).encode()).hexdigest()


def ready(
    spec: Spec,
    events: Events,
    device: torch.device,
    *,
    trainer_class: type[MeanTokenTrainer] = MeanTokenTrainer,
    record_class: type[TrainingRecord] = TrainingRecord,
    read: Callable[..., Any] = read_model,
    place: Callable[[Any], Any] = lambda model: model,
    **arguments: Any,
) -> Job:
    """Everything up to the first step. Raises ScriptError for what cannot be trained.

    `read`: the base model, as `read_model` does it. `place`: lays out the model, once all that
    learns is in it. `arguments`: of SFTConfig.
    """
    settings = spec.hashed["settings"]
    trust = settings.get("trust_remote_code", False)
    modules: dict[str, Any] = {}
    if settings["adapter"] != adapter_targets.EVERY_WEIGHT:  # before anything that takes long
        bare = adapter_targets.skeleton(spec.inputs["model"], trust)
        modules = adapter_targets.resolve(bare, settings["adapter"])
        if "quantization" in settings:
            four_bits.check_saved(bare, modules.get("modules_to_save", ()))
    checkpoints = spec.scratch / "checkpoints"
    digest = settings_digest(spec)

    data = read_token_rows(spec.inputs["tokens"])
    model = load_model(spec.inputs["model"], settings, device, read=read)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    name = spec.inputs["tokens"].name
    if settings["method"] == "pretrain":
        data = with_first_labels(data)
    check_rows(data, name, model.get_input_embeddings().num_embeddings)
    check_window(model.config, data)
    if settings["has_prompts"]:
        template = spec.inputs["template"].read_text(encoding="utf-8")
        check_answers(data, generation_prompt(tokenizer, template), name)

    seed_draws(settings)
    model = place(add_trainable_weights(model, settings, modules))
    record = record_class(events, checkpoints, digest, device, kept=kept_of(spec))
    trainer = trainer_class(
        model=model,
        args=SFTConfig(
            **trainer_settings(settings, spec.hashed["save_steps"], checkpoints, device),
            max_length=None,  # rows are as `prepare` made them
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            **arguments,
        ),
        train_dataset=Dataset.from_dict({"row": range(len(data.rows))}),
        processing_class=tokenizer,
        data_collator=Batches(data, tokenizer.pad_token_id, mask_dtype(settings, device)),
        callbacks=[record, *canary_of(spec, events, data)],
    )
    trainer.record = record
    # Over a 4-bit base TRL has made them bfloat16, where a step of 2e-4 is often rounded away.
    # The optimizer does not exist yet.
    in_float32(trainer.model)
    return Job(trainer, record, checkpoints, digest)


if __name__ == "__main__":
    main(told_of_gpu(train))
