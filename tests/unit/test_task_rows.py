"""Rows and task files that do not fit each other, seen without rendering a template."""

from __future__ import annotations

from typing import Any

import pytest

from runner.recipe.checks.task_rows import MissingField, missing_fields, no_choice, numbered

FIELDS = ["asked", "choices", "label"]


def task(**parts: Any) -> dict[str, Any]:
    made = {"doc_to_text": "{{asked}}", "doc_to_target": "label", "doc_to_choice": "choices"}
    return {"output_type": "multiple_choice", **made, **parts}


def row(**fields: Any) -> dict[str, Any]:
    return {"asked": "x", "choices": ["a", "b"], "label": 0, **fields}


@pytest.mark.parametrize(
    ("template", "missing"),
    [
        ("{{gone}}", ["gone"]),
        ("{{ gone.x[0]|trim }} and {{-other-}} {{asked}}", ["gone", "other"]),
        ("{{gone}} {{gone}}", ["gone"]),
        ("asked", []),
        ("constant text, if that is wanted", []),
        ("{{askd}} is it {{asked}}", ["askd"]),
        # not certain: another row, or none, may need it
        ("{% if asked %}{{gone}}{% endif %}", []),
        ("{{gone if asked else asked}}", []),
        ("{{gone | default('x')}}", []),
        ("{{gone|d('x')}}", []),
        ("{# {{gone}} #}", []),
        ("{% set gone = asked %}{{gone}}", []),
        ("{{range(3)}} {{none}}", []),
        ("{{", []),
        ("{{" * 9000, []),
        ("{{a" + " " * 9000, []),
        ("{{a|" + "x" * 9000, []),
    ],
)
def test_a_field_is_missing_where_every_row_would_need_it(
    template: str, missing: list[str]
) -> None:
    found = missing_fields(task(doc_to_text=template), FIELDS)
    assert [each.field for each in found] == missing


def test_what_is_missing_has_its_part_and_a_near_word() -> None:
    found = missing_fields(task(doc_to_choice="choises", doc_to_target="{{lable}}"), FIELDS)
    assert list(found) == [
        MissingField("doc_to_choice", "choises", "choices"),
        MissingField("doc_to_target", "lable", "label"),
    ]
    assert list(missing_fields(task(doc_to_choice=["{{gone}}"], doc_to_target=0), FIELDS)) == []
    assert list(missing_fields(task(doc_to_choice="['a', 'b']"), FIELDS)) == []


@pytest.mark.parametrize(
    ("parts", "fields", "fits"),
    [
        ({}, {"label": 1}, True),
        ({}, {"label": 2}, False),
        ({}, {"label": -1}, False),
        ({}, {"label": "b"}, True),
        ({}, {"label": "c"}, False),
        ({}, {"label": "1"}, False),  # of a field a text stays one
        ({"doc_to_target": "{{label}}"}, {"label": "1"}, True),
        ({"doc_to_target": "{{ label }}"}, {"label": "2"}, False),
        ({"doc_to_target": "{{label}}"}, {"label": "9" * 5000}, False),
        ({"doc_to_target": "1"}, {}, True),
        ({"doc_to_target": 2}, {}, False),
        ({"doc_to_target": "lable"}, {}, False),
        ({}, {"label": [7, 1]}, True),
        ({}, {"label": [7, 8]}, False),
        ({}, {"label": True}, True),
        ({"doc_to_choice": ["x", "y", "z"]}, {"label": 2}, True),
        # not certain
        ({"doc_to_target": "{{label + 5}}"}, {}, True),
        ({"doc_to_choice": "{{choices[:1]}}"}, {"label": 1}, True),
        ({}, {"label": 1.0}, True),
        ({}, {"label": None}, True),
        ({}, {"label": [[[7]]]}, True),
        ({}, {"choices": "ab", "label": 7}, True),
        ({"output_type": "generate_until"}, {"label": 7}, True),
    ],
)
def test_a_right_answer_is_a_choice(
    parts: dict[str, Any], fields: dict[str, Any], fits: bool
) -> None:
    found = no_choice(task(**parts), [(1, row()), (3, row(**fields)), (4, row(**fields))])
    assert (found is None) == fits


def test_the_first_bad_row_is_named_by_its_line_and_the_others_are_counted() -> None:
    content = b'{"label": 0}\n\n{"label": 5}\n{"label": 6}\n{"label": 7}'
    found = no_choice(task(doc_to_choice=["a", "b"]), numbered(content))
    assert found is not None
    assert (found.line, found.answer, found.count, found.more) == (3, "5", 2, 2)
