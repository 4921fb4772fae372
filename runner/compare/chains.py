"""Runs that started from what another run gave: the base of the one is the model of the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runner.compare.candidates import Candidate, source_of
from runner.scripts.evaluation.examples import Example


def completed(
    one: Candidate, other: Candidate, found: Sequence[Candidate]
) -> tuple[Candidate, Candidate | None]:
    """`one`, and where `other` started from it, with what it answered as the base of `other`.

    That base is also returned; None where it adds nothing. What `one` was asked itself stands.
    """
    base = next((each for each in found if each.side == "base" and each.base == other.base), None)
    if base is None or source_of(base, found) is not one:
        return one, None
    if base.max_new_tokens != one.max_new_tokens:
        return one, None
    more = {
        key: _as_tuned(example) for key, example in base.examples.items() if key not in one.examples
    }
    if not more:
        return one, None
    prompts = {**base.prompts, **one.prompts}
    return replace(one, examples={**more, **one.examples}, prompts=prompts), base


def _as_tuned(example: Example) -> Example:
    return replace(example, results={"tuned": example.results["base"]})
