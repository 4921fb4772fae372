"""Any format to any other: what is written is read back as the same, or what is lost is named."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.scripts.data.conversation import Conversation, check_turns, message
from runner.scripts.data.convert import Converted, convert
from runner.scripts.data.files.rows import Problem, RowError, read_rows
from runner.scripts.data.formats import COMPARED, EVERY, FORMATS
from runner.scripts.data.preference import Judged, Pair, check_compared
from runner.scripts.data.writing import CannotHold, as_rows

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
FILLED = TEXT.filter(str.strip)
CALL = st.builds(
    lambda name, arguments, extra: {
        "type": "function", "function": {"name": name, "arguments": arguments}, **extra,
    },
    TEXT, st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.none()), max_size=2),
    st.sampled_from([{}, {"id": "1"}]),
)  # fmt: skip
TOOL = st.builds(
    lambda name, extra: {"type": "function", "function": {"name": name, **extra}},
    TEXT, st.sampled_from([{}, {"parameters": {"type": "object"}}]),
)  # fmt: skip


@st.composite
def turn(draw: st.DrawFn) -> dict[str, Any]:
    made = message(draw(st.sampled_from(["user", "assistant", "system", "tool"])), draw(FILLED))
    if draw(st.integers(0, 5)) == 0:
        made["name"] = draw(TEXT)
    if made["role"] == "assistant" and draw(st.integers(0, 3)) == 0:
        made["tool_calls"] = draw(st.lists(CALL, min_size=1, max_size=2))
        made["content"] = draw(st.sampled_from(["", "x"]))
    return made


ALTERNATING = st.lists(st.tuples(FILLED, FILLED), min_size=1, max_size=3).map(
    lambda pairs: [
        message(role, text)
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
)


@st.composite
def conversation(draw: st.DrawFn) -> Conversation:
    turns = draw(st.one_of(ALTERNATING, st.lists(turn(), min_size=1, max_size=5)))
    if draw(st.booleans()):
        turns = [message("system", draw(TEXT)), *turns]
    turns = [*turns, message("assistant", "A")] if turns[-1]["role"] != "assistant" else turns
    answers = [index for index, each in enumerate(turns) if each["role"] == "assistant"]
    untrained = draw(st.one_of(st.just([]), st.lists(st.sampled_from(answers), unique=True)))
    made = Conversation(
        messages=tuple(turns),
        untrained=frozenset(untrained) - {answers[-1]},
        tools=tuple(draw(st.one_of(st.just([]), st.lists(TOOL, max_size=2)))),
    )
    check_turns(made)
    return made


@settings(deadline=None)
@given(conversation(), st.sampled_from(list(FORMATS)))
def test_a_conversation_that_loses_nothing_comes_back(read: Conversation, target: str) -> None:
    losses: list[str] = []
    try:
        (row,) = as_rows(read, target, losses)
    except CannotHold:
        assert target != "messages", "messages hold everything"
        return
    back = FORMATS[target](json.loads(json.dumps(row)))
    assert (back == read) or losses, row
    if losses:
        assert back != read, losses


CALLING = {**message("assistant", ""), "tool_calls": [
    {"type": "function", "function": {"name": "", "arguments": {}}},
]}  # fmt: skip


@settings(deadline=None)
@given(conversation(), FILLED, st.booleans())
@example(Conversation((CALLING, CALLING), untrained=frozenset({0})), "0", False)
def test_preferences_come_back(read: Conversation, other: str, good: bool) -> None:
    first = read.answers[0]
    if not first:
        return
    bad = Conversation(
        messages=(*read.messages[:first], message("assistant", other)),
        untrained=frozenset(index for index in read.untrained if index < first),
        tools=read.tools,
    )
    earlier = {n for n in range(first) if read.messages[n]["role"] == "assistant"}
    assert earlier <= read.untrained
    pair = Pair(read, bad)
    try:
        check_compared(pair)
    except RowError:
        return
    losses: list[str] = []
    try:
        (row,) = as_rows(pair, "preference", losses)
    except CannotHold:
        assert all(each["role"] in ("assistant", "system") for each in read.messages[:first])
        return
    assert COMPARED["preference"](json.loads(json.dumps(row))) == pair
    judged = Judged(read, good)
    (row,) = as_rows(judged, "kto", losses)
    assert COMPARED["kto"](json.loads(json.dumps(row))) == judged
    assert not losses


@pytest.mark.parametrize(
    ("source", "row", "target", "lost"),
    [
        ("preference", {"prompt": "Q", "chosen": "A", "rejected": "B"}, "kto",
         ["which answers belong together"]),
        ("preference", {"prompt": "Q", "chosen": "A", "rejected": "B"}, "alpaca",
         ["the rejected answer"]),
        ("kto", {"prompt": "Q", "completion": "A", "label": True}, "messages",
         ["that the answer is a good one"]),
        ("prompt", {"prompt": "Q", "answer": "7"}, "messages",
         ["that the answer is not trained on"]),
        ("messages", {"messages": [message("system", ""), message("user", "Q"),
                                   {**message("assistant", "A"), "name": "Ann"}]}, "alpaca",
         ["an empty system turn", "names of turns"]),
    ],
)  # fmt: skip
def test_what_is_lost_is_named(
    source: str, row: dict[str, Any], target: str, lost: list[str]
) -> None:
    losses: list[str] = []
    as_rows(EVERY[source](row), target, losses)
    assert losses == lost


@pytest.mark.parametrize(
    ("source", "row", "target", "words"),
    [
        ("alpaca", {"instruction": "Q", "output": "A"}, "text", "chat template"),
        ("alpaca", {"instruction": "Q", "output": "A"}, "kto", "a good one"),
        ("alpaca", {"instruction": "Q", "output": "A"}, "preference", "no second answer"),
        ("kto", {"prompt": "Q", "completion": "A", "label": True}, "preference", "no second"),
        ("kto", {"prompt": "Q", "completion": "A", "label": False}, "messages", "a bad one"),
        ("prompt", {"prompt": "Q"}, "alpaca", "no answer to learn from"),
        ("text", {"text": "T"}, "messages", "has no turns"),
        ("messages", {"messages": [message("assistant", "A")]}, "prompt-completion", "nobody asks"),
        ("messages", {"messages": [message("assistant", "A")]}, "sharegpt", "nobody has asked"),
        ("messages", {"messages": [message("assistant", "A")]}, "alpaca", "not questions and"),
    ],
)
def test_what_a_format_has_no_place_for_is_told(
    source: str, row: dict[str, Any], target: str, words: str
) -> None:
    with pytest.raises(CannotHold, match=words):
        as_rows(EVERY[source](row), target, [])


# --- files

ROWS: list[dict[str, Any]] = [
    {"id": "1", "instruction": "Q", "output": "[A]", "history": [["q", 'a,"\n']]},
    {"id": "2", "instruction": "é", "output": "B", "system": "S"},
]


def converted(
    rows: list[dict[str, Any]], folder: Path, name: str, source: str, target: str
) -> tuple[Converted, list[dict[str, Any]]]:
    """What `convert` says, and the rows that it wrote."""
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = io.BytesIO()
    done = convert(folder / "in.jsonl", "in.jsonl", out, name, source, target)
    (folder / name).write_bytes(out.getvalue())
    found = [each for each in read_rows(folder / name, name) if not isinstance(each, Problem)]
    return done, [row for _, row in found]


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz", "a.json.xz", "a.csv.gz"]
)
@pytest.mark.parametrize("target", ["alpaca", "messages", "sharegpt"])
def test_a_file_of_any_kind_holds_the_same_rows(name: str, target: str, tmp_path: Path) -> None:
    done, rows = converted(ROWS, tmp_path, name, "alpaca", target)
    assert (done.read, done.written, done.lost, done.unfit, done.problems) == (2, 2, {}, {}, [])
    assert [row["id"] for row in rows] == ["1", "2"]
    assert [EVERY[target](row) for row in rows] == [EVERY["alpaca"](row) for row in ROWS]
    again = io.BytesIO()
    convert(tmp_path / "in.jsonl", "in.jsonl", again, name, "alpaca", target)
    assert again.getvalue() == (tmp_path / name).read_bytes()


ANY_TEXT = st.text(st.sampled_from(list('\r\n\t\0,;"\\ a\ufeff\u2028\x85é😀')), max_size=6)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(
        st.tuples(
            ANY_TEXT.filter(str.strip),
            ANY_TEXT.filter(str.strip),
            st.one_of(st.just({}), st.fixed_dictionaries({"id": ANY_TEXT})),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_rows_of_any_text_come_back_from_files_or_what_is_lost_is_told(
    made: list[tuple[str, str, dict[str, str]]],
) -> None:
    for source, asked, answered in (
        ("prompt-completion", "prompt", "completion"),
        ("alpaca", "instruction", "output"),
    ):
        rows = [{asked: one, answered: other, **more} for one, other, more in made]
        for name in ("a.csv", "a.tsv", "a.jsonl", "a.json", "a.csv.gz", "a.tsv.xz", "a.jsonl.gz"):
            with tempfile.TemporaryDirectory() as folder:
                done, found = converted(rows, Path(folder), name, source, source)
            assert (done.problems, done.unfit, done.written) == ([], {}, len(rows)), name
            assert [EVERY[source](row) for row in found] == [EVERY[source](row) for row in rows]
            ids = [row.get("id") for row in found] == [row.get("id") for row in rows]
            assert ids == (not done.lost), (name, done.lost)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(conversation(), min_size=1, max_size=3),
    st.sampled_from(["messages", "sharegpt", "alpaca", "prompt-completion"]),
    st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.json", "a.tsv.gz", "a.json.xz"]),
)
def test_conversations_come_back_from_files_or_what_is_lost_is_told(
    made: list[Conversation], target: str, name: str
) -> None:
    rows = [row for each in made for row in as_rows(each, "messages", [])]
    with tempfile.TemporaryDirectory() as folder:
        done, found = converted(rows, Path(folder), name, "messages", target)
    assert done.problems == []
    if not (done.lost or done.unfit):
        assert [EVERY[target](row) for row in found] == made
    assert len(found) == done.written


def test_a_carriage_return_is_kept_and_breaks_no_line(tmp_path: Path) -> None:
    rows = [{"prompt": "\rhello", "completion": "a\rb"}, {"prompt": "Q", "completion": "A"}]
    _, found = converted(rows, tmp_path, "a.csv", "prompt-completion", "prompt-completion")
    assert [(row["prompt"], row["completion"]) for row in found] == [
        ("\rhello", "a\rb"),
        ("Q", "A"),
    ]
    assert (tmp_path / "a.csv").read_bytes().endswith(b"\nQ,A,,\n")


@pytest.mark.parametrize(("name", "lost"), [("a.tsv", True), ("a.jsonl", False)])
def test_a_column_that_some_rows_lack_is_lost_in_a_table(
    name: str, lost: bool, tmp_path: Path
) -> None:
    rows = [{"id": "1", "text": "T"}, {"text": "U"}, {"id": "", "text": "V"}]
    done, _ = converted(rows, tmp_path, name, "text", "text")
    told = {what: (count, str(place)) for what, (count, place) in done.lost.items()}
    what = 'that "id" is missing, which becomes an empty cell'
    assert told == ({what: (1, "in.jsonl:2")} if lost else {})


def test_what_a_cell_cannot_hold_is_told(tmp_path: Path) -> None:
    earlier = [message("user", "q"), message("assistant", "a")]
    row = {"prompt": [*earlier, message("user", "Q")], "completion": "A"}
    done, rows = converted([row], tmp_path, "a.csv", "prompt-completion", "prompt-completion")
    assert rows == []
    assert list(done.unfit) == ['a cell of a table cannot hold its "prompt"']


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.jsonl"])
def test_a_prompt_without_an_answer_comes_back_without_one(name: str, tmp_path: Path) -> None:
    asked = [{"prompt": "1 + 1?", "answer": "2"}, {"prompt": "Why?"}]
    done, rows = converted(asked, tmp_path, name, "prompt", "prompt")
    assert (done.lost, done.unfit) == ({}, {})
    assert [EVERY["prompt"](row) for row in rows] == [EVERY["prompt"](row) for row in asked]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_alpaca_keeps_instruction_and_input_apart(name: str, tmp_path: Path) -> None:
    row = {"instruction": "Translate.", "input": "Bonjour.", "output": "Hello.",
           "history": [["Q", "A"]]}  # fmt: skip
    done, (kept,) = converted([row], tmp_path, name, "alpaca", "alpaca")
    assert (kept["instruction"], kept["input"], kept["history"]) == (
        "Translate.", "Bonjour.", [["Q", "A"]]
    )  # fmt: skip
    assert done.lost == {}
    _, (turns,) = converted([row], tmp_path, "a.json", "alpaca", "messages")
    assert turns["messages"][2]["content"] == "Translate.\nBonjour."


CALL_OF_INFINITY = {"function": {"name": "f", "arguments": '{"x": 1e400}'}}
CALLED = {
    "messages": [
        message("user", "Q"),
        {**message("assistant", ""), "tool_calls": [CALL_OF_INFINITY]},
    ]
}


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl"])
@pytest.mark.parametrize("target", ["messages", "sharegpt"])
@pytest.mark.parametrize(
    "row",
    [
        '{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], '
        '"score": 1e400}',
        json.dumps(CALLED),
    ],
)
def test_a_number_that_json_cannot_write_is_told(
    row: str, target: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text(row + "\n")
    out = io.BytesIO()
    done = convert(tmp_path / "in.jsonl", "in.jsonl", out, name, "messages", target)
    assert b"Infinity" not in out.getvalue()
    assert list(done.unfit) == ["a number is too large, and is read as infinity"]


def test_other_columns_come_along_unless_they_would_be_read(tmp_path: Path) -> None:
    row = {"instruction": "Q", "output": "A", "source": 3, "tools": "hammer"}
    done, rows = converted([row], tmp_path, "a.jsonl", "alpaca", "messages")
    assert rows[0]["source"] == 3
    assert "tools" not in rows[0]
    assert [(what, count) for what, (count, _) in done.lost.items()] == [('the column "tools"', 1)]


def test_bad_rows_are_counted_and_named(tmp_path: Path) -> None:
    done, rows = converted([{"output": "A"}, *ROWS], tmp_path, "a.json", "alpaca", "messages")
    assert (done.unreadable, str(done.problems[0].place), len(rows)) == (1, "in.jsonl:1", 2)
