"""A chat template is a program of a stranger: whatever it does, the stage says so and stops.

Limits of time are made small where a test has to wait for them; the code is what always runs.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chain import ROOT
from tests.script_runs import PREPARING, SCRIPTS

ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
# Two lists that hold themselves forty times over: one comparison, which looks at no signal.
ONE_STEP = (
    "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(40) %}"
    "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}"
)
LATER = (
    "{%% for m in messages %%}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%% endfor %%}{%% if add_generation_prompt %%}{{ '<|im_start|>assistant\\n' }}{%% endif %%}"
    "{%% if 'Go on.' in messages[0].content %%}%s{%% endif %%}"
)
# Operators that are looked at, filters and tags that transformers adds, blanks that are trimmed.
WILD = """{%- set ns = namespace(last=-1, dates=dict(a=1)) -%}
{%- macro rule(width) -%}
{{ '-' * width }}{{ 2 ** 5 % 7 }}{{ '%5.1f|%-4s|%%' % (2.5, 'x') }}
{%- endmacro -%}
{%- for message in messages -%}
    {%- if loop.index0 % 2 == 1 and loop.index0 > 40 -%}{%- break -%}{%- endif -%}
    {%- set ns.last = loop.index * 3 -%}
    {{ bos_token|default('') ~ message['role'] ~ ':' ~ message.content|trim }}
    {% generation %}{{ message.content|tojson }}{{ [0] * 3 }}{% endgeneration %}
{% endfor %}
{% if tools %}
  {{ tools|tojson(indent=2) }}{% for tool in tools %}{{ tool|items|list }}{% endfor %}
{% endif %}
{{ rule(ns.last) }}{{ 'a,b'.split(',')|join(' ')|center(9)|indent(3) }}{{ ns.dates.a }}
{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}
"""
STOPPED_FROM_WITHIN = """
import signal, sys, threading
from pathlib import Path
from runner.scripts.data.tokens import template_limits
from runner.scripts.data.tokens.chat_tokens import ChatTokenizer
from runner.scripts.data.conversation import Conversation, message

template_limits.SECONDS = 0.3
turns = [{"role": "user", "content": "Hello."}]
tokenizer = ChatTokenizer(Path(sys.argv[1]), sys.argv[2], [])
row = Conversation((*turns, message("assistant", "Hello.")))
for render in (lambda: tokenizer.render(turns), lambda: tokenizer.tokens(row)):
    try:
        render()
    except template_limits.Runaway as error:
        print(error.code, error.message)
assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
well = ChatTokenizer(Path(sys.argv[1]), "{{ messages[0].content }}", [])
said = []
thread = threading.Thread(target=lambda: said.append(well.render(turns)))
thread.start()
thread.join()
print(well.render(turns), *said)
"""
RENDER_ALL = """
import json, sys
from pathlib import Path
from runner.scripts.data.files.rows import RowError
from runner.scripts.data.tokens import template_limits
from runner.scripts.data.tokens.chat_tokens import ChatTokenizer

template_limits.MEMORY = 256 << 20
for text in json.load(sys.stdin):
    try:
        print("rendered", len(ChatTokenizer(Path(sys.argv[1]), text, []).render(
            [{"role": "user", "content": "Hello."}])))
    except (RowError, template_limits.Runaway) as error:
        print(error.code, error.message)
# Not ru_maxrss: it survives exec, and so begins at the size of pytest.
print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) >> 10)
"""
AS_TRANSFORMERS = """
import sys
from pathlib import Path
from runner.scripts.data.tokens.chat_tokens import ChatTokenizer
from runner.scripts.data.tokens.parity_cases import cases
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
tools = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]
compared = 0
for path in sys.argv[2:]:
    text = Path(path).read_text(encoding="utf-8")
    own = ChatTokenizer(Path(sys.argv[1]), text, [])
    for name, messages in cases():
        for given in ([], tools):
            try:
                wanted = tokenizer.apply_chat_template(
                    messages, chat_template=own.template, tools=given or None, tokenize=False,
                    add_generation_prompt=True)
            except TemplateError:
                continue
            assert own.render(messages, given, generate=True) == wanted, (path, name)
            compared += 1
print(compared)
"""
PREPARE = """
import runpy, sys
from runner.scripts.data.tokens import template_limits
template_limits.SECONDS, template_limits.KILL_AFTER = 0.5, 0.5
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], None, "__main__")
"""
DOUBLED = (
    "{%% set n = namespace(x='aaaaaaaa') %%}{%% for i in range(60) %%}"
    "{%% set n.x = %s %%}{%% endfor %%}{{ n.x }}"
)
TOO_MUCH = "E326 the chat template takes more than 256 MiB of memory"
HOSTILE = {
    "{{ 10 ** (10 ** 10) }}": "raises a number to the power of 10000000000",
    "{{ (-10) ** (10 ** 10) }}": "raises a number to the power of 10000000000",
    "{{ 'a' * 4000000000 }}": "repeats something 4000000000 times",
    "{{ 4000000000 * 'a' }}": "repeats something 4000000000 times",
    "{{ [1] * 10**10 }}": "repeats something 10000000000 times",
    "{{ '%1000000000d' % 1 }}": "fills something up to 1000000000 characters",
    "{{ '%*d' % (1000000000, 1) }}": "fills something up to 1000000000 characters",
    DOUBLED.replace("'aaaaaaaa'", "10") % "n.x * n.x": "numbers of thousands of digits",
    "{% for i in range(10**12) %}{% endfor %}": "Range too big",
    "{{ range(10**12)|list }}": "Range too big",
    "{{ '%1000000000d'|format(1) }}": TOO_MUCH,
    "{{ '{:1000000000d}'.format(1) }}": TOO_MUCH,
    "{{ 'a'|center(10**9) }}": TOO_MUCH,
    "{{ 'a\nb'|indent(10**9) }}": TOO_MUCH,
    "{{ 'a'.ljust(10**10) }}": TOO_MUCH,
    "{{ [1]|batch(10**10, 'x')|list }}": TOO_MUCH,
    DOUBLED % "n.x ~ n.x": TOO_MUCH,
    DOUBLED % "n.x + n.x": TOO_MUCH,
    DOUBLED % "''.join([n.x, n.x])": TOO_MUCH,
    "{{ 'a' * 36000000 }}{{ 'a' * 34000000 }}": "writes 70000000 characters",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "maximum recursion depth exceeded",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "maximum recursion depth exceeded",
    "{{ " + "9" * 5000 + " }}": "Exceeds the limit",
    "{{ '\\ud800' }}": "writes half a surrogate pair",
    "{{ ''.__class__.__mro__ }}": "is unsafe",
    "{% if %}": "E326 line 1 of the chat template: Expected an expression",
}


@pytest.fixture(scope="module")
def python(environment_python: Callable[[str], Path]) -> Path:
    return environment_python("data")


def said_by(python: Path, program: str, *arguments: str, given: str = "") -> list[str]:
    done = subprocess.run(
        [str(python), "-c", program, *arguments],
        cwd=ROOT,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_a_template_without_an_end_is_stopped(python: Path, tiny: Path) -> None:
    said = said_by(python, STOPPED_FROM_WITHIN, str(tiny), ENDLESS)
    stopped, row_stopped, went_on = said
    assert (
        stopped
        == row_stopped
        == "E326 the chat template has not ended after 0.3 s of the processor"
    )
    assert went_on == "Hello. Hello."


def test_no_template_takes_the_memory_or_fails_without_words(python: Path, tiny: Path) -> None:
    *said, peak = said_by(python, RENDER_ALL, str(tiny), given=json.dumps(list(HOSTILE)))
    for (template, wanted), line in zip(HOSTILE.items(), said, strict=True):
        assert wanted in line, (template[:80], line)
        assert line.startswith("E326 "), (template[:80], line)
        assert "the chat template" in line, (template[:80], line)
    assert int(peak) < 1024, "MiB"


def test_templates_render_as_transformers_renders_them(
    python: Path, tiny: Path, tmp_path: Path
) -> None:
    """The shipped ones, and one that has what others in the wild have."""
    shipped = sorted((ROOT / "runner/stages/templates/families").rglob("*.jinja"))
    (tmp_path / "wild.jinja").write_text(WILD)
    paths = map(str, [*shipped, tmp_path / "wild.jinja"])
    (compared,) = said_by(python, AS_TRANSFORMERS, str(tiny), *paths)
    assert len(shipped) > 10
    assert int(compared) > 500


def prepare(
    python: Path,
    model: Path,
    place: Path,
    template: str,
    rows: int,
    processes: int,
    script: str = "prepare",
) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """The stage's script by a template that has not long to end; what it said."""
    for folder in ("out", "scratch"):
        (place / folder).mkdir(parents=True)
    questions = ["Hi." if number + 3 < rows else "Go on." for number in range(rows)]
    turns = [{"instruction": question, "output": "Well."} for question in questions]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns))
    (place / "t.jinja").write_text(template)
    named = {"model": model, "train-0": place / "rows.jsonl", "template": place / "t.jinja"}
    where = {
        "inputs": {name: str(path) for name, path in named.items()},
        "folder": str(place / "out"),
        "scratch": str(place / "scratch"),
        "events": str(place / "events.jsonl"),
    }
    train = [{"name": "data/rows.jsonl", "format": "alpaca", "input": "train-0"}]
    files = [{**train[0], "held_out": False}]
    hashed = PREPARING | {"train": train, "template": "my/t.jinja", "files": files, "rows": rows}
    hashed |= {"clean": {}} if script == "inspect_rows" else {}
    spec = {"stage": "prepare", "hashed": hashed, "where": where}
    (place / "spec.json").write_text(json.dumps(spec))
    done = subprocess.run(
        [str(python), "-c", PREPARE, str(SCRIPTS), script, str(place / "spec.json")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(processes)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (place / "events.jsonl").read_text().splitlines()
    return done, [json.loads(line) for line in lines]


@pytest.mark.parametrize(("rows", "processes"), [(8, 1), (600, 2)])
def test_the_first_row_that_does_not_end_stops_the_stage(
    python: Path, tiny: Path, tmp_path: Path, rows: int, processes: int
) -> None:
    """The template renders every other row: nothing tells before that one."""
    done, events = prepare(python, tiny, tmp_path, LATER % ENDLESS, rows, processes)
    (error,) = (each for each in events if each["event"] == "error")
    assert (error["code"], error["message"]) == (
        "E326",
        f"data/rows.jsonl:{rows - 2}: the chat template my/t.jinja has not ended after 0.5 s "
        "of the processor",
    )
    assert "data.chat_template" in error["hint"]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "scratch").iterdir())


def test_a_template_that_renders_no_question_in_time_is_named(
    python: Path, tiny: Path, tmp_path: Path
) -> None:
    _, events = prepare(python, tiny, tmp_path, ENDLESS, 1, 1)
    assert events[-1]["message"] == (
        "the chat template my/t.jinja has not ended after 0.5 s of the processor"
    )


def test_so_does_the_first_row_that_is_looked_at(python: Path, tiny: Path, tmp_path: Path) -> None:
    """By the script behind `recipe data inspect --recipe`."""
    done, events = prepare(python, tiny, tmp_path, LATER % ENDLESS, 8, 1, "inspect_rows")
    assert events[-1]["message"] == (
        "data/rows.jsonl:6: the chat template my/t.jinja has not ended after 0.5 s of the processor"
    )
    assert (done.returncode, events[-1]["code"]) == (1, "E326")
    assert "Traceback" not in done.stderr


def test_a_worker_that_python_cannot_stop_is_killed_and_its_row_is_named(
    python: Path, tiny: Path, tmp_path: Path
) -> None:
    done, events = prepare(python, tiny, tmp_path, LATER % ONE_STEP, 600, 2)
    error = events[-1]
    assert (error["event"], error["code"], error["message"]) == (
        "error",
        "E326",
        "data/rows.jsonl:598: the chat template my/t.jinja computes without an end, "
        "and was stopped",
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "scratch").iterdir())


def test_so_is_a_script_that_python_cannot_stop(python: Path, tiny: Path, tmp_path: Path) -> None:
    """It is dead, so the executor says it: from what it left in its folder."""
    from runner.errors import StageFailed
    from runner.scripts.data.tokens import last_rendered

    done, _ = prepare(python, tiny, tmp_path, LATER % ONE_STEP, 8, 1)
    assert done.returncode == -last_rendered.KILLED_BY
    failure = failure_of(tmp_path, last_rendered.KILLED_BY)
    assert isinstance(failure, StageFailed)
    assert failure.code == "E326"
    assert failure.message == (
        "data/rows.jsonl:6: the chat template my/t.jinja computes without an end, and was stopped"
    )


def failure_of(place: Path, signal: int) -> Exception:
    """What the executor makes of a script that was killed."""
    from runner.execution.context import StageContext
    from runner.execution.events import EventLog
    from runner.stages import load_stage
    from runner.system.process import ChildResult

    log = place / "log"
    log.write_text("")
    context = StageContext(
        stage=load_stage("prepare"),
        project_root=place,
        recipe_folder=place,
        log_folder=place,
        scratch=place / "scratch",
        cache=place,
        platform={},
        events=EventLog(place / "more.jsonl"),
    )
    ended = ChildResult(
        argv=("python",),
        returncode=None,
        signal=signal,
        stdout=b"",
        stderr_path=log,
        seconds=1.0,
        peak_memory=0,
        killed=False,
        oom_killed=False,
        leftover=0,
    )
    try:
        return context._failure("prepare", ended, [], log)
    finally:
        context.events.close()
