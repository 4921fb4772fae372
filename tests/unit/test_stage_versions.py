"""A stage whose sources change must say whether its bytes may change."""

from __future__ import annotations

import json

import pytest

from runner.stages import ORDER, load_stage
from tests.golden.update import GOLDEN, _closure, stage_sources


@pytest.mark.parametrize("stage", ORDER)
def test_the_sources_are_those_of_this_version(stage: str) -> None:
    committed = json.loads(GOLDEN.read_text())[stage]
    assert stage_sources()[stage] == committed, (
        f"the sources of {stage} changed: raise VERSION in runner/stages/{stage}.py if the same "
        "inputs may give other bytes; then run python -m tests.golden.update"
    )


@pytest.mark.parametrize("stage", ORDER)
def test_the_sources_include_the_scripts_a_stage_runs(stage: str) -> None:
    names = {path.name for path in _closure(stage)}
    assert f"{stage}.py" in names
    if load_stage(stage).ENVIRONMENT is not None:
        assert any(path.parent.name == "scripts" for path in _closure(stage))
