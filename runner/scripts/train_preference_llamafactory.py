"""Learn from preferences by LLaMA Factory's own trainers: DPO and its kin, ORPO, SimPO, KTO.

As train_llamafactory.py, but for the columns that the trainers read, and which trainer reports its
steps.
"""

from __future__ import annotations

from typing import Any

from llamafactory.train.dpo import trainer as dpo
from llamafactory.train.kto import workflow as kto
from transformers import PreTrainedTokenizerFast

from runner.scripts.spec import Events, Spec, main
from runner.scripts.training import adapter_targets
from runner.scripts.training.answer_masks import check_answers, generation_prompt
from runner.scripts.training.llamafactory.llamafactory_training import (
    reporting,
    train_by_llamafactory,
)
from runner.scripts.training.preferences.preference_rows import TRACED
from runner.scripts.training.token_rows import check_rows, read_token_rows
from runner.scripts.training.torch_setup import set_up_torch, told_of_gpu
from runner.scripts.training.training_record import TrainingRecord


def train(spec: Spec, events: Events) -> None:
    """Train, or go on where the last complete checkpoint stands, and write the outputs."""
    device = set_up_torch()
    trust = spec.hashed["settings"]["configuration"]["trust_remote_code"]
    bare = adapter_targets.skeleton(spec.inputs["model"], trust)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    tokens = spec.inputs["tokens"]
    data = read_token_rows(tokens)
    check_rows(data, tokens.name, bare.get_input_embeddings().num_embeddings)
    template = spec.inputs["template"].read_text(encoding="utf-8")
    check_answers(data, generation_prompt(tokenizer, template), tokens.name)
    pad = tokenizer.pad_token_id
    train_by_llamafactory(spec, events, device, bare, data, pad, report, TRACED)


def report(record: TrainingRecord) -> None:
    """Let the trainers of these stages tell `record` of every step."""
    dpo.CustomDPOTrainer = reporting(dpo.CustomDPOTrainer, record)
    kto.CustomKTOTrainer = with_mean_divergence(reporting(kto.CustomKTOTrainer, record))


def with_mean_divergence(trainer: Any) -> Any:
    """LLaMA Factory's trainer of KTO, which logs the sum of `kl` over the batches of a step."""

    class MeanDivergence(trainer):  # type: ignore[misc]
        def get_batch_loss_metrics(self, *args: Any, **kwargs: Any) -> Any:
            loss, metrics = super().get_batch_loss_metrics(*args, **kwargs)
            metrics["kl"] /= self.current_gradient_accumulation_steps
            return loss, metrics

    return MeanDivergence


if __name__ == "__main__":
    main(told_of_gpu(train))
