"""`recipe plan`: what a run would do, why, what it takes, and what is missing. Reads only."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import UsageError
from runner.plan.plan import Action, Step, make_plan

if TYPE_CHECKING:
    from runner.execution.lacks import Lack
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
    from runner.execution.lacks import lacks
    from runner.execution.run_folder import runs_folder
    from runner.plan.cost import cost_of, this_machine
    from runner.plan.machines import AUTO
    from runner.plan.published_models import published_facts
    from runner.plan.snapshot import take_snapshot
    from runner.recipe.load import load_recipe
    from runner.recipe.model_facts import known_facts
    from runner.recipe.shrink import shrink_recipe
    from runner.report.reporters import print_beside
    from runner.stages import stages_of
    from runner.store.store import Store
    from runner.system.folders import cache_folder, store_folder

    recipe = load_recipe(args.recipe, warn=print_beside, overrides=args.set)
    if args.shrink:
        recipe = shrink_recipe(recipe)
    if args.hardware != AUTO:
        return _fit(recipe, args)
    stages = stages_of(recipe, args.until)
    runs = runs_folder(recipe.project_root, recipe.name)
    snapshot = take_snapshot(recipe, stages, Store(store_folder()), runs)
    steps = make_plan(recipe, stages, snapshot)
    machine = this_machine()
    facts = known_facts(recipe) or published_facts(recipe)
    cost = cost_of(recipe, steps, facts, runs, machine)
    missing = lacks(recipe, steps, cost, machine, cache_folder())
    if args.format == "markdown":
        print(as_markdown(args.recipe, steps, cost, missing))
    else:
        show = as_json if args.format == "json" else as_text
        print(show(recipe.name, steps, cost, missing))
    return 0


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
    found = [(machine, fit(shapes, Job.of(recipe), machine.budget)) for machine in machines]
    if args.format == "json":
        print(json.dumps(fit_table.as_data(found, facts.where), indent=2, ensure_ascii=False))
    else:
        show = fit_table.as_markdown if args.format == "markdown" else fit_table.as_text
        print(show(found, facts.where))
    return 0


def as_text(name: str, steps: list[Step], cost: Cost, missing: Sequence[Lack]) -> str:
    """One line a stage: name, action, reason. Then what it takes, and what is missing."""
    lines = [f"{step.stage:<10} {step.action:<8} {step.reason}" for step in steps]
    if any(step.action is not Action.REUSE for step in steps):
        lines += ["", *_cost_lines(cost)]
    lines += [str(lack) for lack in missing]
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


def as_markdown(recipe: Path, steps: list[Step], cost: Cost, missing: Sequence[Lack]) -> str:
    """The recipe's path, a table, the memory at the peak and what is missing, for a page."""
    from runner.execution.lacks import gb
    from runner.report.markdown import code, table

    rows = [(step.stage, step.action.value, code(step.reason)) for step in steps]
    lines = [f"**{code(str(recipe))}**", "", *table(("stage", "action", "why"), rows)]
    notes = [
        f"{stage}: about {gb(memory.total)} at its peak" for stage, memory in cost.memory.items()
    ]
    notes += [code(str(lack)) for lack in missing]
    return "\n".join([*lines, *([""] if notes else []), *(f"- {note}" for note in notes)])


def as_json(name: str, steps: list[Step], cost: Cost, missing: Sequence[Lack]) -> str:
    """The plan for machines; `key` is null while it cannot be known. Bytes and seconds."""
    from dataclasses import asdict

    from runner.plan.cost import as_data

    return json.dumps(
        {
            "schema": PLAN,
            "recipe": name,
            "stages": [
                {
                    "stage": step.stage,
                    "action": step.action.value,
                    "reason": step.reason,
                    "key": step.key or None,
                }
                for step in steps
            ],
            "cost": as_data(cost),
            "lacks": [asdict(lack) for lack in missing],
        },
        indent=2,
        ensure_ascii=False,
    )
