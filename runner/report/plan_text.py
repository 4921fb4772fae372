"""A plan as text, Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from runner.plan.plan import Action, Step

if TYPE_CHECKING:
    from pathlib import Path

    from runner.execution.lacks import Lack
    from runner.plan.cost import Cost, Time

PLAN = 2  # version of the JSON


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one recipe: what its stages would do, what that takes, and what is missing for it."""

    name: str
    steps: list[Step]
    cost: Cost
    missing: Sequence[Lack]

    @property
    def trains(self) -> bool:
        """Would a training run?"""
        return any(step.stage == "train" and step.action is not Action.REUSE for step in self.steps)


def as_text(plan: Plan) -> str:
    """One line a stage: name, action, reason. Then what it takes, and what is missing."""
    width = max(10, *(len(step.stage) for step in plan.steps))
    lines = [f"{step.stage:<{width}} {step.action:<8} {step.reason}" for step in plan.steps]
    if any(step.action is not Action.REUSE for step in plan.steps):
        lines += ["", *_cost_lines(plan.cost)]
    lines += [str(lack) for lack in plan.missing]
    return "\n".join(lines)


def _cost_lines(cost: Cost) -> Iterator[str]:
    from runner.execution.lacks import gb

    if cost.steps is not None:
        yield f"training   {cost.steps} steps, by backend {cost.backend}"
    elif cost.no_steps:
        yield f"training   by backend {cost.backend}; steps not counted: {cost.no_steps}"
    if cost.unknown:
        yield f"memory     {cost.unknown}"
        yield "disk       as for memory"
    for number, (stage, memory) in enumerate(cost.memory.items()):
        have = f"; this machine has {gb(cost.machine.memory)}" if cost.machine.memory else ""
        about = f"about {gb(memory.total)} at the peak of {stage}, with rows of max_length{have}"
        yield f"{'' if number else 'memory':<10} {about}"
        yield from (f"{'':<10}   {gb(item.bytes):>9}  {item.name}" for item in memory.items)
    if cost.disk:
        free = f", where {gb(cost.machine.free)} are free" if cost.machine.free else ""
        places = f"about {gb(cost.stored)} in the store{free}"
        places += f"; {gb(cost.models)} for Ollama's copy" if cost.models else ""
        yield f"disk       {places}"
    for disk in cost.disk:
        more = f", and {gb(disk.temporary)} while it runs" if disk.temporary else ""
        kept = disk.stored or disk.models
        yield f"{'':<10}   {gb(kept):>9}  {disk.stage}{more}"
    yield from time_lines(cost.time)
    if cost.where:
        yield f"sizes      of the model: from {cost.where}"


def time_lines(times: Sequence[Time]) -> Iterator[str]:
    """A line for each stage of known time, and one for all that nothing is known of."""
    by_reason: dict[str, list[str]] = {}
    lines = []
    for time in times:
        if time.seconds is None:
            by_reason.setdefault(time.source, []).append(time.stage)
        else:
            lines.append(f"{time.stage}: {time.about} {in_words(time.seconds)}, {time.source}")
    lines += [f"{', '.join(stages)}: {reason}" for reason, stages in by_reason.items()]
    yield from (f"{'' if number else 'time':<10} {line}" for number, line in enumerate(lines))


def in_words(seconds: float) -> str:
    """A time span for people.

    >>> in_words(4.2), in_words(200), in_words(9000), in_words(400_000)
    ('4 s', '3 min', '2.5 h', '4.6 days')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def as_markdown(recipe: Path, plan: Plan) -> str:
    """The recipe's path, a table, the memory at the peak and what is missing, for a page."""
    from runner.execution.lacks import gb
    from runner.report.markdown import code, table

    cost = plan.cost
    rows = [(step.stage, step.action.value, code(step.reason)) for step in plan.steps]
    lines = [f"**{code(str(recipe))}**", "", *table(("stage", "action", "why"), rows)]
    notes = [
        f"{stage}: about {gb(memory.total)} at its peak" for stage, memory in cost.memory.items()
    ]
    notes += [code(str(lack)) for lack in plan.missing]
    return "\n".join([*lines, *([""] if notes else []), *(f"- {note}" for note in notes)])


def as_json(plans: Sequence[Plan]) -> str:
    """As `as_data`."""
    return json.dumps(as_data(plans), indent=2, ensure_ascii=False)


def as_data(plans: Sequence[Plan]) -> dict[str, Any]:
    """The plan for machines; `key` is null while it cannot be known. Bytes and seconds.

    Of a recipe that starts from others, theirs stand under `bases`, the innermost first; `recipe
    plan` adds those of recipes that it is compared with under `compared`.
    """
    *bases, last = map(_as_data, plans)
    return {"schema": PLAN, **last, **({"bases": bases} if bases else {})}


def _as_data(plan: Plan) -> dict[str, Any]:
    from runner.plan.cost import as_data

    return {
        "recipe": plan.name,
        "stages": [
            {
                "stage": step.stage,
                "action": step.action.value,
                "reason": step.reason,
                "key": step.key or None,
            }
            for step in plan.steps
        ],
        "cost": as_data(plan.cost),
        "lacks": [asdict(lack) for lack in plan.missing],
    }
