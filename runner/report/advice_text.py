"""What is recommended in place of a recipe's settings, as text, Markdown and JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from runner.recipe.creation.advice import WORDS, Advice

ADVICE = 1  # version of the JSON
_WIDTH = 100


def in_short(found: Sequence[Advice], command: str) -> list[str]:
    """A line for each machine that asks for another way of training; none where none does."""
    return [
        f"advice     on {each.machine}: {each.ours} in place of {WORDS[each.has.tuning]}; "
        f"why: {command} --recommend"
        for each in found
        if each.another_method
    ]


def as_text(found: Sequence[Advice]) -> str:
    """A block a machine: what we would choose, what the recipe has, a reason for each choice."""
    return "\n".join(line for each in found for line in _block(each))


def _block(advice: Advice) -> Iterator[str]:
    if advice.ours is None:
        yield f"recommended on {advice.machine}: a smaller model"
    elif advice.ours == advice.has:
        yield f"recommended on {advice.machine}: what the recipe has, {advice.ours}"
    else:
        yield f"recommended on {advice.machine}: {advice.ours}"
        yield f"    the recipe has {advice.has}"
    for what, why in advice.reasons.items():
        yield from textwrap.wrap(
            f"{what:<9} {why}", _WIDTH, initial_indent="    ", subsequent_indent=" " * 14
        )


def as_data(found: Sequence[Advice]) -> dict[str, Any]:
    """For machines; `ours` null: the model fits there in no way."""
    return {"schema": ADVICE, "recommended": [asdict(each) for each in found]}


def as_markdown(found: Sequence[Advice]) -> str:
    """A table, a machine a row."""
    from runner.report.markdown import table

    rows = [
        (each.machine, str(each.ours or "a smaller model"), str(each.has), *_why(each))
        for each in found
    ]
    return "\n".join(table(("machine", "recommended", "the recipe has", "why"), rows))


def _why(advice: Advice) -> tuple[str]:
    return (" ".join(advice.reasons.values()),)
