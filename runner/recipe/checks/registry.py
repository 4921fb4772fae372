"""Where the rules of a recipe are registered, and what each of them reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from runner.recipe.finding import Finding
from runner.recipe.model import Recipe

Rule = Callable[[Recipe], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """A rule, and the sections of the recipe that must be sound for it to make sense."""

    rule: Rule
    needs: frozenset[str]


CHECKS: list[Check] = []


def check(*needs: str) -> Callable[[Rule], Rule]:
    """Register a rule that reads the sections `needs`."""

    def register(rule: Rule) -> Rule:
        CHECKS.append(Check(rule, frozenset(needs)))
        return rule

    return register
