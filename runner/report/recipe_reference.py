"""The reference of every field of a recipe, written from the schema alone (docs/recipe.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runner.recipe.flow import flow
from runner.recipe.schema import Schema, load_schema

_INTRODUCTION = """# Recipe reference

Names are those of Transformers, TRL and PEFT wherever these have one.
`recipe show --resolved x.yaml` prints a recipe with every default and the line that each given
value comes from.

## How a recipe is read

- YAML 1.2, one document, UTF-8. `true` and `false` are the only booleans; `on` and `yes` are text.
- Unknown and duplicate keys are errors. Refused are tags, anchors, aliases, merge keys (`<<`), tabs
  outside of quotes, infinite numbers, and files of more than 256 KiB.
- A path is relative to the recipe's folder. Links resolved, it stays under the project root: the
  nearest folder above with a `.git`, else the recipe's folder. Only `model.path` may be absolute.
- A missing section (`evaluate`, `merge`, `gguf`, `ollama`, `benchmark`) is a stage that is not part
  of the recipe. `merge: {}` is the section with all its defaults.
- The shapes of data rows are in [data.md](data.md), the errors in [errors.md](errors.md).
- In a folder, `recipe validate` takes a `.yaml` or `.yml` file for a recipe when it has a top-level
  `schema:`, or two of `model:`, `data:` and `train:`. Locks (`*.lock.yaml`) and hidden files are
  left out. A file that is named is always checked.

The least that a recipe must say:
"""

_TYPE_WORDS = {
    "object": "mapping",
    "array": "list",
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "null": "`null`",
}


def render(schema: Schema | None = None) -> str:
    """docs/recipe.md as Markdown."""
    schema = schema or load_schema()
    example = "\n".join(f"{key}: {flow(v)}" for key, v in schema["examples"][0].items())
    parts = [f"{_INTRODUCTION}\n```yaml\n{example}\n```\n", *_object("", "The recipe", schema)]
    return "\n".join(parts)


def _object(name: str, title: str, schema: Schema) -> Iterator[str]:
    """A heading with the fields of one mapping, then the mappings inside of it."""
    yield f"## {title}\n\n{schema['description']}\n"
    if name and "examples" in schema:
        yield "\n".join(f"```yaml\n{line}\n```\n" for line in _examples(name, schema))
    for word, branch in zip(("Either", "Or", "Or"), schema.get("oneOf", ()), strict=False):
        if "properties" in branch:
            yield f"**{word} {branch['title']}.** {branch.get('description', '')}\n"
            yield _table(branch)
    if "properties" in schema:
        yield _table(schema)
    for inner, inner_schema in _inner_objects(name, schema):
        yield from _object(inner, f"`{inner}`", inner_schema)


def _examples(name: str, schema: Schema) -> Iterator[str]:
    key = name.rpartition(".")[2]
    head = "- " if key.endswith("[]") else f"{key}: "
    for example in schema["examples"]:
        yield head + flow(example)


def _inner_objects(name: str, schema: Schema) -> Iterator[tuple[str, Schema]]:
    shown = set()  # what several branches share
    for part in (schema, *schema.get("oneOf", ())):
        for key, value in part.get("properties", {}).items():
            path = f"{name}.{key}" if name else key
            if path in shown:
                continue
            shown.add(path)
            if value.get("type") == "object":
                yield path, value
            elif value.get("items", {}).get("type") == "object":
                yield f"{path}[]", value["items"]


def _table(schema: Schema) -> str:
    rows = ["| Key | Value | Default | Meaning |", "|---|---|---|---|"]
    required = schema.get("required", ())
    for key, value in schema["properties"].items():
        meaning = value.get("description", "")
        cells = (f"`{key}`", _value(value), _default(value, key in required), meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _default(schema: Schema, required: bool) -> str:
    if required:
        return "**required**"
    return f"`{_shown(schema['default'])}`" if "default" in schema else "none"


def _value(schema: Schema) -> str:
    """Type, range and an example of one field."""
    if "const" in schema:
        return f"`{_shown(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{_shown(value)}`" for value in schema["enum"])
    if "oneOf" in schema and schema.get("type") != "object":
        return ", or ".join(_value(branch) for branch in schema["oneOf"])
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words = " or ".join(_TYPE_WORDS[name] for name in types)
    if schema.get("items"):
        items = schema["items"]
        words += " of " + ("mappings" if items.get("type") == "object" else _value(items))
    limits = list(_limits(schema))
    if limits:
        words += f", {' and '.join(limits)}"
    if schema["type"] in ("object", "boolean") or "examples" not in schema or "items" in schema:
        return words
    return f"{words}; such as `{_shown(schema['examples'][0])}`"


def _limits(schema: Schema) -> Iterator[str]:
    words = {
        "minimum": "at least {}",
        "exclusiveMinimum": "more than {}",
        "maximum": "at most {}",
        "exclusiveMaximum": "less than {}",
        "maxLength": "at most {} characters",
    }
    for keyword, text in words.items():
        if keyword in schema:
            yield text.format(_shown(schema[keyword]))


def _shown(value: Any) -> str:
    return flow(value)


if __name__ == "__main__":
    print(render(), end="")
