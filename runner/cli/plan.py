"""`recipe plan`: what a run would do, why, what it takes, and what is missing. Reads only."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError
from runner.plan.plan import Action, Step

if TYPE_CHECKING:
    from runner.execution.lacks import Lack
    from runner.plan.chain import Link
    from runner.plan.cost import Cost, Time
    from runner.recipe.model import Recipe

PLAN = 2  # version of the JSON
HELP = (
    "Say for every stage whether it would run, resume or be reused, and why; about how much "
    "memory, disk and time that takes; and what this machine lacks. Changes nothing."
)
EXAMPLE = "recipe plan recipes/quickstart.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe plan`."""
    from runner.recipe import overrides
    from runner.recipe.shrink import HELP as SHRINK_HELP
    from runner.stages import ORDER

    parser.add_argument("recipe", type=Path, help="the recipe file")
    overrides.add_option(parser)
    overrides.add_backend_option(parser)
    parser.add_argument("--shrink", action="store_true", help=SHRINK_HELP)
    parser.add_argument(
        "--hardware",
        default="auto",
        metavar="MACHINE[,MACHINE]",
        help="does the training fit other machines: dgx-spark, rtx-4090, h100-80, h200, all of "
        "them, or a JSON file; auto: this one (default)",
    )
    parser.add_argument("--until", choices=ORDER, metavar="STAGE", help="stop after this stage")
    parser.add_argument("--format", choices=("text", "json", "markdown"), default="text")


def main(args: argparse.Namespace) -> int:
    """Print the plan."""
    from runner.plan.chain import plan_chain
    from runner.plan.machines import AUTO
    from runner.recipe.load import load_recipe
    from runner.recipe.shrink import shrink_recipe
    from runner.report.reporters import print_beside
    from runner.stages import stages_of
    from runner.store.store import Store
    from runner.system.folders import store_folder

    recipe = load_recipe(args.recipe, warn=print_beside, overrides=args.set)
    if args.shrink:
        recipe = shrink_recipe(recipe)
    if args.hardware != AUTO:
        return _fit(recipe, args)
    links = plan_chain(recipe, stages_of(recipe, args.until), Store(store_folder()))
    plans = list(map(_plan_of, links))
    if args.format == "json":
        print(as_json(plans))
    elif args.format == "markdown":
        print(
            "\n\n".join(
                as_markdown(_file_of(link, args.recipe), plan)
                for link, plan in zip(links, plans, strict=True)
            )
        )
    elif len(plans) == 1:
        print(as_text(plans[0]))
    else:
        heads = [f"{link.recipe.name}, by {_file_of(link, args.recipe)}" for link in links]
        print(
            "\n\n".join(f"{head}\n{as_text(plan)}" for head, plan in zip(heads, plans, strict=True))
        )
    return 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one recipe: what its stages would do, what that takes, and what is missing for it."""

    name: str
    steps: list[Step]
    cost: Cost
    missing: Sequence[Lack]


def _plan_of(link: Link) -> Plan:
    from runner.execution.lacks import lacks
    from runner.plan.cost import cost_here
    from runner.system.folders import cache_folder

    cost = cost_here(link.recipe, link.steps, link.runs)
    missing = lacks(link.recipe, link.steps, cost, cache_folder())
    return Plan(link.recipe.name, link.steps, cost, missing)


def _file_of(link: Link, given: Path) -> Path:
    """As the one at the terminal names it: `given` is the file of the last recipe of the chain."""
    path = link.recipe.source.path
    return given if path == given else path


def _fit(recipe: Recipe, args: argparse.Namespace) -> int:
    """Print whether the training fits other machines. Exit code 0 whatever the answer."""
    from runner.plan.cost import known_shapes
    from runner.plan.fit import fit
    from runner.plan.machines import ALL, hardware, known_names
    from runner.plan.memory import Job
    from runner.plan.published_models import published_facts
    from runner.recipe.model_facts import known_facts
    from runner.report import fit_table

    names = known_names() if args.hardware == ALL else args.hardware.split(",")
    machines = [hardware(name) for name in names]
    facts = known_facts(recipe) or published_facts(recipe)
    shapes, unknown = known_shapes(recipe, facts)
    if shapes is None or facts is None:
        raise UsageError(
            f"whether {recipe.source.path} fits is {unknown}",
            hint="recipe lock asks the hub for the model's sizes",
            code="E007",
        )
    job = Job.of(recipe)
    found = [
        (machine, fit(shapes, replace(job, pages=not machine.unified), machine.budget))
        for machine in machines
    ]
    if args.format == "json":
        print(json.dumps(fit_table.as_data(found, facts.where), indent=2, ensure_ascii=False))
    else:
        show = fit_table.as_markdown if args.format == "markdown" else fit_table.as_text
        print(show(found, facts.where))
    return 0


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
    yield from _time_lines(cost.time)
    if cost.where:
        yield f"sizes      of the model: from {cost.where}"


def _time_lines(times: Sequence[Time]) -> Iterator[str]:
    """A line for each stage of known time, and one for all that nothing is known of."""
    by_reason: dict[str, list[str]] = {}
    lines = []
    for time in times:
        if time.seconds is None:
            by_reason.setdefault(time.source, []).append(time.stage)
        else:
            lines.append(f"{time.stage}: about {in_words(time.seconds)}, {time.source}")
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
    """The plan for machines; `key` is null while it cannot be known. Bytes and seconds.

    Of a recipe that starts from others, theirs stand under `bases`, the innermost first.
    """
    *bases, last = map(_as_data, plans)
    data = {"schema": PLAN, **last, **({"bases": bases} if bases else {})}
    return json.dumps(data, indent=2, ensure_ascii=False)


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
