"""`{"prompt", "completion", "label": true | false}`, with `system` or `tools` beside them."""

from __future__ import annotations

from typing import Any

from runner.scripts.data.files.rows import RowError, kind_of
from runner.scripts.data.formats import prompt_completion
from runner.scripts.data.preference import Judged

FIELDS = (*prompt_completion.FIELDS, "label")


def parse(row: dict[str, Any]) -> Judged:
    """`label` true: the completion is a good one. Raises RowError."""
    answered = prompt_completion.parse(row)
    if "label" not in row:
        raise RowError('"label" is missing', "E337")
    if not isinstance(row["label"], bool):
        raise RowError(f'"label" is {kind_of(row["label"])}, not true or false', "E337")
    return Judged(answered, row["label"])
