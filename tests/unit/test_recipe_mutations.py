"""Damage every node of every valid recipe, in every way that changes its meaning.

Each damage must be reported on the line where it was done; the rate is printed and must be 100 %.
"""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.recipe.flow import flow
from runner.recipe.load import check_recipe
from runner.recipe.schema import Schema, load_schema, merged_with_branch
from runner.recipe.source import read_source
from tests.chain import ROOT
from tests.recipe_cases import RECIPES, VALID, WHOLE, copy_recipes

WAYS = {
    "delete required", "retype", "misspell", "misspell value", "duplicate key", "duplicate item",
    "out of range", "anchor", "tag", "tab for a space",
}  # fmt: skip
# Text that names one of several things that no `enum` lists: a slip in it must be found, too.
NAMES = {"/data/chat_template", "/ollama/quantize"}


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a recipe written one node a line."""

    pointer: str
    value: Any
    schema: Schema  # with the branch that the value satisfies
    required: bool  # by its holder
    first: int  # index of its line
    last: int  # index of the last line inside of it

    @property
    def parent(self) -> str:
        return self.pointer.rpartition("/")[0]

    @property
    def key(self) -> str:
        return self.pointer.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Damage:
    """A recipe's text with one thing made wrong, and the lines (from 1) that may be blamed."""

    way: str
    pointer: str
    text: str
    lines: frozenset[int]


# --- a recipe, one node a line


def write(data: dict[str, Any]) -> tuple[list[str], dict[str, Node]]:
    """Lines, and the nodes by pointer."""
    lines: list[str] = []
    nodes: dict[str, Node] = {}
    _write(data, load_schema(), "", 0, lines, nodes)
    return lines, nodes


def _write(
    data: Any, schema: Schema, pointer: str, indent: int, lines: list[str], nodes: dict[str, Node]
) -> None:
    required = set(schema.get("required", ()))
    schema = merged_with_branch(data, schema) if "oneOf" in schema else schema
    required |= set(schema.get("required", ()))
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        child, first = f"{pointer}/{key}", len(lines)
        inner = _schema_of(key, schema) if isinstance(data, dict) else schema["items"]
        head = f"{' ' * indent}{key}:" if isinstance(data, dict) else f"{' ' * indent}-"
        if isinstance(value, (dict, list)) and value:
            lines.append(head)
            _write(value, inner, child, indent + 2, lines, nodes)
        else:
            lines.append(f"{head} {flow(value)}")
        merged = merged_with_branch(value, inner) if "oneOf" in inner else inner
        nodes[child] = Node(child, value, merged, key in required, first, len(lines) - 1)


def _schema_of(key: str, schema: Schema) -> Schema:
    """The key's own schema; in an open mapping all have one."""
    found: Schema = schema.get("properties", {}).get(key) or schema["additionalProperties"]
    return found


def joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


# --- ways to damage it


def damages(data: dict[str, Any]) -> Iterator[Damage]:
    lines, nodes = write(data)
    for node in nodes.values():
        yield from _delete(node, nodes, data, lines)
        yield from _replace_values(node, data)
        if not isinstance(_schema_around(node, nodes).get("additionalProperties"), dict):
            yield from _misspell(node, data)
        yield from _misspell_value(node, data)
        yield from _duplicate_item(node, data)
        yield from _damage_text(node, lines)


def _misspell_value(node: Node, data: dict[str, Any]) -> Iterator[Damage]:
    """A slip of the pen in a word of which there are only some."""
    word, schema = node.value, node.schema
    known = schema.get("enum", [schema["const"]] if "const" in schema else [])
    path = node.pointer in NAMES and isinstance(word, str) and word.endswith(".jinja")
    if not isinstance(word, str) or path or not (known or node.pointer in NAMES):
        return
    for slip in (word[:1] + word, word[:-1] + "q" + word[-1:], word.swapcase(), word[1:]):
        if slip not in (*known, word):
            yield _rewritten("misspell value", _with(data, node.pointer, slip), node.pointer)


def _duplicate_item(node: Node, data: dict[str, Any]) -> Iterator[Damage]:
    """Every list of a recipe names things, and each of them once."""
    holder, key = _holder(data, node.pointer)
    if isinstance(holder, list):
        made = copy.deepcopy(data)
        items, _ = _holder(made, node.pointer)
        items.insert(key + 1, copy.deepcopy(items[key]))
        again = f"{node.parent}/{key + 1}"
        inner = [f"{again}/{name}" for name in (node.value if isinstance(node.value, dict) else ())]
        yield _rewritten("duplicate item", made, again, *inner)


def _schema_around(node: Node, nodes: dict[str, Node]) -> Schema:
    return nodes[node.parent].schema if node.parent else {}


def _rewritten(way: str, data: Any, pointer: str, *also: str) -> Damage:
    """Damaged data as text; blamed may be the lines of `pointer`, and of `also`."""
    lines: list[str] = []
    places: dict[str, int] = {"": 0}
    _write_loosely(data, "", 0, lines, places)
    blamed = {places[each] + 1 for each in (pointer, *also) if each in places}
    return Damage(way, pointer, joined(lines), frozenset(blamed))


def _write_loosely(
    data: Any, pointer: str, indent: int, lines: list[str], places: dict[str, int]
) -> None:
    """Like `write`, for data that no schema fits."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        child = f"{pointer}/{key}"
        places[child] = len(lines)
        head = f"{' ' * indent}{key}:" if isinstance(data, dict) else f"{' ' * indent}-"
        if isinstance(value, (dict, list)) and value:
            lines.append(head)
            _write_loosely(value, child, indent + 2, lines, places)
        else:
            lines.append(f"{head} {flow(value)}")


def _holder(data: Any, pointer: str) -> tuple[Any, Any]:
    *path, last = pointer.split("/")[1:]
    for token in path:
        data = data[int(token)] if isinstance(data, list) else data[token]
    return data, int(last) if isinstance(data, list) else last


def _with(data: Any, pointer: str, value: Any) -> Any:
    made = copy.deepcopy(data)
    holder, key = _holder(made, pointer)
    holder[key] = value
    return made


def _delete(
    node: Node, nodes: dict[str, Node], data: dict[str, Any], lines: list[str]
) -> Iterator[Damage]:
    """Blamed is the holder: the line is gone. A list's item starts with its first key."""
    siblings = [each for each in nodes.values() if each.parent == node.parent]
    only_item = node.key.isdecimal() and len(siblings) <= nodes[node.parent].schema.get(
        "minItems", 0
    )
    if not (node.required or only_item):
        return
    made = copy.deepcopy(data)
    holder, key = _holder(made, node.pointer)
    del holder[key]
    also = (
        [f"{node.parent}/{next(iter(holder))}"] if node.parent[-1:].isdecimal() and holder else []
    )
    yield _rewritten("delete required", made, node.parent, *also)


def _replace_values(node: Node, data: dict[str, Any]) -> Iterator[Damage]:
    for value in _of_another_type(node.value):
        if value is None and "null" in node.schema.get("type", ()):
            continue  # no damage
        made = _with(data, node.pointer, value)
        inner = [f"{node.pointer}/{key}" for key in ("x", "0")]  # a block starts a line below
        yield _rewritten("retype", made, node.pointer, *inner)
    for value in _out_of_range(node):
        made = _with(data, node.pointer, value)
        yield _rewritten("out of range", made, node.pointer, *_items(node.pointer, value))


def _of_another_type(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return ["yes", 1, None, [], {}]
    if isinstance(value, (int, float)):
        return ["many", True, None, [], {}]
    if isinstance(value, str):
        return [7, 7.5, True, [7], {"x": 7}]
    return ["text", 7, True, None, {"x": 7} if isinstance(value, list) else ["x"]]


def _items(pointer: str, value: Any) -> Iterator[str]:
    """Of a list; a mapping in it starts a line below its dash."""
    for number, item in enumerate(value if isinstance(value, list) else ()):
        yield f"{pointer}/{number}"
        if isinstance(item, dict):
            yield f"{pointer}/{number}/{next(iter(item))}"


def _out_of_range(node: Node) -> Iterator[Any]:
    schema = node.schema
    if "enum" in schema or "const" in schema:
        yield "no-such-value" if isinstance(node.value, str) else 0
    if "pattern" in schema:
        yield "%"
    if schema.get("minLength"):
        yield ""
    if "maxLength" in schema:
        yield "x" * (schema["maxLength"] + 1)
    if "minimum" in schema:
        yield schema["minimum"] - 1
    if "exclusiveMinimum" in schema:
        yield schema["exclusiveMinimum"]
    if "maximum" in schema:
        yield schema["maximum"] + 1
    if "exclusiveMaximum" in schema:
        yield schema["exclusiveMaximum"]
    if schema.get("minItems"):
        yield []
    if schema.get("uniqueItems"):
        yield [*node.value, node.value[0]]


def _misspell(node: Node, data: dict[str, Any]) -> Iterator[Damage]:
    if node.key.isdecimal():
        return
    for name in (node.key[:1] + node.key, node.key[1:] or "q", node.key + "_of_another_tool"):
        made = copy.deepcopy(data)
        holder, _ = _holder(made, node.pointer)
        items = [(name if old == node.key else old, value) for old, value in holder.items()]
        holder.clear()
        holder.update(items)
        yield _rewritten("misspell", made, f"{node.parent}/{name}")


def _damage_text(node: Node, lines: list[str]) -> Iterator[Damage]:
    line = lines[node.first]
    number = node.first + 1
    if not node.key.isdecimal():
        again = line.partition(":")[0] + ": 1"
        made = [*lines[: node.last + 1], again, *lines[node.last + 1 :]]
        yield Damage("duplicate key", node.pointer, joined(made), frozenset({node.last + 2}))
    for way, mark in (("anchor", "&a"), ("tag", "!!str")):
        head, separator, rest = line.partition(": ") if ": " in line else (line, "", "")
        damaged = f"{head}{separator}{mark} {rest}" if separator else f"{line} {mark}"
        if line.lstrip().startswith("- "):
            damaged = line.replace("- ", f"- {mark} ", 1)
        made = [*lines[: node.first], damaged, *lines[node.first + 1 :]]
        yield Damage(way, node.pointer, joined(made), frozenset({number}))
    if line.startswith(" "):
        made = [*lines[: node.first], "\t" + line[1:], *lines[node.first + 1 :]]
        yield Damage("tab for a space", node.pointer, joined(made), frozenset({number}))


# --- the sweep


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every valid recipe, and the shipped ones that extend no other, in projects of their own."""
    ours = copy_recipes(tmp_path_factory.mktemp("project"))
    shipped = tmp_path_factory.mktemp("shipped") / "recipes"
    shutil.copytree(ROOT / "recipes", shipped)
    (shipped.parent / ".git").mkdir()
    copies = [ours / path.relative_to(RECIPES) for path in VALID]
    return [*copies, *(shipped / path.relative_to(ROOT / "recipes") for path in WHOLE)]


def test_the_sweep_is_over_all_recipes(recipes: list[Path]) -> None:
    assert len(WHOLE) >= 3
    assert len(recipes) == len(VALID) + len(WHOLE)
    assert all(path.is_file() for path in recipes)


def test_every_damage_is_reported_on_the_damaged_line(recipes: list[Path]) -> None:
    tried: Counter[str] = Counter()
    missed: list[tuple[str, Damage]] = []
    elsewhere = 0
    for path in recipes:
        target = path.with_name("damaged.yaml")
        data = read_source(path).data
        target.write_text(joined(write(data)[0]), encoding="utf-8")
        assert check_recipe(target)[0] is not None, "the rewritten recipe is valid"
        for damage in damages(data):
            target.write_text(damage.text, encoding="utf-8")
            recipe, diagnostics = check_recipe(target)
            errors = {d.line for d in diagnostics if d.severity == "error"}
            tried[damage.way] += 1
            elsewhere += bool(errors - damage.lines)
            if recipe is not None or not errors & damage.lines:
                missed.append((path.stem, damage))
    total = tried.total()
    rate = 100 * (total - len(missed)) / total
    print(f"{total - len(missed)} of {total} damages ({rate:.2f} %) reported on their line")
    print(", ".join(f"{way}: {count}" for way, count in sorted(tried.items())))
    print(f"{elsewhere} of them with an error on another line too")
    assert missed == []
    assert set(tried) == WAYS
    assert total > 3000
    assert elsewhere < 0.05 * total
