"""Read what `prepare_preferences` wrote: rows, and which are the better or good ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from runner.scripts.spec import ScriptError
from runner.scripts.training.token_rows import IGNORED, Row, TokenRows

# What of a step's log stands in the trace, by TRL's names.
TRACED = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "kl")


def read_preferred(path: Path, data: TokenRows) -> NDArray[np.bool_]:
    """Of each row of `data`, which was read from `path`. Raises ScriptError E525."""
    tensors = load_file(path)
    if "preferred" not in tensors or len(tensors["preferred"]) != len(data.rows):
        raise _damaged(path.name, "it does not say which rows are the better ones")
    return tensors["preferred"].astype(np.bool_)


def check_pairs(data: TokenRows, preferred: NDArray[np.bool_], name: str) -> None:
    """Raise ScriptError E525 unless rows are pairs: chosen, rejected, with one prompt."""
    if len(data.rows) % 2 or not (preferred[0::2].all() and not preferred[1::2].any()):
        raise _damaged(name, "its rows are not pairs")
    for number, (chosen, rejected) in enumerate(
        zip(data.rows[0::2], data.rows[1::2], strict=True), 1
    ):
        prompts = [row.input_ids[: answer_begins(row)] for row in (chosen, rejected)]
        if not np.array_equal(*prompts):
            raise _damaged(name, f"the sides of pair {number} have different prompts")


def answer_begins(row: Row) -> int:
    """Index of the first token that has a label; the row's length without one."""
    labelled = np.flatnonzero(row.labels != IGNORED)
    return int(labelled[0]) if len(labelled) else len(row.labels)


def mismatched(data: TokenRows) -> TokenRows:
    """Every prompt with the answer of the row before it, for KTO's estimate of the divergence.

    No longer than the longest row of `data`.
    """
    longest = data.longest()
    rows = []
    for row, before in zip(data.rows, [data.rows[-1], *data.rows[:-1]], strict=True):
        own, other = answer_begins(row), answer_begins(before)
        ids = np.concatenate([row.input_ids[:own], before.input_ids[other:]])[:longest]
        labels = np.concatenate([np.full(own, IGNORED), before.labels[other:]])[:longest]
        rows.append(Row(ids, labels, np.arange(len(ids)), np.ones(len(ids), np.int64)))
    return TokenRows(rows, packed=False)


def _damaged(name: str, what: str) -> ScriptError:
    return ScriptError(
        f"{name} is damaged: {what}",
        hint="delete the stored result of `prepare` and run again",
        code="E525",
    )
