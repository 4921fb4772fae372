"""Supervised fine-tuning with TRL's SFTTrainer: LoRA or DoRA, or every weight.

spec.hashed: `settings` (runner/backends/native.py) and `save_steps`. spec.inputs: model (folder of
`fetch`), tokens (of `prepare`), template. Writes `adapter/` or `model/`, and `trace.jsonl`.

The adapter equals LLaMA Factory's byte for byte: docs/decisions/0001-processor-cap-and-equal-
adapters.md says what that takes. Checkpoints lie in spec.scratch; a run that finds a complete one
goes on from it and gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from peft.utils.other import ModulesToSaveWrapper
from torch.utils._pytree import tree_map
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Trainer, set_seed
from trl import SFTConfig, SFTTrainer

from runner.scripts import adapter_targets, four_bits
from runner.scripts.answer_masks import check_answers, generation_prompt
from runner.scripts.batches import Batches
from runner.scripts.checkpoints import complete_checkpoints, remove_incomplete
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.token_rows import check_rows, read_token_rows
from runner.scripts.torch_setup import peak_memory, set_up_torch
from runner.scripts.trained_files import write_adapter, write_model
from runner.scripts.training_record import TrainingRecord

SWITCHES = ("use_dora", "use_rslora", "lora_bias")  # settings of LoraConfig


class MeanTokenTrainer(SFTTrainer):
    """The loss as transformers' Trainer computes it: the mean over all tokens of one step.

    TRL's own goes through a fused head whose last bits differ. A loss that is not finite ends the
    training, since every later step would be lost time.
    """

    record: TrainingRecord

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's, past TRL's."""
        return Trainer.compute_loss(self, *args, **kwargs)

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of one batch; its loss is its part of the step's mean."""
        self.record.count(inputs.pop("counts").tolist())
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss):
            raise ScriptError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}",
                hint="lower train.learning_rate, or set model.dtype to float32",
                code="E517",
            )
        return loss


def train(spec: Spec, events: Events) -> None:
    """Train, or go on where the last complete checkpoint stands, and write the outputs."""
    device = set_up_torch()
    settings = spec.hashed["settings"]
    trust = settings.get("trust_remote_code", False)
    job = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    modules: dict[str, Any] = {}
    if settings["adapter"]["type"] != "none":  # before anything that takes long
        bare = adapter_targets.skeleton(spec.inputs["model"], trust)
        modules = adapter_targets.resolve(bare, settings["adapter"])
        if "quantization" in settings:
            four_bits.check_saved(bare, modules.get("modules_to_save", ()))
    checkpoints = spec.scratch / "checkpoints"
    remove_incomplete(checkpoints, job)

    data = read_token_rows(spec.inputs["tokens"])
    model = load_model(spec.inputs["model"], settings, device)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    name = spec.inputs["tokens"].name
    check_rows(data, name, model.get_input_embeddings().num_embeddings)
    check_packing(model.config, data.longest() if data.packed else 0)
    if settings["has_prompts"]:
        template = spec.inputs["template"].read_text(encoding="utf-8")
        check_answers(data, generation_prompt(tokenizer, template), name)

    set_seed(settings["seed"])  # the adapter's first weights are drawn next
    model = add_trainable_weights(model, settings["adapter"], modules)
    record = TrainingRecord(events, checkpoints, job, device)
    trainer = MeanTokenTrainer(
        model=model,
        args=trainer_settings(settings, spec.hashed["save_steps"], checkpoints, device),
        train_dataset=Dataset.from_dict({"row": range(len(data.rows))}),
        processing_class=tokenizer,
        data_collator=Batches(data, tokenizer.pad_token_id, mask_dtype(settings, device)),
        callbacks=[record],
    )
    trainer.record = record
    # Over a 4-bit base TRL has made them bfloat16, where a step of 2e-4 is often rounded away.
    # The optimizer does not exist yet.
    in_float32(trainer.model)

    newest = (complete_checkpoints(checkpoints, job) or [None])[-1]
    if newest is not None:
        record.go_on_from(newest)
    if newest is not None and is_finished(newest):
        # train() would add a step before it sees that there is none left
        trainer._load_from_checkpoint(str(newest))
    else:
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))

    if settings["adapter"]["type"] == "none":
        write_model(trainer.model, spec.folder / "model", spec.inputs)
    else:
        write_adapter(trainer.model, spec.folder / "adapter")
    record.write_trace(spec.folder / "trace.jsonl")
    held = {}
    if "quantization" in settings:
        held = {"quantized_modules": len(four_bits.quantized_modules(trainer.model))}
    events.measure(**record.measures(), **held, peak_memory=peak_memory(device))


def load_model(folder: Path, settings: dict[str, Any], device: torch.device) -> Any:
    """The base model with the recipe's dtype, attention and quantisation. Raises ScriptError E519.

    A quantised one lies on `device`; another one is moved there by the trainer.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, settings["dtype"]),
            attn_implementation=settings["attn_implementation"],
            trust_remote_code=settings.get("trust_remote_code", False),
            **four_bits.loading(settings, device),
        )
    except ValueError as error:
        raise ScriptError(
            f"the model cannot be loaded: {str(error).splitlines()[0]}",
            hint="try model.attn_implementation: eager, or another model",
            code="E519",
        ) from error
    if "quantization" in settings:
        four_bits.settle(model)
    model.config.use_cache = False
    return model


def check_packing(config: Any, longest: int) -> None:
    """The mask of packs reaches back to the document's start: a shorter window is no such mask."""
    window = getattr(config.get_text_config(), "sliding_window", None)
    if window and longest > window:
        raise ScriptError(
            f"packs of {longest} tokens do not fit the model's attention window of {window}",
            hint=f"set data.max_length to at most {window}, or data.packing to false",
            code="E519",
        )


def add_trainable_weights(model: Any, adapter: dict[str, Any], modules: dict[str, Any]) -> Any:
    """Put the adapter on, or free every weight; what is trained is float32.

    `modules`: what `adapter_targets.resolve` found.
    """
    dtype = model.dtype
    if adapter["type"] == "lora":
        switches = {name: adapter[name] for name in SWITCHES if name in adapter}
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=adapter["r"],
            lora_alpha=adapter["lora_alpha"],
            lora_dropout=adapter["lora_dropout"],
            **switches,
            **modules,
        )
        model = get_peft_model(model, config)
    in_float32(model)
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            compute_in_float32(module, dtype)
    return model


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
    settings: dict[str, Any], save_steps: int, checkpoints: Path, device: torch.device
) -> SFTConfig:
    """Every setting that a framework's default could decide otherwise is given."""
    length = {"max_steps": settings["max_steps"]}
    if settings["max_steps"] is None:
        length = {"num_train_epochs": settings["num_train_epochs"]}
    same = (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
        "max_grad_norm",
        "optim",
        "bf16",
        "gradient_checkpointing",
    )
    return SFTConfig(
        output_dir=str(checkpoints),
        **length,
        **{name: settings[name] for name in same},
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
        max_length=None,  # rows are as `prepare` made them
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=device.type != "cpu",
    )


def is_finished(checkpoint: Path) -> bool:
    """Was the training's last step done when this checkpoint was written?"""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def mask_dtype(settings: dict[str, Any], device: torch.device) -> torch.dtype:
    """The dtype that attention computes in, so that its mask fits."""
    half = settings["bf16"] or (device.type != "cpu" and settings["dtype"] == "bfloat16")
    return torch.bfloat16 if half else torch.float32


def run(spec: Spec, events: Events) -> None:
    """`train`, with a GPU that is too small as an error for the user."""
    try:
        train(spec, events)
    except torch.OutOfMemoryError as error:
        raise ScriptError(
            f"the GPU has too little memory: {str(error).splitlines()[0]}",
            hint="lower train.per_device_train_batch_size (raise gradient_accumulation_steps"
            " instead), or set train.gradient_checkpointing",
            code="E509",
        ) from error


if __name__ == "__main__":
    main(run)
