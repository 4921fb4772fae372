"""Held-out rows as examples. Needs numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runner.scripts.evaluation.examples import Example, content_id, cut
from runner.scripts.training.token_rows import IGNORED, Row

RowLoss = tuple[float, int]  # of one row: sum in nats, and the tokens that it is over


def row_examples(
    rows: Sequence[Row], losses: Mapping[str, Sequence[RowLoss]], tokenizer: Any
) -> list[Example]:
    """One a row that has something to predict. `losses`: of each row, by model."""
    found = []
    for number, row in enumerate(rows):
        results = {name: {"loss": each[number][0]} for name, each in losses.items()}
        if tokens := next(iter(losses.values()))[number][1]:
            shown = shown_of(row, tokenizer)
            found.append(Example("row", row_id(row), shown, results, tokens=tokens))
    return found


def row_id(row: Row) -> str:
    """Of token ids and labels up to the last one that is predicted: the rest decides no loss.

    So a conversation has one id, whether it is a row of its own or the better side of a pair.
    """
    predicted = np.flatnonzero(row.labels != IGNORED)
    end = int(predicted[-1]) + 1 if len(predicted) else len(row.labels)
    parts = (row.input_ids[:end], row.labels[:end])
    return content_id(b"".join(part.astype("<i8").tobytes() for part in parts))


def shown_of(row: Row, tokenizer: Any) -> dict[str, str]:
    """The row's text up to the first answer, and all that is predicted of it."""
    predicted = row.labels != IGNORED
    begin = int(predicted.argmax())
    before, after = row.input_ids[:begin], row.input_ids[predicted]
    return {
        name: cut(str(tokenizer.decode(ids.tolist(), skip_special_tokens=True)).strip())
        for name, ids in (("prompt", before), ("expected", after))
    }
