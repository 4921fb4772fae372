"""Make batches of rows: padding, and for packs a mask that keeps the documents apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from runner.scripts.training.token_rows import IGNORED, Row, TokenRows, padded_length


@dataclass(frozen=True)
class Batches:
    """Collates items `{"row": index}` into model inputs; right-padded.

    `mask_dtype`: dtype of the additive mask of packs. `counts` [3] rides along in every batch:
    tokens without padding, with padding, and supervised ones; the trainer takes it out again.
    """

    data: TokenRows
    pad_token_id: int
    mask_dtype: torch.dtype

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """int64 [rows, length]; packs have a 4-D mask and position_ids beside."""
        rows = [self.data.rows[item["row"]] for item in items]
        longest = max(len(row.input_ids) for row in rows)
        # Packs are nearly full anyway; one length for all of them is what lets a framework that
        # pads position ids with nothing (LLaMA Factory) train on the same batches.
        length = padded_length(self.data.longest() if self.data.packed else longest)
        batch = {
            "input_ids": _padded([row.input_ids for row in rows], self.pad_token_id, length),
            "labels": _padded([row.labels for row in rows], IGNORED, length),
        }
        documents = _padded([row.documents for row in rows], 0, length)
        if self.data.packed:
            batch["attention_mask"] = apart(documents, self.mask_dtype)
            batch["position_ids"] = _padded([row.positions for row in rows], 0, length)
        else:
            batch["attention_mask"] = (documents > 0).long()
        batch["counts"] = torch.tensor(_counts(rows, length))
        return batch


def apart(documents: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask [rows, 1, length, length] from `documents` [rows, length], 0 for padding.

    A token sees itself and the earlier tokens of its own document: 0 there, the lowest number of
    `dtype` elsewhere.
    """
    length = documents.shape[-1]
    same = documents[:, None, :, None] == documents[:, None, None, :]
    real = (documents != 0)[:, None, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return torch.where(same & real & causal, torch.tensor(0, dtype=dtype), torch.finfo(dtype).min)


def _padded(arrays: Sequence[np.ndarray], value: int, length: int) -> torch.Tensor:
    out = np.full((len(arrays), length), value, np.int64)
    for line, array in zip(out, arrays, strict=True):
        line[: len(array)] = array
    return torch.from_numpy(out)


def _counts(rows: Sequence[Row], length: int) -> list[int]:
    return [
        sum(len(row.input_ids) for row in rows),
        len(rows) * length,
        sum(int((row.labels != IGNORED).sum()) for row in rows),
    ]
