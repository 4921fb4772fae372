"""Do the trainings of a chain of recipes fit machines, and what do their whole runs take there?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner.errors import UsageError
from runner.plan.chain import parts_of
from runner.plan.cost import Cost, cost_of, known_shapes
from runner.plan.fit import Fit, fit
from runner.plan.job import Job
from runner.plan.machines import Hardware
from runner.plan.plan import Action, Step
from runner.plan.published_models import facts_at_hand
from runner.recipe.model import Recipe
from runner.recipe.typed import how_to_get_sizes
from runner.stages import stages_of

_NO_RUNS = Path("no-runs-there")


@dataclass(frozen=True, slots=True)
class Fits:
    """Of one recipe, machine by machine; the cost is as if nothing was stored yet.

    `where`: the sizes of the model come from. `unknown`: why there are none.
    """

    recipe: str
    machines: Sequence[tuple[Hardware, Fit, Cost]]
    where: str = ""
    unknown: str = ""


def fits_of(recipe: Recipe, machines: Sequence[Hardware], until: str | None = None) -> list[Fits]:
    """One for each recipe of the chain, the innermost first, as far as it is run: the last one up
    to the stage `until`, those before it up to what is needed of them.

    Raises UsageError E007 where the sizes of the last one's model are not known.
    """
    if recipe.shrink is not None:
        raise UsageError(
            "a shrunken twin fits every machine",
            hint="leave --shrink out to count the recipe's own model",
            code="E007",
        )
    parts = parts_of(recipe, stages_of(recipe, until))
    found = [_fits(each, [stage.NAME for stage in its], machines) for each, its in parts]
    if found[-1].unknown:
        raise UsageError(
            f"whether {recipe.source.path} fits is {found[-1].unknown}",
            hint=f"{how_to_get_sizes(recipe)}, which asks the hub for the model's sizes",
            code="E007",
        )
    return found


def _fits(recipe: Recipe, stages: Sequence[str], machines: Iterable[Hardware]) -> Fits:
    facts = facts_at_hand(recipe)
    shapes, unknown = known_shapes(recipe, facts)
    if shapes is None or facts is None:
        return Fits(recipe.name, (), unknown=unknown)
    job, steps = Job.of(recipe).within(stages), [Step(name, Action.RUN, "") for name in stages]
    counted = [
        (
            each,
            fit(shapes, replace(job, pages=not each.unified), each.budget, each.device),
            cost_of(recipe, steps, facts, _NO_RUNS, each.machine),
        )
        for each in machines
    ]
    return Fits(recipe.name, counted, facts.where)
