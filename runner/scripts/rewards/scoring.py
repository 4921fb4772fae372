"""Score answers by the recipe's rewards, within a time. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner.scripts.alarm import TimeIsOver, alarm
from runner.scripts.rewards.functions import earned, total
from runner.scripts.spec import ScriptError

LIMIT = 20.0  # seconds for one answer; a pattern like (a+)+b would take years


def score(
    answer: str, reference: str | None, rewards: Sequence[Mapping[str, Any]], limit: float = LIMIT
) -> tuple[float, list[float]]:
    """The reward of an answer, and what it is the weighted sum of.

    To be called in the main thread. Raises ScriptError E538 when it takes longer than `limit`.
    """
    try:
        with alarm(limit):  # which a regular expression looks out for
            parts = earned(answer, reference, rewards)
    except TimeIsOver:
        patterns = [each["pattern"] for each in rewards if "pattern" in each]
        raise ScriptError(
            f"an answer of {len(answer)} characters could not be scored in {limit:g} seconds;"
            f" patterns of train.rewards: {', '.join(patterns)}",
            hint="write a pattern without repetitions inside of repetitions, such as (a+)+",
            code="E538",
        ) from None
    return total(parts, rewards), parts


def names_of(rewards: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each reward is called in traces and reports: a second one of a name is `NAME-2`."""
    found: list[str] = []
    for each in rewards:
        before = sum(name.partition("#")[0] == each["name"] for name in found)
        found.append(f"{each['name']}#{before + 1}" if before else each["name"])
    return [name.replace("#", "-") for name in found]
