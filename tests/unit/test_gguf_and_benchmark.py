"""Small rules of the stages `gguf` and `benchmark`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf as library
import pytest

from runner.errors import StageFailed
from runner.stages import benchmark, gguf
from runner.stages.deployment.prompts import Prompt
from runner.stages.export import conversion, perplexity


def test_everything_that_the_converter_would_guess_is_told() -> None:
    told = conversion.metadata("quickstart")
    assert told.pop("general.name") == "quickstart"
    assert set(told.values()) == {None}
    fields = {field.name for field in dataclasses.fields(library.Metadata)} - {"name", "license"}

    def short(key: str) -> str:
        return key.removeprefix("general.").replace(".", "_")

    # `license` alone cannot be overridden; it comes from a model card, and there is none.
    assert {short(key) for key in told} == fields


def recipe(allowed: float) -> Any:
    return SimpleNamespace(shrink=None, gguf=SimpleNamespace(max_perplexity_increase=allowed))


def test_a_perplexity_within_the_limit_is_let_pass() -> None:
    gguf.check_increase(recipe(0.05), "q-Q8_0.gguf", 10.0, 10.5)


@pytest.mark.parametrize("value", [10.51, float("nan"), float("inf")])
def test_a_jump_names_file_both_numbers_and_the_limit(value: float) -> None:
    with pytest.raises(StageFailed) as caught:
        gguf.check_increase(recipe(0.05), "q-Q2_K.gguf", 10.0, value)
    assert caught.value.code == "E541"
    for part in ("q-Q2_K.gguf", f"{value:.3f}", "10.000", "+5.0%"):
        assert part in caught.value.message
    assert "gguf.max_perplexity_increase" in caught.value.hint


@pytest.mark.parametrize(
    ("tokens", "cut"),
    [
        (10, (32, 0)),
        (64, (32, 2)),
        (300, (32, 9)),
        (600, (64, 9)),
        (1100, (128, 8)),
        (2048, (256, 8)),
        (10**6, (256, 8)),
    ],
)
def test_a_text_is_cut_into_the_largest_chunks_that_are_enough(
    tokens: int, cut: tuple[int, int]
) -> None:
    assert perplexity.cut(tokens) == cut


def test_spread_is_smallest_median_and_largest() -> None:
    assert benchmark.spread([3.0, 1.0, 2.0]) == {"min": 1.0, "median": 2.0, "max": 3.0}
    assert benchmark.spread([4.0, 1.0, 2.0, 3.0])["median"] == 2.5
    assert benchmark.spread([7.0]) == {"min": 7.0, "median": 7.0, "max": 7.0}


@pytest.mark.parametrize(
    ("ours", "theirs", "common", "equal"),
    [([1, 2, 3], [1, 2, 3], 3, True), ([1, 2], [1, 2, 3], 2, False), ([9], [1], 0, False)],
)
def test_agreement_is_the_common_beginning(
    ours: list[int], theirs: list[int], common: int, equal: bool
) -> None:
    found = benchmark.agreement("p", ours, theirs)
    assert (found["common_tokens"], found["equal"]) == (common, equal)


def test_validation_conversations_are_compared_and_hard_cases_only_without_them() -> None:
    hard = [Prompt(f"h{n}", "hard", (), "", ()) for n in range(9)]
    held_out = [Prompt(f"v{n}", "validation", (), "", ()) for n in range(2)]
    assert [each.id for each in benchmark.compared([*hard, *held_out])] == ["v0", "v1"]
    assert [each.id for each in benchmark.compared(hard)] == ["h0", "h1", "h2", "h3"]


@pytest.mark.parametrize(
    ("name", "strips", "told"),
    [
        ("my-bot", True, "my-bot-phi-3"),
        ("my-Phi3-bot", True, "my-Phi3-bot"),
        ("my-bot", False, "my-bot"),
        ("better-than-Phi-3", False, "better-than-phi 3"),
    ],
)
def test_the_name_in_the_file_decides_on_white_space_as_the_tokenizer_does(
    name: str, strips: bool, told: str, tmp_path: Path
) -> None:
    token = {"content": "<|user|>", "special": True, "rstrip": strips}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [token]}))
    assert conversion.name_in_file(name, tmp_path) == told
