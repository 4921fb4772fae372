"""Check, without trusting who made the mask, that no label covers a token of a prompt.

Every answer of a conversation stands right behind the template's generation prompt (`<|im_start|>
assistant` and its newline, in ChatML), and the generation prompt stands nowhere inside an answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from runner.scripts.data.files.rows import RowError
from runner.scripts.data.tokens.template_rendering import rendered_ids
from runner.scripts.spec import ScriptError
from runner.scripts.training.token_rows import IGNORED, Row, TokenRows


def generation_prompt(tokenizer: Any, template: str) -> list[int]:
    """Ids that the template writes before an answer; none when it writes none of its own."""
    asked = [{"role": "user", "content": "x"}]
    try:
        without = rendered_ids(tokenizer, template, asked, generate=False)
        with_prompt = rendered_ids(tokenizer, template, asked, generate=True)
    except RowError:
        return []  # it wants another beginning: prepare has checked the mask its own way
    if with_prompt[: len(without)] != without:
        return []
    return with_prompt[len(without) :]


def check_answers(data: TokenRows, before: Sequence[int], name: str) -> None:
    """Raise ScriptError E515 unless every trained span is an answer. `before`: see above."""
    if not before:
        return
    mark = np.array(before)
    for number, row in enumerate(data.rows, 1):
        for begin, end in trained_spans(row):
            start = begin - len(mark)
            if start < 0 or not np.array_equal(row.input_ids[start:begin], mark):
                raise _covered(name, number, f"token {begin} is trained on and begins no answer")
            if _contains(row.input_ids[begin:end], mark):
                raise _covered(name, number, "an answer goes on into the next turn")


def trained_spans(row: Row) -> Iterator[tuple[int, int]]:
    """[begin, end) of the runs of labels; a run ends where its document does."""
    trained = row.labels != IGNORED
    key = np.where(trained, row.documents, 0)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], key, [0]])))
    for begin, end in itertools.pairwise(edges):
        if trained[begin]:
            yield int(begin), int(end)


def _contains(tokens: np.ndarray, mark: np.ndarray) -> bool:
    if len(tokens) < len(mark):
        return False
    windows = np.lib.stride_tricks.sliding_window_view(tokens, len(mark))
    return bool((windows == mark).all(axis=1).any())


def _covered(name: str, number: int, what: str) -> ScriptError:
    return ScriptError(
        f"row {number} of {name}: a label covers the prompt: {what}",
        hint="report this with your data.chat_template",
        code="E515",
    )
