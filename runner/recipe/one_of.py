"""Why no branch of a `oneOf`, or more than one, fits: say what was meant, not every branch.

Also which keys of a mapping choose a branch, and which go with that choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from runner.recipe.elsewhere import same_place
from runner.recipe.finding import (
    Finding,
    dotted,
    has_type,
    how_to_add,
    listed,
    missing_key,
    not_allowed,
    unknown_key,
    wrong_type,
)
from runner.recipe.schema import Schema
from runner.recipe.source import escape_token, pointer_tokens
from runner.recipe.suggest import nearest
from runner.report.printable import quoted

MAX_UNKNOWN_KEYS = 20  # named one by one in one mapping

Results = list[tuple[Schema, list[Finding]]]  # each branch with what is wrong by it


def explain(value: Any, schema: Schema, results: Results, pointer: str) -> Iterator[Finding]:
    """Findings for a `value` that does not satisfy exactly one branch of the schema's `oneOf`."""
    marks = _marks([branch for branch, _ in results])
    selector = _selector([branch for branch, _ in results])
    if not isinstance(value, dict) or not all(_of_type(value, branch) for branch, _ in results):
        yield from _by_type(value, schema, results, pointer)
    elif selector:
        yield from _by_selector(value, selector, results, pointer)
    else:
        given = [key for key in value if key in marks]
        if any(marks[key] is not marks[given[0]] for key in given):
            yield from _exclusive(given, marks, pointer)
        elif given:
            branch = marks[given[0]]
            found = next(found for other, found in results if other is branch)
            yield from _belonging(found, branch, results)
        else:
            yield from _none_given(value, schema, marks, pointer)


def explain_part(value: Any, schema: Schema, results: Results, pointer: str) -> Iterator[Finding]:
    """As `explain`, of a part of a mapping: no branch is chosen by what must be there."""
    branches = [branch for branch, _ in results]
    if not isinstance(value, dict) or not all(_of_type(value, branch) for branch in branches):
        yield from _by_type(value, schema, results, pointer)
        return
    if (selector := _selector(branches)) and selector in value:
        yield from _by_selector(value, selector, results, pointer)
        return
    only = _only_in_one(branches)
    given = [key for key in value if key in only]
    if any(only[key] is not only[given[0]] for key in given):
        yield from _exclusive(given, only, pointer)
        return
    wanted = [found for branch, found in results if not given or branch is only[given[0]]]
    found = min(wanted, key=len)
    branch = next(branch for branch, each in results if each is found)
    yield from _belonging(found, branch, results)


def _only_in_one(branches: list[Schema]) -> dict[str, Schema]:
    """Keys that one branch alone knows -> that branch."""
    known = [set(branch.get("properties", ())) for branch in branches]
    return {
        key: branch
        for branch, keys in zip(branches, known, strict=True)
        for key in branch.get("properties", ())
        if sum(key in each for each in known) == 1 and key in keys
    }


@dataclass(frozen=True, slots=True)
class Choice:
    """Of a mapping with a `oneOf`: the keys that choose a branch, and those that go with it."""

    keys: frozenset[str] = frozenset()
    bound: frozenset[str] = frozenset()


def choice_of(schema: Schema) -> Choice:
    """What all branches have in common, by the same schema, is bound to none of them.

    So another `hub` has another `revision` and `file`, and the same `dtype`.
    """
    branches = schema.get("oneOf", [])
    if not branches:
        return Choice()
    marks, selector = _marks(branches), _selector(branches)
    known = [branch.get("properties", {}) for branch in branches]
    bound = {
        key
        for properties in known
        for key in properties
        if any(key not in other or other[key] != properties[key] for other in known)
    }
    return Choice(frozenset([selector] if selector else marks), frozenset({*marks, *bound}))


def _of_type(value: Any, branch: Schema) -> bool:
    return "type" not in branch or has_type(value, branch["type"])


def _by_type(value: Any, schema: Schema, results: Results, pointer: str) -> Iterator[Finding]:
    """Branches told apart by the type of the value."""
    typed = next((found for branch, found in results if _of_type(value, branch)), None)
    if typed is None:
        types = [name for branch, _ in results for name in _types(branch)]
        yield wrong_type(value, {**schema, "type": list(dict.fromkeys(types))}, pointer)
    else:
        yield from typed


def _types(branch: Schema) -> list[str]:
    types = branch["type"]
    return [types] if isinstance(types, str) else types


def _selector(branches: list[Schema]) -> str | None:
    """The key whose constant value tells the branches apart, like an adapter's `type`."""
    for key in branches[0].get("properties", {}):
        schemas = [branch.get("properties", {}).get(key, {}) for branch in branches]
        constants = [schema["const"] for schema in schemas if "const" in schema]
        if len(constants) == len(set(constants)) == len(branches):
            return str(key)
    return None


def _by_selector(
    value: dict[str, Any], selector: str, results: Results, pointer: str
) -> Iterator[Finding]:
    if selector not in value:
        yield from _no_selector(value, selector, results, pointer)
        return
    chosen, child = value[selector], f"{pointer}/{escape_token(selector)}"
    schema: Schema = results[0][0]["properties"][selector]
    by_constant = {
        branch["properties"][selector]["const"]: (branch, found) for branch, found in results
    }
    if not _of_type(chosen, schema):
        yield wrong_type(chosen, schema, child)
    elif chosen in by_constant:
        branch, found = by_constant[chosen]
        yield from _belonging(found, branch, results)
    else:
        yield not_allowed(chosen, list(by_constant), child)
        if meant := nearest(str(chosen), by_constant):
            branch, found = by_constant[meant]
            beside = [finding for finding in found if finding.pointer != child]
            yield from _belonging(beside, branch, results)


def _no_selector(
    value: dict[str, Any], selector: str, results: Results, pointer: str
) -> Iterator[Finding]:
    known: Schema = {}
    for branch, _ in results:
        known = {**branch["properties"], **known}
    slips = {key: nearest(key, [selector]) for key in value if key not in known}
    for key, meant in islice(slips.items(), MAX_UNKNOWN_KEYS):
        yield unknown_key(key, meant or nearest(key, known), known, pointer)
    if not any(slips.values()):
        yield missing_key(selector, known[selector], pointer)


def _marks(branches: list[Schema]) -> dict[str, Schema]:
    """Keys that tell the branches apart: each required by one and unknown to the others.

    Maps each to its branch: `wheel` and `path` for the model.
    """
    marks: dict[str, Schema] = {}
    for branch in branches:
        others = [other for other in branches if other is not branch]
        for key in branch.get("required", ()):
            if not any(key in (*o.get("required", ()), *o.get("properties", ())) for o in others):
                marks.setdefault(key, branch)
    return marks


def _first_mark(branch: Schema, marks: dict[str, Schema]) -> str:
    """The key by which a branch with several marks is named."""
    return next(key for key, other in marks.items() if other is branch)


def _exclusive(given: list[str], marks: dict[str, Schema], pointer: str) -> Iterator[Finding]:
    first, *others = given
    for key in others:
        if marks[key] is marks[first]:
            continue
        message = f'"{key}" and "{first}" exclude each other'
        child = f"{pointer}/{escape_token(key)}"
        yield Finding("E108", child, message, f"keep one of {listed(given)}", "key")


def _none_given(
    value: dict[str, Any], schema: Schema, marks: dict[str, Schema], pointer: str
) -> Iterator[Finding]:
    known = dict(schema.get("properties", {}))
    for branch in marks.values():
        known.update(branch.get("properties", {}))
    slips = {key: _meant(key, marks, pointer) for key in value if key not in known}
    if schema.get("additionalProperties") is not False:  # else they have been reported already
        for key, meant in islice(slips.items(), MAX_UNKNOWN_KEYS):
            yield unknown_key(key, meant or nearest(key, known), known, pointer)
    if not any(slips.values()):
        firsts = [key for key, branch in marks.items() if _first_mark(branch, marks) == key]
        message = f"{dotted(pointer)} needs exactly one of {listed(firsts)}"
        mark = firsts[0]
        hint = f"add {how_to_add(mark, known.get(mark, {}))}"
        yield Finding("E103", pointer, message, hint, "key")


def _meant(key: str, marks: dict[str, Schema], pointer: str) -> str | None:
    """The mark that an unknown key stands for: a slip of it, or its name in other tools."""
    named = same_place(key, pointer)
    return named if named in marks else nearest(key, marks)


def _belonging(found: list[Finding], branch: Schema, results: Results) -> Iterator[Finding]:
    """An unknown key that another branch knows is not a slip but a contradiction."""
    others = {key for other, _ in results for key in other.get("properties", {})}
    for finding in found:
        key = pointer_tokens(finding.pointer)[-1] if finding.pointer else ""
        if finding.code == "E102" and key in others:
            message = f'{quoted(key)} does not go with "{branch["title"]}"'
            known = ", ".join(branch.get("properties", {}))
            yield replace(finding, message=message, hint=f"keys that do: {known}")
        else:
            yield finding
