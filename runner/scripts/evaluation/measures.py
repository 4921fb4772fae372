"""What is measured of examples, which way is better, and how sure one can be. Needs numpy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.scripts.evaluation.examples import MODELS, Example, Group
from runner.scripts.evaluation.intervals import Estimate, estimate

GROUP = "group:"  # before the name of a measure of a group: a task may have the group's name
_ANSWERS = ("question", "sample", "general", "reward")


@dataclass(frozen=True, slots=True)
class Measure:
    """`key` of the results of examples of `kinds`. `better`: 1 higher, -1 lower, 0 neither.

    `per_token`: the results are sums over the example's tokens. `from_base`: they are a distance
    from the model that was trained, so that those of other bases do not compare. `task`: of
    examples of this task alone. `group`: of the tasks in `shares` together, an example of which
    counts by its task's share.
    """

    name: str
    title: str
    kinds: tuple[str, ...]
    key: str
    better: int
    per_token: bool = False
    from_base: bool = False
    task: str = ""
    group: Group | None = None
    shares: Mapping[str, float] = field(default_factory=dict, hash=False)  # task -> above 0

    def of(self, example: Example, model: str) -> float | None:
        """What came out, times its weight where it is no sum; None where nothing did."""
        task = str(example.shown.get("task"))
        if (self.task and task != self.task) or (self.group and task not in self.shares):
            return None
        value = example.results.get(model, {}).get(self.key)
        if value is None or isinstance(value, str):
            return None
        return float(value) * self.shares[task] if self.group else float(value)

    def weight(self, example: Example) -> float:
        """Tokens, the share of a task in its group, or 1."""
        if self.group:
            return self.shares[str(example.shown["task"])]
        return float(example.tokens or 1) if self.per_token else 1.0


MEASURES = (
    Measure("loss", "held-out loss, nats a token", ("row",), "loss", -1, per_token=True),
    # A measure each for sums, means and scores: their values are of different units.
    Measure("preference_accuracy", "better answer preferred", ("pair-sum",), "preferred", 1),
    Measure("preference_margin", "margin of the better answer, nats", ("pair-sum",), "margin", 1),
    Measure(
        "preference_accuracy_mean",
        "better answer preferred, by the mean of its tokens",
        ("pair-mean",),
        "preferred",
        1,
    ),
    Measure(
        "preference_margin_mean",
        "margin of the better answer, nats a token",
        ("pair-mean",),
        "margin",
        1,
    ),
    Measure(
        "preference_accuracy_reward",
        "better answer scored higher",
        ("pair-reward",),
        "preferred",
        1,
    ),
    Measure(
        "preference_margin_reward",
        "margin of the better answer, scores",
        ("pair-reward",),
        "margin",
        1,
    ),
    Measure("good_answers", "log-probability of good answers", ("good-answer",), "logp", 1),
    Measure("bad_answers", "log-probability of bad answers", ("bad-answer",), "logp", -1),
    Measure("reward", "reward of held-out answers", ("reward",), "reward", 1),
    Measure("questions_hit", "questions: right", ("question",), "hit", 1),
    Measure("questions_exact_match", "questions: exact match", ("question",), "exact_match", 1),
    Measure("questions_f1", "questions: F1", ("question",), "f1", 1),
    Measure("questions_rouge_l", "questions: ROUGE-L", ("question",), "rouge_l", 1),
    Measure("samples_exact_match", "held-out answers: exact match", ("sample",), "exact_match", 1),
    Measure("samples_f1", "held-out answers: F1", ("sample",), "f1", 1),
    Measure("samples_rouge_l", "held-out answers: ROUGE-L", ("sample",), "rouge_l", 1),
    Measure("sound", "form: sound answers", _ANSWERS, "sound", 1),
    Measure("ended", "form: ends by itself", _ANSWERS, "ended", 1),
    Measure("leak", "form: template leaks", _ANSWERS, "leak", -1),
    Measure("repeated", "form: repeated 4-grams", _ANSWERS, "repeated", -1),
    Measure("length", "form: length, tokens", _ANSWERS, "length", 0),
    Measure("general_hit", "general prompts: right", ("general",), "hit", 1),
    Measure("neutral_loss", "neutral text: loss, nats a token", ("neutral",), "loss", -1, True),
    Measure("neutral_kl", "neutral text: KL from base", ("neutral",), "kl", -1, True, True),
)


def task_measures(examples: Iterable[Example]) -> list[Measure]:
    """Of every task among the examples: each of its metrics, of which more is better."""
    found = {
        (str(each.shown.get("task", "")), key)
        for each in examples
        if each.kind == "task"
        for results in each.results.values()
        for key, value in results.items()
        if not isinstance(value, str)
    }
    return [
        Measure(f"{task}/{key}", f"{task}: {key}", ("task",), key, 1, task=task)
        for task, key in sorted(found)
    ]


def group_measures(groups: Iterable[Group], examples: Iterable[Example]) -> list[Measure]:
    """What the harness says of a group as a whole: a mean over all rows of its tasks, or one over
    the means of its tasks. Counted are the tasks that have the metric, as the harness does."""
    counts = Counter(
        (str(each.shown.get("task", "")), key)
        for each in examples
        if each.kind == "task"
        for key in {key for results in each.results.values() for key in results}
    )
    return [
        measure
        for group in groups
        for metric, filters, weighted in group.metrics
        for key in _keys(metric, filters, {key for task, key in counts if task in group.tasks})
        for measure in _group_measure(group, key, weighted, counts)
    ]


def _keys(metric: str, filters: Sequence[str] | None, known: Iterable[str]) -> list[str]:
    """The results that are meant: "none" is the name of no filter."""
    if filters is None:
        return sorted(key for key in known if key.partition(",")[0] == metric)
    return [metric if each == "none" else f"{metric},{each}" for each in filters]


def _group_measure(
    group: Group, key: str, weighted: bool, counts: Mapping[tuple[str, str], int]
) -> list[Measure]:
    shares = {
        task: 1.0 if weighted else 1.0 / count
        for task in group.tasks
        if (count := counts.get((task, key), 0))
    }
    title = f"{group.name}, the group: {key}"
    name = f"{GROUP}{group.name}/{key}"
    made = Measure(name, title, ("task",), key, 1, group=group, shares=shares)
    return [made] if shares else []


def measured(measure: Measure, examples: Iterable[Example], model: str) -> Estimate | None:
    """The mean of one model's results; None without any."""
    found = [
        (value, measure.weight(each))
        for each in examples
        if each.kind in measure.kinds and (value := measure.of(each, model)) is not None
    ]
    return estimate(*zip(*found, strict=True)) if found else None


def changed(pairs: Sequence[tuple[float, float, float]]) -> Estimate | None:
    """The mean of second minus first, of triples (first, second, weight); None without any."""
    if not pairs:
        return None
    return estimate([second - first for first, second, _ in pairs], [each[2] for each in pairs])


def summary_of(
    examples: Sequence[Example], measures: Sequence[Measure] = MEASURES
) -> dict[str, Any]:
    """measure -> count, few, and value, low and high of base, tuned and change.

    Their order decides which are drawn together: by kind and id, as in `recipe compare`.
    """
    examples = sorted(examples, key=lambda each: (each.kind, each.id))
    found: dict[str, Any] = {}
    for measure in measures:
        estimates = {name: measured(measure, examples, name) for name in MODELS}
        both = [
            (first, second, measure.weight(each))
            for each in examples
            if each.kind in measure.kinds
            and (first := measure.of(each, "base")) is not None
            and (second := measure.of(each, "tuned")) is not None
        ]
        estimates["change"] = changed(both)
        if known := {name: each for name, each in estimates.items() if each is not None}:
            any_one = next(iter(known.values()))
            found[measure.name] = {
                "count": any_one.count,
                "few": any_one.few,
                **{name: _plain(each) for name, each in known.items()},
            }
    return found


def _plain(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high}
