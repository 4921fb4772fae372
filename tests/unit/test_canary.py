"""What the canary's numbers mean, and whether template, tokenizer and labels belong together.

The numbers of real models are measured in tests/integration/test_canary.py.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.report.canary_line import canary_line, duration
from runner.report.progress import Progress
from runner.scripts.spec import ScriptError
from runner.scripts.training.canary.canary_limits import (
    FIRST,
    SMALLEST,
    Findings,
    check_gradient,
    judge,
    looks_drawn,
)
from runner.scripts.training.canary.canary_template import (
    check_generation_prompt,
    check_marks,
    check_prompts_are_free,
)
from runner.scripts.training.canary.canary_text import TEXT
from runner.scripts.training.token_rows import IGNORED, Row, TokenRows

# About what SmolLM2-135M gives: docs/decisions/0018-canary.md
SANE = Findings(1.1, 1.2, once=3.6, again=0.24, body=106_000_000, random=False)


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({}, "trained"),
        ({"text_bits": 5.0}, "trained"),  # a model of another language
        ({"data_bits": 5.0}, "trained"),  # data that are no text
        ({"data_bits": None}, "trained"),
        ({"text_bits": 8.0, "data_bits": 8.0, "again": 3.6, "random": True}, "untrained"),
        ({"text_bits": 8.0, "data_bits": 8.0, "again": 3.6, "body": SMALLEST - 1}, "small"),
        ({"text_bits": None, "data_bits": None, "once": None, "again": None}, "unread"),
    ],
)
def test_what_a_base_is(changed: dict[str, Any], kind: str) -> None:
    assert judge(replace(SANE, **changed)) == kind


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"text_bits": 2.5, "data_bits": 2.4}, "E941", "2.50 bits for a byte of plain English"),
        ({"text_bits": 2.5, "data_bits": None}, "E941", "cannot read"),
        # Below ln of 49152 tokens, 10.8 nats, and far from sane: 6.5 nats a token, 2.2 bits a byte
        ({"text_bits": 2.2, "data_bits": 2.3, "again": 6.0, "once": 6.5}, "E941", "cannot read"),
        ({"again": 2.9}, "E941", "does not find again"),
        ({"text_bits": math.nan}, "E945", "NaN"),
        ({"again": math.inf, "body": 1}, "E945", "NaN"),
    ],
)
def test_what_is_no_sane_base(changed: dict[str, Any], code: str, said: str) -> None:
    with pytest.raises(ScriptError, match=said) as caught:
        judge(replace(SANE, **changed))
    assert caught.value.code == code
    assert caught.value.hint


def test_embeddings_of_a_generator_are_told_from_trained_ones() -> None:
    random = np.random.default_rng(1)
    for rows in (random.standard_normal((4096, 64)), random.uniform(-1, 1, (4096, 64))):
        assert looks_drawn(*spread(rows))
    by_frequency = random.standard_normal((4096, 64)) * np.linspace(0.5, 1.5, 4096)[:, None]
    one_way = random.standard_normal((4096, 64)) + 0.1
    assert not looks_drawn(*spread(by_frequency))
    assert not looks_drawn(*spread(one_way))


def spread(rows: np.ndarray) -> tuple[float, float]:
    """Of lengths, and of the mean, as training/canary/canary.py measures them with torch."""
    squares = (rows**2).sum(1)
    lengths = squares.std() / squares.mean() / math.sqrt(2 / rows.shape[1])
    drift = np.linalg.norm(rows.mean(0)) * math.sqrt(len(rows)) / math.sqrt(squares.mean())
    return float(lengths), float(drift)


@pytest.mark.parametrize(
    ("norms", "said"),
    [
        ([1.0, math.nan], "nan at step 2"),
        ([math.inf], "inf at step 1"),
        ([2e4], "2e\\+04 at step 1"),
        ([0.0] * FIRST, "zero in all"),
    ],
)
def test_a_gradient_that_is_not_sane(norms: list[float], said: str) -> None:
    for count in range(1, len(norms)):
        check_gradient(norms[:count], count)
    with pytest.raises(ScriptError, match=said) as caught:
        check_gradient(norms, len(norms))
    assert caught.value.code == "E942"


def test_a_gradient_may_be_zero_for_a_step() -> None:
    check_gradient([0.0, 0.0, 0.1], 3)
    check_gradient([0.5, 0.0, 0.0, 0.0], 4)


class Tokenizer:
    """What of a tokenizer the template is looked at with."""

    def __init__(self, *added: str, whole: str = "{u}[/]{a}", begun: str = "{u}[/]") -> None:
        self._added, self._whole, self._begun = added, whole, begun

    def get_added_vocab(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self._added)}

    def apply_chat_template(self, messages: list[dict[str, str]], **kwargs: Any) -> str:
        said = [turn["content"] for turn in messages]
        form = self._begun if kwargs["add_generation_prompt"] else self._whole
        return form.format(u=said[0], a=said[-1])


CHATML = "<|im_start|>{{ role }}\n{{ content }}<|im_end|>"
LLAMA3 = "<|start_header_id|>{{ role }}<|end_header_id|>\n\n{{ content }}<|im_end|>"


def test_the_marks_of_another_model_are_refused() -> None:
    smollm = Tokenizer("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    check_marks(smollm, CHATML)
    with pytest.raises(ScriptError, match=r"<\|start_header_id\|>.*<\|im_start\|>") as caught:
        check_marks(smollm, LLAMA3)
    assert caught.value.code == "E943"


def test_marks_as_plain_text_are_fine_where_the_tokenizer_has_none() -> None:
    check_marks(Tokenizer("<s>", "</s>"), "<|user|>\n{{ content }}</s>")
    check_marks(Tokenizer("<|endoftext|>"), CHATML)


def test_an_answer_that_begins_otherwise_than_it_is_prompted_for_is_refused() -> None:
    check_generation_prompt(Tokenizer(), "")
    with pytest.raises(ScriptError, match="begins an answer in another way") as caught:
        check_generation_prompt(Tokenizer(begun="{u}[/] "), "")
    assert caught.value.code == "E943"


def test_a_label_on_the_first_token_of_a_prompt_is_refused() -> None:
    check_prompts_are_free(TokenRows([row(0, 0, 1, 1)], packed=False), "train")
    with pytest.raises(ScriptError, match="row 2 of train is trained on from its first") as caught:
        check_prompts_are_free(TokenRows([row(0, 0, 1), row(0, 1, 1)], packed=False), "train")
    assert caught.value.code == "E944"


def row(*trained: int) -> Row:
    ids = np.arange(len(trained))
    labels = np.where(np.array(trained, bool), ids, IGNORED)
    return Row(ids, labels, ids, np.ones(len(ids), np.int64))


def test_the_text_is_long_enough_for_every_tokenizer() -> None:
    assert TEXT.isascii()
    assert len(TEXT) > 1000


@pytest.mark.parametrize(
    ("seconds", "said"), [(40.4, "40 s"), (600, "10 min"), (12_000, "3 h 20 min")]
)
def test_a_duration_reads_well(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_what_was_found_is_shown_as_it_is_found(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    found = {"base": "trained", **SANE.rounded()}
    lines = [
        {"time": 0, "stage": "train", "event": "measure", "values": {"canary": each}}
        for each in (found, {**found, "seconds_per_step": 1.5, "seconds_left": 5400})
    ]
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = io.StringIO()
    with Progress(events, ["train"], shown):
        pass
    first, second = shown.getvalue().splitlines()
    assert first.endswith(
        "checked: the base model reads (1.10 bits a byte of our text, 1.20 of your data)"
    )
    assert "1 h 30 min more, until 1970-01-01" in second


@pytest.mark.parametrize("kind", ["untrained", "small", "unread"])
def test_a_base_that_nothing_is_expected_of_is_named(kind: str) -> None:
    assert canary_line({"base": kind, "text_bits": 8.0}, 0).startswith("checked: the base model")
