"""What the verdicts come to: win rate, ties, and how far the judge itself can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from runner.judge.judging import Judged
from runner.scripts.evaluation.examples import cut
from runner.scripts.evaluation.intervals import Estimate, estimate

MOST = 5  # examples that are shown
EVEN = 0.5


def judged_data(
    first: str, second: str, in_common: int, why: str, judged: Sequence[Judged]
) -> dict[str, Any]:
    """Of two models, as plain data. `in_common`: prompts that both answered, judged or not."""
    scored = [(each, score) for each in judged if (score := each.score) is not None]
    win_rate = _mean([score for _, score in scored])
    asked = [each for each, _ in scored if not each.pair.same]
    return {
        "first": first,
        "second": second,
        "in_common": in_common,
        "why": why,
        "drawn": len(judged),
        "same": sum(each.pair.same for each in judged),
        "asked": len(asked),
        "wins": sum(score == 1 for _, score in scored),
        "losses": sum(score == 0 for _, score in scored),
        "ties": sum(each.votes == ("tie", "tie") for each in asked),
        "half": sum(each.votes.count("tie") == 1 for each in asked),
        "contradictions": sum(_contradicts(each) for each in asked),
        "without": sum(each.score is None for each in judged),
        "unusable": dict(
            sorted(Counter(reason for each in judged for reason in each.unusable).items())
        ),
        "win_rate": _plain(win_rate),
        "verdict": verdict(win_rate, why),
        "position": _plain(_position(asked)),
        "length": _length(asked),
        "most": _most(scored),
    }


def verdict(found: Estimate | None, why: str = "") -> str:
    """Of the second model, in words; nothing is said on too few prompts, or without an interval."""
    if found is None:
        return why or "nothing was judged"
    if found.low is None or found.high is None:
        return "one prompt: nothing can be said"
    if found.few:
        return f"too few prompts: {found.count}"
    if found.low <= EVEN <= found.high:
        return "no difference shown"
    return "better" if found.value > EVEN else "worse"


def _contradicts(each: Judged) -> bool:
    return set(each.votes) == {"first", "second"}


def _position(asked: Sequence[Judged]) -> Estimate | None:
    """How often the answer that was shown first is named, among verdicts that name one.

    0.5 is right for a judge that does not look at the order, since each answer is shown first
    once. Prompts are drawn again, with both of their verdicts.
    """
    values, weights = [], []
    for each in asked:
        named = sum(vote != "tie" for vote in each.votes)
        if named:
            values.append(float((each.votes[0] == "first") + (each.votes[1] == "second")))
            weights.append(float(named))
    return estimate(values, weights) if values else None


def _length(asked: Sequence[Judged]) -> dict[str, Any]:
    """Characters, and how often the longer answer won where both orders agree on one."""
    longer = []
    for each in asked:
        difference = len(each.pair.second) - len(each.pair.first)
        if each.score in (0, 1) and difference:
            longer.append(float((difference > 0) == (each.score == 1)))
    sides = ("first", "second")
    means = {
        side: _mean([float(len(getattr(each.pair, side))) for each in asked]) for side in sides
    }
    return {
        "longer_won": _plain(_mean(longer)),
        "characters": {side: None if mean is None else mean.value for side, mean in means.items()},
    }


def _most(scored: Sequence[tuple[Judged, float]]) -> list[dict[str, Any]]:
    """Prompts that one of them won whose answers have the fewest words in common."""
    decided = [(each, score) for each, score in scored if score in (0, 1)]
    decided.sort(key=lambda found: (_overlap(found[0]), found[0].pair.key))
    return [
        {
            "kind": each.pair.key[0],
            "id": each.pair.key[1],
            "prompt": cut(each.pair.prompt),
            "won": "second" if score else "first",
            "first_answer": each.pair.first,
            "second_answer": each.pair.second,
            "reasons": list(each.reasons),
        }
        for each, score in decided[:MOST]
    ]


def _overlap(each: Judged) -> float:
    """Of the words of both answers, the part that both have."""
    first, second = (set(text.casefold().split()) for text in (each.pair.first, each.pair.second))
    return len(first & second) / (len(first | second) or 1)


def _mean(values: Sequence[float]) -> Estimate | None:
    return estimate(values, [1.0] * len(values)) if values else None


def _plain(found: Estimate | None) -> dict[str, Any] | None:
    if found is None:
        return None
    names = ("value", "low", "high", "count", "few", "alike")
    return {name: getattr(found, name) for name in names}


# --- what a reader must know of the judge

CONTRADICTS = (
    0.25  # part of the prompts; more, and a judge is rather led by the order than by words
)


def judges_itself(model: str, deployed: Sequence[str]) -> list[dict[str, str]]:
    """W923 where the judge, by its name in Ollama, is one of the runs' own models."""
    names = {_tagged(name) for name in deployed}
    if _tagged(model) not in names:
        return []
    return [
        {
            "code": "W923",
            "message": f"{model} judges its own answers: it is the model of a run that is compared",
            "hint": "take a model of another family, which did not learn from the same data",
        }
    ]


def _tagged(name: str) -> str:
    """As Ollama knows it: `small` is `small:latest`."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def notes(judge: str, comparisons: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """W924 and W925, each once, of all pairs of models together."""
    asked = sum(each["asked"] for each in comparisons)
    contradictions = sum(each["contradictions"] for each in comparisons)
    without = sum(each["without"] for each in comparisons)
    found = []
    if asked and contradictions / asked > CONTRADICTS:
        found.append(
            {
                "code": "W924",
                "message": f"{judge} contradicts itself on {contradictions} of {asked} prompts "
                "when the answers change places: these count as ties, and the judge is a weak one",
                "hint": "take a more able judge, or say in `about` what a good answer is",
            }
        )
    if without:
        counted: Counter[str] = Counter()
        for each in comparisons:
            counted.update(each["unusable"])
        reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(counted.items()))
        found.append(
            {
                "code": "W925",
                "message": f"{without} of {asked + without} prompts have no verdict: {reasons}",
                "hint": "they count nowhere; a more able judge, more attempts or a larger budget "
                "leaves fewer",
            }
        )
    return found
