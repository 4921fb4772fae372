"""What a training reports: progress events as it goes, and a trace without a clock."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from runner.scripts.spec import Events, ScriptError, Spec
from runner.scripts.training.checkpoints import KEPT, make_room, mark_complete, remove_old
from runner.scripts.training.memory_kinds import highest, memory_by_kind
from runner.scripts.training.stopping import STOP, STOPPED
from runner.scripts.training.together.team import whole
from runner.scripts.training.torch_setup import begin_peak, memory_in_use, recent_peak

_TRACE = "trace.jsonl"
_TRACED = ("loss", "grad_norm", "learning_rate")
_KINDS = ("non_pad", "padded", "supervised")
# Bytes of trained weights that are hashed a step, about: more are hashed every second step, or
# third, and so on, so that it stays below a hundredth of a step's time.
_HASHED = 32 << 20


class TrainingRecord(TrainerCallback):
    """Collects the trace, reports every step, and completes checkpoints (`job`: their digest).

    `kept`: how many complete ones stay, at most.

    `also`: what the trainer logs beside the loss; reported under the last part of its name.
    """

    def __init__(
        self,
        events: Events,
        checkpoints: Path,
        job: str,
        device: torch.device,
        also: Sequence[str] = (),
        *,
        kept: int = KEPT,
    ) -> None:
        self._events, self._checkpoints, self._job, self._device = events, checkpoints, job, device
        self._also, self._kept = also, kept
        self._stop = checkpoints.parent / STOP
        self._stop.unlink(missing_ok=True)  # it was meant for an earlier try
        self._stopped: tuple[int, int] | None = None
        self._trace: list[dict[str, Any]] = []
        self._step = [0, 0, 0]  # tokens by kind of the step at hand
        self._total = [0, 0, 0]  # of this process
        self._steps = 0  # that this process trained
        self._seconds = 0.0  # spent in them, without checkpoints
        self._began = 0.0
        self._memory: dict[str, dict[str, int]] = {}  # phase -> kind -> bytes, at most
        self._sampled: dict[str, int] = {}  # by kind, where the last step was fullest
        self._phase = ""  # of the step at hand

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

    @property
    def lines(self) -> Sequence[dict[str, Any]]:
        """The trace so far, a line a step."""
        return self._trace

    def measures(self) -> dict[str, Any]:
        """For run.json. Speeds are of the steps that this process trained; absent without any."""
        found: dict[str, Any] = {"steps": len(self._trace), "steps_trained_now": self._steps}
        if self._memory:
            found["memory_by_phase"] = self._memory
        if self._trace:
            found["loss_last_step"] = self._trace[-1]["loss"]
            for name in self._also:
                if name in self._trace[-1]:
                    found[f"{_short(name)}_last_step"] = self._trace[-1][name]
        if self._steps:
            found["seconds_per_step"] = self._seconds / self._steps
            for kind, tokens in zip(_KINDS, self._total, strict=True):
                found[f"{kind}_tokens_per_second"] = tokens / self._seconds
        return found

    def check_not_stopped(self) -> None:
        """Raise ScriptError (E130) when the training ended early because it was asked to."""
        if self._stopped is not None:
            step, total = self._stopped
            raise ScriptError(
                f"stopped behind step {step} of {total}, as asked, with a checkpoint", code=STOPPED
            )

    def asked_to_stop(self) -> bool:
        """Does somebody want the training to end behind the step at hand?"""
        return self._stop.exists()

    # --- called by the trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The model is loaded, and nothing was computed yet."""
        self._sample("load", kwargs)
        self._events.measure(memory_by_phase=self._memory)
        begin_peak(self._device)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """All gradients are there."""
        # before the first step of all the optimizer has no states
        self._phase = "train" if state.global_step else "first step"
        self._sample(self._phase, kwargs)

    def _end_of_step(self, saves: bool) -> None:
        """The optimizer's step is part of the peak; the next phase begins with a new one."""
        found = self._memory.get(self._phase)
        if found is not None:
            found["peak"] = max(found["peak"], recent_peak(self._device))
        if saves or self._phase == "first step":
            begin_peak(self._device)

    def _sample(self, phase: str, given: dict[str, Any]) -> None:
        self._sampled = memory_by_kind(given["model"], given.get("optimizer"), self._device)
        self._memory[phase] = highest(self._sampled, self._memory.get(phase))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End here, with a checkpoint, when somebody asked for it; make room for one that comes."""
        if state.global_step < state.max_steps and self.asked_to_stop():
            control.should_save = control.should_training_stop = True
            self._stopped = (state.global_step, state.max_steps)
        if control.should_save:
            make_room(self._checkpoints, self._job)
        self._end_of_step(control.should_save)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """After every step; and once at the end, with a summary that is no step."""
        if "loss" not in logs:
            return
        seconds = time.perf_counter() - self._began
        line = {"step": state.global_step}
        line |= {name: float(logs[name]) for name in _TRACED}
        more = {name: float(logs[name]) for name in self._also if name in logs}
        line |= more
        weights = [each for each in kwargs["model"].parameters() if each.requires_grad]
        if state.global_step % stride(weights) == 0:
            line["weights"] = digest(weights)
        self._trace.append(line)
        self._steps += 1
        self._seconds += seconds
        self._total = [a + b for a, b in zip(self._total, self._step, strict=True)]
        self._events.progress(
            state.global_step,
            state.max_steps,
            loss=line["loss"],
            **{_short(name): value for name, value in more.items()},
            tokens=dict(zip(_KINDS, self._step, strict=True)),
            tokens_per_second=self._step[0] / seconds,
            memory=memory_in_use(self._device),
            **{f"memory_{kind}": size for kind, size in self._sampled.items()},
            eta=(state.max_steps - state.global_step) * self._seconds / self._steps,
        )
        self._step = [0, 0, 0]

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer has written its files: add the trace, make all durable, drop older ones."""
        folder = self._checkpoints / f"checkpoint-{state.global_step}"
        self.write_trace(folder / _TRACE)
        mark_complete(folder, self._job)
        remove_old(self._checkpoints, self._job, self._kept)
        peak = {"peak": recent_peak(self._device)}
        self._memory["save"] = highest(peak, self._memory.get("save"))
        begin_peak(self._device)


def kept_of(spec: Spec) -> int:
    """How many complete checkpoints the recipe keeps."""
    return int(spec.hashed.get("save_total_limit", KEPT))


def _short(name: str) -> str:
    """`rewards/margins` without what stands before the slash; of `rewards/NAME/mean` the name."""
    return name.removesuffix("/mean").rpartition("/")[2]


def stride(weights: Iterable[torch.Tensor]) -> int:
    """Every how many steps the trained weights are hashed; it depends on their size alone."""
    size = sum(each.numel() * each.element_size() for each in weights)
    return 1 + size // _HASHED


def digest(weights: Iterable[torch.Tensor]) -> str:
    """Hex sha256 over the bytes of all `weights`, in their order."""
    made = hashlib.sha256()
    for each in weights:
        flat = whole(each.detach()).contiguous().flatten()
        made.update(memoryview(flat.view(torch.uint8).cpu().numpy()))
    return made.hexdigest()
