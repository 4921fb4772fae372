"""Read the tokens that `prepare` wrote, as rows with labels. Needs numpy and safetensors.

A row is one document, or with packing several. Its labels are its token ids where the model is
trained, IGNORED elsewhere. The first token of a document is never predicted by anything, so it
has no label: frameworks disagree on whether such a label counts in the mean. In pre-training, where
it does, `with_first_labels` gives one to the first token of every row.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from runner.scripts.spec import ScriptError

IGNORED = -100  # label of a token that is not trained on
MULTIPLE = 8  # batches are padded to a multiple of this many tokens, as LLaMA Factory does


@dataclass(frozen=True)
class Row:
    """int64 arrays of one length: `documents` counts from 1, `positions` from 0 in each of them."""

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]
    documents: NDArray[np.int64]


@dataclass(frozen=True)
class TokenRows:
    """All rows of one file; `packed`: a row may hold several documents."""

    rows: Sequence[Row]
    packed: bool

    def longest(self) -> int:
        """Tokens of the longest row; 0 without rows."""
        return max((len(row.input_ids) for row in self.rows), default=0)

    def supervised(self) -> int:
        """Tokens that are trained on."""
        return sum(int((row.labels != IGNORED).sum()) for row in self.rows)


def read_token_rows(path: Path) -> TokenRows:
    """Rows of a tokens file of `prepare` (docs/architecture.md). Raises ScriptError E514."""
    tensors = load_file(path)
    ids = tensors["input_ids"].astype(np.int64)
    trained = tensors["labels_mask"].astype(bool)
    offsets = tensors["offsets"].astype(np.int64)
    packed = "document_offsets" in tensors
    starts = tensors["document_offsets"].astype(np.int64) if packed else offsets
    _check_offsets(path.name, offsets, starts, len(ids), len(trained))

    trained = trained.copy()
    trained[starts[:-1]] = False
    labels = np.where(trained, ids, IGNORED)
    document = np.zeros(len(ids) + 1, np.int64)
    document[starts[:-1]] = 1
    document = np.cumsum(document[: len(ids)])  # of every token, counted over the whole file
    positions = np.arange(len(ids)) - starts[document - 1]
    rows = [
        Row(
            ids[begin:end],
            labels[begin:end],
            positions[begin:end],
            document[begin:end] - document[begin] + 1,
        )
        for begin, end in itertools.pairwise(offsets)
    ]
    return TokenRows(rows, packed)


def with_first_labels(data: TokenRows) -> TokenRows:
    """As Transformers' collator for language modeling labels a row: its first token, too.

    Nothing predicts it, but it counts among the tokens that the loss is the mean over. Within a
    pack the documents behind the first begin without a label: the one before must not predict them.
    """
    rows = [
        replace(row, labels=np.concatenate([row.input_ids[:1], row.labels[1:]]))
        for row in data.rows
    ]
    return TokenRows(rows, data.packed)


def check_rows(data: TokenRows, name: str, vocabulary: int) -> None:
    """Raise ScriptError E514 or E515 unless a model of `vocabulary` tokens can learn every row."""
    if not data.rows:
        raise ScriptError(
            f"{name} holds no rows", hint="name a file with rows in data.train", code="E514"
        )
    highest = max(int(row.input_ids.max()) for row in data.rows)
    if highest >= vocabulary:
        raise ScriptError(
            f"token id {highest} is beyond the model's {vocabulary} tokens",
            hint="the tokenizer does not belong to the model: look at model and data.chat_template",
            code="E514",
        )
    for number, row in enumerate(data.rows, 1):
        for document in range(1, int(row.documents[-1]) + 1):
            if (row.labels[row.documents == document] == IGNORED).all():
                raise ScriptError(f"row {number} of {name} has nothing to train on", code="E515")


def check_window(config: Any, data: TokenRows) -> None:
    """Raise ScriptError E519 for packs longer than the sliding window of `config` (Transformers').

    The mask of packs reaches back to the document's start: a shorter window is no such mask.
    """
    window = getattr(config.get_text_config(), "sliding_window", None)
    longest = data.longest() if data.packed else 0
    if window and longest > window:
        raise ScriptError(
            f"packs of {longest} tokens do not fit the model's attention window of {window}",
            hint=f"set data.max_length to at most {window}, or data.packing to false",
            code="E519",
        )


def padded_length(longest: int) -> int:
    """`longest` rounded up to a multiple of MULTIPLE."""
    return -(-longest // MULTIPLE) * MULTIPLE


def _check_offsets(
    name: str, offsets: NDArray[np.int64], starts: NDArray[np.int64], tokens: int, mask: int
) -> None:
    """Offsets begin at 0, rise strictly, end at the last token; rows begin where documents do."""
    sound = (
        mask == tokens
        and all(len(edges) and edges[0] == 0 and edges[-1] == tokens for edges in (offsets, starts))
        and all(bool((np.diff(edges) > 0).all()) for edges in (offsets, starts))
        and bool(np.isin(offsets, starts).all())
    )
    if not sound:
        raise ScriptError(
            f"{name} is damaged: its offsets do not fit its tokens",
            hint="delete the stored result of `prepare` and run again",
            code="E514",
        )
