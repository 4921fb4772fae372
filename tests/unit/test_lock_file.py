"""A lock's text gives the lock again, and what is stale is named entry by entry."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.backends import REGISTRY, load_backend
from runner.errors import LockStale, UsageError
from runner.lock.file import as_text, head_of, is_lock, lock_path, read_lock, recipe_path
from runner.lock.locking import lock_of_run, outputs_checker, require_fresh
from runner.lock.pins import cheap_pins, environment_pins, stale_entries
from runner.recipe.flow import block
from runner.recipe.load import check_recipe, load_recipe
from runner.recipe.model import Evaluate, Harness, HarnessTask
from runner.recipe.source import parse_source
from runner.stages.contract import Class, FileEntry, Outputs
from runner.system.environments import torch_version
from tests import recipe_cases as cases
from tests.chain import ROOT

VALID = [*cases.VALID, *cases.EXTENDING]
DIGEST = "0" * 64


def lock_of(path: Path) -> dict[str, Any]:
    pins = cheap_pins(load_recipe(path))
    model = {"model": {"model/config.json": DIGEST}, "facts": {"vocab_size": 7, "modules": {}}}
    return pins | model


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_lock_reads_back_as_it_was_and_carries_the_recipe(path: Path, tmp_path: Path) -> None:
    lock = lock_of(path)
    written = lock_path(path.parent / path.name).name
    file = tmp_path / written
    file.write_text(as_text(lock, head_of(path.name)), encoding="utf-8")
    assert read_lock(file) == lock
    schema = json.loads((ROOT / "schemas" / "lock-1.json").read_text())
    jsonschema.validate(lock, schema)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_the_recipe_in_a_lock_is_the_recipe(path: Path) -> None:
    """Beside the recipe, since its paths start there."""
    lock = lock_of(path)
    beside = path.with_name(f"lock-test-{path.stem}.lock.yaml")
    beside.write_text(as_text(lock, head_of(path.name)), encoding="utf-8")
    try:
        inside, diagnostics = check_recipe(beside)
    finally:
        beside.unlink()
    assert inside is not None, diagnostics
    assert inside.resolved() == load_recipe(path).resolved()


plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False)
)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z/._-]{1,12}", fullmatch=True),
        st.recursive(
            plain,
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_value_survives_as_a_block(value: dict[str, Any]) -> None:
    text = "\n".join(block(value)) + "\n"
    source = parse_source(text.encode("utf-8", "surrogatepass"), Path("x.yaml"))
    assert not source.problems
    assert source.data == value


def test_names_of_locks() -> None:
    assert lock_path(Path("a/b.yaml")) == Path("a/b.lock.yaml")
    assert recipe_path(Path("a/b.lock.yaml")) == Path("a/b.yaml")
    assert is_lock(Path("b.lock.yaml"))
    assert not is_lock(Path("b.yaml"))


def test_nothing_of_a_clock_or_a_host_is_in_a_lock() -> None:
    import os
    import re

    text = as_text(lock_of(VALID[0]), head_of(VALID[0].name))
    assert os.uname().nodename not in text
    assert str(ROOT) not in text
    assert not re.search(r"20\d\d-\d\d-\d\d", text)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("files", {"../data/rows.jsonl": DIGEST}),
        ("environments", {"native": DIGEST}),
        ("stages", {"train": 99}),
        ("recipe", {"seed": 8}),
        ("tools", {"llama.cpp": {"version": "0", "sha256": DIGEST}}),
    ],
)
def test_each_kind_of_stale_entry_is_named(section: str, change: dict[str, Any]) -> None:
    now = lock_of(next(path for path in VALID if path.stem == "full"))
    locked = copy.deepcopy(now)
    locked[section] |= change
    (name,) = change
    entries = stale_entries(locked, now)
    assert entries
    assert all(entry.startswith(f"{section}.{name}") for entry in entries)


def test_another_runner_that_pins_the_same_may_run_the_lock() -> None:
    now = lock_of(VALID[0])
    assert stale_entries(now | {"runner": "0.0.1"}, now) == []


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A recipe with a fresh lock beside it; returns the recipe."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n')
    recipe = tmp_path / "x.yaml"
    recipe.write_text(
        "schema: 1\nname: x\nmodel: {wheel: 'a==1', file: m.gguf}\n"
        "data: {train: [{path: rows.jsonl, format: alpaca}], validation: {fraction: 0}}\n"
        "train: {adapter: {type: lora}, max_steps: 1}\n"
    )
    lock_path(recipe).write_text(as_text(lock_of(recipe), head_of("x.yaml")))
    return recipe


def test_a_fresh_lock_is_gone_by(locked: Path) -> None:
    said: list[str] = []
    assert require_fresh(load_recipe(locked), lock_path(locked)) == read_lock(lock_path(locked))
    assert lock_of_run(load_recipe(locked), required=True, warn=said.append) is not None
    assert said == []


def test_edited_data_makes_it_stale(locked: Path) -> None:
    (locked.parent / "rows.jsonl").write_text('{"instruction": "a", "input": "", "output": "c"}\n')
    said: list[str] = []
    recipe = load_recipe(locked)
    assert lock_of_run(recipe, required=False, warn=said.append) is None
    assert "files.rows.jsonl" in said[0]
    with pytest.raises(LockStale) as caught:
        lock_of_run(recipe, required=True, warn=said.append)
    assert caught.value.exit_code == 5
    assert "recipe lock" in caught.value.hint
    with pytest.raises(LockStale):  # the lock itself, run
        lock_of_run(load_recipe(lock_path(locked)), required=False, warn=said.append)


def test_a_stale_lock_of_another_version_names_it(locked: Path) -> None:
    lock = read_lock(lock_path(locked))
    lock["runner"], lock["stages"]["train"] = "0.0.1", 99
    lock_path(locked).write_text(as_text(lock, head_of("x.yaml")))
    with pytest.raises(LockStale) as caught:
        require_fresh(load_recipe(locked), lock_path(locked))
    assert "Spark Recipes 0.0.1" in caught.value.hint


def test_locked_without_a_lock_is_refused(locked: Path) -> None:
    lock_path(locked).unlink()
    assert lock_of_run(load_recipe(locked), required=False, warn=print) is None
    with pytest.raises(LockStale) as caught:
        lock_of_run(load_recipe(locked), required=True, warn=print)
    assert "E802" in caught.value.code


def test_a_newer_lock_names_the_version_that_wrote_it(locked: Path) -> None:
    lock = read_lock(lock_path(locked)) | {"lock": 2, "runner": "9.9.9"}
    lock_path(locked).write_text(as_text(lock, head_of("x.yaml")))
    with pytest.raises(LockStale) as caught:
        read_lock(lock_path(locked))
    assert (caught.value.code, "9.9.9" in caught.value.hint) == ("E803", True)


@pytest.mark.parametrize("text", ["lock: 1\n", "[]", "lock: 1\nrunner: x\nextra: 1\n", "a: &b c\n"])
def test_what_is_no_lock_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.lock.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_lock(path)
    assert caught.value.code == "E801"


@pytest.mark.parametrize(
    ("model", "code"), [({"path": "model"}, "E804"), ({"recipe": {"name": "sft"}}, "E367")]
)
def test_another_base_model_under_the_same_name_ends_the_run(
    model: dict[str, Any], code: str
) -> None:
    lock = {
        "recipe": {"model": model},
        "model": {"model/config.json": DIGEST, "model/model.safetensors": DIGEST},
    }
    entry = FileEntry("model/config.json", 1, DIGEST, Class.PORTABLE)
    other = FileEntry("model/model.safetensors", 1, "1" * 64, Class.PORTABLE)
    files = {each.path: each for each in (entry, other)}
    check = outputs_checker(lock)
    check(Outputs("train", DIGEST, Path(), files))  # of no other stage
    with pytest.raises(LockStale) as caught:
        check(Outputs("fetch", DIGEST, Path(), files))
    assert caught.value.code == code
    assert [entry.split(":")[0] for entry in caught.value.entries] == ["model/model.safetensors"]


def test_only_the_environments_of_the_recipes_own_backend_are_pinned() -> None:
    """Or a release of LLaMA Factory would make every lock stale."""
    recipe = load_recipe(VALID[0])
    native, other = (
        set(environment_pins(replace(recipe, train=replace(recipe.train, backend=name))))
        for name in ("native", "llamafactory")
    )
    assert native - other == {"native"}
    assert other - native == {"llamafactory"}
    assert {"data", "evaluate", "export"} <= native & other


def test_the_environment_of_task_metrics_is_pinned_where_they_are_wanted() -> None:
    recipe = load_recipe(VALID[0])
    without = replace(recipe, evaluate=None)
    wanted = Evaluate(True, 8, 64, None, metrics=True, forgetting=False, harness=None)
    assert "metrics" not in environment_pins(without)
    assert "metrics" not in environment_pins(
        replace(recipe, evaluate=replace(wanted, metrics=False))
    )
    assert "metrics" in environment_pins(replace(recipe, evaluate=wanted))
    measured = replace(recipe, evaluate=wanted)
    assert "metrics" in environment_pins(replace(without, base=measured))
    assert "metrics" in environment_pins(replace(measured, base=without))
    assert "metrics" not in environment_pins(replace(without, base=without))


def test_the_environment_of_tasks_is_pinned_where_there_are_any() -> None:
    recipe = load_recipe(VALID[0])
    without = replace(recipe, evaluate=None)
    harness = Harness(
        (HarnessTask("t.yaml", "t.jsonl", None, None, None, None),), None, None, False
    )
    asked = Evaluate(True, 8, 64, None, metrics=False, forgetting=False, harness=harness)
    measured = replace(recipe, evaluate=asked)
    assert "harness" not in environment_pins(replace(recipe, evaluate=replace(asked, harness=None)))
    assert "harness" in environment_pins(measured)
    assert "harness" in environment_pins(replace(without, base=measured))


def test_one_torch_trains_and_evaluates() -> None:
    """The platform names it once."""
    roles = ["evaluate", "metrics", *(load_backend(name).ENVIRONMENT for name in REGISTRY)]
    assert len({torch_version(role) for role in roles}) == 1
