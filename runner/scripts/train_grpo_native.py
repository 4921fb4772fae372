"""Learn from what the model's own answers earn: group relative policy optimisation (GRPO).

spec.hashed: `settings` (runner/backends/native.py), `save_steps` and `signal_required`.
spec.inputs: model (folder of `fetch`), tokens (of `prepare_prompts`), template. Writes `adapter/`
or `model/`, and `trace.jsonl`.

TRL's GRPOTrainer trains, by the loss of the paper (Z. Shao et al., DeepSeekMath, 2024): one step
draws `num_generations` answers to each of its prompts from the model as it is, and makes those
likelier that earn more than their group. What is drawn depends on the seed alone, and a checkpoint
holds the state of the generator: equal bytes on one platform, killed and resumed or not.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from runner.scripts.evaluation.form import repeated_share
from runner.scripts.rewards.prompt_rows import Prompt, check_vocabulary, read_prompts
from runner.scripts.rewards.scoring import names_of, score
from runner.scripts.rewards.signs import TRACED, check_signal, signs_of
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.train_preference_native import find_modules, frozen_copy, without_dropout
from runner.scripts.training.canary.canary import canary_of_prompts
from runner.scripts.training.checkpoints import remove_incomplete
from runner.scripts.training.native_model import (
    add_trainable_weights,
    in_float32,
    load_model,
    seed_draws,
    train_to_the_end,
    trainer_settings,
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

Settings = Mapping[str, Any]


class RewardRecord(TrainingRecord):
    """Ends a training early that has nothing to learn from."""

    signal_required = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """After every step."""
        super().on_log(args, state, control, logs, **kwargs)
        if "loss" in logs and self.signal_required:
            check_signal(self._trace, state.max_steps)

    def signs(self) -> dict[str, str]:
        """Of the whole training."""
        return signs_of(self._trace)


class AnsweringTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's, which asks the prompts of `prepare` as they are, token by token."""

    record: RewardRecord
    prompts: Sequence[Prompt]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """A prompt of the data set is the number of its row."""
        return [self.prompts[int(number)].ids for number in prompts], None, {}

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Answers where a step begins, then forward and backward of one batch of them."""
        try:
            loss: torch.Tensor = super().training_step(*args, **kwargs)
        except RuntimeError as error:
            if "probability tensor contains" not in str(error):
                raise
            loss = torch.tensor(math.nan)  # torch refuses to draw by what is no number
        check_finite(loss, self.state.global_step + 1)
        return loss

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's loss; the batch's tokens are counted."""
        answers = inputs["completion_mask"]
        kept = int(inputs["prompt_mask"].sum() + answers.sum())
        padded = inputs["prompt_mask"].numel() + answers.numel()
        self.record.count([kept, padded, int(answers.sum())])
        loss: torch.Tensor = super().compute_loss(model, inputs, *args, **kwargs)
        return loss

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """A checkpoint has none."""


def train(spec: Spec, events: Events) -> None:
    """Train, or go on where the last complete checkpoint stands, and write the outputs."""
    device = set_up_torch()
    settings = spec.hashed["settings"]
    job = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    modules = find_modules(spec.inputs["model"], settings, AutoModelForCausalLM, {})
    checkpoints = spec.scratch / "checkpoints"
    remove_incomplete(checkpoints, job)

    seed_draws(settings)
    model = load_model(spec.inputs["model"], settings, device)
    without_dropout(model)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    prompts = read_prompts(spec.inputs["tokens"])
    if not prompts:
        raise ScriptError("there are no prompts", hint="name a file in data.train", code="E528")
    check_vocabulary(prompts, model.get_input_embeddings().num_embeddings)

    seed_draws(settings)
    adapter = settings["adapter"]
    model = add_trainable_weights(model, settings, modules)
    if settings["gradient_checkpointing"] and adapter["type"] != "none":
        model.enable_input_require_grads()
    order = order_of(len(prompts), settings)
    record = RewardRecord(events, checkpoints, job, device, traced(settings), kept=kept_of(spec))
    record.signal_required = spec.hashed["signal_required"]
    trainer = AnsweringTrainer(
        model=model,
        reward_funcs=reward_functions(prompts, settings["rewards"], tokenizer),
        args=GRPOConfig(
            **arguments(settings, spec.hashed["save_steps"], order, checkpoints, device)
        ),
        train_dataset=Dataset.from_dict({"prompt": list(map(str, order)), "row": order}),
        processing_class=tokenizer,
        callbacks=[record, *canary_of_prompts(spec, events, [prompt.ids for prompt in prompts])],
    )
    trainer.record, trainer.prompts = record, prompts
    measure_divergence(trainer, spec.inputs["model"], settings, device)
    in_float32(trainer.model)

    train_to_the_end(trainer, record, checkpoints, job)

    check_still_set_up()
    if adapter["type"] == "none":
        write_model(trainer.model, spec.folder / "model", spec.inputs)
    else:
        write_adapter(trainer.model, spec.folder / "adapter")
    record.write_trace(spec.folder / "trace.jsonl")
    events.measure(**record.measures(), signs=record.signs(), peak_memory=peak_memory(device))


# --- what is asked, in which order


def order_of(prompts: int, settings: Settings) -> list[int]:
    """The row of every prompt that is asked, over all steps: each pass is a shuffle of its own.

    One long pass of the trainer, because its sampler forgets at a resume how often it has shuffled.
    """
    answers = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    each = answers // settings["num_generations"]
    steps = settings["max_steps"]
    if steps is None:
        steps = max(1, math.ceil(settings["num_train_epochs"] * math.ceil(prompts / each)))
    random = np.random.default_rng(settings["seed"])
    passes = math.ceil(steps * each / prompts)
    rows = np.concatenate([random.permutation(prompts) for _ in range(passes)])
    return [int(row) for row in rows[: steps * each]]


def arguments(
    settings: Settings, save_steps: int, order: Sequence[int], checkpoints: Path, device: Any
) -> dict[str, Any]:
    """Of GRPOConfig: every one that a default could decide otherwise."""
    group, accumulation = settings["num_generations"], settings["gradient_accumulation_steps"]
    steps = len(order) * group // (settings["per_device_train_batch_size"] * accumulation)
    return {
        **trainer_settings({**settings, "max_steps": steps}, save_steps, checkpoints, device),
        "num_generations": group,
        "steps_per_generation": accumulation,  # answers are of the model that they teach
        "num_iterations": 1,
        "max_completion_length": settings["max_completion_length"],
        "temperature": settings["temperature"],
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "beta": 0.0,  # see measure_divergence
        "epsilon": 0.2,
        "loss_type": "grpo",
        "scale_rewards": "group",
        "importance_sampling_level": "token",
        "multi_objective_aggregation": "sum_then_normalize",
        "mask_truncated_completions": False,
        "reward_weights": [each["weight"] for each in settings["rewards"]],
        "shuffle_dataset": False,
        "disable_dropout": True,
        "use_vllm": False,
    }


# --- rewards


def traced(settings: Settings) -> tuple[str, ...]:
    """Names in the trainer's log that stand in the trace: those of TRACED, and of every reward."""
    return (*TRACED, *(f"rewards/{name}/mean" for name in names_of(settings["rewards"])))


def reward_functions(
    prompts: Sequence[Prompt], rewards: Sequence[Settings], tokenizer: Any
) -> list[Callable[..., list[float]]]:
    """One for TRL of each of the recipe's; the first also tells how much answers repeat."""

    def made(number: int, name: str) -> Callable[..., list[float]]:
        def earn(
            completion_ids: list[list[int]], row: list[int], log_metric: Any, **_: Any
        ) -> list[float]:
            texts = [text_of(ids, tokenizer) for ids in completion_ids]
            if number == 0:
                shares = [repeated_share(ids) for ids in completion_ids]
                log_metric("repeated", math.fsum(shares) / len(shares))
            return [
                score(text, prompts[at].answer, [rewards[number]])[1][0]
                for text, at in zip(texts, row, strict=True)
            ]

        earn.__name__ = name
        return earn

    return [made(number, name) for number, name in enumerate(names_of(rewards))]


def text_of(ids: list[int], tokenizer: Any) -> str:
    """An answer as the evaluation reads it: without special tokens and without space around it."""
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def measure_divergence(
    trainer: AnsweringTrainer, folder: Path, settings: Settings, device: torch.device
) -> None:
    """Hold the model against its reference: itself without the adapter, or a frozen copy.

    Said here and not to the trainer's constructor, which would put a second adapter beside the
    first, or read the model again by its name.
    """
    trainer.beta = settings["beta"]
    if settings["adapter"]["type"] == "none":
        trainer.ref_model = frozen_copy(folder, dict(settings), device)
        add_fused_lm_head(
            trainer.ref_model,
            temperature=settings["temperature"],
            cast_lm_head_to_fp32=False,
            outputs=("log_probs",),
        )


if __name__ == "__main__":
    main(told_of_gpu(train))
