"""Draft-07 validation of exactly the keywords that our schemas use, in words for people.

Why not a library: docs/decisions/0003-own-schema-validator.md. Tests hold it to jsonschema's answer
on every mutation of every valid recipe. Stricter than the draft in one point, on purpose: `1.0` is
no integer.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from runner.recipe import one_of
from runner.recipe.elsewhere import same_place
from runner.recipe.finding import (
    Finding,
    dotted,
    example,
    has_type,
    missing_key,
    not_allowed,
    shown,
    unknown_key,
    wrong_type,
)
from runner.recipe.one_of import MAX_UNKNOWN_KEYS
from runner.recipe.schema import Schema
from runner.recipe.source import escape_token
from runner.recipe.suggest import nearest
from runner.report.printable import quoted

MAX_FINDINGS = 100

# Keywords that decide validity; what else a schema may hold only describes.
KEYWORDS = {
    "type", "properties", "required", "additionalProperties", "items", "enum", "const", "minimum",
    "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern",
    "minItems", "maxItems", "uniqueItems", "oneOf", "anyOf",
}  # fmt: skip
ANNOTATIONS = {
    "$schema", "$id", "title", "description", "default", "examples", "patternErrorMessage",
}  # fmt: skip


def findings(data: Any, schema: Schema, pointer: str = "") -> list[Finding]:
    """Everything that is wrong with `data`, at most MAX_FINDINGS of it. `schema` has no `$ref`."""
    found = list(islice(_check(data, schema, pointer), MAX_FINDINGS + 1))
    if len(found) > MAX_FINDINGS:
        message = f"more than {MAX_FINDINGS} problems; the rest is not shown"
        found[MAX_FINDINGS] = Finding("E124", found[MAX_FINDINGS].pointer, message)
    return found


def fits(value: Any, schema: Schema) -> bool:
    """Is nothing wrong with `value`? Where a glance at keys says no, nobody phrases why."""
    if isinstance(value, dict):
        if not all(key in value for key in schema.get("required", ())):
            return False
        closed = schema.get("additionalProperties") is False
        if closed and not value.keys() <= schema.get("properties", {}).keys():
            return False
    return next(_check(value, schema, ""), None) is None


def _check(value: Any, schema: Schema, pointer: str) -> Iterator[Finding]:
    if "type" in schema and not has_type(value, schema["type"]):
        yield wrong_type(value, schema, pointer)
        return
    if "const" in schema and not _same(value, schema["const"]):
        yield not_allowed(value, [schema["const"]], pointer)
        return
    if "enum" in schema and not any(_same(value, allowed) for allowed in schema["enum"]):
        yield not_allowed(value, schema["enum"], pointer)
        return
    if isinstance(value, str):
        yield from _check_text(value, schema, pointer)
    elif isinstance(value, dict):
        yield from _check_object(value, schema, pointer)
    elif isinstance(value, list):
        yield from _check_list(value, schema, pointer)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _check_number(value, schema, pointer)
    if "oneOf" in schema:
        yield from _check_one_of(value, schema, pointer)
    if "anyOf" in schema:
        yield from _check_any_of(value, schema, pointer)


# --- text, numbers, lists


def _check_text(value: str, schema: Schema, pointer: str) -> Iterator[Finding]:
    if len(value) < schema.get("minLength", 0):
        message = f"{dotted(pointer)} must not be empty"
        yield Finding("E105", pointer, message, example(schema))
    elif len(value) > schema.get("maxLength", len(value)):
        most = schema["maxLength"]
        message = f"{dotted(pointer)} has {len(value)} characters; {most} is the most"
        yield Finding("E105", pointer, message)
    elif "pattern" in schema and not _matches(schema["pattern"], value):
        wanted = schema.get("patternErrorMessage", f"must match {schema['pattern']}")
        message = f"{dotted(pointer)} {wanted}, not {quoted(value, 60)}"
        yield Finding("E107", pointer, message, example(schema))


def _matches(pattern: str, value: str) -> bool:
    """As in ECMA 262, and unlike in Python, `$` does not match before a last line end."""
    return re.search(re.sub(r"\$(?=\)|$)", r"\\Z", pattern), value) is not None


def _check_number(value: float, schema: Schema, pointer: str) -> Iterator[Finding]:
    bounds = (
        ("minimum", "at least", operator.ge),
        ("exclusiveMinimum", "more than", operator.gt),
        ("maximum", "at most", operator.le),
        ("exclusiveMaximum", "less than", operator.lt),
    )
    for keyword, words, holds in bounds:
        if keyword in schema and not holds(value, schema[keyword]):
            message = f"{dotted(pointer)} must be {words} {schema[keyword]}, not {value}"
            yield Finding("E105", pointer, message, example(schema))
            return


def _check_list(value: list[Any], schema: Schema, pointer: str) -> Iterator[Finding]:
    if len(value) < schema.get("minItems", 0):
        hint = example(schema) or "name at least one, or remove the key"
        yield Finding("E105", pointer, f"{dotted(pointer)} must not be empty", hint)
    if len(value) > schema.get("maxItems", len(value)):
        most = schema["maxItems"]
        message = f"{dotted(pointer)} has {len(value)} items; {most} is the most"
        yield Finding("E105", pointer, message)
    if schema.get("uniqueItems"):
        yield from _check_unique(value, pointer)
    for index, item in enumerate(value):
        yield from _check(item, schema.get("items", {}), f"{pointer}/{index}")


def _check_unique(value: list[Any], pointer: str) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, item in enumerate(value):
        identity = _identity(item)
        if identity in seen:
            message = f"{shown(item)} stands in {dotted(pointer)} twice"
            yield Finding("E109", f"{pointer}/{index}", message, "remove one of them")
        seen.add(identity)


def _identity(value: Any) -> str:
    import json

    return json.dumps(value, sort_keys=True)


# --- mappings


def _check_object(value: dict[str, Any], schema: Schema, pointer: str) -> Iterator[Finding]:
    properties: Schema = schema.get("properties", {})
    meant: set[str] = set()
    if schema.get("additionalProperties") is False:
        unknown = [key for key in value if key not in properties]
        free = [key for key in properties if key not in value]
        for key in unknown[:MAX_UNKNOWN_KEYS]:
            suggestion = nearest(key, free) or nearest(key, properties)
            meant.add(same_place(key, pointer) or suggestion or "")
            yield unknown_key(key, suggestion, properties, pointer)
        if len(unknown) > MAX_UNKNOWN_KEYS:
            rest = len(unknown) - MAX_UNKNOWN_KEYS
            child = f"{pointer}/{escape_token(unknown[MAX_UNKNOWN_KEYS])}"
            yield Finding("E102", child, f"{rest} more unknown keys from here on", "", "key")
    elif "additionalProperties" in schema:
        for key in value:
            if key not in properties:
                child = f"{pointer}/{escape_token(key)}"
                yield from _check(value[key], schema["additionalProperties"], child)
    for key in schema.get("required", ()):
        if key not in value and key not in meant:
            yield missing_key(key, properties.get(key, {}), pointer)
    for key, child_schema in properties.items():
        if key in value:
            yield from _check(value[key], child_schema, f"{pointer}/{escape_token(key)}")


def _check_one_of(value: Any, schema: Schema, pointer: str) -> Iterator[Finding]:
    if sum(fits(value, branch) for branch in schema["oneOf"]) == 1:
        return
    results = [(branch, findings(value, branch, pointer)) for branch in schema["oneOf"]]
    yield from one_of.explain(value, schema, results, pointer)


def _check_any_of(value: Any, schema: Schema, pointer: str) -> Iterator[Finding]:
    results = [(branch, findings(value, branch, pointer)) for branch in schema["anyOf"]]
    if all(found for _, found in results):
        yield from one_of.explain_part(value, schema, results, pointer)


def _same(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)
