"""Rows of data files: every format, and every way in which a row can be wrong, with its line."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.scripts.data.conversation import (
    Conversation,
    Traits,
    check_turns,
    fill_system,
    message,
    with_system,
)
from runner.scripts.data.files.rows import (
    Place,
    Problem,
    RowError,
    as_row,
    read_rows,
    unread_rows,
)
from runner.scripts.data.formats import FORMATS


def turns(*pairs: tuple[str, str]) -> tuple[dict[str, str], ...]:
    return tuple(message(role, content) for role, content in pairs)


QUESTION = (("user", "Q"), ("assistant", "A"))


@pytest.mark.parametrize(
    ("format_name", "row", "expected"),
    [
        (
            "messages",
            {"id": 3, "messages": [{"role": "user", "content": "Q"}, message("assistant", "A")]},
            QUESTION,
        ),
        ("messages", {"messages": [message("system", ""), message("assistant", "A")]},
         (("system", ""), ("assistant", "A"))),
        ("alpaca", {"instruction": "Q", "output": "A"}, QUESTION),
        ("alpaca", {"instruction": "Q", "input": "", "output": "A", "system": ""}, QUESTION),
        ("alpaca", {"instruction": "Q", "input": None, "output": "A", "system": None}, QUESTION),
        ("alpaca", {"instruction": "Q", "input": "I", "output": "A", "system": "S"},
         (("system", "S"), ("user", "Q\nI"), ("assistant", "A"))),
        ("alpaca", {"instruction": "Q", "output": "A", "history": [["q", "a"]]},
         (("user", "q"), ("assistant", "a"), *QUESTION)),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Q"},
                                        {"from": "gpt", "value": "A"}]}, QUESTION),
        ("sharegpt", {"system": "S", "conversations": [{"from": "user", "value": "Q"},
                                                       {"from": "assistant", "value": "A"}]},
         (("system", "S"), *QUESTION)),
        ("prompt-completion", {"prompt": "Q", "completion": "A"}, QUESTION),
        ("prompt-completion", {"prompt": [message("user", "Q")],
                               "completion": [message("assistant", "A")]}, QUESTION),
    ],
)  # fmt: skip
def test_every_format_becomes_turns(
    format_name: str, row: dict[str, Any], expected: tuple[tuple[str, str], ...]
) -> None:
    assert FORMATS[format_name](row).messages == turns(*expected)


def test_text_stays_text() -> None:
    assert FORMATS["text"]({"text": " a\n", "source": "x"}).as_json() == {"text": " a\n"}


def test_answers_inside_a_prompt_are_not_trained_on() -> None:
    prompt = [message("user", "q"), message("assistant", "a"), message("user", "Q")]
    row = {"prompt": prompt, "completion": "A"}
    conversation = with_system(FORMATS["prompt-completion"](row), "S")
    assert [conversation.messages[index]["content"] for index in conversation.answers] == ["A"]


_HI = message("user", "Q")


@pytest.mark.parametrize("content", [{"content": ""}, {"content": None}, {}])
def test_a_turn_that_calls_a_tool_may_say_nothing(content: dict[str, Any]) -> None:
    called = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]}
    row = {"messages": [_HI, {**called, **content}]}
    assert FORMATS["messages"](row).messages[1]["content"] == ""


@pytest.mark.parametrize(
    ("format_name", "row", "words"),
    [
        ("messages", {"messages": [_HI, {"role": "assistant", "tool_calls": []}]},
         'turn 2 has no "content"'),
        ("messages", {}, '"messages" is missing'),
        ("messages", {"messages": "Q"}, '"messages" is a text, not a list'),
        ("messages", {"messages": []}, '"messages" is empty'),
        ("messages", {"messages": ["Q"]}, "turn 1 is a text, not an object"),
        ("messages", {"messages": [_HI, {"role": "assistant"}]}, 'turn 2 has no "content"'),
        ("messages", {"messages": [{"content": "Q"}]}, 'turn 1 has no "role"'),
        ("messages", {"messages": [{"role": "bot", "content": "Q"}]}, 'unknown role "bot"'),
        ("messages", {"messages": [{"role": 1, "content": "Q"}]}, "is a number, not a text"),
        ("messages", {"messages": [{"role": "user", "content": None}]}, "is null, not a text"),
        ("messages", {"messages": [{**_HI, "wait": 0}]}, 'turn 1 has "wait"'),
        ("messages", {"messages": [{**_HI, "weight": 0.5}]}, "neither 0 nor 1"),
        ("messages", {"messages": [{**_HI, "weight": True}]}, "neither 0 nor 1"),
        ("messages", {"messages": [{**_HI, "weight": 1}]}, "only turns of the assistant"),
        ("messages", {"messages": [{**_HI, "tool_calls": [{"name": "f"}]}]}, "of the assistant"),
        ("messages", {"messages": [{**_HI, "name": 3}]}, '"name" of turn 1 is a number'),
        ("messages", {"messages": [{**message("assistant", ""), "tool_calls": ["f"]}]},
         "call 1 of turn 1 is a text"),
        ("messages", {"messages": [{**message("assistant", ""), "tool_calls": [
            {"function": {"name": "f", "arguments": "{"}}]}]}, "broken JSON"),
        ("messages", {"messages": [{**message("assistant", ""), "tool_calls": [
            {"function": {"name": "f", "arguments": "3"}}]}]}, "is a number, not an object"),
        ("messages", {"messages": [_HI], "tools": {}}, '"tools" is an object, not a list'),
        ("messages", {"messages": [_HI], "tools": [{}]}, 'no function with a "name"'),
        ("messages", {"messages": [message("user", "\ud83d")]}, "half of a surrogate pair"),
        ("alpaca", {"output": "A"}, '"instruction" is missing'),
        ("alpaca", {"instruction": "Q"}, '"output" is missing'),
        ("alpaca", {"instruction": "Q", "output": 5}, '"output" is a number, not a text'),
        ("alpaca", {"instruction": "Q", "output": None}, '"output" is null, not a text'),
        ("alpaca", {"instruction": "Q", "output": "A", "input": True}, "is true or false"),
        ("alpaca", {"instruction": "Q", "output": "A", "history": "x"}, '"history" is a text'),
        ("alpaca", {"instruction": "Q", "output": "A", "history": [["q"]]}, "no pair"),
        ("alpaca", {"instruction": "Q", "output": "A", "history": [["q", 1]]}, "is a number"),
        ("sharegpt", {"conversations": [{"from": "human"}]}, 'turn 1 has no "value"'),
        ("sharegpt", {"conversations": [{"from": "bot", "value": "x"}]}, 'unknown role "bot"'),
        ("sharegpt", {"conversations": [{"from": "function_call", "value": "x"}]}, "broken JSON"),
        ("sharegpt", {"system": "S", "conversations": [{"from": "system", "value": "T"}]},
         "a system turn and"),
        ("prompt-completion", {"prompt": "Q"}, '"completion" is missing'),
        ("prompt-completion", {"prompt": {}, "completion": "A"}, '"prompt" is an object'),
        ("text", {"text": ["a"]}, '"text" is a list, not a text'),
        ("text", {"tekst": "a"}, '"text" is missing'),
    ],
)  # fmt: skip
def test_a_row_of_another_shape_is_refused(
    format_name: str, row: dict[str, Any], words: str
) -> None:
    with pytest.raises(RowError, match=words):
        FORMATS[format_name](row)


@pytest.mark.parametrize(
    ("conversation", "words"),
    [
        (Conversation(turns(("user", "Q"))), "no assistant turn"),
        (Conversation(turns(("user", "Q"), ("assistant", " \n"))), "answer in turn 2 is empty"),
        (Conversation(turns(*QUESTION, ("user", "Q"))), "the last turn is the user's"),
        (Conversation(turns(*QUESTION, ("system", "S"))), "the last turn is the system's"),
        (Conversation(turns(*QUESTION), untrained=frozenset({1})), "no assistant turn"),
        (Conversation(text=" \n"), "the text is empty"),
    ],
)
def test_a_row_without_something_to_train_on_is_refused(
    conversation: Conversation, words: str
) -> None:
    with pytest.raises(RowError, match=words) as caught:
        check_turns(conversation)
    assert caught.value.code == "E323"


def test_a_missing_system_turn_is_filled_and_an_empty_one_stays() -> None:
    assert fill_system([_HI], "S") == [message("system", "S"), _HI]
    assert fill_system([_HI], "") == [message("system", ""), _HI]
    assert fill_system([_HI], None) == [_HI]
    empty = [message("system", ""), _HI]
    assert fill_system(empty, "S") == empty
    late = [_HI, message("system", "T")]
    assert fill_system(late, "S")[0] == message("system", "S")


# --- reading files


def read(tmp_path: Path, content: bytes) -> list[tuple[int, object]]:
    """Line and row, or line and what is wrong with it."""
    path = tmp_path / "rows"
    path.write_bytes(content)
    found: list[tuple[int, object]] = []
    for item in read_rows(path, "rows.jsonl"):
        if isinstance(item, Problem):
            assert item.place.file == "rows.jsonl"
            found.append((item.place.line, f"{item.error.code} {item.error.message}"))
        else:
            found.append((item[0].line, item[1]))
    return found


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1}\n\n \r\n{"a": 2}', [(1, {"a": 1}), (4, {"a": 2})]),
        (b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n', [(1, {"a": 1}), (2, {"a": 2})]),
        ('{"a": "\u2028\u0085"}\n{"a": 2}'.encode(), [(1, {"a": "\u2028\u0085"}), (2, {"a": 2})]),
        (b'[\n{"a": 1},\n\n{"a":\n 2}\n]\n', [(2, {"a": 1}), (4, {"a": 2})]),
        (b'\n\n  [{"a": 1}, {"a": 2}]', [(3, {"a": 1}), (3, {"a": 2})]),
        (b"[]", []),
        (b"", []),
        (b"\n\n", []),
    ],
)
def test_rows_know_their_lines(
    tmp_path: Path, content: bytes, expected: list[tuple[int, object]]
) -> None:
    assert read(tmp_path, content) == expected


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b'{"a": 1}\n{"a": \n', 2, "E321 broken JSON: Expecting value (column 6)"),
        (b'{"a": 1}\n{"a": 1, "a": 2}', 2, 'E321 the key "a" occurs twice'),
        (b'{"a": NaN}', 1, "E321 NaN is not JSON"),
        (b'{"a": -Infinity}', 1, "E321 -Infinity is not JSON"),
        (b'{"a": 1} {"b": 2}', 1, "E321 there is something after the end of the object"),
        (b'{"a": 1}\n3', 2, "E322 a row is an object, not a number"),
        (b'{"a": 1}\n"x"', 2, "E322 a row is an object, not a text"),
        (b'{"a": "\xff"}', 1, "E320 byte 8 of the line is not UTF-8"),
        (b'{"a": ' + b"[" * 100_000, 1, "E321 the JSON is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", 1, "E321 a number has more than 4300 digits"),
        (b'[\n{"a": 1}\n{"a": 2}]', 3, "E321 a comma is missing between rows"),
        (b'[\n{"a": 1},\n{"a": 1, "a": 2}]', 3, 'E321 the key "a" occurs twice'),
        (b'[\n{"a": 1},\n', 3, "E321 broken JSON: Expecting value (line 3, column 1)"),
        (b'[\n{"a": 1}\n', 3, "E321 the list is not closed"),
        (b'[{"a": 1}]\n\n{}', 3, "E321 there is something after the end of the list"),
        (b'[\n3,\n{"a": 1}]', 2, "E322 a row is an object, not a number"),
        (b'[\n"\xff"]', 2, "E320 the file is not UTF-8"),
    ],
)
def test_a_broken_row_is_named_by_its_line(
    tmp_path: Path, content: bytes, line: int, words: str
) -> None:
    problems = [item for item in read(tmp_path, content) if isinstance(item[1], str)]
    assert [found for found, _ in problems] == [line]
    assert str(problems[0][1]).startswith(words)


def test_one_broken_line_does_not_hide_the_others(tmp_path: Path) -> None:
    found = read(tmp_path, b'{\n{"a": 1}\nx\n{"a": 2}\n')
    assert [(line, isinstance(what, str)) for line, what in found] == [
        (1, True),
        (2, False),
        (3, True),
        (4, False),
    ]


_TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
_ROWS = st.lists(st.dictionaries(_TEXT, st.one_of(_TEXT, st.integers(), st.none())), max_size=8)


@given(rows=_ROWS, indent=st.sampled_from([None, 1, 4]), ascii_only=st.booleans())
def test_json_and_jsonl_give_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, Any]],
    indent: int | None,
    ascii_only: bool,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    as_list = json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode()
    as_lines = b"\n".join(json.dumps(row, ensure_ascii=ascii_only).encode() for row in rows)
    assert [row for _, row in read(folder, as_list)] == rows
    assert read(folder, as_lines) == list(enumerate(rows, 1))


@given(st.one_of(st.binary(max_size=80), _TEXT.map(lambda text: f"[{text}".encode())))
def test_any_bytes_are_rows_or_problems(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    for line, what in read(tmp_path_factory.mktemp("any"), content):
        assert 1 <= line <= content.count(b"\n") + 1
        assert isinstance(what, dict | str)


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), _TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXT, inner, max_size=3)),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    ["messages", "conversations", "prompt", "completion", "text", "instruction", "output",
     "history", "input", "system", "role", "content", "from", "value"]
)  # fmt: skip


@pytest.mark.parametrize("format_name", FORMATS)
def test_any_object_is_a_conversation_or_a_row_error(format_name: str) -> None:
    @given(st.dictionaries(_KEYS, _JSON))
    def holds(row: dict[str, Any]) -> None:
        try:
            conversation = FORMATS[format_name](row)
            check_turns(conversation)
        except RowError:
            return
        assert conversation.answers or conversation.text

    holds()


# --- on the way to another process


@pytest.mark.parametrize(
    "row",
    [
        Conversation(text="a text"),
        Conversation(turns(*QUESTION), untrained=frozenset({1}), place=Place("a", 3)),
        Conversation(
            turns(*QUESTION), tools=({"name": "f"},), traits=Traits(2, "a group", "a stratum")
        ),
    ],
)
def test_a_pickled_conversation_is_the_same(row: Conversation) -> None:
    assert pickle.loads(pickle.dumps(row)) == row
    digest = row.digest()
    again = pickle.loads(pickle.dumps(row))
    assert (again, again.digest()) == (row, digest)


def test_a_changed_conversation_counts_a_digest_of_its_own() -> None:
    row = Conversation(turns(*QUESTION))
    row.digest()
    other = replace(row, messages=turns(("user", "Q"), ("assistant", "B")))
    assert other.digest() == Conversation(other.messages).digest() != row.digest()
    assert replace(row, place=Place("a", 1)).digest() == row.digest()


def test_lines_that_are_read_later_are_the_rows_and_problems_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    lines = [b'\xef\xbb\xbf{"q": "\xc3\xa9"}', b" ", b'{"q": 1', b"\xff", b'{"q": 1, "q": 2}']
    lines += [b'{"q": NaN}', b"[1]", b'{"p": 1}', b'{"q": 2}\r']
    file.write_bytes(b"\n".join(lines))
    columns = {"instruction": "q"}
    later = [
        as_row(each, "rows", columns)
        for each in pickle.loads(pickle.dumps([*unread_rows(file, "rows")]))
    ]
    told = [
        (str(each.place), each.error.code) if isinstance(each, Problem) else (str(each[0]), each[1])
        for each in later
    ]
    assert told == [
        ("rows:1", {"instruction": "\u00e9"}),
        ("rows:3", "E321"),
        ("rows:4", "E320"),
        ("rows:5", "E321"),
        ("rows:6", "E321"),
        ("rows:7", "E322"),
        ("rows:8", "E348"),
        ("rows:9", {"instruction": 2}),
    ]
    assert [str(each) for each in read_rows(file, "rows", columns)] == [str(each) for each in later]
