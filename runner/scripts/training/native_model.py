"""What trainings of the native backend share: the model, what learns in it, the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.utils.other import ModulesToSaveWrapper
from torch.utils._pytree import tree_map
from transformers import AutoModelForCausalLM, set_seed

from runner.backends.trainer_arguments import SAME
from runner.scripts.spec import ScriptError
from runner.scripts.training.base_model import read_model
from runner.scripts.training.checkpoints import complete_checkpoints, is_finished
from runner.scripts.training.training_record import TrainingRecord

SWITCHES = ("use_dora", "use_rslora", "lora_bias")  # settings of LoraConfig


def load_model(
    folder: Path,
    settings: dict[str, Any],
    device: torch.device,
    family: Any = AutoModelForCausalLM,
    read: Callable[..., Any] = read_model,
    **changes: Any,
) -> Any:
    """The base model with the recipe's dtype, attention and quantisation. Raises ScriptError E519.

    A quantised one lies on `device`; another one is moved there by the trainer. `read`: as
    `read_model` does it. `changes`: to the model's configuration.
    """
    try:
        model = read(folder, settings, device, family, **changes)
    except ValueError as error:
        raise ScriptError(
            f"the model cannot be loaded: {str(error).splitlines()[0]}",
            hint="try model.attn_implementation: eager, or another model",
            code="E519",
        ) from error
    model.config.use_cache = False
    return model


def seed_draws(settings: Mapping[str, Any]) -> None:
    """Before anything is drawn: an adapter's first weights, a scorer's last layer, answers."""
    set_seed(settings["seed"])


def add_trainable_weights(
    model: Any, settings: Mapping[str, Any], modules: dict[str, Any], task: str = "CAUSAL_LM"
) -> Any:
    """Put the adapter on, or free the weights that learn; what is trained is float32.

    Without an adapter all weights are, also those that do not learn. `modules`: what
    `adapter_targets.resolve` found.
    """
    dtype, adapter = model.dtype, settings["adapter"]
    if adapter["type"] == "lora":
        switches = {name: adapter[name] for name in SWITCHES if name in adapter}
        config = LoraConfig(
            task_type=task,
            r=adapter["r"],
            lora_alpha=adapter["lora_alpha"],
            lora_dropout=adapter["lora_dropout"],
            **switches,
            **modules,
        )
        model = get_peft_model(model, config)
    in_float32(model)
    if "weights" in modules:
        _leave_as_they_are(model, modules["weights"], settings)
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            compute_in_float32(module, dtype)
    return model


def _leave_as_they_are(model: Any, learning: set[str], settings: Mapping[str, Any]) -> None:
    """Only the weights named in `learning` learn.

    A layer that is computed again on the way back must see an input with a gradient: those below
    the first that learns have none of their own.
    """
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in learning)
    if settings["gradient_checkpointing"]:
        model.enable_input_require_grads()


def in_float32(model: Any) -> None:
    """What is trained is float32, whatever lies below it."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def compute_in_float32(module: Any, dtype: torch.dtype) -> None:
    """A module trained as a whole has float32 weights; its neighbours keep the model's `dtype`."""

    def widen(_: Any, args: Any, kwargs: Any) -> Any:
        return in_dtype(args, torch.float32), in_dtype(kwargs, torch.float32)

    if dtype != torch.float32:
        module.register_forward_pre_hook(widen, with_kwargs=True)
        module.register_forward_hook(lambda _, __, output: in_dtype(output, dtype))


def in_dtype(values: Any, dtype: torch.dtype) -> Any:
    """`values` with every tensor of floats in it as `dtype`."""

    def cast(value: Any) -> Any:
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(dtype) if floats else value

    return tree_map(cast, values)


def trainer_settings(
    settings: Mapping[str, Any], save_steps: int, checkpoints: Path, device: torch.device
) -> dict[str, Any]:
    """Of TrainingArguments: every one that a framework's default could decide otherwise."""
    length = {"max_steps": settings["max_steps"]}
    if settings["max_steps"] is None:
        length = {"num_train_epochs": settings["num_train_epochs"]}
    return dict(
        output_dir=str(checkpoints),
        **length,
        **{name: settings[name] for name in (*SAME, "gradient_checkpointing")},
        # the variant that LLaMA Factory uses, too
        gradient_checkpointing_kwargs={"use_reentrant": True},
        seed=settings["seed"],
        data_seed=settings["seed"],
        use_cpu=device.type == "cpu",
        save_strategy="steps",
        save_steps=save_steps,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=device.type != "cpu",
    )


def mask_dtype(settings: dict[str, Any], device: torch.device) -> torch.dtype:
    """The dtype that attention computes in, so that its mask fits."""
    half = settings["bf16"] or (device.type != "cpu" and settings["dtype"] == "bfloat16")
    return torch.bfloat16 if half else torch.float32


def train_to_the_end(trainer: Any, record: TrainingRecord, checkpoints: Path, job: str) -> None:
    """Train, or go on where the last complete checkpoint of `job` stands."""
    newest = (complete_checkpoints(checkpoints, job) or [None])[-1]
    if newest is not None:
        record.go_on_from(newest)
    if newest is not None and is_finished(newest):
        # train() would add a step before it sees that there is none left
        trainer._load_from_checkpoint(str(newest))
    else:
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    record.check_not_stopped()
