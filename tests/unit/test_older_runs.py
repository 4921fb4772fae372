"""A run that was made before a field of the schema was there is read with the field's default."""

from __future__ import annotations

import json
from pathlib import Path

from runner.recipe.model import build_resolved
from runner.verify.run import open_run
from tests.finished_runs import write_finished_run

NEWER = ("system_variants", "system_for")  # of `data`


def test_a_run_without_newer_fields_is_the_recipe_that_it_was(tmp_path: Path) -> None:
    folder = write_finished_run(tmp_path)
    before = open_run(folder).recipe()
    record = json.loads((folder / "run.json").read_text())
    for name in NEWER:
        del record["resolved"]["data"][name]
    del record["resolved"]["data"]["train"][0]["repeat"]
    (folder / "run.json").write_text(json.dumps(record))
    after = open_run(folder).recipe()
    assert (after.data, after.resolved()) == (before.data, before.resolved())
    again = build_resolved(record["resolved"], tmp_path / "recipe.yaml")
    assert again.data == before.data
