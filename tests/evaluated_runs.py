"""Finished runs with the results of single examples in them, made by hand: nothing is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.execution.run_folder import SHOWN_AS
from runner.scripts.evaluation.examples import FILE, Example, content_id, write_examples
from tests.finished_runs import change_record, write_finished_run


def rows(
    count: int, change: float, *, seed: int = 1, first: int = 0, spread: float = 0.1
) -> list[Example]:
    """Held-out rows of 5 to 20 tokens; training changes the loss of a token by about `change`.

    Rows of the same number are the same, whatever the seed, unless `first` differs.
    """
    random, noise = np.random.default_rng(7), np.random.default_rng(seed)
    made = []
    for number in range(first, first + count):
        tokens = int(random.integers(5, 21))
        base = float(random.uniform(2, 4))
        tuned = base + change + float(noise.normal(0, spread))
        results = {"base": {"loss": base * tokens}, "tuned": {"loss": tuned * tokens}}
        shown = {"prompt": f"Row {number}?", "expected": "<b>so</b>"}
        made.append(Example("row", content_id(["row", number]), shown, results, tokens))
    return made


def questions(hits: Sequence[tuple[bool, bool]]) -> list[Example]:
    """One a pair of (base is right, tuned is right)."""
    return [
        Example(
            "question",
            content_id(["question", number]),
            {"prompt": f"Q{number}?", "expected": "yes"},
            {
                name: {"answer": "yes" if hit else "<script>no</script>", "hit": hit}
                for name, hit in zip(("base", "tuned"), pair, strict=True)
            },
        )
        for number, pair in enumerate(hits)
    ]


def write_evaluated_run(
    project: Path, name: str, examples: Iterable[Example], *, max_new_tokens: int = 64
) -> Path:
    """The folder of a finished run of recipe `name` that kept `examples`."""
    run = write_finished_run(project)
    change_record(run, recipe=name)
    path = run / "evaluation" / FILE
    write_examples(path, max_new_tokens, examples)
    record = json.loads((run / "run.json").read_text())
    record["resolved"]["evaluate"]["max_new_tokens"] = max_new_tokens
    change_record(run, resolved=record["resolved"])
    relist(run, FILE)
    return run


def relist(run: Path, name: str, stage: str = "evaluate") -> None:
    """Let the manifest say what lies in the folder of the stage."""
    manifest = json.loads((run / "manifest.json").read_text())
    content = (run / SHOWN_AS[stage] / name).read_bytes()
    entry: dict[str, Any] = {"class": "platform", "platform": "cpu-test-t2-torch2.13.0"}
    entry |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["stages"][stage][name] = entry
    (run / "manifest.json").write_text(json.dumps(manifest))
