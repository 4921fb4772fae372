"""Rows to tokens by the real script, against a tokenizer of our own that knows only bytes."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from runner.rows.prepared import prepared_lines, split_warnings
from runner.stages.templates.shipped_templates import path_of
from tests.script_runs import PREPARING, ScriptRun, run_script
from tests.tiny_model import SPECIAL, write_tiny_model

Message = dict[str, str]
IM_START, IM_END = SPECIAL.index("<|im_start|>"), SPECIAL.index("<|im_end|>")
FIRST_BYTE = len(SPECIAL)


def byte_ids(text: str) -> list[int]:
    """A special token that a row writes out is that token, as every library reads it."""
    parts = re.split("|".join(f"({re.escape(token)})" for token in SPECIAL), text)
    return [
        number
        for part in parts
        if part
        for number in (
            [SPECIAL.index(part)]
            if part in SPECIAL
            else [FIRST_BYTE + byte for byte in part.encode()]
        )
    ]


def expected(messages: list[Message]) -> tuple[list[int], list[int]]:
    """Ids and mask of a ChatML conversation, written from the template's definition."""
    ids: list[int] = []
    mask: list[int] = []
    for turn in messages:
        head = [IM_START, *byte_ids(f"{turn['role']}\n")]
        body = [*byte_ids(turn["content"]), IM_END]
        tail = byte_ids("\n")
        trained = int(turn["role"] == "assistant")
        ids += head + body + tail
        mask += [0] * len(head) + [trained] * len(body) + [0] * len(tail)
    return ids, mask


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


Prepare = Callable[..., ScriptRun]


@pytest.fixture
def prepare(
    environment_python: Callable[[str], Path], tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Prepare:
    """Write rows (bytes, or objects for JSONL) to a file and prepare them."""
    python = environment_python("data")

    def run(rows: bytes | list[Any], format_name: str = "messages", **changed: Any) -> ScriptRun:
        place = tmp_path_factory.mktemp("prepare")
        data = place / "rows.jsonl"
        data.write_bytes(
            rows
            if isinstance(rows, bytes)
            else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        )
        described = {"name": "data/rows.jsonl", "format": format_name, "input": "train-0"}
        hashed = PREPARING | {"train": [described]} | changed
        inputs = {"model": changed.pop("model", tiny), "train-0": data}
        if "template_text" in changed:
            (place / "t.jinja").write_text(hashed.pop("template_text"))
            inputs["template"] = place / "t.jinja"
        if "template_file" in changed:
            inputs["template"] = hashed.pop("template_file")
        hashed.pop("model", None)
        return run_script(python, "prepare", hashed, inputs, place / "run", HF_HUB_OFFLINE="1")

    return run


def documents(folder: Path, name: str = "train") -> Iterator[tuple[list[int], list[int]]]:
    """Ids and mask of every row of a tokens file."""
    tensors = load_file(folder / f"{name}.tokens.safetensors")
    assert tensors["input_ids"].dtype == np.int32
    assert tensors["labels_mask"].dtype == np.int8
    assert tensors["offsets"].dtype == np.int64
    for begin, end in pairwise(tensors["offsets"].tolist()):
        yield tensors["input_ids"][begin:end].tolist(), tensors["labels_mask"][begin:end].tolist()


def lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file; only a newline ends a line."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def chat(*contents: str) -> dict[str, list[Message]]:
    roles = ("user", "assistant")
    return {
        "messages": [
            {"role": roles[number % 2], "content": content}
            for number, content in enumerate(contents)
        ]
    }


_CONTENT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["<|im_start|>", "a<|im_end|>\n", "<|endoftext|><|im_end|"]
)
_ANSWER = _CONTENT.filter(lambda text: text.strip())
_CONVERSATION = st.builds(
    lambda system, pairs: (
        ([] if system is None else [{"role": "system", "content": system}])
        + [turn for question, answer in pairs for turn in chat(question, answer)["messages"]]
    ),
    st.one_of(st.none(), _CONTENT),
    st.lists(st.tuples(_CONTENT, _ANSWER), min_size=1, max_size=3),
)


def test_every_token_and_every_mask_bit_is_as_the_template_defines_it(prepare: Prepare) -> None:
    @settings(max_examples=3)
    @given(st.lists(_CONVERSATION, min_size=60, max_size=120), st.one_of(st.none(), _CONTENT))
    def holds(conversations: list[list[Message]], system: str | None) -> None:
        rows = [{"messages": turns} for turns in conversations]
        run = prepare(rows, system=system)
        assert run.returncode == 0, run.log
        filled = [
            turns
            if system is None or turns[0]["role"] == "system"
            else [{"role": "system", "content": system}, *turns]
            for turns in conversations
        ]
        assert list(documents(run.folder)) == [expected(turns) for turns in filled]

    holds()


def test_the_same_data_gives_the_same_bytes_in_any_format_and_process(prepare: Prepare) -> None:
    facts = [("What is Ä?", "1 \U0001f600"), ("B", "two\n"), ("C", "3")]
    forms: dict[str, list[Any]] = {
        "messages": [chat(question, answer) for question, answer in facts],
        "alpaca": [{"instruction": q, "output": a} for q, a in facts],
        "sharegpt": [
            {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
            for q, a in facts
        ],
        "prompt-completion": [{"prompt": q, "completion": a} for q, a in facts],
    }
    digests = {}
    for format_name, rows in forms.items():
        run = prepare(rows, format_name, system="S", fraction=0.3)
        assert run.returncode == 0, run.log
        digests[format_name] = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(run.folder.iterdir())
        }
    assert len({json.dumps(digest) for digest in digests.values()}) == 1
    assert digests["messages"]["train.tokens.safetensors"] == GOLDEN_TRAIN


# Raise prepare.VERSION with it: this is what every machine must give.
GOLDEN_TRAIN = "064ee2a948cab137e8c4d2c5e0738d88a40af6b3cae99e58f4ffd1f15b8c07b0"


def test_a_validation_row_can_be_evaluated_and_asked(prepare: Prepare) -> None:
    rows = [chat(f"question {n}", f"answer {n}", "more", "yes") for n in range(20)]
    run = prepare(rows, system="S", fraction=0.25)
    assert run.returncode == 0, run.log
    held_out = lines(run.folder / "validation.jsonl")
    assert len(held_out) == 5
    assert all(row["messages"][0] == {"role": "system", "content": "S"} for row in held_out)
    assert list(documents(run.folder, "validation")) == [
        expected(row["messages"]) for row in held_out
    ]
    text = (run.folder / "validation.txt").read_text("utf-8")
    assert text.count("<|im_start|>assistant\nyes<|im_end|>\n") == 5
    trained = [ids for ids, _ in documents(run.folder)]
    assert len(trained) == 15
    assert not {tuple(ids) for ids in trained} & {
        tuple(ids) for ids, _ in documents(run.folder, "validation")
    }


def test_the_parity_prompts_are_what_a_client_sends_and_a_model_must_see(prepare: Prepare) -> None:
    run = prepare([chat(f"q{n}", "a", "last", "b") for n in range(4)], system="S", fraction=0.25)
    assert run.returncode == 0, run.log
    prompts = {prompt["id"]: prompt for prompt in lines(run.folder / "prompts.jsonl")}
    (validation,) = [prompt for prompt in prompts.values() if prompt["kind"] == "validation"]
    assert [turn["role"] for turn in validation["messages"]] == ["user", "assistant", "user"]
    hard = [prompt for prompt in prompts.values() if prompt["kind"] == "hard"]
    assert len(hard) > 20
    for prompt in prompts.values():
        turns = prompt["messages"]
        if not turns or turns[0]["role"] != "system":
            turns = [{"role": "system", "content": "S"}, *turns]
        ids = [
            *(token for turn in turns for token in expected([turn])[0]),
            IM_START,
            *byte_ids("assistant\n"),
        ]
        if not any(name in json.dumps(turns) for name in SPECIAL):
            assert prompt["ids"] == ids
        assert prompt["text"].endswith("<|im_start|>assistant\n")
    looks_alike = prompts["hard-special-tokens-in-user"]
    assert looks_alike["ids"].count(IM_END) == 4  # the template's two and the user's two


def test_packs_know_their_documents(prepare: Prepare) -> None:
    rows = [chat(f"q{n}", "a" * (n * 7 % 40 + 1)) for n in range(30)]
    run = prepare(rows, packing=True, max_length=150)
    assert run.returncode == 0, run.log
    tensors = load_file(run.folder / "train.tokens.safetensors")
    packs, edges = tensors["offsets"].tolist(), tensors["document_offsets"].tolist()
    assert set(packs) <= set(edges)
    assert all(end - begin <= 150 for begin, end in pairwise(packs))
    found = []
    for begin, end in pairwise(edges):
        assert tensors["position_ids"][begin:end].tolist() == list(range(end - begin))
        found.append(
            (tensors["input_ids"][begin:end].tolist(), tensors["labels_mask"][begin:end].tolist())
        )
    assert sorted(found) == sorted(expected(row["messages"]) for row in rows)
    assert run.measures["train"]["packs"] == len(packs) - 1 < 30


def test_text_is_trained_on_from_its_second_token_to_its_end(prepare: Prepare) -> None:
    run = prepare([{"text": "plain"}, {"text": "closed<|im_end|>"}], "text")
    assert run.returncode == 0, run.log
    plain, closed = documents(run.folder)
    assert plain == ([*byte_ids("plain"), IM_END], [0, 1, 1, 1, 1, 1])
    assert closed[0] == [*byte_ids("closed"), IM_END]


# --- rows that are too long


def test_a_long_row_is_an_error_that_names_it(prepare: Prepare) -> None:
    run = prepare([chat("q", "a"), chat("q", "long " * 20)], max_length=60)
    length = len(expected(chat("q", "long " * 20)["messages"])[0])
    assert run.returncode == 1
    assert run.error["code"] == "E325"
    assert run.error["message"] == (
        f"data/rows.jsonl:2: the row has {length} tokens, data.max_length is 60"
    )
    assert "too_long" in run.error["hint"]


def test_long_rows_are_dropped_and_counted(prepare: Prepare) -> None:
    long = chat("ask me@home.org " * 9, "long " * 20)
    run = prepare([chat("q", "a"), long], max_length=60, too_long="drop")
    assert [ids for ids, _ in documents(run.folder)] == [expected(chat("q", "a")["messages"])[0]]
    assert run.measures["train"]["dropped"] == {"too long": 1}
    told = next(line for line in prepared_lines(run.measures) if "dropped, too long" in line)
    assert told.startswith('  dropped, too long: 1 row, such as data/rows.jsonl:2: "ask [EMAIL]')
    assert told.endswith('…"')


def test_a_truncated_row_never_has_an_empty_answer(prepare: Prepare) -> None:
    """Every length from one token to the whole row, of two answers: each ends inside an answer."""
    whole, mask = expected(chat("q", "first", "r", "second")["messages"])
    rows = [chat("q", "first", "r", "second"), chat("q" * len(whole), "never seen")]
    first_answer = mask.index(1)
    for max_length in (first_answer, first_answer + 1, len(whole) - 9, len(whole) - 1):
        run = prepare(rows, max_length=max_length, too_long="truncate")
        if max_length == first_answer:
            assert run.error["code"] == "E329"
            assert "2 no answer within max_length" in run.error["message"]
            continue
        ((ids, found),) = documents(run.folder)
        assert ids == whole[: len(ids)]
        assert found == mask[: len(ids)]
        assert found[-1] == 1
        assert len(ids) <= max_length
        assert run.measures["train"]["truncated"] == 1
        assert run.measures["train"]["dropped"] == {"no answer within max_length": 1}


# --- bad rows and bad templates


def test_every_bad_row_is_named_at_once(prepare: Prepare) -> None:
    good = json.dumps(chat("q", "a")).encode()
    bad = b'{"messages": [{"role": "user", "content": "q"}]}'
    run = prepare(b"\n".join([good, b"{", bad, good] + [b"x"] * 12))
    assert run.returncode == 1
    shown = run.error["message"].splitlines()
    assert shown[0].startswith("data/rows.jsonl:2: broken JSON")
    assert shown[1] == "data/rows.jsonl:3: there is no assistant turn to train on (E323)"
    assert shown[-1] == "and 4 more rows"
    assert run.error["hint"].endswith("--rows 0 --bad 14 names all of them")
    assert list(run.folder.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]"])
def test_a_file_without_rows_is_an_error(prepare: Prepare, content: bytes) -> None:
    run = prepare(content)
    assert (run.error["code"], run.error["message"]) == ("E324", "data/rows.jsonl holds no rows")


@pytest.mark.parametrize(
    ("template", "code", "words"),
    [
        ("{{ nonsense", "E326", "does not work"),
        ("{{ raise_exception('no ' + messages[0].role) }}", "E326", "no user"),
        # hostile: out of the sandbox, too many turns of a loop, itself for ever, what is no number
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "E326", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "E326", "unsafe"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "E326", "Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "E326", "recursion"),
        ("{{ messages[0].content + 1 }}", "E326", "fails"),
        ("{{ 1 / 0 }}", "E326", "division by zero"),
        ("{{ 'x' * (60 * 1024 * 1024) }}{{ 'y' * (5 * 1024 * 1024) }}", "E326", "more than 64 Mi"),
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}",
            "E328",
            "data/rows.jsonl:1: the chat template does not end an answer with a special token",
        ),
        (
            "{% for m in messages %}{% if loop.last or m.role == 'assistant' %}<|im_start|>"
            "{{ m.role }}:{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}",
            "E327",
            "data/rows.jsonl:1: the chat template writes the turns before the answer of turn 2",
        ),
        (
            "{{ strftime_now(messages[0].content) }}{% for m in messages %}<|im_start|>"
            "{{ m.role }}{% endfor %}",
            "E557",
            "asks for the date in a way that cannot be pinned",
        ),
        (
            "{{ bos_token * 2 }}{% for m in messages %}{{ m.role }}:{{ m.content }}<|im_end|>"
            "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
            "E558",
            "data/rows.jsonl:1: the chat template begins with '<|im_start|>' twice",
        ),
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content | upper }}<|im_end|>"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}",
            "E327",
            "does not write the answer of turn 2",
        ),
    ],
)
def test_a_template_that_cannot_be_trained_with_is_refused(
    prepare: Prepare, template: str, code: str, words: str
) -> None:
    run = prepare([chat("q", "a", "r", "b")], template="t.jinja", template_text=template)
    assert run.returncode == 1
    assert run.error["code"] == code
    assert words in run.error["message"]


def test_a_template_that_does_not_work_is_looked_at_within_the_limits(prepare: Prepare) -> None:
    run = prepare([chat("q", "a")], template="t.jinja", template_text="{{ nonsense")
    assert "a shipped template in data.chat_template" in run.error["hint"]
    assert "`recipe data inspect --recipe RECIPE`" in run.error["hint"]


HISTORY = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if loop.last or m.role != 'assistant' else 'forgotten' }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_rewrites_the_history_gives_a_document_for_each_answer(
    prepare: Prepare,
) -> None:
    rows = [chat("q", "a", "r", "b")]
    run = prepare(rows, template="t.jinja", template_text=HISTORY, system="S")
    first, second = documents(run.folder)
    system = {"role": "system", "content": "S"}
    turns = rows[0]["messages"]
    assert first == expected([system, *turns[:2]])
    forgotten = turns[1] | {"content": "forgotten"}
    ids, mask = expected([system, turns[0], forgotten, *turns[2:]])
    earlier = sum(expected([system, *turns[:2]])[1]) + len("forgotten") - len("a")
    context = [0 if sum(mask[: at + 1]) <= earlier else bit for at, bit in enumerate(mask)]
    assert second == (ids, context)
    assert run.measures["train"]["rows"] == 2


REFUSING = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SILENT = REFUSING.replace(
    "{{ raise_exception('System role not supported') }}", "{% set messages = messages[1:] %}"
)


@pytest.mark.parametrize(
    ("template", "why"), [(REFUSING, "System role not supported"), (SILENT, "writes nothing of it")]
)
def test_a_system_turn_that_the_template_does_not_take_is_an_error_before_training(
    prepare: Prepare, template: str, why: str
) -> None:
    chosen = {"template": "t.jinja", "template_text": template}
    run = prepare([chat("q", "a")], **chosen, system="Be terse.")
    assert run.error["code"] == "E556"
    assert run.error["message"].startswith("data.system gives every conversation a system turn")
    assert why in run.error["message"]

    with_system = chat("q", "a")
    with_system["messages"].insert(0, {"role": "system", "content": "Be terse."})
    run = prepare([chat("q", "a"), with_system], **chosen)
    assert run.error["code"] == "E556"
    assert run.error["message"].startswith("data/rows.jsonl:2: the row has a system turn")
    assert why in run.error["message"]
    assert prepare([chat("q", "a")], **chosen).returncode == 0


def test_why_hard_cases_are_left_out_is_recorded(prepare: Prepare) -> None:
    run = prepare([chat("q", "a")], template="t.jinja", template_text=REFUSING)
    assert run.measures["parity_prompts_left_out"] == {
        "the chat template refuses it: System role not supported": 7
    }


def test_a_date_is_pinned_in_the_template_that_is_kept(prepare: Prepare) -> None:
    template = (
        "{% set today = strftime_now('%d %b %Y') %}{{ today }}, {{ strftime_now(\"%A\") }}."
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    run = prepare([chat("q", "a")], template="t.jinja", template_text=template)
    ((ids, _),) = documents(run.folder)
    assert ids[:20] == byte_ids("26 Jul 2024, Friday.")
    kept = (run.folder / "chat_template.jinja").read_text()
    assert "strftime_now" not in kept
    assert kept.startswith('{% set today = "26 Jul 2024" %}{{ today }}, {{ "Friday" }}.')
    prompt = lines(run.folder / "prompts.jsonl")[0]
    assert prompt["text"].startswith("26 Jul 2024, Friday.")


def test_a_given_template_is_used_and_kept(prepare: Prepare) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    run = prepare([chat("q", "a")], template="t.jinja", template_text=template)
    ((ids, mask),) = documents(run.folder)
    assert ids == [*byte_ids("[user]q"), IM_END, *byte_ids("[assistant]a"), IM_END]
    assert sum(mask) == 2
    assert (run.folder / "chat_template.jinja").read_text() == template


def test_a_model_without_a_template_needs_one(prepare: Prepare, tmp_path: Path) -> None:
    bare = write_tiny_model(tmp_path / "model")
    (bare / "chat_template.jinja").unlink()
    run = prepare([chat("q", "a")], model=bare)
    assert run.error["code"] == "E326"
    assert "data.chat_template" in run.error["hint"]
    assert prepare([{"text": "needs none"}], "text", model=bare).returncode == 0


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("llama3", "<|start_header_id|>, <|end_header_id|>, <|eot_id|>"),
        ("gemma", "<start_of_turn>, <end_of_turn>"),
    ],
)
def test_a_template_of_another_family_is_named_once_and_not_by_row(
    prepare: Prepare, name: str, missing: str
) -> None:
    text = path_of(name).read_text()
    run = prepare([chat("q", "a")] * 3, template=name, template_text=text)
    assert run.error["code"] == "E328"
    assert run.error["message"] == (
        f"the chat template {name} is not for this model: its tokenizer has no special token "
        f"{missing}, so no answer can be told from its prompt"
    )
    assert "change the rows" not in run.error["hint"]


def test_a_template_that_is_no_text_is_named(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_bytes(b"{# \xe9 #}")
    run = prepare([chat("q", "a")], template="t.jinja", template_file=tmp_path / "t.jinja")
    assert (run.error["code"], "not UTF-8: byte 4" in run.error["message"]) == ("E326", True)


def test_white_space_that_melts_into_the_template_is_named(
    prepare: Prepare, tmp_path: Path
) -> None:
    """After `assistant: `, one more space makes another token: no model could begin with it."""
    model = write_tiny_model(tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    bpe = tokenizer["model"]
    bpe["vocab"]["\u0120\u0120"] = bpe["vocab"].pop("<|unused|>")
    bpe["merges"] = [["\u0120", "\u0120"]]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    chosen = {"model": model, "template": "t.jinja", "template_text": template}
    assert prepare([chat("q", "fine")], **chosen).returncode == 0
    run = prepare([chat("q", "fine"), chat("q", " spaced")], **chosen)
    assert run.error["code"] == "E327"
    assert run.error["message"].startswith(
        "data/rows.jsonl:2: the white space before the answer of turn 2 melts"
    )


# --- rows and files as found in the wild

TOOLS_TEMPLATE = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}"
    "<call>{{ call.function.name }}({{ call.function.arguments.zone }})</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "clock"}}


def with_tools() -> dict[str, Any]:
    call = {"function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
    turns = [
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "tool_calls": [call], "content": None},
        {"role": "tool", "content": "12:00"},
        {"role": "assistant", "content": "Noon."},
    ]
    return {"messages": turns, "tools": [TOOL]}


def test_calls_of_tools_are_trained_on_and_what_tools_answer_is_not(prepare: Prepare) -> None:
    run = prepare([with_tools()], template="t", template_text=TOOLS_TEMPLATE, fraction=0.0)
    assert run.returncode == 0, run.log
    ((ids, mask),) = documents(run.folder)
    trained = [token for token, bit in zip(ids, mask, strict=True) if bit]
    call = [*byte_ids("<call>clock(UTC)</call>"), IM_END]
    assert trained == [*call, *byte_ids("Noon."), IM_END]
    assert bytes(token - FIRST_BYTE for token in ids[:7]) == b"[clock]"


def test_tools_that_the_template_does_not_write_are_an_error(prepare: Prepare) -> None:
    assert prepare([with_tools()]).error["code"] == "E350"
    unseen = {**with_tools(), "tools": None}
    error = prepare([unseen]).error
    assert (error["code"], "tool call of turn 2" in error["message"]) == ("E350", True)


def test_weights_columns_tables_and_compression_give_the_bytes_of_plain_rows(
    prepare: Prepare,
) -> None:
    plain = prepare([chat("Q", "A"), chat("R", "B")])
    rows = [{"q": "Q", "a": "A"}, {"q": "R", "a": "B"}]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    named = {"format": "alpaca", "input": "train-0", "columns": {"instruction": "q", "output": "a"}}
    packed = prepare(gzip.compress(content), train=[{**named, "name": "rows.jsonl.gz"}])
    table = prepare(b"q,a\nQ,A\nR,B\n", train=[{**named, "name": "rows.csv"}])
    files = [
        (run.folder / "train.tokens.safetensors").read_bytes() for run in (plain, packed, table)
    ]
    assert files[0] == files[1] == files[2]
    unweighted = chat("q", "a", "Q", "A")
    unweighted["messages"][1]["weight"] = 0  # type: ignore[assignment]
    ((ids, mask),) = documents(prepare([unweighted]).folder)
    assert [token for token, bit in zip(ids, mask, strict=True) if bit] == [*byte_ids("A"), IM_END]


# --- prompts without an answer, as ppo takes them


def test_a_prompt_waits_where_an_answer_would_begin(prepare: Prepare) -> None:
    """Trained on is its end alone, by which ppo knows what ends answers; "answer" is not read."""
    rows = [
        {"prompt": "How many?", "answer": 3},
        {"prompt": [{"role": "user", "content": "Why?"}], "system": "Be short."},
    ]
    run = prepare(rows, "prompt")
    assert run.returncode == 0, run.events
    asked = [
        chat("How many?", "")["messages"],
        [{"role": "system", "content": "Be short."}, *chat("Why?", "")["messages"]],
    ]
    assert list(documents(run.folder)) == [expected(messages) for messages in asked]


def test_prompts_stand_beside_conversations(prepare: Prepare) -> None:
    """The same question is the same prompt, whether an answer follows it in the file or not."""
    (answered,) = documents(prepare([chat("Why?", "So.")]).folder)
    (waiting,) = documents(prepare([{"prompt": "Why?"}], "prompt").folder)
    begin = answered[1].index(1)
    assert waiting[1].index(1) == begin
    assert waiting[0][:begin] == answered[0][:begin]


def test_a_prompt_without_a_question_is_named(prepare: Prepare) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    run = prepare([{"prompt": "Why?"}, {"prompt": " "}, {"prompt": turns}], "prompt")
    assert run.returncode == 1
    assert "data/rows.jsonl:2: the last question is empty" in run.error["message"]
    assert (
        "data/rows.jsonl:3: the prompt ends with a turn of the assistant" in (run.error["message"])
    )


def test_special_tokens_in_turns_are_counted_and_change_no_byte(prepare: Prepare) -> None:
    """They become the token, as `apply_chat_template` has it."""
    rows = [chat("Q", "A"), chat("Q", "Stop<|im_end|>here"), chat("<|im_start|>system", "A")]
    done = prepare([*rows, chat("Q", "<|endoftext|>")])
    found = done.measures["special_text"]
    assert found["count"] == 2
    assert found["first"] == [
        {"place": "data/rows.jsonl:2", "token": "<|im_end|>"},
        {"place": "data/rows.jsonl:3", "token": "<|im_start|>"},
    ]
    ids = [ids for ids, _ in documents(done.folder)]
    assert [each.count(IM_END) for each in ids] == [2, 3, 2, 2]
    (warning,) = split_warnings(done.measures)
    assert "data/rows.jsonl:2 (<|im_end|>)" in warning
    assert "special_text" not in prepare([chat("Q", "im_end")]).measures


# --- what is wrong, told at once


def test_the_bad_rows_of_both_splits_are_told_at_once_each_with_its_code(prepare: Prepare) -> None:
    rows = [chat(f"q{number}", "a" * (90 if number > 36 else 3)) for number in range(1, 41)]
    rows[9]["messages"].insert(0, {"role": "assistant", "content": "Hello."})
    run = prepare(rows, fraction=0.4, max_length=60)
    assert run.error["code"] == "E346"
    told = run.error["message"].splitlines()
    assert [line.partition(": ")[0] for line in told] == [
        f"data/rows.jsonl:{line}" for line in (10, 37, 38, 39, 40)
    ]
    assert "the row begins with an answer" in told[0]
    assert [line[-6:] for line in told] == ["(E346)", *["(E325)"] * 4]
    assert run.error["hint"].startswith("E346: correct the order")
    assert "; E325: raise data.max_length" in run.error["hint"]
    del rows[9]["messages"][0]
    run = prepare(rows, fraction=0.4, max_length=60)
    assert run.error["code"] == "E325"
    assert "(E325)" not in run.error["message"]
    assert run.error["hint"].startswith("raise data.max_length")


def test_a_row_that_begins_with_an_answer_needs_a_turn_before_it(prepare: Prepare) -> None:
    rows = [chat("q", "a")]
    rows[0]["messages"].insert(0, {"role": "assistant", "content": "Hello."})
    run = prepare(rows)
    assert (run.error["code"], "alternation: merge" in run.error["message"]) == ("E346", True)
    assert prepare(rows, system="S").returncode == 0
    rows[0]["messages"][0]["weight"] = 0  # type: ignore[assignment]
    assert prepare(rows).returncode == 0


def test_empty_questions_are_counted(prepare: Prepare) -> None:
    run = prepare([chat("q", "a"), chat(" ", "b"), chat("r", "c", "", "d")])
    told = run.measures["empty_questions"]
    first = [{"place": "data/rows.jsonl:2"}, {"place": "data/rows.jsonl:3"}]
    assert told == {"count": 2, "first": first}
    (warning,) = split_warnings(run.measures)
    assert warning.startswith("2 rows have an empty question")
    assert "the first: data/rows.jsonl:2, data/rows.jsonl:3;" in warning
    assert "empty_questions" not in prepare([chat("q", "a")]).measures


def test_the_line_of_a_template_file_that_is_broken_is_told(prepare: Prepare) -> None:
    broken = "{# one #}\n{% for m in messages %}\n{{ m.content } }}{% endfor %}"
    run = prepare([chat("q", "a")], template="own/t.jinja", template_text=broken)
    assert run.error["code"] == "E326"
    assert "own/t.jinja:3: unexpected '}'" in run.error["message"]
