"""Stop and go on behind a batch, for a trainer whose loop knows no checkpoints (TRL's PPO).

What decides all later batches is in a checkpoint: what learns, of all models, optimizer, schedule,
counters, random numbers, and the place in the pass over the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_WEIGHTS = "trained.safetensors"
_OPTIMIZER, _SCHEDULE, _PLACE = "optimizer.pt", "scheduler.pt", "place.pt"
_COUNTERS = "trainer_state.json"  # as of Transformers' trainers; `is_finished` reads it


class Passes:
    """One pass over a loader's batches after the other, each from its beginning but the first.

    The order of a pass follows from torch's random state at its beginning; that state and the
    number of batches that were taken since say where the training is. `begins`: called before a
    batch is given. `context`: tokens of its padded prompts; the loader itself is already one batch
    further.
    """

    def __init__(
        self, loader: Iterable[dict[str, torch.Tensor]], begins: Callable[[], None]
    ) -> None:
        self._loader, self._begins = loader, begins
        self._begin = torch.random.get_rng_state()
        self._taken = self._skipped = 0
        self._skipped_all: Callable[[], None] = lambda: None
        self.context = 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Batches of one pass, those left out that an earlier process has taken."""
        if self._skipped:
            torch.random.set_rng_state(self._begin)
        self._begin, self._taken = torch.random.get_rng_state(), self._skipped
        batches = iter(self._loader)
        for _ in range(self._skipped):
            next(batches)
        if self._skipped:
            self._skipped_all()
        self._skipped = 0
        for batch in batches:
            self._taken += 1
            self.context = batch["input_ids"].shape[1]
            self._begins()
            yield batch

    def place(self) -> dict[str, Any]:
        """Where the newest pass is."""
        return {"begin": self._begin, "taken": self._taken}

    def go_on_from(self, place: dict[str, Any], then: Callable[[], None]) -> None:
        """Have the next pass begin behind `place`, and call `then` when it stands there.

        `then` puts the random state back, which finding the place has changed.
        """
        self._begin, self._skipped, self._skipped_all = place["begin"], place["taken"], then


def save(trainer: Any, passes: Passes, folder: Path) -> None:
    """Write all that `load` wants of a trainer of Transformers that stands behind a batch."""
    trainer._save_rng_state(str(folder))  # makes the folder
    weights = {name: weight.detach().cpu().contiguous() for name, weight in _learning(trainer)}
    save_file(weights, folder / _WEIGHTS)
    torch.save(trainer.optimizer.state_dict(), folder / _OPTIMIZER)
    torch.save(trainer.lr_scheduler.state_dict(), folder / _SCHEDULE)
    torch.save(passes.place(), folder / _PLACE)
    trainer.state.save_to_json(str(folder / _COUNTERS))


def load(trainer: Any, passes: Passes, folder: Path) -> None:
    """Have the trainer stand where `save` found it; what it counts is left to its loop."""
    weights = load_file(folder / _WEIGHTS)
    for name, weight in _learning(trainer):
        weight.data.copy_(weights[name])
    trainer.optimizer.load_state_dict(_read(folder / _OPTIMIZER))
    trainer.lr_scheduler.load_state_dict(_read(folder / _SCHEDULE))
    passes.go_on_from(_read(folder / _PLACE), lambda: trainer._load_rng_state(str(folder)))


def _learning(trainer: Any) -> list[tuple[str, torch.nn.Parameter]]:
    named = trainer.model.named_parameters()
    return [(name, weight) for name, weight in named if weight.requires_grad]


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
