"""Signs that a score was hacked, and the prompts that answers are sampled to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runner.scripts.spec import ScriptError
from runner.scripts.training.preferences.reward_hacking import Shown, signs_of
from runner.scripts.training.prompts import check_prompts, pad_of, prompt_of, stop_of
from runner.scripts.training.token_rows import IGNORED, Row

SOUND = {
    "answers/length": 20.0,
    "answers/loops": 0.0,
    "answers/distinct": 1.0,
    "answers/ended": 1.0,
    "objective/kl": 2.0,
}


def trace(**last: float) -> list[dict[str, Any]]:
    """Eight steps, of which the last two are otherwise."""
    changed = {name.replace("__", "/"): value for name, value in last.items()}
    return [*[SOUND] * 6, *[SOUND | changed] * 2]


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({"answers__length": 31.0}, "from 20 to 31 tokens"),
        ({"answers__loops": 0.3}, "30% of the answers go round in circles, at first 0%"),
        ({"answers__distinct": 0.4}, "40% of a batch's answers differ, at first 100%"),
        ({"objective__kl": 10.5}, "run away from the base: 10.5 nats in an answer of 20 tokens"),
    ],
)
def test_a_sign_of_hacking_is_told(last: dict[str, float], words: str) -> None:
    (sign,) = signs_of(trace(**last))
    assert words in sign


def test_a_sound_training_and_one_of_few_steps_have_no_sign() -> None:
    assert signs_of(trace(answers__length=29.0, answers__loops=0.2, objective__kl=9.0)) == []
    assert signs_of(trace(objective__kl=99.0)[-3:]) == []


def test_what_the_answers_look_like() -> None:
    shown = Shown(stop=2)
    ids = np.array([[5, 6, 5, 6, 5, 6, 5, 6, 5, 6], [7, 8, 2, 9, 9, 9, 9, 9, 9, 9]])
    shown.add(ids, ids != 9)  # type: ignore[arg-type]
    told = shown.told()
    assert told == {
        "answers/length": 6.5,
        "answers/ended": 0.5,
        "answers/loops": 0.5,
        "answers/distinct": 1.0,
    }


def row(ids: list[int], trained: list[int]) -> Row:
    labels = np.where(np.array(trained, bool), ids, IGNORED)
    return Row(np.array(ids), labels, np.arange(len(ids)), np.ones(len(ids), np.int64))


def test_a_prompt_is_what_stands_before_the_last_answer() -> None:
    turns = row([1, 5, 6, 2, 1, 7, 8, 2], [0, 0, 1, 1, 0, 0, 1, 1])
    assert prompt_of(turns).tolist() == [1, 5, 6, 2, 1, 7]
    assert stop_of([turns, turns, row([1, 5, 9], [0, 0, 1])]) == 2


def test_padding_is_a_token_that_no_prompt_has() -> None:
    prompts = [np.array([1, 5]), np.array([1, 7])]
    assert pad_of(prompts, stop=2, wanted=3, vocabulary=10) == 3
    assert pad_of(prompts, stop=2, wanted=2, vocabulary=10) == 9
    with pytest.raises(ScriptError) as caught:
        pad_of([np.arange(4)], stop=2, wanted=2, vocabulary=4)
    assert caught.value.code == "E358"


def test_prompts_that_cannot_be_answered_are_counted() -> None:
    with pytest.raises(ScriptError, match="1 rows begin with their answer"):
        check_prompts([np.array([1]), np.array([], np.int64)], 2)
