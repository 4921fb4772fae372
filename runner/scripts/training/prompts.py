"""Prompts of prepared rows, to sample answers to: padded on the left, ended by one token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runner.scripts.spec import ScriptError
from runner.scripts.training.token_rows import IGNORED, Row

if TYPE_CHECKING:
    import torch

Ids = NDArray[np.int64]


def prompt_of(row: Row) -> Ids:
    """What stands before the last answer of `row`, the head of the assistant's turn included."""
    labelled = np.flatnonzero(row.labels != IGNORED)
    gaps = np.flatnonzero(np.diff(labelled) > 1)
    begin = labelled[gaps[-1] + 1] if len(gaps) else labelled[0]
    return row.input_ids[: int(begin)]


def stop_of(rows: Sequence[Row]) -> int:
    """The token that ends answers: the last one of most of them (the lowest of equally many)."""
    counted = Counter(int(row.labels[row.labels != IGNORED][-1]) for row in rows)
    return max(sorted(counted), key=lambda token: counted[token])


def pad_of(prompts: Sequence[Ids], stop: int, wanted: int | None, vocabulary: int) -> int:
    """A token to pad with: `wanted`, unless a prompt has it or answers end with it; then another.

    TRL takes every token of that id for padding. Raises ScriptError E358 where each is taken.
    """
    taken = {stop, *(int(token) for prompt in prompts for token in np.unique(prompt))}
    free = (token for token in range(vocabulary - 1, -1, -1) if token not in taken)
    if wanted is not None and wanted not in taken:
        return wanted
    found = next(free, None)
    if found is None:
        raise ScriptError(
            "every token of the vocabulary is in the prompts: there is none to pad them with",
            hint="leave rows out of data.train, or choose a model with a larger vocabulary",
            code="E358",
        )
    return found


@dataclass(frozen=True)
class Prompts:
    """Collates items `{"row": index}`."""

    prompts: Sequence[Ids]
    pad: int

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """int64 [rows, length], padded on the left."""
        chosen = [self.prompts[item["row"]] for item in items]
        return {"input_ids": left_padded(chosen, self.pad)}


def left_padded(prompts: Sequence[Ids], pad: int) -> torch.Tensor:
    """int64 [prompts, length of the longest]."""
    import torch  # late: all else here needs numpy alone

    out = np.full((len(prompts), max(len(prompt) for prompt in prompts)), pad, np.int64)
    for line, prompt in zip(out, prompts, strict=True):
        line[len(line) - len(prompt) :] = prompt
    return torch.from_numpy(out)


def check_prompts(prompts: Sequence[Ids], batch: int) -> None:
    """Raise ScriptError E358 unless there are prompts for one batch, none of them empty."""
    if len(prompts) < batch:
        raise ScriptError(
            f"a batch of answers has {batch} prompts, and there are {len(prompts)} to train on",
            hint="lower train.per_device_train_batch_size or gradient_accumulation_steps, or give "
            "more rows",
            code="E358",
        )
    if empty := sum(not len(prompt) for prompt in prompts):
        raise ScriptError(
            f"{empty} rows begin with their answer: there is no prompt to answer",
            hint="remove them, or give each a question",
            code="E358",
        )
