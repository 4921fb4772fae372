"""What two models have in common, how far they differ on it, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.compare.candidates import Candidate, Key
from runner.scripts.evaluation.examples import Example, content_id
from runner.scripts.evaluation.intervals import Estimate
from runner.scripts.evaluation.measures import (
    MEASURES,
    Measure,
    changed,
    group_measures,
    measured,
    task_measures,
)

MOST = 5  # examples of a measure that are shown


@dataclass(frozen=True)
class Difference:
    """Second minus first, over the examples that both have. `estimate` is None when `why` tells
    why there is none. `first_only`, `second_only`: examples that only one of them has.
    `from_base`: a distance from `first` itself, which is 0 there and never less elsewhere."""

    measure: Measure
    first: str
    second: str
    estimate: Estimate | None
    why: str
    first_only: int
    second_only: int
    most: Sequence[Mapping[str, Any]]
    from_base: bool = False

    @property
    def verdict(self) -> str:
        """In words; nothing is called better on too few examples, or without an interval."""
        found = self.estimate
        if found is None:
            return self.why
        if found.count == 1:
            return "one example: nothing can be said"
        if found.few:
            return f"too few examples: {found.count}"
        if found.alike and found.value == 0:
            return "equal on every example"
        if self.from_base:
            return "how far it has moved: never below 0"
        assert found.low is not None
        assert found.high is not None
        if found.low <= 0 <= found.high:
            return "no difference shown"
        if not self.measure.better:
            return "higher" if found.value > 0 else "lower"
        return "better" if found.value * self.measure.better > 0 else "worse"


def held(candidate: Candidate) -> dict[str, dict[str, Any]]:
    """kind -> count and digest: equal digests are the same rows or questions."""
    by_kind: dict[str, list[Key]] = {}
    for key in sorted(candidate.examples):
        by_kind.setdefault(key[0], []).append(key)
    return {
        kind: {"count": len(keys), "digest": content_id([key[1] for key in keys])}
        for kind, keys in by_kind.items()
    }


def estimates(candidate: Candidate) -> dict[str, Estimate]:
    """measure -> mean over all examples that the model has."""
    examples = [candidate.examples[key] for key in sorted(candidate.examples)]
    found = {each.name: measured(each, examples, candidate.side) for each in measures_of(candidate)}
    return {name: each for name, each in found.items() if each is not None}


def digests(candidate: Candidate) -> dict[str, str]:
    """measure -> digest of the examples that it was measured on: equal ones are the same."""
    found = {}
    for measure in measures_of(candidate):
        keys = sorted(_results(candidate, measure))
        if keys:
            found[measure.name] = content_id([[*key] for key in keys])
    return found


def measures_of(*found: Candidate) -> list[Measure]:
    """All that there are, and those of every task, and group of tasks, that one of the models did.

    In a group each task has its share by the rows that all of them have.
    """
    of_tasks = task_measures(each for one in found for each in one.examples.values())
    groups = dict.fromkeys(group for one in found for group in one.groups)
    return [*MEASURES, *of_tasks, *(group_measures(groups, _common(found)) if groups else ())]


def _common(found: Sequence[Candidate]) -> list[Example]:
    """The rows of tasks that all of them have, or, without any, those that one has."""
    rows = [{key for key in one.examples if key[0] == "task"} for one in found]
    every = {key: each for one in found for key, each in one.examples.items()}
    return [every[key] for key in sorted(set.intersection(*rows) or set.union(*rows))]


def pairs_of(found: Sequence[Candidate]) -> Iterator[tuple[Candidate, Candidate]]:
    """Each run's model with its own base, with the first base and with the first run's model."""
    first = next(each for each in found if each.side == "tuned")
    bases = [each for each in found if each.side == "base"]
    for each in found:
        if each.side == "base":
            continue
        yield from ((base, each) for base in bases if base is bases[0] or base.base == each.base)
        if each is not first:
            yield first, each


def differences(first: Candidate, second: Candidate) -> Iterator[Difference]:
    """Of every measure that one of the two has."""
    for measure in measures_of(first, second):
        of_first, of_second = (_results(each, measure) for each in (first, second))
        if not of_first and not of_second:
            if measure.name in first.means and measure.name in second.means:
                why = _lacks(measure, second)
                yield Difference(measure, first.name, second.name, None, why, 0, 0, ())
            continue
        both = sorted(of_first.keys() & of_second.keys())
        why = _why_not(measure, first, second, both, of_first, of_second)
        triples = [
            (of_first[key], of_second[key], measure.weight(second.examples[key])) for key in both
        ]
        yield Difference(
            measure,
            first.name,
            second.name,
            None if why else changed(triples),
            why,
            len(of_first.keys() - of_second.keys()),
            len(of_second.keys() - of_first.keys()),
            () if why else _most(first, second, both, triples),
            measure.from_base and first.side == "base",
        )


def _results(candidate: Candidate, measure: Measure) -> dict[Key, float]:
    if measure.group and measure.group not in candidate.groups:
        return {}  # some of its tasks, perhaps
    return {
        key: value
        for key, example in candidate.examples.items()
        if key[0] in measure.kinds and (value := measure.of(example, candidate.side)) is not None
    }


def _why_not(
    measure: Measure,
    first: Candidate,
    second: Candidate,
    both: Sequence[Key],
    of_first: Mapping[Key, float],
    of_second: Mapping[Key, float],
) -> str:
    """Why the results of two models do not compare; "" when they do."""
    if not of_first or not of_second:
        return _lacks(measure, second if of_first else first)
    if measure.from_base and first.base != second.base:
        return "their bases differ"
    answers = "task" not in measure.kinds and any(
        "answer" in first.examples[key].results[first.side] for key in both
    )
    if answers and first.max_new_tokens != second.max_new_tokens:
        return f"answers of at most {first.max_new_tokens} and {second.max_new_tokens} tokens"
    if not both:
        return "nothing in common: other held-out rows or questions"
    tasks = [_tasks(each, measure) for each in (first, second)] if measure.group else []
    if any(each != {*measure.shares} for each in tasks):
        return "some of its tasks have no rows in common"
    return ""


def _tasks(candidate: Candidate, measure: Measure) -> set[str]:
    """Of a group, those that were asked and have the measure."""
    assert measure.group is not None
    return {
        task
        for each in candidate.examples.values()
        if (task := str(each.shown.get("task"))) in measure.group.tasks
        and measure.key in each.results.get(candidate.side, {})
    }


def _lacks(measure: Measure, candidate: Candidate) -> str:
    if measure.name in candidate.means:
        return f"of {candidate.name} only the mean was kept"
    return f"not measured of {candidate.name}"


def _most(
    first: Candidate,
    second: Candidate,
    both: Sequence[Key],
    triples: Sequence[tuple[float, float, float]],
) -> list[dict[str, Any]]:
    """The examples that differ most, a token where sums are over tokens; none that are equal."""
    ranked = sorted(
        zip(both, triples, strict=True),
        key=lambda each: (-abs(each[1][1] - each[1][0]) / each[1][2], each[0]),
    )
    return [
        {
            "kind": key[0],
            "id": key[1],
            **_shown(first.examples[key]),
            "first": before / weight,
            "second": after / weight,
            "first_answer": first.examples[key].results[first.side].get("answer"),
            "second_answer": second.examples[key].results[second.side].get("answer"),
        }
        for key, (before, after, weight) in ranked[:MOST]
        if before != after
    ]


def _shown(example: Example) -> dict[str, str]:
    names = ("prompt", "expected", "rejected")
    return {name: str(example.shown[name]) for name in names if example.shown.get(name)}
