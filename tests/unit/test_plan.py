"""Planning: what runs, what is reused, and the reason that a person reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.errors import UsageError
from runner.plan.keys import Surroundings, key_material, key_of
from runner.plan.plan import Action, explain_change, make_plan
from runner.plan.snapshot import Snapshot
from runner.recipe.load import load_recipe
from runner.stages import stages_of
from runner.stages.contract import Class, FileEntry, Outputs
from runner.store.store import Inspection, State
from tests.chain import ROOT

SURROUNDINGS = Surroundings(
    environments={"native": "env-1"},
    tools={"llama.cpp": "tool-1"},
    platform={"name": "cpu-test", "threads": 2},
    files={},
)
RECIPE: Any = SimpleNamespace(base=None, scorer=None, rate=1)


def stage(name: str, *needs: str, cls: Class = Class.PORTABLE, **more: Any) -> Any:
    facts = {
        "NAME": name,
        "VERSION": 1,
        "OUTPUTS": {"*": cls},
        "NEEDS": needs,
        "ENVIRONMENT": "native",
        "TOOLS": (),
        "DEVICE": False,
        "key_inputs": lambda recipe, upstream: {
            "rate": recipe.rate,
            **{need: upstream[need].digest() for need in upstream},
        },
    }
    return SimpleNamespace(**(facts | more))


FIRST, SECOND = stage("first"), stage("second", "first")


def outputs(name: str, key: str, content: str = "a") -> Outputs:
    entry = FileEntry("out.txt", 1, content * 64, Class.PORTABLE)
    return Outputs(name, key, Path("/store") / name / key, {"out.txt": entry})


def stored(*results: Outputs) -> dict[tuple[str, str], Inspection]:
    return {(r.stage, r.key): Inspection(State.OK, "", r) for r in results}


def key(of: Any, upstream: dict[str, Outputs] | None = None, recipe: Any = RECIPE) -> str:
    return key_of(key_material(of, recipe, upstream or {}, SURROUNDINGS))


def test_with_an_empty_store_the_first_stage_runs_and_the_rest_is_pending() -> None:
    steps = make_plan(RECIPE, [FIRST, SECOND], Snapshot(SURROUNDINGS))
    assert [(s.stage, s.action) for s in steps] == [
        ("first", Action.RUN),
        ("second", Action.PENDING),
    ]
    assert steps[0].reason == "no stored result"
    assert steps[1].reason == "depends on the bytes that first will give"


def test_stored_results_are_reused_along_the_chain() -> None:
    first = outputs("first", key(FIRST))
    second = outputs("second", key(SECOND, {"first": first}))
    steps = make_plan(
        RECIPE, [FIRST, SECOND], Snapshot(SURROUNDINGS, entries=stored(first, second))
    )
    assert [s.action for s in steps] == [Action.REUSE, Action.REUSE]


def test_equal_bytes_under_another_upstream_key_give_the_same_key() -> None:
    before = key(SECOND, {"first": outputs("first", "old")})
    assert key(SECOND, {"first": outputs("first", "new")}) == before
    assert key(SECOND, {"first": outputs("first", "new", content="b")}) != before


def test_measured_files_do_not_enter_the_key_of_later_stages() -> None:
    plain = outputs("first", "k")
    measured = FileEntry("speed.json", 5, "f" * 64, Class.MEASURED)
    noisy = replace(plain, files={**plain.files, "speed.json": measured})
    assert noisy.digest() == plain.digest()


def test_a_checkpoint_makes_the_stage_resume() -> None:
    snapshot = Snapshot(SURROUNDINGS, resumable=frozenset({("first", key(FIRST))}))
    assert make_plan(RECIPE, [FIRST], snapshot)[0].action is Action.RESUME


def test_damage_is_the_reason_to_run_again() -> None:
    found = {("first", key(FIRST)): Inspection(State.DAMAGED, "out.txt has other bytes")}
    step = make_plan(RECIPE, [FIRST], Snapshot(SURROUNDINGS, entries=found))[0]
    assert (step.action, step.reason) == (Action.RUN, "out.txt has other bytes")


def test_a_lost_effect_runs_the_stage_again() -> None:
    first = outputs("first", key(FIRST))
    snapshot = Snapshot(
        SURROUNDINGS,
        entries=stored(first),
        lost_effects={("first", first.key): "the model is not in Ollama"},
    )
    step = make_plan(RECIPE, [FIRST], snapshot)[0]
    assert (step.action, step.reason) == (Action.RUN, "the model is not in Ollama")


def test_the_reason_names_the_setting_that_changed() -> None:
    previous = {
        "first": key_material(
            FIRST, SimpleNamespace(base=None, scorer=None, rate=7), {}, SURROUNDINGS
        )
    }  # type: ignore[arg-type]
    step = make_plan(RECIPE, [FIRST], Snapshot(SURROUNDINGS, previous=previous))[0]
    assert step.reason == "changed: inputs.rate: 7 → 1"


def test_many_changes_are_counted_not_listed() -> None:
    reason = explain_change({"a": 1, "b": 1, "c": 1, "d": 1}, {"a": 2, "b": 2, "c": 2, "e": 1})
    assert reason == "changed: a: 1 → 2; b: 1 → 2; c: 1 → 2 (and 2 more)"


@pytest.mark.parametrize(
    ("cls", "differs"),
    [(Class.PORTABLE, False), (Class.PLATFORM, True), (Class.MEASURED, True)],
)
def test_only_portable_stages_have_one_key_on_every_platform(cls: Class, differs: bool) -> None:
    elsewhere = replace(SURROUNDINGS, platform={"name": "gpu-test", "threads": 8})
    one = stage("first", cls=cls)
    here = key_of(key_material(one, RECIPE, {}, SURROUNDINGS))
    assert (key_of(key_material(one, RECIPE, {}, elsewhere)) != here) is differs


def test_environment_tools_and_files_enter_the_key() -> None:
    one = stage("first", TOOLS=("llama.cpp",))
    base = key_of(key_material(one, RECIPE, {}, SURROUNDINGS))
    others = [
        replace(SURROUNDINGS, environments={"native": "env-2"}),
        replace(SURROUNDINGS, tools={"llama.cpp": "tool-2"}),
        replace(SURROUNDINGS, files={"first": {"data.jsonl": "0" * 64}}),
    ]
    keys = {key_of(key_material(one, RECIPE, {}, other)) for other in others}
    assert len(keys | {base}) == 4


def test_a_stage_that_the_recipe_has_not_stops_nothing_by_accident() -> None:
    recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml")
    assert [stage.NAME for stage in stages_of(recipe, "train")][-1] == "train"
    without = replace(recipe, ollama=None, benchmark=None)
    with pytest.raises(UsageError, match="has no stage ollama") as caught:
        stages_of(without, "ollama")
    assert caught.value.code == "E008"
    assert caught.value.hint.endswith("merge, gguf")
