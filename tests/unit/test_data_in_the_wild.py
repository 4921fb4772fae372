"""Rows and files as other people publish them, and what they are guessed to be."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from runner.recipe.load import check_recipe
from runner.scripts.data.conversation import Conversation, check_turns, with_system
from runner.scripts.data.files.rows import Problem, RowError, read_rows
from runner.scripts.data.formats import EVERY, FIELDS, FORMATS
from runner.scripts.data.guess import guess_format
from tests.recipe_cases import copy_recipes

TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
CALLED = (
    {"role": "user", "content": "Time?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "12:00"},
    {"role": "assistant", "content": "Noon."},
)


def said(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"conversations": [{"from": who, "value": what} for who, what in turns]}


# --- rows


def test_tools_are_the_same_in_sharegpt_and_messages() -> None:
    call = json.dumps({"name": "clock", "arguments": {"zone": "UTC"}})
    shared = {
        **said(
            ("human", "Time?"), ("function_call", call), ("observation", "12:00"), ("gpt", "Noon.")
        ),
        "tools": json.dumps([TOOL["function"]]),
    }
    as_text = {"type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
    turns = [CALLED[0], {"role": "assistant", "content": None, "tool_calls": [as_text]}]
    plain = {"messages": [*turns, *CALLED[2:]], "tools": [TOOL]}
    expected = Conversation(messages=CALLED, tools=(TOOL,))
    assert FORMATS["sharegpt"](shared) == FORMATS["messages"](plain) == expected
    check_turns(expected)
    assert expected.answers == [1, 3]
    assert expected.digest() != Conversation(messages=CALLED).digest()


def test_keys_that_are_null_are_missing() -> None:
    turn = {"role": "user", "content": "Q", "name": None, "tool_calls": None, "tool_call_id": None}
    answer = {"role": "assistant", "content": "A", "weight": None, "tool_calls": []}
    row = {"messages": [turn, answer], "tools": None}
    plain = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    assert FORMATS["messages"](row) == Conversation(messages=plain)


@pytest.mark.parametrize("asks", ["Human", "USER", "human"])
@pytest.mark.parametrize("answers", ["GPT", "chatgpt", "ChatGPT", "bing", "Assistant"])
@pytest.mark.parametrize("system", ["developer", "System"])
def test_roles_have_many_names(asks: str, answers: str, system: str) -> None:
    names = [(system, "S"), (asks, "Q"), (answers, "A")]
    roles = ("system", "user", "assistant")
    expected = Conversation(
        messages=tuple(
            {"role": role, "content": text} for role, (_, text) in zip(roles, names, strict=True)
        )
    )
    assert FORMATS["sharegpt"](said(*names)) == expected
    turns = [{"role": name, "content": text} for name, text in names]
    assert FORMATS["messages"]({"messages": turns}) == expected


def test_parts_that_are_texts_are_one_text() -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "LoRA?"}]
    turns = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "A", "refusal": None},
    ]
    plain = {"role": "user", "content": "What is LoRA?"}, {"role": "assistant", "content": "A"}
    assert FORMATS["messages"]({"messages": turns}) == Conversation(messages=plain)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (
            {"type": "image_url", "image_url": {"url": "x"}},
            'is of type "image_url", and only texts',
        ),
        ({"type": "text"}, '"text" of part 1 of "content" of turn 1 is null'),
        ({"type": "text", "text": "x", "cache": 1}, 'has "cache", which is not understood'),
        ({"text": "x"}, '"type" of part 1'),
        ("x", "is a text, not an object"),
    ],
)
def test_a_part_that_is_no_text_is_told(part: Any, words: str) -> None:
    with pytest.raises(RowError, match=words):
        FORMATS["messages"]({"messages": [{"role": "user", "content": [part]}]})


def test_a_history_of_objects_is_one_of_pairs() -> None:
    row = {"instruction": "Q", "output": "A"}
    pairs, objects = [["q", "a"]], [{"user": "q", "assistant": "a"}]
    assert FORMATS["alpaca"](row | {"history": objects}) == FORMATS["alpaca"](
        row | {"history": pairs}
    )
    for wrong in ({"user": "q"}, {"user": "q", "assistant": "a", "id": 1}):
        with pytest.raises(RowError, match="no pair of question and answer"):
            FORMATS["alpaca"](row | {"history": [wrong]})


@pytest.mark.parametrize("format_name", ["messages", "sharegpt"])
def test_a_turn_of_weight_0_is_not_trained_on(format_name: str) -> None:
    names = ("role", "content") if format_name == "messages" else ("from", "value")
    turns = [("user", "q", {}), ("assistant", "a", {"weight": 0}), ("user", "Q", {"weight": 0}),
             ("assistant", "A", {"weight": 1})]  # fmt: skip
    values = [dict(zip(names, (role, text), strict=True)) | weight for role, text, weight in turns]
    row = {"messages" if format_name == "messages" else "conversations": values, "system": "S"}
    conversation = with_system(FORMATS[format_name](row), "S")
    assert [conversation.messages[index]["content"] for index in conversation.answers] == ["A"]


def test_weights_count_in_a_completion_too() -> None:
    turns = [{"role": "assistant", "content": "a", "weight": 0}, {"role": "user", "content": "Q"},
             {"role": "assistant", "content": "A"}]  # fmt: skip
    assert FORMATS["prompt-completion"]({"prompt": "q", "completion": turns}).answers == [3]


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([("gpt", "A")], 'turn 1 is of "gpt", but nobody has asked yet'),
        ([("system", "S"), ("gpt", "A")], 'turn 2 is of "gpt", but nobody'),
        ([("human", "Q"), ("human", "Q")], 'turn 2 is of "human", but so was a question'),
        ([("human", "Q"), ("gpt", "A"), ("gpt", "A")], 'turn 3 is of "gpt", but so was an answer'),
        ([("human", "Q"), ("tool", "T")], 'turn 2 is of "tool", but so was a question'),
        ([("human", "Q"), ("gpt", "A"), ("system", "S")], "comes first only"),
        ([("system", "S"), ("system", "S")], "comes first only"),
    ],
)
def test_broken_alternation_is_told_and_not_repaired(
    turns: list[tuple[str, str]], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RowError, match=words) as caught:
        FORMATS["sharegpt"](said(*turns))
    assert caught.value.code == "E346"


def test_messages_may_follow_one_another_in_any_order() -> None:
    turns = [{"role": "assistant", "content": each, "name": "Ann"} for each in ("A", "B")]
    assert FORMATS["messages"]({"messages": turns}).messages == tuple(turns)


# --- files

ROWS = [{"question": "Q", "answer": 'A, "and"\nB'}, {"question": "é", "answer": "[1]"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TABLE = 'question,answer\nQ,"A, ""and""\nB"\n\né,[1]\n'.encode()


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("rows.jsonl", LINES, [1, 2]),
        ("rows.jsonl.gz", gzip.compress(LINES, mtime=0), [1, 2]),
        ("named-otherwise", lzma.compress(LINES), [1, 2]),
        ("rows.json.xz", lzma.compress(json.dumps(ROWS).encode()), [1, 1]),
        ("rows.csv", TABLE, [2, 5]),
        ("ROWS.CSV.GZ", gzip.compress(b"\xef\xbb\xbf" + TABLE, mtime=0), [2, 5]),
        ("rows.tsv", TABLE.replace(b"question,answer", b"question\tanswer")
         .replace(b'Q,"', b'Q\t"').replace("é,".encode(), "é\t".encode()), [2, 5]),
    ],
)  # fmt: skip
def test_files_of_every_kind_give_the_same_rows(
    name: str, content: bytes, lines: list[int], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    found = [each for each in read_rows(tmp_path / name, name) if not isinstance(each, Problem)]
    assert [row for _, row in found] == ROWS
    assert [place.line for place, _ in found] == lines


def problems(path: Path, columns: dict[str, str] | None = None) -> list[tuple[int, str, str]]:
    found = [each for each in read_rows(path, path.name, columns) if isinstance(each, Problem)]
    return [(each.place.line, each.error.code, each.error.message) for each in found]


@pytest.mark.parametrize(
    ("name", "content", "line", "code", "words"),
    [
        ("a.gz", gzip.compress(LINES, mtime=0)[:-9], 2, "E347", "damaged"),
        ("a.gz", gzip.compress(LINES, mtime=0)[:-8] + b"\0" * 8, 3, "E347", "CRC"),
        ("a.gz", b"\x1f\x8b" + b"x" * 40, 1, "E347", "damaged"),
        ("a.xz", lzma.compress(LINES)[:-9], 3, "E347", "damaged"),
        (
            "a.jsonl.bz2",
            bz2.compress(LINES * 50),
            1,
            "E347",
            "this is bzip2, which is not read",
        ),
        ("a.csv", b"PK\x03\x04....", 1, "E347", "a zip archive"),
        ("a.zst", b"\x28\xb5\x2f\xfd...", 1, "E347", "zstd"),
        ("a.csv", b"a,a\n1,2\n", 1, "E351", 'column "a" occurs twice'),
        ("a.csv", b"a,b\n1,2,3\n1,2\n", 2, "E351", "3 cells, but there are 2 columns"),
        ("a.csv", b'a,b\n1,"2\n', 2, "E351", "unexpected end"),
        ("a.csv", b'a,b\n1,2\n"1"x,2\n', 3, "E351", "broken table"),
        ("a.csv", b"a,b\n1,\xff\n3,4\n", 2, "E320", "cell 2 is not UTF-8"),
        ("a.csv", b"a,b\xff\n1,2\n3,4\n", 1, "E320", "cell 2 is not UTF-8"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), 1, "E320", "cell 1 is not UTF-8"),
        ("a.csv", b"messages\n[1\n", 2, "E322", '"messages": broken JSON'),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    name: str, content: bytes, line: int, code: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    ((where, found, message),) = problems(tmp_path / name)
    assert (where, found) == (line, code)
    assert words in message


def test_a_line_without_an_end_is_not_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.scripts.data.files.rows.MAX_ROW_BYTES", 1000)
    monkeypatch.setattr("runner.scripts.data.files.rows.MAX_LIST_BYTES", 1000)
    for start in (b'{"a": "', b'[{"a": "'):
        (tmp_path / "bomb.gz").write_bytes(gzip.compress(start + b"x" * 10_000))
        ((line, code, _),) = problems(tmp_path / "bomb.gz")
        assert (line, code) == (1, "E349")


def test_what_is_whole_before_the_damage_is_read(tmp_path: Path) -> None:
    lines = b"".join(b'{"a": "%d"}\n' % (number**9) for number in range(5000))
    packed = gzip.compress(lines)
    (tmp_path / "a.gz").write_bytes(packed[: len(packed) // 2])
    *rows, last = read_rows(tmp_path / "a.gz", "a.gz")
    assert isinstance(last, Problem)
    assert (last.place.line, len(rows) > 1000) == (len(rows) + 1, True)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.xz"])
def test_a_torn_table_is_named_by_the_line_behind_what_is_whole(name: str, tmp_path: Path) -> None:
    table = b"text\n" + b"".join(b"%d\n" % (number**9) for number in range(20_000))
    packed = (gzip if name.endswith("gz") else lzma).compress(table)
    (tmp_path / name).write_bytes(packed[: len(packed) // 2])
    *rows, last = read_rows(tmp_path / name, name)
    assert isinstance(last, Problem)
    assert (last.place.line, last.error.code, len(rows) > 1000) == (len(rows) + 2, "E347", True)


def test_every_cell_that_is_not_utf_8_is_named_by_its_line(tmp_path: Path) -> None:
    """Far from the begin, where the file is decoded in parts, and with the rows behind it."""
    lines = [b"text,id", *(b"row %d,%d" % (number, number) for number in range(2, 5001))]
    for line in (3002, 4004):
        lines[line - 1] = b"caf\xe9,1"
    (tmp_path / "a.csv").write_bytes(b"\n".join(lines) + b"\n")
    found = problems(tmp_path / "a.csv")
    assert [(line, code) for line, code, _ in found] == [(3002, "E320"), (4004, "E320")]
    assert len(list(read_rows(tmp_path / "a.csv", "a.csv"))) == 4999


# --- columns


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    return copy_recipes(tmp_path) / "valid"


def test_columns_are_read_under_the_keys_of_the_format(tmp_path: Path) -> None:
    columns = {"instruction": "question", "output": "answer"}
    (tmp_path / "rows.csv").write_bytes(TABLE)
    (_, row), _ = (
        each for each in read_rows(tmp_path / "rows.csv", "rows.csv", columns)
        if not isinstance(each, Problem)
    )  # fmt: skip
    assert FORMATS["alpaca"](row).messages[1]["content"] == 'A, "and"\nB'
    (found, _) = problems(tmp_path / "rows.csv", {"output": "reply"})
    assert found == (2, "E348", 'the column "reply" is missing, which `columns` names')


def test_a_list_and_a_label_in_a_table(tmp_path: Path) -> None:
    turns = json.dumps([{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}])
    quoted = turns.replace('"', '""')
    (tmp_path / "a.csv").write_text(f'chat,tools,label\n"{quoted}",,True\n')
    ((_, row),) = read_rows(tmp_path / "a.csv", "a.csv", {"messages": "chat"})  # type: ignore[misc]
    assert row == {"messages": json.loads(turns), "label": True}


def test_a_column_for_a_key_of_another_format_is_told(valid: Path) -> None:
    (valid / "rows.csv").write_bytes(TABLE)
    recipe = valid / "minimal.yaml"
    text = recipe.read_text().replace("../data/rows.jsonl", "rows.csv")
    recipe.write_text(text)
    (found,) = check_recipe(recipe)[1]
    assert found.code == "E241"
    named = "format: alpaca, columns: {instruction: question, output: answer}"
    assert found.hint.endswith(f"in 2 of 2 rows: write {named}")
    columns = "columns: {instruction: question, output: answer}"
    recipe.write_text(text.replace("alpaca", f"alpaca\n      {columns}"))
    assert check_recipe(recipe)[1] == []
    columns = "columns: {instruction: question, output: answer, label: answer}"
    recipe.write_text(text.replace("alpaca", f"alpaca\n      {columns}"))
    (found,) = check_recipe(recipe)[1]
    assert (found.code, found.message) == ("E352", "format alpaca reads no label")


def test_a_column_that_no_row_has_is_told_with_those_that_are_there(valid: Path) -> None:
    recipe = valid / "minimal.yaml"
    recipe.write_text(
        recipe.read_text().replace("alpaca", "alpaca\n      columns: {instruction: nope}")
    )
    (found,) = check_recipe(recipe)[1]
    assert (found.code, 'the column "nope" is missing' in found.message) == ("E241", True)
    assert found.hint == 'the first row has "instruction", "output"'


# --- the guess


@pytest.mark.parametrize(
    ("rows", "format_name", "columns", "reason"),
    [
        ([said(("human", "Q"))], "sharegpt", {},
         '"conversations" with turns of "from" and "value" in 1 of 1 rows'),
        ([{"conversations": [{"role": "user", "content": "Q"}]}], "messages",
         {"messages": "conversations"},
         '"conversations" with turns of "role" and "content" in 1 of 1 rows'),
        ([{"messages": [{"role": "user", "content": "Q"}]}, {}], "messages", {},
         '"messages" with turns of "role" and "content" in 1 of 2 rows'),
        ([{"instruction": "Q", "output": "A", "text": "QA"}], "alpaca", {},
         '"instruction" and "output" in 1 of 1 rows'),
        ([{"prompt": "Q", "completion": "A", "label": True}], "kto", {},
         '"prompt", "completion" and "label" in 1 of 1 rows'),
        ([{"prompt": "Q", "completion": "A"}], "prompt-completion", {},
         '"prompt" and "completion" in 1 of 1 rows'),
        ([{"prompt": "Q", "chosen": "A", "rejected": "B"}], "preference", {},
         '"chosen" and "rejected" in 1 of 1 rows'),
        ([{"text": "T"}], "text", {}, '"text" in 1 of 1 rows'),
        ([{"query": "Q", "response": "A"}], "alpaca",
         {"instruction": "query", "output": "response"},
         '"query" and "response" in 1 of 1 rows'),
        ([{"instruction": "Q", "context": "C", "response": "A"},
          {"instruction": "Q", "context": "", "response": "A"}], "alpaca",
         {"input": "context", "output": "response"},
         '"instruction" and "response" in 2 of 2 rows'),
        ([{"Instruction": "Q", " Output ": "A"}], "alpaca",
         {"instruction": "Instruction", "output": " Output "},
         '"Instruction" and " Output " in 1 of 1 rows'),
        ([{"messages": [{"role": "user", "content": "Q"}], "text": "<user>Q"}] * 2
         + [{"text": "<user>Q"}], "messages", {},
         '"messages" with turns of "role" and "content" in 2 of 3 rows'),
        ([{"prompt": "Q", "completion": "A", "label": True}] * 20
         + [{"prompt": "Q", "completion": "A"}], "kto", {},
         '"prompt", "completion" and "label" in 20 of 21 rows'),
        ([{"prompt": "Q", "completion": "A", "label": True}]
         + [{"prompt": "Q", "completion": "A"}] * 2, "prompt-completion", {},
         '"prompt" and "completion" in 3 of 3 rows'),
        ([{"instruction": "Q", "output": "A"}] * 2
         + [{"messages": [{"role": "user", "content": "Q"}]}] * 3, "messages", {},
         '"messages" with turns of "role" and "content" in 3 of 5 rows'),
    ],
)  # fmt: skip
def test_a_format_is_guessed_with_its_reason(
    rows: list[dict[str, Any]], format_name: str, columns: dict[str, str], reason: str
) -> None:
    found = guess_format(rows)
    assert found is not None
    assert (found.format, dict(found.columns), found.reason) == (format_name, columns, reason)
    assert set(columns) <= set(FIELDS[format_name])


@pytest.mark.parametrize(
    "second",
    [{"instruction": "Q", "response": "A"}, {"instruction": "Q", "response": "A", "context": {}}],
)
def test_a_column_is_named_only_where_every_row_has_its_text(second: dict[str, Any]) -> None:
    found = guess_format([{"instruction": "Q", "context": "C", "response": "A"}, second])
    assert found is not None
    assert dict(found.columns) == {"output": "response"}


def test_what_the_rows_could_be_too_is_named() -> None:
    turns = [{"role": "user", "content": "Q"}]
    found = guess_format([{"messages": turns, "text": "<user>Q", "prompt": "Q", "answer": "A"}])
    assert found is not None
    assert (found.format, found.others) == (
        "prompt", ('messages ("messages")', 'text ("text")')
    )  # fmt: skip
    plain = guess_format([{"prompt": "Q", "completion": "A", "label": True}])
    assert plain is not None
    assert plain.others == ()


def test_odd_names_of_columns_are_quoted_for_the_recipe() -> None:
    found = guess_format([{" question: ": "", "question ": "Q", "Answer": "A"}])
    assert found is not None
    assert found.to_write == (
        'format: alpaca, columns: {instruction: "question ", output: Answer}'
    )  # fmt: skip


def test_the_question_of_a_pair_is_found_under_another_name() -> None:
    orca = {"system": "S", "question": "Q", "chosen": "A", "rejected": "B"}
    found = guess_format([orca])
    assert found is not None
    assert (found.format, dict(found.columns)) == ("preference", {"prompt": "question"})
    assert found.to_write == "format: preference, columns: {prompt: question}"
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    for other in ({**orca, "prompt": "P"}, {**orca, "chosen": turns}, {**orca, "question": 3}):
        plain = guess_format([other])
        assert plain is not None
        assert (plain.format, dict(plain.columns)) == ("preference", {})


def test_nothing_is_guessed_of_other_rows() -> None:
    assert guess_format([]) is None
    assert guess_format([{"a": 1}, {"text": None}]) is None


def test_every_format_says_what_it_reads() -> None:
    assert list(FIELDS) == list(EVERY)
