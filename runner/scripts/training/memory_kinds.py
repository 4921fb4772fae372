"""What lies in memory while a model is trained, by kind. Sizes alone are read, never a value."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from runner.scripts.training.torch_setup import memory_in_use, recent_peak


def memory_by_kind(model: Any, optimizer: Any, device: torch.device) -> dict[str, int]:
    """Bytes by kind.

    `weights` do not learn, `trained` do; `gradients` and `optimizer` belong to these. `used` is
    what the process holds now (a GPU: what torch has reserved), `peak` the most since the phase
    began, `rest` the part of that peak that is none of the kinds: activations, the allocator, and
    without a GPU the process itself. `available` is what the machine could still give.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    kinds = {
        "weights": _sum(frozen) + sum(_scales(weight) for weight in frozen),
        "trained": _sum(trained),
        "gradients": _sum(weight.grad for weight in trained if weight.grad is not None),
        "optimizer": _state(optimizer),
    }
    peak = recent_peak(device)
    # weights of a mapped file that were not yet touched are in no memory
    rest = max(0, peak - sum(kinds.values()))
    now = {"rest": rest, "peak": peak, "used": memory_in_use(device), "available": _available()}
    return kinds | now


def highest(found: dict[str, int], seen: dict[str, int] | None) -> dict[str, int]:
    """Of every kind the most that was seen, of `available` the least."""
    if seen is None:
        return found
    return {
        kind: (min if kind == "available" else max)(size, seen[kind])
        for kind, size in found.items()
    }


def _sum(tensors: Iterable[torch.Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def _scales(weight: torch.Tensor) -> int:
    """What belongs to 4-bit values beside them: the scales of their blocks, and those of these."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return 0
    states = [state] if state.state2 is None else [state, state.state2]
    return _sum(each.absmax for each in states)


def _state(optimizer: Any) -> int:
    """Bytes that the optimizer keeps between steps; none before the first."""
    states = getattr(optimizer, "state", None) or {}
    return _sum(
        value
        for state in states.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )


def _available() -> int:
    """MemAvailable of the machine."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    return int(text.split("MemAvailable:")[1].split()[0]) * 1024
