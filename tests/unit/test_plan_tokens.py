"""How many tokens a training reads: of the rows themselves, packed or not; else at most so many."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.plan.cost import Machine, cost_of
from runner.plan.plan import Action, Step
from runner.plan.tokens import AT_MOST, BY_TEXTS, Tokens, training_tokens
from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe
from runner.recipe.model_facts import Facts
from runner.report.plan_text import time_lines
from tests.chain import ROOT

PUBLISHED = ROOT / "runner" / "plan" / "data" / "published"
ROW_TOKENS = (
    100 // 3 + 64
)  # of each of the rows below: a byte a character, and a template around it
TRAIN = (
    "per_device_train_batch_size: 4, gradient_accumulation_steps: 1, "
    "adapter: {type: lora, r: 8, target_modules: all-linear}"
)
Make = Callable[..., Recipe]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A recipe over 64 rows of 100 characters each; `data`, `train`: more settings of them."""

    (tmp_path / ".git").mkdir()

    def made(
        data: str = ", validation: {fraction: 0}",
        train: str = "num_train_epochs: 2",
        form: str = "alpaca",
        **row: str,
    ) -> Recipe:
        texts = row or {"instruction": "i" * 40, "input": "", "output": "o" * 60}
        lines = [json.dumps(texts) + "\n"] * 64
        (tmp_path / "rows.jsonl").write_text("".join(lines))
        (tmp_path / "x.yaml").write_text(
            "schema: 1\nname: x\nmodel: {hub: meta-llama/Llama-3.1-8B-Instruct}\n"
            f"data: {{train: [{{path: rows.jsonl, format: {form}}}], max_length: 512{data}}}\n"
            f"train: {{{train}, {TRAIN}}}\n"
        )
        return load_recipe(tmp_path / "x.yaml")

    return made


def count(recipe: Recipe) -> float:
    found = training_tokens(recipe)
    assert found is not None
    assert (found.most, found.source) == (False, BY_TEXTS)
    return found.count


def test_a_short_row_counts_as_what_it_has(make: Make) -> None:
    assert count(make()) == pytest.approx(2 * 64 * ROW_TOKENS, rel=0.01)


def test_a_long_row_counts_as_max_length(make: Make) -> None:
    assert count(make(instruction="i", input="", output="o" * 9000)) == 2 * 64 * 512


def test_packed_rows_fill_packs_and_no_more(make: Make) -> None:
    packs = -(-64 * ROW_TOKENS // 512)
    packed = count(make(data=", packing: true, validation: {fraction: 0}"))
    assert packed == 2 * packs * 512
    assert packed < 2 * 64 * 512 / 4, "a row has no pack of its own"


def test_steps_that_are_given_read_whole_batches(make: Make) -> None:
    assert count(make(train="max_steps: 3")) == pytest.approx(3 * 4 * ROW_TOKENS, rel=0.01)
    assert (
        count(make(data=", packing: true, validation: {fraction: 0}", train="max_steps: 3"))
        == 3 * 4 * 512
    )


def test_a_system_turn_and_both_sides_of_a_pair_are_counted(make: Make) -> None:
    longer = count(make(data=f", system: {'s' * 300}, validation: {{fraction: 0}}"))
    assert longer == pytest.approx(2 * 64 * (ROW_TOKENS + 100), rel=0.01)
    sides = {"prompt": "p" * 90, "chosen": "c" * 10, "rejected": "r" * 10}
    pairs = make(train="method: dpo, num_train_epochs: 2", form="preference", **sides)
    assert count(pairs) == pytest.approx(2 * 64 * 2 * ROW_TOKENS, rel=0.01)


def test_what_is_held_out_and_what_is_left_out_is_not_read(make: Make) -> None:
    assert count(make(data=", validation: {fraction: 0.25}")) == pytest.approx(
        0.75 * count(make()), rel=0.01
    )
    some = count(make(form="alpaca, limit: 16"))
    assert some == pytest.approx(count(make()) / 4, rel=0.01)


def test_rows_that_cannot_be_read_are_as_long_as_may_be(make: Make) -> None:
    recipe = make()
    (recipe.folder / "rows.jsonl").write_text('{"instruction": 1}\n' * 64)
    found = training_tokens(recipe)
    assert found == Tokens(2 * 64 * 512, most=True)
    assert found.source == AT_MOST
    (recipe.folder / "rows.jsonl").unlink()
    assert training_tokens(recipe) is None


def test_a_file_that_changed_is_read_again(make: Make) -> None:
    before = count(make())
    assert count(make(instruction="i" * 400, input="", output="o")) > before


def test_the_words_say_whether_it_is_a_bound(make: Make) -> None:
    recipe, machine = make(), Machine(20, "NVIDIA GB10", "cuda", rate=50e12)
    facts = Facts(json.loads((PUBLISHED / "llama-3.1-8b.json").read_text()), "the lock")

    def said() -> str:
        steps = [Step("train", Action.RUN, "")]
        return next(time_lines(cost_of(recipe, steps, facts, Path("none"), machine).time))

    assert "train: about " in said()
    assert ", estimated from the characters of the rows: " in said()
    (recipe.folder / "rows.jsonl").write_text('{"instruction": 1}\n' * 64)
    assert "train: at most " in said()
    assert ", all rows as long as max_length: " in said()
