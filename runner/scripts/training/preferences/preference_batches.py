"""Batches of pairs and of judged answers, from rows as `preference_rows` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from runner.scripts.training.batches import Batches


@dataclass(frozen=True)
class PairBatches:
    """Collates items `{"row": pair}`: the chosen sides, then the rejected ones, in one batch."""

    sides: Batches

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """As Batches, with twice as many rows as `items`."""
        chosen = [{"row": 2 * item["row"]} for item in items]
        rejected = [{"row": 2 * item["row"] + 1} for item in items]
        return self.sides(chosen + rejected)


@dataclass(frozen=True)
class JudgedBatches:
    """Collates items `{"row": index}` with their labels (`desirable`, bool [rows]).

    `kl_input_ids`, `kl_attention_mask` and `kl_labels` are of the same prompts with other answers.
    """

    answers: Batches
    others: Batches
    desirable: NDArray[np.bool_]

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """As Batches, and the above. `counts` are of the answers alone."""
        batch, others = self.answers(items), self.others(items)
        del others["counts"]
        batch |= {f"kl_{name}": values for name, values in others.items()}
        labels = [bool(self.desirable[item["row"]]) for item in items]
        return batch | {"desirable": torch.tensor(labels)}
