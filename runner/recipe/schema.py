"""The schema of a recipe: reading it, and filling in its defaults.

Defaults live in `schemas/recipe-1.json` and nowhere else. It is two schemas under one `if`: of a
file that says everything itself (`else`), and of one that says a part (`then`, which
schema_parts.py writes from the other).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.recipe.source import at_pointer

Schema = dict[str, Any]
RECIPE = "recipe-1"
FILE_KEYS = ("extends", "abstract")  # of a recipe's file; a resolved recipe has neither


def schema_path(name: str = RECIPE) -> Path:
    """Where the schema `name` lies."""
    from runner.system.folders import shipped

    return shipped("schemas") / f"{name}.json"


@functools.cache
def load_schema(name: str = RECIPE) -> Schema:
    """The schema `name` with every `$ref` replaced by what it refers to.

    Of a recipe: the schema of one that stands for itself, resolved, so without the keys that only
    a file has (FILE_KEYS). Shared by all callers: do not change it.
    """
    if name != RECIPE:
        return _inlined(_read(name), _read(name))
    whole = file_schema()
    return {**whole, "properties": _without(whole["properties"], FILE_KEYS)}


@functools.cache
def file_schema() -> Schema:
    """The schema of a recipe's file that says everything itself. Shared: do not change it."""
    whole = _read(RECIPE)
    rest = {key: value for key, value in whole.items() if key not in ("if", "then", "else")}
    return _inlined({**rest, **whole["else"]}, whole)


@functools.cache
def part_schema() -> Schema:
    """The schema of a file that says a part: it extends another, or is there to be extended."""
    whole = _read(RECIPE)
    return _inlined({"type": whole["type"], **whole["then"]}, whole)


def schema_for(data: Any) -> Schema:
    """Which of the two the recipe file `data` is held to, by the `if` of the shipped schema."""
    from runner.recipe.validate import findings

    return file_schema() if findings(data, _read(RECIPE)["if"]) else part_schema()


@functools.cache
def _read(name: str) -> Schema:
    import json

    schema: Schema = json.loads(schema_path(name).read_text(encoding="utf-8"))
    return schema


def _without(properties: Schema, names: Sequence[str]) -> Schema:
    return {key: value for key, value in properties.items() if key not in names}


def _inlined(schema: Schema, whole: Schema) -> Schema:
    """`schema` with what its references find in `whole` in their place."""
    inlined = _inline(schema, whole)
    assert isinstance(inlined, dict)
    return inlined


def _inline(node: Any, whole: Schema) -> Any:
    if isinstance(node, list):
        return [_inline(item, whole) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inline(at_pointer(whole, node["$ref"].removeprefix("#")), whole)
    return {key: _inline(value, whole) for key, value in node.items() if key != "definitions"}


def fill_defaults(data: Any, schema: Schema) -> Any:
    """Valid `data` with every default written out, keys in the schema's order.

    A number that the schema calls `number` becomes a float, so that `0` and `0.0` are one value
    wherever a digest is taken. `data` itself is not changed.
    """
    if "oneOf" in schema:
        schema = merged_with_branch(data, schema)
    if isinstance(data, dict):
        return _fill_object(data, schema)
    if isinstance(data, list):
        return [fill_defaults(item, schema.get("items", {})) for item in data]
    if schema.get("type") == "number":
        return float(data)
    return data


def _fill_object(data: dict[str, Any], schema: Schema) -> dict[str, Any]:
    if not schema.keys() & {"properties", "additionalProperties"}:
        return copy.deepcopy(data)  # a recipe in a recipe: who reads it fills it (base_recipe.py)
    filled: dict[str, Any] = {}
    for name, property_schema in schema.get("properties", {}).items():
        if name in data:
            filled[name] = fill_defaults(data[name], property_schema)
        elif "default" in property_schema:
            filled[name] = fill_defaults(copy.deepcopy(property_schema["default"]), property_schema)
    if isinstance(more := schema.get("additionalProperties"), dict):
        filled |= {key: fill_defaults(data[key], more) for key in data if key not in filled}
    return filled


def schema_below(schema: Schema, key: str) -> Schema | None:
    """The schema of the value of `key` in a mapping of any form; None: it has no such key."""
    for form in (schema, *schema.get("oneOf", ())):
        if key in form.get("properties", {}):
            found: Schema = form["properties"][key]
            return found
    more = schema.get("additionalProperties")
    return more if isinstance(more, dict) else None


def merged_with_branch(data: Any, schema: Schema) -> Schema:
    """`schema` together with the one branch of its `oneOf` that `data` satisfies."""
    from runner.recipe.validate import fits

    branch = next(branch for branch in schema["oneOf"] if fits(data, branch))
    properties = {**schema.get("properties", {}), **branch.get("properties", {})}
    return {**schema, **branch, "properties": properties} if properties else {**schema, **branch}
