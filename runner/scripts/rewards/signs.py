"""What the trace of a training by rewards says about its health. Pure; standard library only.

Everything is told from the trace, so that a training that was killed and resumed is told the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from runner.scripts.spec import ScriptError

# What of a step's log stands in the trace, by TRL's names; `repeated` is our own: the part of an
# answer's runs of four tokens that were there before, mean over answers.
TRACED = (
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "kl",
    "entropy",
    "completions/mean_length",
    "completions/clipped_ratio",
    "repeated",
)
PATIENCE = 10  # steps without any signal, from the first, after which a training ends
_PART = 5  # first and last fifth of the steps are compared
_FEWEST = 2  # steps of such a part, fewer than which nothing is said
_GROWN = 1.5  # times as long as in the beginning
_TOKENS = 8  # and this many tokens longer
_CUT = 0.25  # more of the answers are cut
_REPEATED = 0.2  # more of an answer is repeated

Line = Mapping[str, float]


def check_signal(trace: Sequence[Line], steps: int) -> None:
    """Raise ScriptError E537 when none of the first PATIENCE steps (or of all) taught anything.

    Where all answers to a prompt earn the same, none is better than the others.
    """
    if len(trace) != min(PATIENCE, steps) or any(
        line["frac_reward_zero_std"] < 1 for line in trace
    ):
        return
    low, high = min(line["reward"] for line in trace), max(line["reward"] for line in trace)
    hint = (
        "give a reward that some answers earn and others do not: an easier one beside it, another "
        "pattern, a higher temperature, more num_generations, or a model that can do the task"
    )
    raise ScriptError(
        f"in none of {len(trace)} steps did two answers to a prompt earn different rewards"
        f" (mean reward {low:.3g} to {high:.3g}): there is nothing to learn from",
        hint=hint,
        code="E537",
    )


def signs_of(trace: Sequence[Line]) -> dict[str, str]:
    """Signs that rewards were earned by other means than meant, or that learning came to an end.

    Sign -> sentence; first and last fifth of the steps are compared.
    """
    count = len(trace) // _PART
    if count < _FEWEST:
        return {}
    ends = trace[:count], trace[-count:]

    def both(name: str) -> tuple[float, float]:
        first, last = (statistics.fmean(line[name] for line in lines) for lines in ends)
        return first, last

    found = {}
    before, after = both("completions/mean_length")
    if after >= _GROWN * before and after >= before + _TOKENS:
        found["length"] = f"answers grew from {before:.0f} to {after:.0f} tokens"
    before, after = both("completions/clipped_ratio")
    if after >= before + _CUT:
        found["cut"] = (
            f"{after:.0%} of the answers are cut at max_completion_length, {before:.0%} at first"
        )
    before, after = both("repeated")
    if after >= before + _REPEATED:
        found["repetition"] = f"{after:.0%} of an answer repeats itself, {before:.0%} at first"
    alike = _alike_at_the_end(trace)
    if alike >= count:
        found["alike"] = (
            f"in the last {alike} steps all answers to a prompt earned the same"
            f" (mean reward {trace[-1]['reward']:.3g})"
        )
    return found


def _alike_at_the_end(trace: Sequence[Line]) -> int:
    """How many of the last steps had no group with different rewards."""
    count = 0
    for line in reversed(trace):
        if line["frac_reward_zero_std"] < 1:
            break
        count += 1
    return count
