"""TRL's SFTTrainer as Unsloth has patched it. Import `unsloth` before this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from runner.scripts.training.batches import Batches
from runner.scripts.training.torch_setup import check_finite
from runner.scripts.training.training_record import TrainingRecord


class CountingTrainer(SFTTrainer):
    """Counts the tokens of a batch, and ends with a loss that is not finite."""

    record: TrainingRecord

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of one batch; its loss is its part of the step's mean."""
        self.record.count(inputs.pop("counts").tolist())
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        check_finite(loss, self.state.global_step + 1)
        return loss


def make_trainer(
    model: Any,
    arguments: Mapping[str, Any],
    tokenizer: Any,
    batches: Batches,
    record: TrainingRecord,
    callbacks: Sequence[TrainerCallback],
) -> CountingTrainer:
    """A trainer of all rows of `batches`, by number. `callbacks`: beside `record`."""
    trainer = CountingTrainer(
        model=model,
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_dict({"row": range(len(batches.data.rows))}),
        processing_class=tokenizer,
        data_collator=batches,
        callbacks=[record, *callbacks],
    )
    trainer.record = record
    return trainer
