"""Clean rows that a model was asked for, one by one, as `prepare` cleans those of files.

spec.hashed: clean (step of data/cleaning/pipeline.py -> its setting; none that compares rows).
spec.inputs: rows, JSON lines {question, answer, rejected of a pair}. Written: rows.jsonl, a line
for each, {row: the cleaned one, or null where it is left out, problem: why, where that is not for a
step, told: {step: what it did, as in run.json}}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from runner.scripts.data.cleaning.pipeline import Cleaning
from runner.scripts.data.cleaning.texts import Row, sides_of
from runner.scripts.data.conversation import Conversation, message
from runner.scripts.data.preference import Pair
from runner.scripts.spec import Events, Spec, main


def clean_rows(spec: Spec, events: Events) -> None:
    """Write rows.jsonl into spec.folder."""
    lines = spec.inputs["rows"].read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    with (spec.folder / "rows.jsonl").open("w", encoding="utf-8") as out:
        for number, row in enumerate(rows, 1):
            out.write(json.dumps(cleaned(row, spec.hashed["clean"])) + "\n")
            events.progress(number, len(rows), message="rows")


def cleaned(texts: Mapping[str, str], steps: Mapping[str, Any]) -> dict[str, Any]:
    """What the steps make of one row."""
    cleaning = Cleaning(steps)
    found = cleaning.row_by_row([_as_row(texts)])
    told = {each.step: each.measures() for each in cleaning.told.values() if each.examples}
    problem = found.problems[0].error.message if found.problems else ""
    row = _texts_of(found.rows[0]) if found.rows else None
    return {"row": row, "problem": problem, "told": told}


def _as_row(texts: Mapping[str, str]) -> Row:
    chosen = _talk(texts["question"], texts["answer"])
    if "rejected" not in texts:
        return chosen
    return Pair(chosen, _talk(texts["question"], texts["rejected"]))


def _talk(question: str, answer: str) -> Conversation:
    return Conversation((message("user", question), message("assistant", answer)))


def _texts_of(row: Row) -> dict[str, str]:
    sides = sides_of(row)
    question, answer = (turn["content"] for turn in sides[0].messages)
    rejected = {"rejected": sides[1].messages[-1]["content"]} if len(sides) > 1 else {}
    return {"question": question, "answer": answer, **rejected}


if __name__ == "__main__":
    main(clean_rows)
