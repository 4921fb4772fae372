"""Every example row of docs/data.md is what the format under whose heading it stands reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runner.scripts.data.conversation import check_turns
from runner.scripts.data.formats import EVERY
from runner.scripts.data.preference import Judged, Pair, check_compared
from runner.scripts.data.prompted import Prompted, check_prompted

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def examples() -> list[tuple[str, str]]:
    """(format, row) of every JSON block in the chapter about formats."""
    chapter = PAGE.split("\n## Formats\n")[1].split("\n## ")[0]
    return [
        (section.partition("\n")[0], row)
        for section in chapter.split("\n### ")[1:]
        for row in re.findall(r"```json\n(.*?)\n```", section, re.DOTALL)
    ]


def test_every_format_has_an_example() -> None:
    assert {name for name, _ in examples()} == set(EVERY)
    assert len(examples()) == 13


@pytest.mark.parametrize(("name", "row"), examples(), ids=lambda value: value[:20])
def test_an_example_row_is_read_and_has_something_to_train_on(name: str, row: str) -> None:
    conversation = EVERY[name](json.loads(row))
    if isinstance(conversation, (Pair, Judged)):
        check_compared(conversation)
        return
    if isinstance(conversation, Prompted):
        check_prompted(conversation)
        return
    check_turns(conversation)
    assert conversation.text is not None or conversation.answers
