"""What a training reports: progress events as it goes, and a trace without a clock."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from runner.scripts.checkpoints import mark_complete, remove_old
from runner.scripts.spec import Events
from runner.scripts.torch_setup import memory_in_use

_TRACE = "trace.jsonl"
_TRACED = ("loss", "grad_norm", "learning_rate")
_KINDS = ("non_pad", "padded", "supervised")


class TrainingRecord(TrainerCallback):
    """Collects the trace, reports every step, and completes checkpoints (`job`: their digest)."""

    def __init__(self, events: Events, checkpoints: Path, job: str, device: torch.device) -> None:
        self._events, self._checkpoints, self._job, self._device = events, checkpoints, job, device
        self._trace: list[dict[str, Any]] = []
        self._step = [0, 0, 0]  # tokens by kind of the step at hand
        self._total = [0, 0, 0]  # of this process
        self._steps = 0  # that this process trained
        self._seconds = 0.0  # spent in them, without checkpoints
        self._began = 0.0

    def count(self, tokens: list[int]) -> None:
        """Add one batch's tokens: without padding, with padding, supervised."""
        self._step = [a + b for a, b in zip(self._step, tokens, strict=True)]

    def go_on_from(self, checkpoint: Path) -> None:
        """Take over the trace of the steps before `checkpoint`."""
        lines = (checkpoint / _TRACE).read_text(encoding="utf-8").splitlines()
        self._trace = [json.loads(line) for line in lines]

    def write_trace(self, path: Path) -> None:
        """One line a step; floats by repr, so that equal lines are equal numbers."""
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in self._trace)
        path.write_text(text, encoding="utf-8")

    def measures(self) -> dict[str, Any]:
        """For run.json. Speeds are of the steps that this process trained; absent without any."""
        found: dict[str, Any] = {"steps": len(self._trace), "steps_trained_now": self._steps}
        if self._trace:
            found["loss_last_step"] = self._trace[-1]["loss"]
        if self._steps:
            found["seconds_per_step"] = self._seconds / self._steps
            for kind, tokens in zip(_KINDS, self._total, strict=True):
                found[f"{kind}_tokens_per_second"] = tokens / self._seconds
        return found

    # --- called by the trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """After every step; and once at the end, with a summary that is no step."""
        if "loss" not in logs:
            return
        seconds = time.perf_counter() - self._began
        line = {"step": state.global_step}
        line |= {name: float(logs[name]) for name in _TRACED}
        self._trace.append(line)
        self._steps += 1
        self._seconds += seconds
        self._total = [a + b for a, b in zip(self._total, self._step, strict=True)]
        self._events.progress(
            state.global_step,
            state.max_steps,
            loss=line["loss"],
            tokens=dict(zip(_KINDS, self._step, strict=True)),
            tokens_per_second=self._step[0] / seconds,
            memory=memory_in_use(self._device),
            eta=(state.max_steps - state.global_step) * self._seconds / self._steps,
        )
        self._step = [0, 0, 0]

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer has written its files: add the trace, make all durable, drop older ones."""
        folder = self._checkpoints / f"checkpoint-{state.global_step}"
        self.write_trace(folder / _TRACE)
        mark_complete(folder, self._job)
        remove_old(self._checkpoints, self._job)
