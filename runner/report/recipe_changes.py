"""What changes from one recipe to another, as text, as JSON and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from runner.plan.changes import Changes
from runner.plan.changes_below import ADDED, INVALID, REMOVED, Comparison, RecipeChange
from runner.report.markdown import block, code
from runner.report.printable import escaped

MAX_VALUES = 40  # shown of one recipe in Markdown
MAX_COMMENT = 60_000  # characters; GitHub refuses a comment of more than 65,536
PERHAPS = "only if what comes before gives other bytes"
_GROUPS = (("new", "added"), ("gone", "removed"), ("again", "touched"), ("perhaps", "perhaps"))
_KINDS = {
    ADDED: "new",
    REMOVED: "removed",
    INVALID: "has errors, so it is not compared",
}


def as_text(found: Changes) -> str:
    """The values, then the stages by what happens to them."""
    lines = [f"value      {value}" for value in found.values]
    lines += [f"file       {escaped(name)}: other content" for name in found.files]
    for word, stages in (*_stages(found), ("same", found.same)):
        if stages:
            lines.append(f"{word:<10} {', '.join(stages)}")
    if found.perhaps:
        lines.append(f"perhaps: {PERHAPS}")
    if not found.any:
        lines.append("the result is the same")
    return "\n".join(lines)


def as_json(found: Changes) -> dict[str, Any]:
    """One entry a group of stages, and the values."""
    return {"schema": 1} | asdict(found)


def as_markdown(found: Changes) -> str:
    """For a pull request: the stages first, then the values."""
    return "\n".join(_markdown_lines(found))


def _stages(found: Changes) -> Iterator[tuple[str, tuple[str, ...]]]:
    for word, name in _GROUPS:
        yield word, getattr(found, name)


def _markdown_lines(found: Changes) -> Iterator[str]:
    said = [f"{word}: {', '.join(map(code, stages))}" for word, stages in _stages(found) if stages]
    yield f"{'; '.join(said)}." if said else "The result is the same."
    if found.perhaps:
        yield f"(perhaps: {PERHAPS})"
    yield ""
    changed = (*found.values, *(f"{name}: other content" for name in found.files))
    if changed:
        yield from block(changed, most=MAX_VALUES)


# --- all recipes of two folders


def comparison_as_text(found: Comparison) -> str:
    """A block a recipe."""
    lines = []
    for change in found.recipes:
        lines.append(f"{escaped(change.path)}: {_KINDS.get(change.kind, change.kind)}")
        if change.changes is not None:
            lines += [f"    {line}" for line in as_text(change.changes).split("\n")]
    return "\n".join([*lines, _rest(found)])


def comparison_as_json(found: Comparison) -> dict[str, Any]:
    """The same for machines."""
    return {"schema": 1, "same": found.same, "recipes": [_change(each) for each in found.recipes]}


def comparison_as_markdown(found: Comparison) -> str:
    """The body of a comment on a pull request."""
    parts, size = ["### What this changes in the results\n"], 0
    for index, change in enumerate(found.recipes):
        part = "\n".join(_recipe_lines(change))
        size += len(part)
        if size > MAX_COMMENT:
            parts.append(f"… and {len(found.recipes) - index} more recipes.\n")
            break
        parts.append(part)
    return "\n".join([*parts, f"{_rest(found).capitalize()}."])


def _recipe_lines(change: RecipeChange) -> Iterator[str]:
    yield f"**{code(change.path)}** {_KINDS.get(change.kind, '')}".rstrip()
    yield ""
    if change.changes is not None:
        yield from _markdown_lines(change.changes)
        yield ""


def _change(change: RecipeChange) -> dict[str, Any]:
    changes = None if change.changes is None else asdict(change.changes)
    return {"recipe": change.path, "kind": change.kind, "changes": changes}


def _rest(found: Comparison) -> str:
    if not found.recipes:
        return "no recipe gives anything else"
    return f"{found.same} other recipe{'' if found.same == 1 else 's'}: the same"
