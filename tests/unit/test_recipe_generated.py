"""Recipes made from the schema itself: whatever it allows is read, and what it does not is told.

A field that the schema gets tomorrow is generated tomorrow, with nothing to change here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema

from runner.recipe.load import check_recipe
from runner.recipe.schema import Schema, load_schema
from runner.recipe.source import decode
from runner.recipe.validate import findings
from runner.report.printable import quoted
from tests.fuzz.targets import ends_well
from tests.recipe_cases import copy_recipes

SCHEMA_CODES = {f"E{number}" for number in range(100, 180)}  # of reading and of the schema
EXAMPLES = 25


def plain(schema: Any) -> Any:
    """The schema as generators know it: numbers that a recipe can hold, and ends that are ends."""
    if isinstance(schema, list):
        return [plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: plain(value) for key, value in schema.items() if key not in _DESCRIBING}
    if "integer" in _types(made):
        made = {"minimum": -(2**63), "maximum": 2**63 - 1} | made
    if isinstance(made.get("pattern"), str):
        made["pattern"] = made["pattern"].replace("$", r"\Z")
    return made


_DESCRIBING = {"description", "examples", "default", "title", "patternErrorMessage", "$id"}


def _types(schema: Schema) -> list[str]:
    found = schema.get("type", [])
    return [found] if isinstance(found, str) else list(found)


def holds_no_other(data: Any) -> bool:
    """A whole recipe in the place of a base's file is checked as one of its own: test_chains.py."""
    named = (data["model"], data.get("reward", {}))
    compared = data.get("compare", {}).get("recipes", ())
    inner = [*(each.get("recipe") for each in named), *compared]
    return not any(isinstance(each, dict) for each in inner)


RECIPES = from_schema(plain(load_schema())).filter(holds_no_other)
often = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipes(tmp_path_factory.mktemp("project")) / "valid" / "generated.yaml"


def as_yaml(value: Any) -> str:
    """JSON, which is YAML, with what a recipe may not hold as it is written as an escape."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)}: {as_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def can_be_written(value: Any) -> bool:
    """Not halves of characters, and no number that a recipe spells in more than 40 characters."""
    try:
        decode(as_yaml(value).encode(), Path("x.yaml"))
    except UnicodeEncodeError:
        return False
    return True


@often
@given(RECIPES.filter(can_be_written))
def test_what_the_schema_allows_has_no_error_of_the_schema(target: Path, data: Any) -> None:
    assert findings(data, load_schema()) == []
    target.write_text(as_yaml(data), encoding="utf-8")
    ends_well(target)
    found = {each.code for each in check_recipe(target)[1]}
    assert found & SCHEMA_CODES == set()


@often
@given(RECIPES.filter(can_be_written), st.data())
def test_one_wrong_value_ends_with_diagnostics(
    target: Path, data: Any, draw: st.DataObject
) -> None:
    """Any value in any place: told exactly when jsonschema, too, says that it is wrong."""
    places = list(_places(data))
    holder, key = draw.draw(st.sampled_from(places))
    made = copy.deepcopy(data)
    value = draw.draw(_ODD)
    at = made
    for step in holder:
        at = at[step]
    at[key] = value
    target.write_text(as_yaml(made), encoding="utf-8")
    ends_well(target)
    recipe, found = check_recipe(target)
    if not _JUDGE.is_valid(made):
        assert recipe is None
        assert {each.code for each in found} & SCHEMA_CODES


_ODD = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from([{}, [], [[]], {"x": {}}, 0.5, -1, "", "none", "../x", "/dev/zero"])
)
_JUDGE = jsonschema.Draft7Validator(load_schema())


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield above, key
        if isinstance(item, dict | list):
            yield from _places(item, (*above, key))
