"""What is asked of a model is rendered within the limits, and says which question was too much."""

from __future__ import annotations

import pickle
import resource
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runner.scripts.data.files.rows import RowError
from runner.scripts.data.questions import questions_of
from runner.scripts.data.tokens import template_limits
from runner.scripts.data.tokens.template_limits import Runaway, limited
from runner.scripts.evaluation.asked import prompt_ids
from runner.scripts.spec import ScriptError
from runner.scripts.training.answer_masks import generation_prompt


class Tokenizer:
    """Renders turns as their words do: `loop` never ends, `fill` takes all memory, `fail` fails."""

    def apply_chat_template(self, messages: Any, *, tokenize: bool, **how: Any) -> str:
        assert not tokenize, "what tokenises has no such limits"
        assert how["chat_template"] == "t"
        word = messages[-1]["content"]
        while word == "loop":
            pass
        if word == "fill":
            return "a" * (8 << 30)
        if word == "fail":
            raise ZeroDivisionError("division by zero")
        return f"{word}|" + "answer:" * how["add_generation_prompt"]

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": list(text.encode())}


def ids(*words: str) -> list[int]:
    return prompt_ids(Tokenizer(), "t", [{"role": "user", "content": word} for word in words])


def asked(place: Path, *words: str) -> Any:
    rows = (f'{{"question": "{word}", "expect": ["x"]}}\n' for word in words)
    (place / "q.jsonl").write_text("".join(rows))
    to_ids = partial(prompt_ids, Tokenizer(), "t")
    return questions_of(place / "q.jsonl", "q.jsonl", to_ids, None)


def test_a_question_is_what_the_template_makes_of_it(tmp_path: Path) -> None:
    assert bytes(ids("Why?")) == b"Why?|answer:"
    assert bytes(generation_prompt(Tokenizer(), "t")) == b"answer:"
    (question,) = asked(tmp_path, "Why?")
    assert bytes(question.ids) == b"Why?|answer:"


@pytest.mark.parametrize(
    ("word", "wrong"),
    [("loop", "has not ended after 0.1 s of the processor"), ("fill", "takes more than 1024 MiB")],
)
def test_the_first_question_that_takes_too_much_ends_it_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, wrong: str
) -> None:
    monkeypatch.setattr(template_limits, "SECONDS", 0.1)
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(ScriptError) as caught:
        asked(tmp_path, "Why?", word, word)
    assert caught.value.code == "E326"
    assert caught.value.message.startswith(f"q.jsonl:2: the chat template {wrong}")
    assert "data.chat_template" in caught.value.hint
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_questions_that_fail_are_told_of_together(tmp_path: Path) -> None:
    with pytest.raises(ScriptError) as caught:
        asked(tmp_path, "fail", "Why?", "fail")
    assert caught.value.message.splitlines() == [
        f"q.jsonl:{line}: the chat template fails: division by zero" for line in (1, 3)
    ]


def test_limits_within_limits_are_those_around_them() -> None:
    with limited():
        outer = resource.getrlimit(resource.RLIMIT_AS)
        assert signal.getitimer(signal.ITIMER_PROF)[0] > 0
        with pytest.raises(RowError, match="the chat template fails: oh"), limited():
            raise ValueError("oh")
        assert resource.getrlimit(resource.RLIMIT_AS) == outer
        assert signal.getitimer(signal.ITIMER_PROF)[0] > 0, "they go on"


def test_a_template_that_runs_away_is_named_once() -> None:
    error = Runaway("writes too much").of("t.jinja", "a.jsonl:3").of(None)
    assert error.message == "a.jsonl:3: the chat template t.jinja writes too much"
    assert str(error) == error.message
    again = pickle.loads(pickle.dumps(error))  # as it comes from a worker
    assert (again.message, again.hint, again.code) == (error.message, error.hint, "E326")
    assert again.of("other").message == error.message


def test_the_alarm_rings_until_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once is not enough: the kernel may hand the signal to a thread of a library, while Python
    looks at none in the main thread."""
    monkeypatch.setattr(template_limits, "SECONDS", 0.05)

    def missing_the_first() -> None:
        with limited():
            with pytest.raises(Runaway):
                ids("loop")
            ids("loop")

    with pytest.raises(Runaway, match="has not ended"):
        missing_the_first()
