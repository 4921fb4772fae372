"""Supervised fine-tuning and continued pre-training by LLaMA Factory's own trainers.

LoRA or DoRA, or every weight.

spec.hashed: `settings` (runner/backends/llamafactory.py) and `save_steps`. spec.inputs: model
(folder of `fetch`), tokens (of `prepare`), template. Writes `adapter/` or `model/`, and
`trace.jsonl`.

What `llamafactory-cli train` would be given stands in spec.scratch/configuration.yaml, and that
command gives the same weights. Here its `run_exp` is called in this process, so that every step is
reported, and a checkpoint counts only when all of it is on the disk.
"""

from __future__ import annotations

from llamafactory.train.pt import workflow as pretraining
from llamafactory.train.sft import workflow as fine_tuning
from transformers import PreTrainedTokenizerFast

from runner.scripts.spec import Events, Spec, main
from runner.scripts.training import adapter_targets
from runner.scripts.training.answer_masks import check_answers, generation_prompt
from runner.scripts.training.llamafactory.llamafactory_template import tokens_by_own_template
from runner.scripts.training.llamafactory.llamafactory_training import (
    reporting,
    train_by_llamafactory,
)
from runner.scripts.training.token_rows import (
    check_rows,
    check_window,
    read_token_rows,
    with_first_labels,
)
from runner.scripts.training.torch_setup import set_up_torch, told_of_gpu
from runner.scripts.training.training_record import TrainingRecord


def train(spec: Spec, events: Events) -> None:
    """Train, or go on where the last complete checkpoint stands, and write the outputs."""
    device = set_up_torch()
    settings = spec.hashed["settings"]
    trust = settings["configuration"]["trust_remote_code"]
    bare = adapter_targets.skeleton(spec.inputs["model"], trust)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    data = read_token_rows(spec.inputs["tokens"])
    name = spec.inputs["tokens"].name
    if "own_template" in settings:
        data = tokens_by_own_template(spec, events, data)
    if settings["configuration"]["stage"] == "pt":
        data = with_first_labels(data)
    check_rows(data, name, bare.get_input_embeddings().num_embeddings)
    check_window(bare.config, data)
    if settings["has_prompts"] and "own_template" not in settings:
        template = spec.inputs["template"].read_text(encoding="utf-8")
        check_answers(data, generation_prompt(tokenizer, template), name)
    train_by_llamafactory(spec, events, device, bare, data, tokenizer.pad_token_id, report)


def report(record: TrainingRecord) -> None:
    """Let the trainers of these stages tell `record` of every step."""
    fine_tuning.CustomSeq2SeqTrainer = reporting(fine_tuning.CustomSeq2SeqTrainer, record)
    pretraining.CustomTrainer = reporting(pretraining.CustomTrainer, record)


if __name__ == "__main__":
    main(told_of_gpu(train))
