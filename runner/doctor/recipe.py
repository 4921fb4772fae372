"""Is the machine ready for this recipe: what its plan lacks, memory now, and the hub's gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runner.doctor.check import Check, State, ok
from runner.errors import RecipeToolError
from runner.execution.lacks import gb, lacks
from runner.plan.plan import Action
from runner.system import environments, hardware

if TYPE_CHECKING:
    from runner.plan.chain import Link
    from runner.plan.cost import Cost
    from runner.plan.plan import Step
    from runner.recipe.model import Recipe

# Code of a lack -> the name of the check. W250 to W255, and W267, of docs/errors.md.
_NAMES = {
    "W250": "gpu for it",
    "W251": "licence",
    "W252": "memory for it",
    "W253": "disk for it",
    "W254": "ollama for it",
    "W255": "builds for it",
    "W267": "gpu for its backend",
}


# What a check's name says already.
_SAID = {"W252": "memory: ", "W253": "disk: "}


def checks(recipe: Recipe, cache: Path, root: Path) -> Iterator[Check]:
    """What the remaining stages of the recipe, and of those it starts from, lack here."""
    from runner.plan.chain import plan_chain
    from runner.stages import stages_of
    from runner.store.store import Store
    from runner.system.folders import store_folder

    links = plan_chain(recipe, stages_of(recipe, None), Store(store_folder()))
    found = [check for link in links for check in _checks_of(link, cache, root)]
    yield from dict.fromkeys(found)
    if all(link.finished for link in links):
        yield ok("recipe", "everything that it makes is in the store")


def _checks_of(link: Link, cache: Path, root: Path) -> Iterator[Check]:
    from runner.plan.cost import cost_here

    recipe = link.recipe
    cost = cost_here(recipe, link.steps, link.runs)
    found = lacks(recipe, link.steps, cost, cache)
    for lack in found:
        state = State.NOTE if lack.mends_itself else State.PROBLEM
        yield Check(
            _NAMES[lack.code],
            state,
            lack.what.removeprefix(_SAID.get(lack.code, "")),
            "",
            lack.next,
        )
    if not any(lack.code == "W252" for lack in found):
        yield from memory_now(cost, hardware.memory(root))
    yield from hub_access(recipe, link.steps, cache)


def memory_now(cost: Cost, have: hardware.Memory) -> Iterator[Check]:
    """The machine is large enough: is it so at this moment?"""
    if not cost.memory:
        if cost.unknown:
            yield Check("memory for it", State.NOTE, cost.unknown)
        return
    gpu = cost.machine.gpu
    if gpu and not hardware.shares_memory(gpu):  # of whose own the host's says nothing
        size = gb(cost.machine.memory) if cost.machine.memory else "an unknown size"
        yield ok("memory for it", f"about {gb(cost.peak)} at the peak, {gpu} has {size}")
        return
    found = f"about {gb(cost.peak)} at the peak, {gb(have.available)} can be had now"
    if cost.peak <= have.available:
        yield ok("memory for it", found)
        return
    yield Check(
        "memory for it",
        State.WARNING,
        found,
        "it fits this machine, but not beside what runs now",
        "end what is not needed; `recipe doctor` alone names the largest processes",
    )


def hub_access(recipe: Recipe, steps: list[Step], cache: Path) -> Iterator[Check]:
    """May this user have the models? Asks the hub, with the user's token."""
    from runner.execution.revisions import ask_hub

    here = {step.stage for step in steps if step.action is Action.REUSE}
    asked = [
        {"id": part.hub, "kind": "model", "revision": part.revision}
        for stage, part in (("fetch", recipe.model), ("fetch_reward", recipe.reward))
        if part is not None and part.hub is not None and stage not in here
    ]
    if not asked:
        return
    if environments.find("data", cache) is None:
        from runner.doctor.gpu import not_built

        yield not_built("hub", "data")
        return
    try:
        ask_hub("hub_access", {"repositories": asked}, lambda message: None)
    except RecipeToolError as error:
        why = "the first stage would end with this"
        yield Check("hub", State.PROBLEM, error.message, why, error.hint)
    else:
        names = " and ".join(str(each["id"]) for each in asked)
        yield ok("hub", f"{names} {'is' if len(asked) == 1 else 'are'} given to you")
