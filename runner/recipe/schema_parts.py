"""Write the schema's `then`, of files that say a part of a recipe, from its `else`.

A part may lack every required key, and `null` takes away what the base says; an item of a list is
whole in any case, since lists are replaced. What holds for a value is not repeated but referred to.

    python -m runner.recipe.schema_parts
"""

from __future__ import annotations

import json
from typing import Any

from runner.recipe.schema import RECIPE, Schema, schema_path
from runner.recipe.source import at_pointer, escape_token

_NEVER_NULL = ("schema", "extends", "abstract")  # of the recipe itself
_HEAD = '  "then": '


def part_of(whole: Schema) -> Schema:
    """The schema of a part of what the schema document `whole` says in `else`."""
    body = whole["else"]
    properties = {
        key: {"$ref": f"#/else/properties/{key}"}
        if key in _NEVER_NULL
        else _part(value, f"#/else/properties/{key}", whole)
        for key, value in body["properties"].items()
    }
    return {
        "description": "A part of a recipe: the rest is in its base, or in what extends it.",
        "additionalProperties": False,
        "properties": properties,
    }


def _part(schema: Schema, reference: str, whole: Schema) -> Schema:
    """A part of the value that `schema`, which stands at `reference`, describes; or null."""
    if "$ref" in schema:
        reference = schema["$ref"]
        schema = at_pointer(whole, reference.removeprefix("#"))
    branches = [each for each in schema.get("oneOf", ()) if "properties" in each]
    if branches:
        forms = [
            _mapping(each, f"{reference}/oneOf/{number}", whole)
            for number, each in enumerate(branches)
        ]
        return {"description": schema["description"], "anyOf": forms}
    if "properties" in schema or "additionalProperties" in schema:
        return _mapping(schema, reference, whole)
    if "const" in schema or "null" in schema.get("type", ()):
        return {"$ref": reference}
    return _or_null(schema, reference)


def _or_null(schema: Schema, reference: str) -> Schema:
    described = {"description": schema["description"]} if "description" in schema else {}
    return {**described, "anyOf": [{"$ref": reference}, {"type": "null"}]}


def _mapping(schema: Schema, reference: str, whole: Schema) -> Schema:
    made: Schema = {key: schema[key] for key in ("title", "description") if key in schema}
    made["type"] = ["object", "null"]
    more = schema["additionalProperties"]
    made["additionalProperties"] = (
        _or_null(more, f"{reference}/additionalProperties") if isinstance(more, dict) else more
    )
    if "properties" in schema:
        made["properties"] = {
            key: _part(value, f"{reference}/properties/{escape_token(key)}", whole)
            for key, value in schema["properties"].items()
        }
    return made


def rewritten(text: str) -> str:
    """The text of the schema file with its `then`, which comes last, written anew."""
    part = part_of(json.loads(text))
    return text[: text.index(f"\n{_HEAD}")] + f"\n{_HEAD}{_lines(part, '  ')}\n}}\n"


def _lines(value: Any, indent: str) -> str:
    """JSON, on one line where it holds no mapping."""
    short = json.dumps(value, ensure_ascii=False)
    inner = f"{indent}  "
    if '"properties": ' not in short:
        return short
    if isinstance(value, list):
        return "[\n" + ",\n".join(inner + _lines(item, inner) for item in value) + f"\n{indent}]"
    items = (f"{inner}{json.dumps(key)}: {_lines(item, inner)}" for key, item in value.items())
    return "{\n" + ",\n".join(items) + f"\n{indent}}}"


if __name__ == "__main__":
    path = schema_path(RECIPE)
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
