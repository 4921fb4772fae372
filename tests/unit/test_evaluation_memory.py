"""What evaluation and tasks take: how many prompts are read at once, and what that takes."""

from __future__ import annotations

import dataclasses
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.plan.evaluating import evaluation_memory, harness_memory, passing
from runner.plan.job import Job, Memory
from runner.plan.phases import phases_of
from runner.recipe.load import load_recipe
from runner.scripts.evaluation.batches import MOST, TOKENS, in_batches, tokens_at_once
from tests.chain import ROOT
from tests.unit.test_fit import shapes

MODEL = shapes("llama-3.1-8b")  # 128 KiB of keys and values a token, in bfloat16
CACHE = 128 << 10


@pytest.fixture(scope="module")
def job() -> Job:
    """An adapter on attention, in bfloat16; 8 prompts of 2048 tokens."""
    recipe = load_recipe(ROOT / "recipes" / "course" / "10.2-8b-lora.yaml")
    return dataclasses.replace(Job.of(recipe), length=2048, loss=False)


def items(memory: Memory) -> dict[str, int]:
    return {item.name: item.bytes for item in memory.items}


# --- batches


@given(st.lists(st.integers(1, 2 * TOKENS), max_size=60))
def test_batches_are_all_prompts_in_order_and_none_takes_more_than_was_planned(
    lengths: list[int],
) -> None:
    prompts = [range(length) for length in lengths]
    batches = list(in_batches(prompts))
    assert list(chain.from_iterable(batches)) == prompts
    for batch in batches:
        tokens = len(batch) * max(map(len, batch))
        assert tokens <= TOKENS or len(batch) == 1
        assert 0 < len(batch) <= MOST
        assert tokens <= tokens_at_once(len(prompts), max(lengths))


@given(st.lists(st.integers(1, TOKENS // MOST), max_size=60))
def test_prompts_to_512_tokens_are_asked_sixteen_at_once(lengths: list[int]) -> None:
    batches = list(in_batches([range(length) for length in lengths]))
    whole, rest = divmod(len(lengths), MOST)
    assert [len(batch) for batch in batches] == [MOST] * whole + [rest] * (rest > 0)


def test_a_batch_ends_before_the_prompt_that_is_too_long_for_it() -> None:
    prompts = [range(600)] * 13 + [range(4096), range(1), range(1), range(TOKENS + 1), range(1)]
    assert [len(batch) for batch in in_batches(prompts)] == [13, 2, 1, 1, 1]


# --- what they take


def test_while_prompts_are_read_there_are_their_keys_and_one_layer(job: Job) -> None:
    found = items(evaluation_memory(MODEL, job))
    assert found["KV cache of the prompts"] == TOKENS * CACHE
    gate, up = 2 * 14336, 2 * 14336  # activated, and with its product
    inputs = 2 * 2 * 4096 + 4 * 4096  # as it came, normed, and in float32 for the adapter
    assert found["prompts in one layer"] == TOKENS * (2 * gate + 2 * up + inputs + 2048)


def test_an_adapter_adds_in_float32_to_the_layer_it_is_on(job: Job) -> None:
    every = dataclasses.replace(job.adapter, target_modules="all-linear")
    more = passing(MODEL, dataclasses.replace(job, adapter=every), 10) - passing(MODEL, job, 10)
    assert more == 10 * (2 * 4 - 2 * 2) * 14336


def test_long_answers_take_more_than_their_prompts(job: Job) -> None:
    long = dataclasses.replace(job, new_tokens=4096)
    found = items(evaluation_memory(MODEL, long))
    assert found[f"KV cache of {job.questions} answers"] == (TOKENS + 8 * 4096) * CACHE
    assert "prompts in one layer" not in found


def test_weights_in_4_bits_are_multiplied_out_of_them(job: Job) -> None:
    held = Job.of(load_recipe(ROOT / "recipes" / "course" / "10.2-8b-qlora.yaml")).quantization
    qlora = dataclasses.replace(job, quantization=held)
    assert passing(MODEL, qlora, 1) - passing(MODEL, job, 1) == 2 * 14336 * 4096


def test_eager_attention_has_the_whole_square(job: Job) -> None:
    eager = dataclasses.replace(job, attn_implementation="eager")
    longer = dataclasses.replace(eager, length=job.length + 1000)
    more = passing(MODEL, longer, 10, padded=False) - passing(MODEL, eager, 10, padded=False)
    assert more == 10 * 32 * 1000 * (4 + 2)
    assert passing(MODEL, eager, 10) > passing(MODEL, job, 10)


@pytest.mark.parametrize("length", [512, 2048, 8192, 32_768])
def test_reading_prompts_takes_no_more_with_longer_rows_than_one_row(job: Job, length: int) -> None:
    longer = dataclasses.replace(job, length=length, questions=MOST, new_tokens=1, loss=False)
    found = items(evaluation_memory(MODEL, longer))["KV cache of the prompts"]
    assert found == max(TOKENS, length) * CACHE


def test_nothing_is_asked_where_nothing_is_to_be_evaluated(job: Job) -> None:
    silent = dataclasses.replace(job, questions=0, loss=False)
    assert "evaluate" not in phases_of(MODEL, silent)


def test_tasks_have_the_logits_of_eight_rows(job: Job) -> None:
    found = items(harness_memory(MODEL, job))
    assert found["logits of 8 rows"] == 8 * 2048 * 128_256 * (2 + 2)
    assert phases_of(MODEL, dataclasses.replace(job, tasks=True))["harness"].total == sum(
        found.values()
    )
