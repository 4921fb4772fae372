"""The processes that train one model together: which one this is, and what all agree on.

Numbers of the training itself travel as Accelerate and FSDP send them; what is agreed on here lies
in the processor's memory and goes over gloo, also where the training goes over NCCL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from runner.scripts.spec import Events

# A process that is gone is found out by whoever started it (runner/execution/cluster); this is for
# one that hangs. Long enough for the first process to write a large checkpoint.
_PATIENCE = timedelta(hours=1)
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Team:
    """`rank` of `size` processes over all machines; `local`: its number on this machine."""

    rank: int
    size: int
    local: int

    @property
    def is_first(self) -> bool:
        """Does this process speak, and write what lasts?"""
        return self.rank == 0

    def agreed(self, value: _Value) -> _Value:
        """`value` as the first process has it (anything that can be pickled)."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        """`value` of all processes in the order of their ranks, in the first one; [] elsewhere."""
        boxes = [None] * self.size if self.is_first else None
        dist.gather_object(value, boxes, dst=0)
        return boxes or []

    def summed(self, counts: list[int]) -> list[int]:
        """Every number's sum over all processes."""
        tensor = torch.tensor(counts)
        dist.all_reduce(tensor)
        return [int(each) for each in tensor]

    def wait(self) -> None:
        """Until all processes are here."""
        self.summed([0])


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """Meet the others, by what torchrun has put into the environment, and part at the end."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend=backend, timeout=_PATIENCE)
    try:
        yield Team(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))
    finally:
        dist.destroy_process_group()


class Quiet(Events):
    """Events of a process that is not the first: it says only why it ends."""

    @classmethod
    def of(cls, events: Events) -> Quiet:
        """The same place and stage as `events`."""
        made = cls.__new__(cls)
        made.__dict__.update(events.__dict__)
        return made

    def progress(self, step: int, total: int, **fields: Any) -> None:
        """Said by the first process."""

    def measure(self, **values: Any) -> None:
        """Said by the first process."""


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that is in parts with the processes; all of them must ask at once."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()
