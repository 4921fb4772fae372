"""When a second machine is proposed, with what, and that the recipe may say so."""

from __future__ import annotations

import dataclasses
import json

import pytest

from runner.plan.fit import fewest_together, fit, peak_of
from runner.plan.job import Job
from runner.plan.machines import hardware
from runner.plan.two_machines import on_two_machines
from runner.recipe.load import check_recipe
from runner.recipe.model import Recipe
from tests.chain import ROOT
from tests.unit.test_fit import COURSE, said, shapes

LARGE = COURSE / "10.3-70b-qlora.yaml"
IN_16_BITS = "model.quantization=null"
SPARK = hardware("dgx-spark").budget


def recipe_with(*overrides: str) -> Recipe:
    """The 70B of the course, changed as `--set` does; it passes the checks."""
    recipe, diagnostics = check_recipe(LARGE, overrides)
    assert recipe is not None, diagnostics
    return recipe


def as_override(words: str) -> str:
    return words.replace(": ", "=", 1)


def test_two_sparks_hold_a_70b_in_16_bits_and_one_only_in_4() -> None:
    model, job = shapes("llama-3.1-70b"), Job.of(recipe_with(IN_16_BITS))
    found = fit(model, job, SPARK)
    assert found.changes == ("model.quantization: {load_in_4bit: true}",)
    assert found.together is not None
    words, peak = found.together
    assert words == ("train.nodes: 2", "train.gradient_accumulation_steps: 1", "evaluate: null")
    changed = recipe_with(IN_16_BITS, *map(as_override, words))  # E290 refuses nothing of it
    assert peak_of(model, Job.of(changed)) == peak <= SPARK
    assert changed.train.rows_per_step == recipe_with(IN_16_BITS).train.rows_per_step


def test_an_evaluation_that_fits_one_machine_stays() -> None:
    job = dataclasses.replace(Job.of(recipe_with(IN_16_BITS)), batch=4)
    model = shapes("llama-3.1-8b")
    less = peak_of(model, job) - 10**9
    assert fit(model, job, less).together is None  # a smaller batch is enough
    words, peak = fewest_together(model, job, None, less) or ((), 0)
    assert words == ("train.nodes: 2", "train.gradient_accumulation_steps: 1")
    assert 0 < peak <= less


def test_states_in_8_bits_are_not_parted() -> None:
    full = ("train.adapter={type: none}", "model.dtype=float32", "merge=null")
    job = Job.of(recipe_with(IN_16_BITS, *full, "train.optim=adamw_8bit"))
    joined = on_two_machines(job)
    assert joined is not None
    assert joined.words == ("train.nodes: 2", "train.optim: adamw_torch")
    model = shapes("llama-3.1-8b")
    words, _ = fewest_together(model, job, None, SPARK) or ((), 0)
    assert words[:2] == joined.words
    recipe_with(IN_16_BITS, *full, *map(as_override, joined.words))


def test_what_would_be_an_adapter_on_two_machines_is_not_set_beside_one_on_one() -> None:
    full = ("train.adapter={type: none}", "model.dtype=float32", "merge=null")
    job = Job.of(recipe_with(IN_16_BITS, *full))
    model, budget = shapes("llama-3.1-8b"), 45 * 10**9
    found = fit(model, job, budget)
    assert found.changes is not None
    assert any(change.startswith("train.adapter") for change in found.changes)
    assert found.together is None
    assert fewest_together(model, job, None, budget) is not None


@pytest.mark.parametrize(
    "overrides",
    [
        (),  # 4 bits
        (IN_16_BITS, "train.backend=llamafactory"),
        (IN_16_BITS, "train.adapter.use_dora=true"),
        (IN_16_BITS, "train.adapter.modules_to_save=[lm_head]"),
        (IN_16_BITS, "train.nodes=2"),  # there are two
    ],
)
def test_what_several_may_not_train_is_not_proposed(overrides: tuple[str, ...]) -> None:
    job = Job.of(recipe_with(*overrides))
    assert on_two_machines(job) is None
    assert fit(shapes("llama-3.1-70b"), job, SPARK).together is None


@pytest.mark.parametrize(
    ("batch", "accumulation", "step"),
    [
        (1, 4, "train.gradient_accumulation_steps: 2"),
        (6, 1, "train.per_device_train_batch_size: 3"),
        (3, 1, ""),
    ],
)
def test_a_step_keeps_its_rows_where_it_can(batch: int, accumulation: int, step: str) -> None:
    job = Job.of(recipe_with(IN_16_BITS))
    joined = on_two_machines(dataclasses.replace(job, batch=batch, accumulation=accumulation))
    assert joined is not None
    assert joined.step == ((step,) if step else ())
    rows = joined.job.batch * joined.job.accumulation * joined.job.processes
    assert rows == batch * accumulation * (1 if step else 2)


def test_several_processes_of_one_machine_become_those_of_two() -> None:
    joined = on_two_machines(Job.of(recipe_with(IN_16_BITS, "train.processes=2")))
    assert joined is not None
    assert (joined.job.processes, joined.job.here) == (4, 2)


def test_the_command_says_it_in_every_form(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    asked = (str(LARGE), "--set", IN_16_BITS, "--hardware", "dgx-spark")
    words = "two of them with train.nodes: 2 and train.gradient_accumulation_steps: 1 and evaluate"
    assert f"then; {words}: null: about 86.7 GB on each" in said(capsys, *asked)
    assert words in said(capsys, *asked, "--format", "markdown")
    (machine,) = json.loads(said(capsys, *asked, "--format", "json"))["machines"]
    assert machine["together"]["changes"][0] == "train.nodes: 2"
    assert machine["peak_after_changes"] < machine["together"]["peak"] <= machine["usable"]
