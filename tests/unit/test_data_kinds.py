"""Of what kind columns are that are written as Parquet, and what they cannot hold."""

from __future__ import annotations

from typing import Any

import pytest

from runner.scripts.data.kinds import Columns, Kind, with_texts

FIELDS = ("messages", "prompt", "tools")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, 2], "int"),
        ([1, 0.5], "float"),
        ([1, 2**60], "long"),
        ([[], [[1]], [[2], []]], {"list": {"list": "int"}}),
        ([{"a": 1}, {"b": "x"}, {"a": 2, "b": "y"}], {"fields": {"a": "int", "b": "text"}}),
        ([[{"a": True}, {"b": [1]}]], {"list": {"fields": {"a": "bool", "b": {"list": "int"}}}}),
        ([None], "null"),
    ],
)
def test_columns_of_one_kind_are_kept(values: list[Any], kind: Kind) -> None:
    columns = Columns(FIELDS)
    assert [loss for value in values for loss in columns.add({"x": value})] == []
    assert columns.kinds() == {"x": kind}


@pytest.mark.parametrize(
    ("values", "lost"),
    [
        ([1, "a", "b"], 1),  # 1 becomes a text
        (["a", 1, 2, None], 2),
        ([True, 1], 1),
        ([2**60, 0.5], 1),
        ([2**63], 1),
        ([{}], 1),
        ([{"a": None}], 1),
        ([[1, "a"]], 1),
        ([[1], 1], 1),
        ([{"a": 1}, {"a": "x"}], 1),
        ([{"a": 1}, [1]], 1),
    ],
)
def test_what_parquet_would_change_is_lost_and_told(values: list[Any], lost: int) -> None:
    columns = Columns(FIELDS)
    told = [loss for value in values for loss in columns.add({"x": value})]
    assert told == ['that "x" holds values of several kinds, which become texts'] * lost
    assert columns.kinds() == {"x": "json"}


def test_a_text_beside_turns_is_a_turn_and_what_is_read_comes_first() -> None:
    columns = Columns(FIELDS)
    rows = [{"id": 1, "prompt": "Q"}, {"prompt": [{"role": "user", "content": "Q", "name": "A"}]}]
    assert [columns.add(row) for row in rows] == [[], []]
    turn = {"role": "text", "content": "text", "name": "text"}
    assert columns.kinds() == {"prompt": {"list": {"fields": turn}}, "id": "int"}
    assert [*columns.kinds()] == ["prompt", "id"]


def test_arguments_and_tools_become_texts_where_the_format_reads_them() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": None}}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    row = {"messages": [turn], "tools": [{"a": 1}], "chosen": [turn]}
    made = with_texts(row, FIELDS)
    (told,) = made["messages"][0]["tool_calls"]
    assert (told["function"]["arguments"], made["tools"]) == ('{"x": null}', '[{"a": 1}]')
    assert made["chosen"] == [turn]
    assert call["function"]["arguments"] == {"x": None}
