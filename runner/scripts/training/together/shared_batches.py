"""Which rows each of several processes trains on: together, a step's rows are those of one process.

A step of one process takes `per_device_train_batch_size` x `gradient_accumulation_steps` rows in
the order that the seed gives. Of N processes each takes every N-th batch of the same order, so that
a step takes N times the rows: the very ones that one process with N times the accumulation takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset

from runner.scripts.training.together.team import Team
from runner.scripts.training.token_rows import IGNORED


class Share(BatchSampler):
    """Every `size`-th batch of an epoch, from `rank` on. Where an epoch's batches do not come out
    even, the last ones of some processes are empty: all take part in every step."""

    def __init__(self, order: SeedableRandomSampler, batch: int, rank: int, size: int) -> None:
        super().__init__(order, batch, drop_last=False)
        self._order, self._rank, self._size = order, rank, size

    def __iter__(self) -> Iterator[list[int]]:
        batches = list(super().__iter__())
        for first in range(0, len(batches), self._size):
            mine = first + self._rank
            yield batches[mine] if mine < len(batches) else []

    def __len__(self) -> int:
        return -(-super().__len__() // self._size)

    @property
    def batch_sampler(self) -> Share:
        """Where Transformers looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Every epoch has an order of its own."""
        self._order.set_epoch(epoch)


@dataclass(frozen=True)
class OrNothing:
    """Collates as `batches` does; no items become one row that nothing is learnt from."""

    batches: Any

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """As Batches; `counts` of no items are 0."""
        batch: dict[str, torch.Tensor] = self.batches(items or [{"row": 0}])
        if not items:
            batch["labels"] = torch.full_like(batch["labels"], IGNORED)
            batch["counts"] = torch.zeros_like(batch["counts"])
        return batch


def loader(rows: Dataset[Any], batches: Any, batch: int, seed: int, team: Team) -> DataLoader[Any]:
    """This process's batches, epoch by epoch, in the order of a training by one process."""
    order = SeedableRandomSampler(rows, data_seed=seed)
    share = Share(order, batch, team.rank, team.size)
    return DataLoader(rows, batch_sampler=share, collate_fn=OrNothing(batches))
