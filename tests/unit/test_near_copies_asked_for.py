"""When held-out rows are compared with what is trained on: wherever it could be news."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.recipe.load import load_recipe
from runner.stages import prepare
from tests.small_recipe import RECIPE, write_recipe


def with_split(text: str) -> str:
    return RECIPE.replace("format: alpaca}]}", f"format: alpaca}}], validation: {text}}}")


@pytest.mark.parametrize(
    ("split", "asked"),
    [
        ("{fraction: 0.1}", True),
        ("{fraction: 0.1, on_leak: allow}", False),  # the author has read of it
        ("{fraction: 0.1, on_leak: drop}", False),  # there will be none
        ("{fraction: 0.1, stable: true}", False),
        ("{fraction: 0}", False),
        ("{files: [{path: held.jsonl, format: alpaca}]}", True),
    ],
)
def test_near_copies_are_counted_unless_it_is_known_what_comes_out(
    tmp_path: Path, split: str, asked: bool
) -> None:
    path = tmp_path / "t.yaml"
    (tmp_path / "held.jsonl").write_text('{"instruction": "r", "output": "b"}\n')
    write_recipe(path, with_split(split))
    recipe = load_recipe(path)
    given: list[dict[str, Any]] = []
    context: Any = SimpleNamespace(
        run_script=lambda name, spec, **more: given.append(spec), scratch=tmp_path
    )
    upstream: Any = {"fetch": SimpleNamespace(folder=tmp_path)}
    prepare.run(recipe, upstream, tmp_path, context)
    assert given[0].get("near", False) is asked


def test_what_is_counted_is_in_no_key(tmp_path: Path) -> None:
    upstream: Any = {"fetch": SimpleNamespace(digest=str)}
    keys = []
    for split in ("{fraction: 0.1}", "{fraction: 0.1, on_leak: allow}"):
        path = tmp_path / "t.yaml"
        write_recipe(path, with_split(split))
        keys.append(prepare.key_inputs(load_recipe(path), upstream))
    assert keys[0] == keys[1]
