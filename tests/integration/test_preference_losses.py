"""Our losses and those of docs/course, each with its gradient, are TRL's to float precision."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chain import ROOT
from tests.tiny_model import write_tiny_model

PAGE = ROOT / "docs" / "course" / "10.5-preferences.md"
CASES = ["sigmoid", "ipo", "hinge", "robust", "orpo", "simpo", "kto", "reward"]


@pytest.fixture(scope="module")
def found(
    environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("losses")
    model = write_tiny_model(place / "model")
    said = subprocess.run(
        [
            str(environment_python("native")),
            str(ROOT / "tests" / "preference_reference.py"),
            *(str(model), str(PAGE), str(place)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-3000:]
    return dict(json.loads(said.stdout.splitlines()[-1]))


def test_every_loss_is_compared(found: dict[str, Any]) -> None:
    assert list(found) == CASES
    losses = [each["loss"][0] for each in found.values()]
    assert len({round(loss, 4) for loss in losses}) == len(CASES)
    assert min(each["scale"][0] for each in found.values()) > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_a_loss_and_its_gradient_are_those_of_trl(case: str, found: dict[str, Any]) -> None:
    theirs, *others = found[case]["loss"]
    assert len(others) == (1 if case == "kto" else 2)  # KTO is not in the course
    for loss in others:
        assert loss == pytest.approx(theirs, rel=1e-5)
    for difference in found[case]["gradient"]:
        assert difference < 2e-5
