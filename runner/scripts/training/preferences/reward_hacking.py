"""What answers look like while a score is chased, and signs that the score was hacked.

A reward model is right about answers like those it was trained on. Where the policy finds others
that it overrates, the score goes on growing and the answers get worse: as a rule longer, going
round in circles, and far from what the base would say. The numbers below are rules of thumb.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from runner.scripts.evaluation.form import LOOP, repeated_share

if TYPE_CHECKING:
    import torch

LENGTH, ENDED, LOOPS, DISTINCT = (
    "answers/length",
    "answers/ended",
    "answers/loops",
    "answers/distinct",
)
ANSWERS = (LENGTH, ENDED, LOOPS, DISTINCT)
KL = "objective/kl"
QUARTER = 4
LONGER = 1.5  # times the tokens at first
MORE_LOOPS = 0.25  # part of the answers
KL_PER_TOKEN = 0.5  # nats: the base would then have said something else at every other token or so


@dataclass
class Shown:
    """Collects the answers that the reward model is shown, until they are told of."""

    stop: int
    answers: list[list[int]] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)

    def add(self, ids: torch.Tensor, seen: torch.Tensor) -> None:
        """Of a batch, prompts taken off: `ids` and which of them are no padding, [rows, tokens]."""
        for line, real in zip(ids.tolist(), seen.tolist(), strict=True):
            answer = [token for token, is_real in zip(line, real, strict=True) if is_real]
            self.ended.append(self.stop in answer)
            self.answers.append(answer)

    def told(self) -> dict[str, float]:
        """Mean tokens, part that ended, part in loops, part that no other answer equals; then none
        are kept."""
        count = len(self.answers)
        found = {
            LENGTH: fmean(map(len, self.answers)),
            ENDED: fmean(self.ended),
            LOOPS: fmean(repeated_share(answer) >= LOOP for answer in self.answers),
            DISTINCT: len({tuple(answer) for answer in self.answers}) / count,
        }
        self.answers.clear()
        self.ended.clear()
        return found


def signs_of(trace: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on what the last quarter of the steps shows against the first; [] for nothing."""
    if len(trace) < QUARTER:
        return []
    count = len(trace) // QUARTER
    first, last = _means(trace[:count]), _means(trace[-count:])
    found = []
    if last[LENGTH] > LONGER * first[LENGTH]:
        found.append(
            f"answers grew from {first[LENGTH]:.0f} to {last[LENGTH]:.0f} tokens: the reward model "
            "may score length"
        )
    if last[LOOPS] > first[LOOPS] + MORE_LOOPS:
        found.append(
            f"{last[LOOPS]:.0%} of the answers go round in circles, at first {first[LOOPS]:.0%}"
        )
    if last[DISTINCT] < first[DISTINCT] / 2:
        found.append(
            f"{last[DISTINCT]:.0%} of a batch's answers differ, at first {first[DISTINCT]:.0%}: "
            "the policy says the same to everything"
        )
    if last[KL] > KL_PER_TOKEN * last[LENGTH]:
        found.append(
            f"the policy has run away from the base: {last[KL]:.1f} nats in an answer of "
            f"{last[LENGTH]:.0f} tokens; raise train.kl_coef or lower train.learning_rate"
        )
    return found


def _means(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: fmean(line[name] for line in lines) for name in (*ANSWERS, KL)}
