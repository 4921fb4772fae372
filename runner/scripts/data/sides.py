"""The conversations of a row, what each is called, and the system turns they are shown with.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from runner.scripts.data.conversation import Conversation, with_system
from runner.scripts.data.preference import Pair
from runner.scripts.data.prompted import Prompted
from runner.scripts.data.systems import compared_without_own, prompt_of, system_of, without_own
from runner.scripts.data.writing import Read


def sides_of(read: Read) -> list[tuple[str, Conversation]]:
    """Each conversation of the row behind its name; that of a single answer has none."""
    if isinstance(read, Conversation):
        return [("", read)]
    if isinstance(read, Prompted):
        return [("prompt", read.asked)]
    names = ("chosen", "rejected") if isinstance(read, Pair) else ("good", "bad")
    return [(names[0] if good else names[1], side) for side, good in read.sides]


def sides_as_seen(read: Read, settings: Mapping[str, Any]) -> Iterator[tuple[str, Conversation]]:
    """As `sides_of`, with the system turn that `prepare` gives the row.

    `settings`: seed, system, system_variants and system_for, as of data/systems.py.
    """
    bare = bare_of(read, settings)
    digest = bare.digest if isinstance(bare, Conversation) else lambda: prompt_of(bare)
    system = system_of(digest, settings)
    for name, side in sides_of(bare):
        yield name, with_system(side, system)


def bare_of(read: Read, settings: Mapping[str, Any]) -> Read:
    """The row without a system turn of its own, where the recipe's takes the place of all."""
    if isinstance(read, Conversation):
        return without_own(read, settings)
    if isinstance(read, Prompted):
        return replace(read, asked=without_own(read.asked, settings))
    return compared_without_own(read, settings)
