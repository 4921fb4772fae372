"""A large load is refused when there is no memory for it, before anything is loaded."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.errors import MachineCannot
from runner.execution import preflight
from runner.execution.preflight import require_memory
from runner.plan import published_models
from runner.plan.published_models import FOLDER as PUBLISHED
from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe
from runner.recipe.model_facts import Facts
from runner.stages import load_stage
from runner.system import memory_limit
from tests.chain import ROOT
from tests.small_recipe import write_recipe
from tests.unit.test_doctor import GB, SPARK, machine

LOADED = 40 * GB
Check = Callable[..., list[str]]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    write_recipe(tmp_path / "x.yaml")
    return load_recipe(tmp_path / "x.yaml")


@pytest.fixture
def check(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Check:
    """What is said before a stage that loads 40 GB."""
    monkeypatch.setattr(preflight, "_load_of", lambda *_: LOADED)

    def said(root: Path, stage: str = "train") -> list[str]:
        words: list[str] = []
        require_memory(load_stage(stage), recipe, words.append, root)
        return words

    return said


@pytest.mark.parametrize("files", [{}, SPARK], ids=["cpu", "spark"])
def test_a_large_load_gets_a_limit_so_that_the_machine_lives_on(
    files: dict[str, str], recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_load_of", lambda *_: LOADED)
    train = load_stage("train")
    free = machine(tmp_path / "free", files)
    assert require_memory(train, recipe, print, free) == int(0.92 * 128 * GB)
    limited = {"proc/self/cgroup": "0::/job\n", "sys/fs/cgroup/job/memory.max": str(100 * GB)}
    inside = machine(tmp_path / "limited", {**files, **limited})
    assert require_memory(train, recipe, print, inside) == 0  # it has one already
    assert require_memory(load_stage("merge"), recipe, print, free) == 0
    monkeypatch.setattr(preflight, "_load_of", lambda *_: GB)
    assert require_memory(train, recipe, print, free) == 0
    monkeypatch.setenv(memory_limit.SETTING, "90GB")
    assert require_memory(train, recipe, print, free) == 90 * GB


def test_a_load_that_fits_is_not_spoken_of(check: Check, tmp_path: Path) -> None:
    assert check(machine(tmp_path / "cpu")) == []
    assert check(machine(tmp_path / "spark", SPARK)) == []


@pytest.mark.parametrize("stage", ["train", "evaluate", "harness"])
@pytest.mark.parametrize("files", [{}, SPARK], ids=["cpu", "spark"])
def test_a_load_without_memory_is_refused(
    files: dict[str, str], stage: str, check: Check, tmp_path: Path
) -> None:
    root = machine(tmp_path / "root", files, MemFree=8 * GB, MemAvailable=30 * GB)
    with pytest.raises(MachineCannot, match=r"40\.0 GB, and 30\.0 GB") as caught:
        check(root, stage)
    assert (caught.value.code, caught.value.exit_code) == ("E940", 4)
    assert check(root, "merge") == []  # tensor by tensor, whatever the size


def test_what_several_processes_train_in_parts_one_evaluates_whole(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((PUBLISHED / "llama-3.1-70b.json").read_bytes())
    monkeypatch.setattr(published_models, "facts_at_hand", lambda recipe: Facts(config, "a test"))
    train = dataclasses.replace(recipe.train, processes=2)
    both = dataclasses.replace(recipe, train=train)
    needed = {stage: preflight._load_of(stage, both, "cuda") for stage in ("train", "evaluate")}
    alone = preflight._load_of("evaluate", recipe, "cuda")
    assert needed["train"] < 0.6 * alone
    assert needed["evaluate"] == alone


def test_a_gpu_with_memory_of_its_own_is_its_own_affair(check: Check, tmp_path: Path) -> None:
    files = {name: text.replace("GB10", "H200") for name, text in SPARK.items()}
    assert check(machine(tmp_path / "root", files, MemAvailable=GB)) == []


def test_a_small_load_is_not_looked_at(recipe: Recipe, tmp_path: Path) -> None:
    require_memory(load_stage("train"), recipe, print, machine(tmp_path / "r", MemAvailable=GB))


def test_the_page_cache_is_dropped_where_that_is_allowed(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = {"proc/sys/vm/drop_caches": "0"}
    root = machine(tmp_path / "root", SPARK | switch, MemFree=9 * GB, Cached=80 * GB)
    (said,) = check(root)
    assert said == "dropped the page cache (80.0 GB), so that the GPU can have it"
    assert (root / "proc/sys/vm/drop_caches").read_text() == "3\n"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (said,) = check(root)
    assert "sudo tee /proc/sys/vm/drop_caches" in said  # shown, never run


@pytest.mark.skipif(
    not os.access("/sys/fs/cgroup/memory", os.W_OK), reason="needs a memory cgroup (v1) of its own"
)
def test_the_limit_of_a_real_cgroup_counts(tmp_path: Path) -> None:
    group = Path("/sys/fs/cgroup/memory") / f"spark-recipes-preflight-{os.getpid()}"
    group.mkdir()
    write_recipe(tmp_path / "x.yaml")
    code = f"""
from pathlib import Path
from runner.errors import MachineCannot
from runner.execution import preflight
from runner.recipe.load import load_recipe
from runner.stages import load_stage
from runner.system import memory_limit
Path("{group}/cgroup.procs").write_text("0")
preflight._load_of = lambda *_: 9 * 10**9
try:
    preflight.require_memory(load_stage("train"), load_recipe(Path("{tmp_path}/x.yaml")), print)
except MachineCannot as error:
    print(error.code, error.message)
"""
    try:
        (group / "memory.limit_in_bytes").write_text(str(2 << 30))
        env: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("E940 train loads about 9.0 GB, and 2.")
    finally:
        group.rmdir()
