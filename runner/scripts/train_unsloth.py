"""Supervised fine-tuning of an adapter by Unsloth: its loading, its kernels, its SFTTrainer.

spec.hashed: `settings` (runner/backends/unsloth.py) and `save_steps`. spec.inputs: model (folder of
`fetch`), tokens (of `prepare`), template. Writes `adapter/` and `trace.jsonl`. Needs CUDA.

Unsloth patches Transformers, PEFT and TRL when it is imported, so it is imported before them, and
not before a GPU was found: without one it would train in another way on the processor.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.scripts.spec import Events, ScriptError, Spec, main

# Unsloth counts its users at the hub, and trains on a processor in another way where no GPU is.
ENVIRONMENT = {"UNSLOTH_DISABLE_STATISTICS": "1", "UNSLOTH_DISABLE_CPU_FALLBACK": "1"}


def require_cuda() -> None:
    """Raises ScriptError E961 where torch finds no GPU: no driver, or one too old for it."""
    import torch

    if not torch.cuda.is_available():
        raise ScriptError(
            f"Unsloth needs a CUDA GPU, and torch {torch.__version__} finds none",
            hint="recipe doctor looks at driver and GPU; --backend native needs none",
            code="E961",
        )


def import_unsloth(scratch: Path) -> Any:
    """The module, which writes the code that it makes into `scratch`."""
    os.environ |= {**ENVIRONMENT, "UNSLOTH_COMPILE_LOCATION": str(scratch / "compiled")}
    return importlib.import_module("unsloth")


def load_with_adapter(
    unsloth: Any, folder: Path, settings: Mapping[str, Any], modules: Mapping[str, Any]
) -> Any:
    """The base model with an adapter on it. `modules`: what `adapter_targets.resolve` found."""
    fast = unsloth.FastLanguageModel
    model, _ = fast.from_pretrained(model_name=str(folder), **settings["load"])
    model.config.use_cache = False
    return fast.get_peft_model(model, **{**settings["adapter"], **modules})


def trainer_arguments(
    settings: Mapping[str, Any], save_steps: int, checkpoints: Path
) -> dict[str, Any]:
    """Of SFTConfig: the recipe's, and how the script wants to be told of steps."""
    return {
        **settings["trainer"],
        "output_dir": str(checkpoints),
        "save_strategy": "steps",
        "save_steps": save_steps,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }


def train(spec: Spec, events: Events) -> None:
    """Train, or go on where the last complete checkpoint stands, and write the outputs."""
    require_cuda()
    unsloth = import_unsloth(spec.scratch)

    import torch
    from transformers import PreTrainedTokenizerFast

    from runner.scripts.training import adapter_targets
    from runner.scripts.training.answer_masks import check_answers, generation_prompt
    from runner.scripts.training.batches import Batches
    from runner.scripts.training.canary.canary import canary_of
    from runner.scripts.training.checkpoints import remove_incomplete
    from runner.scripts.training.native_model import train_to_the_end
    from runner.scripts.training.token_rows import check_rows, check_window, read_token_rows
    from runner.scripts.training.torch_setup import peak_memory
    from runner.scripts.training.trained_files import write_adapter
    from runner.scripts.training.training_record import TrainingRecord, kept_of
    from runner.scripts.training.unsloth_trainer import make_trainer

    settings = spec.hashed["settings"]
    job = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    bare = adapter_targets.skeleton(spec.inputs["model"], settings["load"]["trust_remote_code"])
    targets = settings["adapter"]["target_modules"]
    modules = adapter_targets.resolve(bare, {"type": "lora", "target_modules": targets})
    checkpoints = spec.scratch / "checkpoints"
    remove_incomplete(checkpoints, job)

    data = read_token_rows(spec.inputs["tokens"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    name = spec.inputs["tokens"].name
    check_rows(data, name, bare.get_input_embeddings().num_embeddings)
    check_window(bare.config, data)
    if settings["has_prompts"]:
        template = spec.inputs["template"].read_text(encoding="utf-8")
        check_answers(data, generation_prompt(tokenizer, template), name)

    model = load_with_adapter(unsloth, spec.inputs["model"], settings, modules)
    device = model.get_input_embeddings().weight.device
    record = TrainingRecord(events, checkpoints, job, device, kept=kept_of(spec))
    trainer = make_trainer(
        model,
        trainer_arguments(settings, spec.hashed["save_steps"], checkpoints),
        tokenizer,
        Batches(data, tokenizer.pad_token_id, torch.bfloat16),
        record,
        canary_of(spec, events, data),
    )
    train_to_the_end(trainer, record, checkpoints, job)

    write_adapter(trainer.model, spec.folder / "adapter")
    record.write_trace(spec.folder / "trace.jsonl")
    events.measure(**record.measures(), peak_memory=peak_memory(device))


def told_of_gpu(spec: Spec, events: Events) -> None:
    """`train`, with a GPU that is too small as an error for the user (E509)."""
    from runner.scripts.training.torch_setup import told_of_gpu

    told_of_gpu(train)(spec, events)


if __name__ == "__main__":
    main(told_of_gpu)
