"""The Ollama template of a model: found by what it renders, not by what it is called."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runner.errors import StageFailed
from runner.scripts.data.tokens.parity_cases import Message, cases
from runner.stages import ollama as ollama_stage
from runner.stages.deployment import parity
from runner.stages.deployment.prompts import Prompt, read_prompts
from runner.stages.templates import go_template
from runner.stages.templates.families import FAMILIES
from runner.stages.templates.families import chatml as chatml_module
from runner.stages.templates.families.layout import join_turns
from tests.joined_cases import JOINED_CASES

CHATML = chatml_module.FAMILY.layouts[0]
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
    assert choice.template == CHATML.go_template()
    assert set(choice.stop) == {"<|im_start|>", "<|im_end|>"}


def test_an_empty_default_turn_which_ollama_cannot_store_is_part_of_the_template() -> None:
    choice = go_template.choose(prompts(chatml("")))
    assert choice.system is None
    assert choice.template != CHATML.go_template()
    assert choice.template.endswith(CHATML.go_template())


def test_a_template_that_strips_is_found_too() -> None:
    def strips(messages: list[Message]) -> str:
        stripped = [{**m, "content": m["content"].strip()} for m in messages]
        return chatml("You are terse.")(stripped)

    choice = go_template.choose(prompts(strips))
    assert (choice.family, choice.kind, choice.system) == ("chatml", "go", "You are terse.")
    assert "trim" in (choice.template or "")


def test_of_a_template_of_no_family_the_jinja_is_taken_and_the_difference_kept() -> None:
    def other(messages: list[Message]) -> str:
        return chatml(None)(messages).replace("Hello", "hello")

    choice = go_template.choose(prompts(other), system="Be kind.")
    assert (choice.kind, choice.template, choice.system) == ("jinja", None, "Be kind.")
    assert "several-turns" in choice.closest
    assert "expected:" in choice.closest
    assert "The closest, chatml" in choice.closest


@pytest.mark.parametrize(("name", "messages"), JOINED_CASES)
def test_turns_that_ollama_joins_need_the_jinja_and_that_is_explained(
    name: str, messages: list[Message]
) -> None:
    text = chatml(None)(messages)
    choice = go_template.choose(
        [*prompts(chatml(None)), Prompt(name, "hard", tuple(messages), text, ())]
    )
    assert choice.kind == "jinja"
    assert "joins turns of one role" in choice.closest
    assert repr(name) in choice.closest


def test_the_first_family_that_fits_is_taken() -> None:
    choice = go_template.choose(prompts(chatml(None)), families=FAMILIES[::-1])
    assert choice.family == "chatml"
    # With nothing to tell them apart, the order decides.
    plain = [prompt for prompt in prompts(chatml(None)) if prompt.id != "thinking-in-answer"]
    assert go_template.choose(plain, families=FAMILIES[::-1]).family == "qwen3"
    assert go_template.choose(plain).family == "chatml"


def test_the_bos_is_written_once_by_the_file_or_by_the_template() -> None:
    def llama(messages: list[Message]) -> str:
        turns = "".join(
            f"<|start_header_id|>{m['role']}<|end_header_id|>\n\n{m['content'].strip()}<|eot_id|>"
            for m in messages
        )
        return f"<B>{turns}<|start_header_id|>assistant<|end_header_id|>\n\n"

    for added in (True, False):
        choice = go_template.choose(prompts(llama), go_template.Bos(7, "<B>", added))
        assert (choice.family, choice.begin) == ("llama3", "<B>")
        assert ("<B>" in (choice.template or "")) is not added
    assert go_template.choose(prompts(llama)).kind == "jinja", "nobody would write the BOS"


def test_a_bos_that_also_begins_a_turn_is_left_to_the_layout() -> None:
    choice = go_template.choose(prompts(chatml(None)), go_template.Bos(1, "<|im_start|>", False))
    assert (choice.family, choice.begin) == ("chatml", "")


@pytest.mark.parametrize("version", ["0.29.9", "0.9", "unknown"])
def test_a_server_that_cannot_render_jinja_is_refused_in_words(version: str) -> None:
    choice = go_template.Choice("", None, "Be kind.", (), "jinja", closest="No family fits.")
    with pytest.raises(StageFailed, match=r"No family fits\.\n.*0\.30 and newer") as caught:
        ollama_stage.check_renders(version, choice)
    assert caught.value.code == "E551"
    for newer in ("0.30.0", "0.32.15", "1.0", "0.30.1-rc2"):
        ollama_stage.check_renders(newer, choice)


def test_an_empty_system_prompt_cannot_go_with_the_jinja() -> None:
    choice = go_template.Choice("", None, "", (), "jinja", closest="No family fits.")
    with pytest.raises(StageFailed, match=r"cannot store data\.system where it is empty") as caught:
        ollama_stage.check_renders("0.32.15", choice)
    assert caught.value.code == "E551"


def test_the_mark_is_longer_than_ollamas_reach_and_renders_nothing() -> None:
    assert go_template.marked("x").endswith("-#}x")
    assert len(go_template.MARK) > 200
    assert go_template.MARK.startswith("{#-")


def test_families_have_names_and_stop_texts_of_their_own() -> None:
    names = [family.name for family in FAMILIES]
    assert len(names) == len(set(names)) == 12
    assert all(family.stop and family.layouts for family in FAMILIES)


def test_without_prompts_nothing_is_guessed() -> None:
    with pytest.raises(StageFailed, match="no chat template"):
        go_template.choose([])


def test_the_hard_cases_are_many_distinct_and_end_with_the_user() -> None:
    names = [name for name, _ in cases()]
    assert len(names) == len(set(names)) == 34
    assert all(messages[-1]["role"] == "user" for _, messages in cases())
    for _, messages in cases():
        joined = join_turns(messages)
        assert len(joined) == len(messages)
    assert len(JOINED_CASES) == 3
    for _, messages in JOINED_CASES:
        assert len(join_turns(messages)) == len(messages) - 1


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
