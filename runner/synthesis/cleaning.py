"""The cleaning steps of `prepare` for rows that a model was asked for.

They run in the environment `data`, as in `prepare`; a row is judged by itself, so that it does not
matter which others it came with.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.asking.talk import Unusable
from runner.rows.script import written_by
from runner.scripts.data.cleaning.report import Told
from runner.store.atomic import disk_errors
from runner.synthesis.rows import Made

# As `data.clean` calls them. Rows here alternate, and `filters` has lengths and duplicates.
STEPS = ("web_text", "unicode", "whitespace", "secrets", "personal_data", "refusals", "language")


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A row after the steps, or why it is refused; what each step that did something did."""

    made: Made | Unusable
    told: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def cleaned(rows: Sequence[Made], steps: Mapping[str, Any]) -> list[Cleaned]:
    """Each of `rows` after `steps` (step -> its setting). Raises StageFailed, MachineCannot."""
    if not steps or not rows:
        return [Cleaned(row) for row in rows]
    with tempfile.TemporaryDirectory(prefix="cleaning-") as folder:
        path = Path(folder) / "rows.jsonl"
        with disk_errors("cleaning rows"):
            path.write_text("".join(json.dumps(row.texts()) + "\n" for row in rows))
        with written_by("clean_rows", "data", {"clean": dict(steps)}, {"rows": path}) as out:
            lines = out.read_text(encoding="utf-8").splitlines()
    return [_read(row, json.loads(line)) for row, line in zip(rows, lines, strict=True)]


def _read(made: Made, said: Mapping[str, Any]) -> Cleaned:
    told = said["told"]
    if said["row"] is not None:
        return Cleaned(replace(made, **said["row"]), told)
    if said["problem"]:
        return Cleaned(Unusable(said["problem"], made.answer), told)
    step, why = next((name, why) for name, each in told.items() for why in each["dropped"])
    text = next(each["text"] for each in told[step]["examples"] if each["what"] == "dropped")
    return Cleaned(Unusable(f"{step}: {why}", text), told)


class Account:
    """What the steps did to the rows that were looked at, counted and with the first of each."""

    def __init__(self, steps: Mapping[str, Any]) -> None:
        self._told = {step: Told(step) for step in STEPS if step in steps}
        self._rows = self._kept = 0

    def add(self, row: Cleaned, task: int) -> None:
        """Count one more row, which came of `task`."""
        self._rows += 1
        self._kept += isinstance(row.made, Made)
        for name, each in row.told.items():
            examples = [{**example, "place": f"task {task}"} for example in each["examples"]]
            at = [self._rows] * len(examples)
            told = Told(name, each["changed"], Counter(each["dropped"]), examples, at)
            self._told[name].add(told)

    def measures(self) -> dict[str, Any]:
        """As those of `prepare`; empty where no step is asked for."""
        if not self._told:
            return {}
        steps = [told.measures() for told in self._told.values()]
        return {"rows": self._rows, "kept": self._kept, "steps": steps}
