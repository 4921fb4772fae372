"""The Ollama template of a model: found by what it renders, not by what it is called."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runner.errors import StageFailed
from runner.scripts.parity_cases import Message, cases, joined_cases
from runner.stages import go_template, parity
from runner.stages.prompts import Prompt, read_prompts

Reference = Callable[[list[Message]], str]


def chatml(default: str | None) -> Reference:
    """A ChatML chat template with or without a default system turn, in Python."""

    def render(messages: list[Message]) -> str:
        turns = list(messages)
        if default is not None and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": default})
        text = "".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in turns)
        return text + "<|im_start|>assistant\n"

    return render


def prompts(reference: Reference) -> list[Prompt]:
    return [
        Prompt(name, "hard", tuple(messages), reference(messages), ()) for name, messages in cases()
    ]


@pytest.mark.parametrize("default", [None, "You are terse.", "Line one.\n\nLine two. ", " "])
def test_a_default_system_prompt_is_found_and_becomes_ollamas(default: str | None) -> None:
    choice = go_template.choose(prompts(chatml(default)))
    assert choice.family == "chatml"
    assert choice.system == default
    assert choice.template == go_template.CHATML.go_template
    assert set(choice.stop) == {"<|im_start|>", "<|im_end|>"}


def test_an_empty_default_turn_which_ollama_cannot_store_is_part_of_the_template() -> None:
    choice = go_template.choose(prompts(chatml("")))
    assert choice.system is None
    assert choice.template != go_template.CHATML.go_template
    assert choice.template.endswith(go_template.CHATML.go_template)


def test_a_template_that_strips_is_no_chatml_and_the_difference_is_shown() -> None:
    def strips(messages: list[Message]) -> str:
        stripped = [{**m, "content": m["content"].strip()} for m in messages]
        return chatml("You are terse.")(stripped)

    with pytest.raises(StageFailed) as caught:
        go_template.choose(prompts(strips))
    assert caught.value.code == "E551"
    first = next(p for p in prompts(strips) if p.text != chatml("You are terse.")(list(p.messages)))
    assert repr(first.id) in caught.value.message
    assert "expected:" in caught.value.message


def test_another_family_is_no_chatml() -> None:
    def llama(messages: list[Message]) -> str:
        return "".join(f"<|header|>{m['role']}\n\n{m['content']}<|eot|>" for m in messages)

    with pytest.raises(StageFailed, match="single-turn"):
        go_template.choose(prompts(llama))


@pytest.mark.parametrize(("name", "messages"), joined_cases())
def test_turns_that_ollama_joins_are_explained(name: str, messages: list[Message]) -> None:
    text = chatml(None)(messages)
    with pytest.raises(StageFailed) as caught:
        go_template.choose(
            [*prompts(chatml(None)), Prompt(name, "hard", tuple(messages), text, ())]
        )
    assert "joins turns of one role" in caught.value.message
    assert repr(name) in caught.value.message


def test_the_first_family_that_fits_is_taken() -> None:
    other = go_template.Family("other", "{{ .Prompt }}", "", (), lambda role, content: content, "")
    choice = go_template.choose(prompts(chatml(None)), (other, go_template.CHATML))
    assert choice.family == "chatml"


def test_without_prompts_nothing_is_guessed() -> None:
    with pytest.raises(StageFailed, match="no chat template"):
        go_template.choose([])


def test_the_hard_cases_are_many_distinct_and_end_with_the_user() -> None:
    names = [name for name, _ in cases()]
    assert len(names) == len(set(names)) == 34
    assert all(messages[-1]["role"] == "user" for _, messages in cases())
    for _, messages in cases():
        joined = go_template.join_turns(messages)
        assert len(joined) == len(messages)
    assert len(joined_cases()) == 3
    for _, messages in joined_cases():
        assert len(go_template.join_turns(messages)) == len(messages) - 1


def test_line_separators_inside_of_texts_do_not_end_a_line(tmp_path) -> None:  # type: ignore[no-untyped-def]
    text = "a\u2028b\u2029c\x85d\x0be"
    line = f'{{"id":"x","kind":"hard","messages":[],"text":"{text[:5]}","ids":[1]}}\n'
    (tmp_path / "prompts.jsonl").write_text(line * 2, encoding="utf-8")
    assert [prompt.text for prompt in read_prompts(tmp_path / "prompts.jsonl")] == [text[:5]] * 2


def test_ids_stand_side_by_side_around_their_first_difference() -> None:
    table = parity.side_by_side([5, 6, 7, 8, 9], [5, 6, 70, 8], lambda token: f"t{token}")
    assert table.splitlines() == [
        " token  in training                 in Ollama",
        "    0   5 't5'                      5 't5'",
        "    1   6 't6'                      6 't6'",
        "    2*  7 't7'                      70 't70'",
        "    3   8 't8'                      8 't8'",
        "    4*  9 't9'",
    ]


def test_witnesses_are_few_short_and_spread() -> None:
    many = [Prompt(str(n), "hard", (), "", (0,) * n) for n in range(1, 400)]
    seen = parity.witnesses(many)
    assert [prompt.id for prompt in seen] == ["1", "67", "133", "200"]
    assert [prompt.id for prompt in parity.witnesses(many[:2])] == ["1", "2"]
