"""One thing that is wrong with a value, in words for the person who wrote it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from runner.recipe.elsewhere import hint_for_key, hint_for_value
from runner.recipe.flow import flow
from runner.recipe.schema import Schema
from runner.recipe.source import Source, escape_token, pointer_tokens
from runner.recipe.suggest import nearest
from runner.report.diagnostic import Diagnostic
from runner.report.printable import quoted

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_TYPE_WORDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
_YES_AND_NO = {
    **dict.fromkeys(("yes", "y", "on", "true"), "true"),
    **dict.fromkeys(("no", "n", "off", "false"), "false"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong at `pointer`: at its value, or, `at="key"`, at its key."""

    code: str
    pointer: str
    message: str
    hint: str = ""
    at: str = "value"

    def diagnostic(self, source: Source) -> Diagnostic:
        """The same, with its place in the file."""
        return source.diagnostic(self.code, self.pointer, self.message, hint=self.hint, at=self.at)


def unknown_key(key: str, suggestion: str | None, properties: Schema, pointer: str) -> Finding:
    """A key that the schema does not have."""
    hint = f'did you mean "{suggestion}"?' if suggestion else ""
    hint = hint_for_key(key, pointer) or hint or f"known keys: {', '.join(properties)}"
    place = f" in {dotted(pointer)}" if pointer else ""
    message = f"unknown key {quoted(key, 60)}{place}"
    return Finding("E102", f"{pointer}/{escape_token(key)}", message, hint, "key")


def missing_key(key: str, schema: Schema, pointer: str) -> Finding:
    """A required key that is not there; `schema` is the key's own."""
    message = f'{dotted(pointer)} lacks the key "{key}"'
    return Finding("E103", pointer, message, f"add {how_to_add(key, schema)}", "key")


def how_to_add(key: str, schema: Schema) -> str:
    """The key with an example of its value."""
    examples = schema.get("examples", [schema["const"]] if "const" in schema else [])
    return f"{key}: {flow(examples[0])}" if examples else f'"{key}"'


def wrong_type(value: Any, schema: Schema, pointer: str) -> Finding:
    """A value that is not of the schema's type."""
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    words = " or ".join(_TYPE_WORDS[name] for name in null_last(types))
    message = f"{dotted(pointer)} must be {words}, not {describe(value)}"
    return Finding("E104", pointer, message, _type_hint(value, types, schema))


def null_last(types: list[str]) -> list[str]:
    """As people read them. The schema has `null` first: by the first type the YAML language server
    writes a default, and it stumbles over a text that is null."""
    return sorted(types, key=lambda name: name == "null")


def not_allowed(value: Any, allowed: list[Any], pointer: str) -> Finding:
    """A value that is not one of those allowed."""
    texts = [item for item in allowed if isinstance(item, str)]
    suggestion = nearest(value, texts) if isinstance(value, str) else None
    hint = f"did you mean {suggestion}?" if suggestion else f"write {listed(allowed)}"
    hint = hint_for_value(value, pointer) or hint
    message = f"{shown(value)} is not a value of {dotted(pointer)}"
    return Finding("E106", pointer, message, hint)


def has_type(value: Any, wanted: str | list[str]) -> bool:
    """Is `value` of one of the JSON types `wanted`? A boolean is no number, and 1.0 no integer."""
    names = [wanted] if isinstance(wanted, str) else wanted
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, TYPES[name]) for name in names)


def _type_hint(value: Any, types: list[str], schema: Schema) -> str:
    if isinstance(value, str):
        return _text_hint(value, types) or example(schema)
    if "string" in types and "array" not in types and isinstance(value, (int, float)):
        return "put it into quotes"
    if value is None and "object" in types and "required" not in schema:
        return "write {} for all defaults, or remove the key"
    if isinstance(value, float) and "integer" in types and value.is_integer():
        return f"write {int(value)}"
    if "array" in types and isinstance(value, dict):
        return 'start each item with "- "'
    return example(schema)


def _text_hint(value: str, types: list[str]) -> str:
    """Text where a number or a boolean is wanted: mostly YAML 1.1's habits, or stray quotes."""
    if "boolean" in types and value.lower() in _YES_AND_NO:
        return f"write {_YES_AND_NO[value.lower()]}"
    if "integer" in types or "number" in types:
        plain = value.replace("_", "").replace(",", "").strip()
        if re.fullmatch(r"[-+]?[0-9]{1,20}(\.[0-9]{0,20})?([eE][-+]?[0-9]{1,3})?", plain):
            return f"write {plain} without quotes"
    if "array" in types:
        return f"write [{value}]" if re.fullmatch(r"[\w.-]{1,60}", value) else ""
    return ""


def listed(values: list[Any]) -> str:
    """Values in a sentence: `a, b or c`."""
    words = [value if isinstance(value, str) else flow(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def example(schema: Schema) -> str:
    """The schema's first example as a hint."""
    examples = schema.get("examples", ())
    return f"for example: {flow(examples[0])}" if examples else ""


def shown(value: Any) -> str:
    """A value as it stands in the recipe."""
    return quoted(value, 60) if isinstance(value, str) else describe(value)


def describe(value: Any) -> str:
    """A value as it is called in a message."""
    if isinstance(value, str):
        return f"the text {quoted(value, 60)}"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "an empty value (null)" if value is None else flow(value)


def dotted(pointer: str) -> str:
    """A JSON pointer as people write it: `train.adapter.r`, `data.train[0].path`."""
    name = ""
    for token in pointer_tokens(pointer):
        if token.isdecimal() and name:
            name += f"[{token}]"
        else:
            plain = re.fullmatch(r"[\w-]{1,60}", token)
            name += ("." if name else "") + (token if plain else quoted(token, 60))
    return name or "the recipe"
