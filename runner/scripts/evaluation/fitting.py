"""Do the rows of a task fit it? Asked of the harness's own functions, without a model.

The harness finds out while it builds prompts, when a model is loaded, and says it as the Python of
a template. A right answer that is none of the choices it scores as wrong, without a word.
"""

from __future__ import annotations

import contextlib
import random
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import UndefinedError

MAX_EXAMPLES = 1000  # rows for examples that are looked at
MAX_FIELDS = 20  # shown
MAX_WORDS = 200  # characters
_PARTS = ("doc_to_text", "doc_to_choice", "doc_to_target", "process_docs")
_CHOICES = "multiple_choice"
_QUOTED = re.compile(r"'([^']{1,100})'")


@dataclass(frozen=True, slots=True)
class Misfit:
    """What the first row that does not fit lacks, and how many more there are. `row`: from 1."""

    words: str
    row: int
    more: int = 0

    def text(self, file: str, fields: Iterable[str]) -> str:
        """With the file, and what its rows have."""
        others = f" (and {self.more} more)" if self.more else ""
        known = sorted(fields)
        shown = ", ".join(known[:MAX_FIELDS]) + (", …" if len(known) > MAX_FIELDS else "")
        return f"{self.words}: row {self.row}{others} of {file}; its rows have {shown or 'nothing'}"


def why(error: BaseException) -> str:
    """What a row lacks, by what the harness raised over it."""
    part = _part_of(error)
    field = _field_of(error)
    if field:
        return f'{part or "the task"} wants "{field}"'
    words = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_WORDS]
    return f"{part} cannot be made ({words})" if part else words


def misfit(task: Any, limit: int | None, *, every: bool) -> Misfit | None:
    """The first row that `task` asks about and cannot.

    `every`: is one row whose right answer is no choice too many? The harness's own data sets have
    such rows, which it scores as wrong: there all of them are a sign, as of labels that are kept
    secret.
    """
    rows = _numbered(task.eval_docs, limit)
    bad = list(_judged(task, rows))
    hard = [each for each in bad if every or each[2]]
    count = min(len(task.eval_docs), limit or len(task.eval_docs))
    found = hard or (bad if len(bad) == count else [])
    return Misfit(found[0][1], found[0][0], len(found) - 1) if found else None


def misfit_of_examples(task: Any, *, every: bool) -> Misfit | None:
    """The same of the rows that examples are drawn from; None where none are wanted."""
    if not task.config.num_fewshot:
        return None
    rows = _numbered(task.fewshot_docs() or (), MAX_EXAMPLES)
    found = [(number, words) for number, words, hard in _judged(task, rows) if every or hard]
    return Misfit(found[0][1], found[0][0], len(found) - 1) if found else None


@contextlib.contextmanager
def same_chance() -> Iterator[None]:
    """Whatever code of a task draws meanwhile, it draws again afterwards."""
    state, of_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(of_numpy)


def _numbered(rows: Iterable[Any], limit: int | None) -> Iterator[tuple[int, Any]]:
    for number, row in enumerate(rows, 1):
        if limit is not None and number > limit:
            return
        yield number, row


def _judged(
    task: Any, rows: Iterable[tuple[int, Mapping[str, Any]]]
) -> Iterator[tuple[int, str, bool]]:
    """Of every row that does not fit: its number, why, and whether the harness could not ask it."""
    for number, row in rows:
        try:
            task.doc_to_text(row)
            task.doc_to_target(row)
            words = _no_choice(task, row) if task.OUTPUT_TYPE == _CHOICES else ""
        except Exception as error:  # whatever a template or the task's own code raises
            yield number, why(error), True
        else:
            if words:
                yield number, words, False


def _no_choice(task: Any, row: Mapping[str, Any]) -> str:
    """Why the right answer is none of the choices; "" when it is one, or one of several is."""
    choices = task.doc_to_choice(row)
    right = task.doc_to_text(row) if task.multiple_input else task.doc_to_target(row)
    several = right if isinstance(right, list) else [right]

    def fits(each: Any) -> bool:
        return 0 <= each < len(choices) if isinstance(each, int) else each in choices

    if any(map(fits, several)):
        return ""
    shown = str(right)[:MAX_WORDS]
    return f"the right answer is {shown}, which is none of the {len(choices)} choices"


def _part_of(error: BaseException) -> str:
    """The part of the task that was being made."""
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((name for name in names if name in _PARTS), "")


def _field_of(error: BaseException) -> str:
    """The field that is missing; "" for another kind of error."""
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])[:100]
    if isinstance(error, UndefinedError) and (found := _QUOTED.findall(str(error))):
        return str(found[-1])
    return ""
