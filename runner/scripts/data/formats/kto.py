"""`{"prompt", "completion", "label": true | false}`, with `system` or `tools` beside them."""

from __future__ import annotations

from typing import Any

from runner.scripts.data.files.rows import RowError, kind_of
from runner.scripts.data.formats import prompt_completion
from runner.scripts.data.preference import Judged
from runner.scripts.data.turns import as_json

FIELDS = (*prompt_completion.FIELDS, "label")


def parse(row: dict[str, Any]) -> Judged:
    """`label` true: the completion is a good one. Raises RowError."""
    answered = prompt_completion.parse(row)
    if "label" not in row:
        raise RowError('"label" is missing', "E337")
    label = row["label"]
    if not isinstance(label, bool):
        shown = f" ({as_json(label)[:40]})" if isinstance(label, str | int | float) else ""
        raise RowError(f'"label" is {kind_of(label)}{shown}, not true or false', "E337")
    return Judged(answered, label)
