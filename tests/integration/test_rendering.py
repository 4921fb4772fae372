"""Conversations are rendered as `apply_chat_template` renders them, by every shipped template."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.stages.templates import shipped_templates
from tests.chain import ROOT

# A template that writes whatever it is given, and one that looks for what is not there.
TOLD = "{{ messages | tojson }} {{ tools | tojson }} {{ documents }} {{ add_generation_prompt }}"
TOLD += "{{ bos_token }} {{ eos_token }} {{ pad_token is defined }} {{ date_string is defined }}"
REFUSED = "{{ raise_exception('no ' + messages[0].role) }}"
# Alters what it is given, reaches for Python, divides by nothing.
HOSTILE = (
    "{% set _ = messages.append(messages[0]) %}",
    "{% set _ = messages[0].update({'role': 'system'}) %}",
    "{{ messages.__class__ }}",
    "{{ messages[0].content.__class__.__mro__ }}",
    "{{ 1 / 0 }}",
)
COMPARE = """
import json, sys
from pathlib import Path
from transformers import PreTrainedTokenizerFast
from runner.scripts.data.files.rows import RowError
from runner.scripts.data.tokens.chat_tokens import ChatTokenizer
from runner.scripts.data.tokens.parity_cases import cases

model, templates = Path(sys.argv[1]), json.loads(sys.argv[2])
reference = PreTrainedTokenizerFast.from_pretrained(str(model))
tool = {"type": "function", "function": {"name": "f", "parameters": {"type": None, "a": [1.5]}}}
call = {"type": "function", "function": {"name": "f", "arguments": {"x": None, "y": "\\u00e9"}}}
turns = [{"role": "user", "content": "Q"}]
called = [*turns, {"role": "assistant", "content": "", "tool_calls": [call]}]
called += [{"role": "tool", "content": "4", "name": "f", "tool_call_id": "a1"}]
called += [{"role": "assistant", "content": "<think>hm</think> Four"}]
asked = [(messages, []) for _, messages in cases()]
asked += [(called, [tool]), (called, []), (turns, [tool])]

def said(render):
    try:
        return render()
    except RowError as error:
        return "refused: " + error.message.split(": ", 1)[-1]
    except Exception as error:
        return "refused: " + " ".join(str(error).split())[:200]

told = {}
for name, template in templates.items():
    tokenizer = ChatTokenizer(model, template, [])
    reference.chat_template = tokenizer.template
    both = [
        (
            said(lambda: tokenizer.render(messages, tools, generate=generate)),
            said(lambda: reference.apply_chat_template(
                messages, tools=tools or None, tokenize=False, add_generation_prompt=generate)),
        )
        for messages, tools in asked
        for generate in (False, True)
    ]
    told[name] = {
        "wrong": [each for each in both if each[0] != each[1]][:2],
        "refused": sum(mine.startswith("refused: ") for mine, _ in both),
        "count": len(both),
        "empty": said(lambda: tokenizer.render([])),
        "empty there": said(lambda: reference.apply_chat_template([], tokenize=False)),
    }
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(environment_python: Callable[[str], Path], tiny: Path) -> dict[str, dict[str, object]]:
    templates = {
        name: shipped_templates.path_of(name).read_text() for name in shipped_templates.names()
    }
    templates |= {"told": TOLD, "refused": REFUSED}
    templates |= {f"hostile {number}": text for number, text in enumerate(HOSTILE)}
    done = subprocess.run(
        [str(environment_python("data")), "-c", COMPARE, str(tiny), json.dumps(templates)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_texts_and_refusals_are_those_of_transformers(told: dict[str, dict[str, object]]) -> None:
    assert {name: each["wrong"] for name, each in told.items() if each["wrong"]} == {}


def test_a_conversation_without_turns_is_refused_by_both(told: dict[str, dict[str, str]]) -> None:
    for each in told.values():
        assert each["empty"] == "refused: the chat template is given no turn"
        assert each["empty there"].startswith("refused: ")


def test_hostile_templates_are_refused_and_others_render(
    told: dict[str, dict[str, object]],
) -> None:
    refused = {name for name, each in told.items() if each["refused"] == each["count"]}
    assert {"refused", "hostile 0", "hostile 1", "hostile 4"} <= refused
    assert not refused & {*shipped_templates.names(), "told"}
