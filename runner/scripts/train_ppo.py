"""Proximal policy optimisation by TRL's PPOTrainer: sample answers, score them, learn by that.

spec.hashed: `settings` (runner/backends/native.py) and `save_steps`. spec.inputs: model (folder of
`fetch`), tokens (of `prepare`), template, reward_model and perhaps reward_adapter (of
`fetch_reward`). Writes `adapter/` or `model/`, and `trace.jsonl`.

A step is one batch of answers, learnt from `num_ppo_epochs` times. The reference is the model with
its adapter switched off, or a copy of it; the value model begins as the reward model. That trainer
has no way to go on from a checkpoint: training/going_on.py is one, and a training that was killed
and resumed gives the same bytes.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # its warning that this may change: pinned

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedTokenizerFast
from trl.experimental.ppo import PPOConfig, PPOTrainer

from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.training import adapter_targets, four_bits, going_on
from runner.scripts.training.answer_masks import check_answers, generation_prompt
from runner.scripts.training.canary.canary import canary_of
from runner.scripts.training.checkpoints import complete_checkpoints, remove_incomplete, step_of
from runner.scripts.training.going_on import Passes
from runner.scripts.training.native_model import (
    add_trainable_weights,
    in_float32,
    load_model,
    seed_draws,
    trainer_settings,
)
from runner.scripts.training.preferences.reward_hacking import ANSWERS, Shown, signs_of
from runner.scripts.training.preferences.reward_model import (
    load_scorer,
    score_where_it_was_trained_to,
)
from runner.scripts.training.prompts import Prompts, check_prompts, pad_of, prompt_of, stop_of
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

# What of a step's log stands in the trace, by TRL's names; and what the answers look like.
TRACED = (
    "objective/scores",
    "objective/kl",
    "objective/entropy",
    "objective/rlhf_reward",
    "loss/policy",
    "loss/value",
    "policy/clipfrac",
    *ANSWERS,
)
# TRL's names that say of what they are the average: all of a step's passes.
_AVERAGES = {
    "loss/policy": "loss/policy_avg",
    "loss/value": "loss/value_avg",
    "policy/clipfrac": "policy/clipfrac_avg",
}


class RolloutRecord(TrainingRecord):
    """As of every training, with what TRL's loop over batches of answers leaves out."""

    _done = 0  # steps of an earlier process

    def go_on_from(self, checkpoint: Path) -> None:
        """Take over the trace of the steps before `checkpoint`."""
        super().go_on_from(checkpoint)
        self._done = step_of(checkpoint)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The loop has set its counters for the steps that are left."""
        state.global_step += self._done
        state.max_steps += self._done
        state.episode += self._done * args.batch_size
        super().on_train_begin(args, state, control, **kwargs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Behind its last checkpoint a training ends that was asked to: the loop reads no flag."""
        super().on_save(args, state, control, **kwargs)
        self.check_not_stopped()


class PolicyTrainer(PPOTrainer):
    """TRL's, with clipped gradients and checkpoints, and telling what the other trainers tell."""

    record: RolloutRecord
    shown: Shown

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        # Else the last batch of a pass over the prompts is learnt from by a step for each of its
        # parts, in place of one for all of them.
        self.accelerator.gradient_state.plugin_kwargs["sync_with_dataloader"] = False
        self.dataloader = self.passes = Passes(self.dataloader, self._begin_step)

    def _begin_step(self) -> None:
        """Tell the callbacks, which this loop does not."""
        self.control = self.callback_handler.on_step_begin(self.args, self.state, self.control)

    def train_to_the_end(self, checkpoints: Path, job: str) -> None:
        """Train, or go on where the last complete checkpoint of `job` stands."""
        newest = (complete_checkpoints(checkpoints, job) or [None])[-1]
        if newest is not None:
            self.record.go_on_from(newest)
            going_on.load(self, self.passes, newest)
            self.args.num_total_batches -= step_of(newest)
        if self.args.num_total_batches > 0:
            self.train()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """TRL's would have the policy's weights alone, and could not be gone on from."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        going_on.save(self, self.passes, folder)

    def clip_gradients(self) -> None:
        """Have every step of the optimizer scale gradients down first, which TRL's PPO does not."""
        weights = [each for each in self.model.parameters() if each.requires_grad]
        limit = self.args.max_grad_norm or float("inf")
        self._norms: list[float] = []

        def clip(*_: Any) -> None:
            self._norms.append(torch.nn.utils.clip_grad_norm_(weights, limit).item())

        self.optimizer.optimizer.register_step_pre_hook(clip)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """What TRL says of a step, under the names of every trace."""
        found = {name: logs[name] for name in TRACED if name in logs}
        found |= {name: logs[theirs] for name, theirs in _AVERAGES.items()}
        found |= self.shown.told()
        scores = found["objective/scores"]
        if not torch.isfinite(torch.tensor(scores)):
            raise ScriptError(
                f"the reward model's scores became {scores} at step {self.state.global_step}",
                hint="set model.dtype to float32, or train the reward model again",
                code="E539",
            )
        found["loss"] = found["loss/policy"] + self.args.vf_coef * found["loss/value"]
        check_finite(torch.tensor(found["loss"]), self.state.global_step)
        found["grad_norm"] = max(self._norms, default=0.0)
        found["learning_rate"] = logs["lr"]
        self._norms.clear()
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs=found)


def train(spec: Spec, events: Events) -> None:
    """Train, or go on where the last complete checkpoint stands, and write the outputs."""
    device = set_up_torch()
    settings = spec.hashed["settings"]
    adapter = settings["adapter"]
    job = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    checkpoints = spec.scratch / "checkpoints"
    remove_incomplete(checkpoints, job)
    modules = find_modules(spec, settings)
    data = read_token_rows(spec.inputs["tokens"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])

    seed_draws(settings)
    model = load_model(spec.inputs["model"], settings, device)
    check_data(spec, data, tokenizer, model)
    prompts = [prompt_of(row) for row in data.rows]
    check_prompts(prompts, batch_of(settings))
    stop = stop_of(data.rows)
    vocabulary = min(len(tokenizer), model.get_input_embeddings().num_embeddings)
    pad = pad_of(prompts, stop, tokenizer.pad_token_id, vocabulary)
    tokenizer.eos_token_id, tokenizer.pad_token_id = stop, pad
    model.generation_config.pad_token_id = pad

    scorer = load_scorer(spec.inputs, settings, tokenizer, device)
    value = value_model(load_scorer(spec.inputs, settings, tokenizer, device), settings)
    seed_draws(settings)
    model = add_trainable_weights(model, settings, modules)
    score_where_it_was_trained_to(scorer)

    record = RolloutRecord(events, checkpoints, job, device, TRACED, kept=kept_of(spec))
    seed_draws(settings)
    trainer = PolicyTrainer(
        args=PPOConfig(**ppo_settings(spec, settings, len(prompts), device)),
        processing_class=tokenizer,
        model=model,
        ref_model=None,  # the model without its adapter, or a copy
        reward_model=scorer,
        value_model=value,
        train_dataset=Dataset.from_dict({"row": range(len(prompts))}),
        eval_dataset=Dataset.from_dict({"row": range(0)}),
        data_collator=Prompts(prompts, pad),
        callbacks=[record, *canary_of(spec, events, data)],
    )
    trainer.record, trainer.shown = record, Shown(stop)
    show_to(trainer.shown, scorer, trainer.passes)
    trainer.clip_gradients()
    gc.freeze()  # every step collects, and would look through all that the libraries loaded
    trainer.train_to_the_end(checkpoints, job)

    check_still_set_up()
    if adapter["type"] == "none":
        write_model(trainer.policy_model, spec.folder / "model", spec.inputs)
    else:
        write_adapter(trainer.policy_model, spec.folder / "adapter")
    record.write_trace(spec.folder / "trace.jsonl")
    signs = signs_of(record.lines)
    events.measure(**record.measures(), reward_hacking_signs=signs, peak_memory=peak_memory(device))


# --- what is trained, on what


def find_modules(spec: Spec, settings: dict[str, Any]) -> dict[str, Any]:
    """What LoraConfig is told of the policy's modules, before anything that takes long."""
    if settings["adapter"] == adapter_targets.EVERY_WEIGHT:
        return {}
    trust = settings.get("trust_remote_code", False)
    bare = adapter_targets.skeleton(spec.inputs["model"], trust)
    modules = adapter_targets.resolve(bare, settings["adapter"])
    if "quantization" in settings:
        four_bits.check_saved(bare, modules.get("modules_to_save", ()))
    return modules


def check_data(spec: Spec, data: TokenRows, tokenizer: Any, model: Any) -> None:
    """Raise ScriptError where the rows are not what this model can be asked."""
    name = spec.inputs["tokens"].name
    check_rows(data, name, model.get_input_embeddings().num_embeddings)
    template = spec.inputs["template"].read_text(encoding="utf-8")
    check_answers(data, generation_prompt(tokenizer, template), name)


def value_model(scorer: Any, settings: dict[str, Any]) -> Any:
    """What begins as the reward model and learns what a beginning of an answer is worth.

    With an adapter as large as the policy's on all its linear layers, or of free weights.
    """
    adapter = settings["adapter"]
    if adapter["type"] == "none":
        return scorer.float().requires_grad_(True)
    seed_draws(settings)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=adapter["r"],
        lora_alpha=adapter["lora_alpha"],
        target_modules="all-linear",
        modules_to_save=["score"],
    )
    wrapped = get_peft_model(scorer, config)
    in_float32(wrapped)
    return wrapped.base_model.model  # TRL looks for the model's own parts, where the adapter is in


def show_to(shown: Shown, scorer: Any, passes: Passes) -> None:
    """Have `shown` collect every answer that the reward model is about to score."""

    def look(_: Any, args: Any, inputs: Any) -> None:
        begin = passes.context
        shown.add(inputs["input_ids"][:, begin:], inputs["attention_mask"][:, begin:])

    backbone = getattr(scorer, scorer.base_model_prefix)
    backbone.register_forward_pre_hook(look, with_kwargs=True)


# --- settings


def batch_of(settings: dict[str, Any]) -> int:
    """Answers of one step."""
    rows, passes = "per_device_train_batch_size", "gradient_accumulation_steps"
    return int(settings[rows] * settings[passes])


def ppo_settings(
    spec: Spec, settings: dict[str, Any], prompts: int, device: torch.device
) -> dict[str, Any]:
    """Of PPOConfig: every one that a default could decide otherwise."""
    save_steps = spec.hashed["save_steps"]
    found = trainer_settings(settings, save_steps, spec.scratch / "checkpoints", device)
    for name in ("max_steps", "num_train_epochs", "gradient_checkpointing_kwargs"):
        found.pop(name, None)
    batch = batch_of(settings)
    steps = settings["max_steps"]
    if steps is None:
        steps = max(1, int(settings["num_train_epochs"] * prompts) // batch)
    return {
        **found,
        "total_episodes": steps * batch,
        "num_mini_batches": 1,
        "num_sample_generations": 0,
        "local_rollout_forward_batch_size": settings["per_device_train_batch_size"],
        "stop_token": "eos",
        "whiten_rewards": False,
        "kl_estimator": "k1",
        "cliprange_value": 0.2,
        "gamma": 1.0,
        "lam": 0.95,
        "kl_coef": settings["kl_coef"],
        "num_ppo_epochs": settings["num_ppo_epochs"],
        "cliprange": settings["cliprange"],
        "vf_coef": settings["vf_coef"],
        "response_length": settings["response_length"],
        "temperature": settings["temperature"],
        "missing_eos_penalty": settings["missing_eos_penalty"] or None,
    }


if __name__ == "__main__":
    main(told_of_gpu(train))
