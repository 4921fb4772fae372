"""Is everything here that a run would else download? And `--get`: get it, and run nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import MachineCannot
from runner.plan.chain import bases_of, stages_of_base
from runner.plan.plan import Action, Step
from runner.recipe.named_tasks import rows_of
from runner.stages import load_stage
from runner.stages.contract import borrowed_by, environment_of
from runner.stages.models.base_result import starts_from_recipe
from runner.system import offline

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.stages.contract import Stage

Say = Callable[[str], None]
FETCHING = ("fetch", "fetch_reward", "fetch_data", "fetch_tasks")


def require_ready(
    plans: Sequence[tuple[Recipe, list[Step]]], cache: Path, command: str, say: Say
) -> None:
    """Raises MachineCannot (E829) naming everything that the run would have to download.

    Environments and tools that are missing are built where the caches of uv and Go allow it.
    `plans`: of the recipe and of those that it starts from. `command` is the one that gets what is
    missing.
    """
    things: list[str] = []
    for recipe, steps in plans:
        stages = [load_stage(step.stage) for step in steps if step.action is not Action.REUSE]
        things += downloads(recipe, stages)
        things += _unbuilt(recipe, stages, cache, say)
        things += _servers(stages)
    if things:
        raise offline.missing(list(dict.fromkeys(things)), command)


def downloads(recipe: Recipe, stages: list[Stage]) -> Iterator[str]:
    """What the fetching stages would ask the hub for. A wheel may be in uv's cache."""
    for stage in stages:
        if stage.NAME not in FETCHING or (recipe.given and recipe.given.holds(stage.NAME)):
            continue
        if stage.NAME == "fetch" and recipe.model.hub is not None:
            yield f"the base model {recipe.model.hub} at {recipe.model.revision}"
        if stage.NAME == "fetch_reward" and recipe.reward and recipe.reward.hub is not None:
            yield f"the reward model {recipe.reward.hub} at {recipe.reward.revision}"
        if stage.NAME == "fetch_data":
            for _, file in recipe.hub_files():
                yield f"the data set file {file.name} at {file.revision}"
        if stage.NAME == "fetch_tasks":
            for _, _, _, asked in recipe.task_files():
                yield f"the data set file {asked.name} at {asked.revision}"
            for rows in rows_of(recipe):
                yield f"the data set {rows.name} at {rows.revision}"


def _unbuilt(recipe: Recipe, stages: list[Stage], cache: Path, say: Say) -> Iterator[str]:
    from runner.system import environments, tools

    for role in roles(recipe, stages):
        if problem := _problem(partial(environments.ensure, role, cache, say)):
            yield f"the environment {role} ({problem})"
    for name in tools_of(stages):
        if problem := _problem(partial(tools.ensure_tool, name, cache, say)):
            yield f"the tool {name} ({problem})"


def _problem(make: Callable[[], object]) -> str:
    try:
        make()
    except MachineCannot as error:
        return error.message.split("\n")[0]
    return ""


def roles(recipe: Recipe, stages: list[Stage]) -> list[str]:
    """Environments of the stages; one that takes its outputs from a bundle runs no script."""
    from runner.stages.rows import cluster

    running = [stage for stage in stages if not (recipe.given and recipe.given.holds(stage.NAME))]
    found = {role for stage in running if (role := environment_of(stage, recipe))}
    found |= {role for stage in running for role in borrowed_by(stage, recipe)}
    if cluster.address() and any(stage.NAME == "prepare" for stage in running):
        found.add(cluster.ENVIRONMENT)
    return sorted(found)


def tools_of(stages: list[Stage]) -> list[str]:
    """Pinned tools of the stages; Ollama only where the user has none."""
    from runner.system import ollama

    names = {name for stage in stages for name in stage.TOOLS}
    if "ollama" in names and (ollama.find_program() or ollama.answers(ollama.server_url())):
        names.remove("ollama")
    return sorted(names)


def _servers(stages: list[Stage]) -> Iterator[str]:
    from runner.system import ollama

    url = ollama.server_url() if any("ollama" in stage.TOOLS for stage in stages) else ""
    if url and not ollama.may_be_asked_while_planning(url):
        yield f"the Ollama at {url}, which OLLAMA_HOST names: it is another machine's"


def get_all(recipe: Recipe, stages: list[Stage], cache: Path, say: Say) -> None:
    """Build environments and tools and fetch model and data, so that a run needs no network.

    Also those of the recipes that this one starts from; what these give is no download.
    """
    from runner.system import environments, tools

    bases = [(base, stages_of_base(base)) for base in bases_of(recipe)]
    for each, its_stages in [*bases, (recipe, stages)]:
        for role in roles(each, its_stages):
            environments.ensure(role, cache, say)
        for name in tools_of(its_stages):
            tools.ensure_tool(name, cache, say)
        fetching = [stage for stage in its_stages if stage.NAME in FETCHING]
        if starts_from_recipe(each):
            fetching = [stage for stage in fetching if stage.NAME != "fetch"]
        if each.scorer is not None:
            fetching = [stage for stage in fetching if stage.NAME != "fetch_reward"]
        _fetch(each, fetching, cache)


def _fetch(recipe: Recipe, stages: list[Stage], cache: Path) -> None:
    """The fetching stages, into the store; their run's folder is not kept."""
    if not stages:
        return
    from runner.execution.execute import Execution
    from runner.execution.run_folder import RunFolder
    from runner.plan.snapshot import read_surroundings
    from runner.report.progress import Progress
    from runner.store.clean_place import passing_runs
    from runner.store.store import Store
    from runner.system.folders import store_folder

    store = Store(store_folder())
    with passing_runs(cache, store) as place:
        run = RunFolder(place / "runs")
        with Progress(run.events, [stage.NAME for stage in stages], sys.stderr) as progress:
            Execution(
                recipe=recipe,
                stages=stages,
                surroundings=read_surroundings(recipe, stages),
                store=store,
                run=run,
                cache=cache,
                on_poll=progress.poll,
                say=progress.say,
            ).execute()
