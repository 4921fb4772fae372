"""What the reward model of one PPO run says of the answers of another one's policy.

A control learns from a reward model of its own, which says nothing; whether it moved is for the
recipe's to say, on the same held-out questions and by the same random numbers.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from runner.execution.context import StageContext
from runner.execution.events import EventLog
from runner.recipe.model import build_resolved
from runner.stages import evaluate, load_stage
from runner.stages.contract import Outputs
from runner.store.store import Store
from tests.chain import Checkout

JUDGE = "fetch_reward"


def outputs_of(run: Path, store: Store) -> dict[str, Outputs]:
    """Stage -> what the run's lies in the store as. Raises RuntimeError when it does not."""
    found = {}
    for each in json.loads((run / "run.json").read_text(encoding="utf-8"))["stages"]:
        outputs = store.lookup(each["name"], each["key"])
        if outputs is None:
            raise RuntimeError(f"the store does not hold {each['name']} of {run}")
        found[each["name"]] = outputs
    return found


def judged(run: Path, judge: Path, checkout: Checkout) -> dict[str, Any]:
    """The measures of evaluating the policy of `run` by the reward model of the run `judge`."""
    store = Store(Path(checkout.env["SPARK_RECIPES_STORE"]))
    inputs = outputs_of(run, store) | {JUDGE: outputs_of(judge, store)[JUDGE]}
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    recipe = build_resolved(record["resolved"], checkout.folder / "recipe.yaml")
    with tempfile.TemporaryDirectory() as place:
        folder, scratch = Path(place) / "out", Path(place) / "scratch"
        folder.mkdir()
        scratch.mkdir()
        events = EventLog(Path(place) / "events.jsonl")
        try:
            context = StageContext(
                stage=load_stage("evaluate"),
                project_root=checkout.folder,
                recipe_folder=checkout.folder,
                log_folder=Path(place),
                scratch=scratch,
                cache=Path(checkout.env["SPARK_RECIPES_CACHE"]),
                platform={},
                events=events,
            )
            evaluate.run(recipe, inputs, folder, context)
        finally:
            events.close()
    return context.measures
