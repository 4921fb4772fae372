"""The schema of a recipe: reading it, and filling in its defaults.

Defaults live in `schemas/recipe-1.json` and nowhere else.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

Schema = dict[str, Any]
RECIPE = "recipe-1"


def schema_path(name: str = RECIPE) -> Path:
    """Where the schema `name` lies."""
    from runner.system.folders import shipped

    return shipped("schemas") / f"{name}.json"


@functools.cache
def load_schema(name: str = RECIPE) -> Schema:
    """The schema `name` with every `$ref` replaced by what it refers to.

    Shared by all callers: do not change it.
    """
    import json

    schema = json.loads(schema_path(name).read_text(encoding="utf-8"))
    loaded = _inline(schema, schema.get("definitions", {}))
    assert isinstance(loaded, dict)
    return loaded


def _inline(node: Any, definitions: Schema) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inline(definitions[node["$ref"].removeprefix("#/definitions/")], definitions)
    return {key: _inline(value, definitions) for key, value in node.items() if key != "definitions"}


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
    filled: dict[str, Any] = {}
    for name, property_schema in schema.get("properties", {}).items():
        if name in data:
            filled[name] = fill_defaults(data[name], property_schema)
        elif "default" in property_schema:
            filled[name] = fill_defaults(copy.deepcopy(property_schema["default"]), property_schema)
    if isinstance(more := schema.get("additionalProperties"), dict):
        filled |= {key: fill_defaults(data[key], more) for key in data if key not in filled}
    return filled


def merged_with_branch(data: Any, schema: Schema) -> Schema:
    """`schema` together with the one branch of its `oneOf` that `data` satisfies."""
    from runner.recipe.validate import findings

    branch = next(branch for branch in schema["oneOf"] if not findings(data, branch))
    properties = {**schema.get("properties", {}), **branch.get("properties", {})}
    return {**schema, **branch, "properties": properties} if properties else {**schema, **branch}
