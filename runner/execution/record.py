"""run.json: what varies from run to run: clocks, host, image, keys, measures, speeds."""

from __future__ import annotations

import os
import platform
import signal
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import runner
from runner.errors import Interrupted, RecipeToolError
from runner.execution import checksums
from runner.system.hardware import hardware_facts
from runner.system.process_tree import started_at

if TYPE_CHECKING:
    from runner.execution.execute import Execution
    from runner.recipe.model import Recipe
    from runner.stages.contract import Outputs, Stage


def run_record(execution: Execution, state: str, error: BaseException | None) -> dict[str, Any]:
    """The content of run.json. `state`: running | done | failed | interrupted."""
    stages = {stage.NAME: stage for stage in execution.stages}
    record: dict[str, Any] = {
        "schema": 1,
        "id": execution.run.id,
        "state": state,
        "recipe": execution.recipe.name,
        "recipe_file": str(execution.recipe.source.path),
        **({"command": list(execution.command)} if execution.command else {}),
        "resolved": execution.recipe.resolved(),
        **_laid_together(execution.recipe),
        **_shrunken(execution.recipe),
        **_given(execution.recipe),
        **({} if execution.base is None else {"base": execution.base.as_data()}),
        "runner": runner.__version__,
        "started": execution.run.started.isoformat(),
        "ended": None if state == "running" else datetime.now(UTC).isoformat(),
        "until": execution.until,
        "manifest_sha256": execution.manifest_sha256,
        "checksums": checksums.NAME,
        "host": _host(),
        "process": {"pid": os.getpid(), "started": started_at(os.getpid())},
        "hardware": hardware_facts(),
        "platform": dict(execution.surroundings.platform),
        "environments": dict(execution.surroundings.environments),
        "tools": dict(execution.surroundings.tools),
        "stages": [
            {
                "name": result.name,
                "action": result.action,
                "key": result.key,
                "seconds": round(result.seconds, 3),
                "material": result.material,
                "measures": _measures(stages[result.name], execution.recipe, result.outputs),
            }
            for result in execution.results
        ],
    }
    if "train" in stages and (planned := _planned_memory(execution.recipe)):
        record["planned_memory"] = planned
    if error is not None:
        record["error"] = _error(error)
    return record


def _measures(stage: Stage, recipe: Recipe, outputs: Outputs) -> dict[str, Any]:
    """What the stage measured, and what it makes of that by this recipe's limits, if it judges."""
    measures = dict(outputs.measures)
    judge = getattr(stage, "judge", None)
    return {**measures, **judge(recipe, measures)} if judge else measures


def _planned_memory(recipe: Recipe) -> dict[str, dict[str, int]]:
    """Phase -> kind -> bytes, as the plan counts them here; nothing where the sizes are not known.

    For reports, which set it beside what was measured.
    """
    from runner.plan.cost import known_shapes
    from runner.plan.job import Job
    from runner.plan.phases import phases_of
    from runner.plan.published_models import facts_at_hand
    from runner.system.hardware import gpus

    shapes, _ = known_shapes(recipe, facts_at_hand(recipe))
    if shapes is None:
        return {}
    phases = phases_of(shapes, Job.of(recipe), "cuda" if gpus() else "cpu")
    return {
        phase: {item.name: item.bytes for item in memory.items} for phase, memory in phases.items()
    }


def _laid_together(recipe: Recipe) -> dict[str, Any]:
    """The bases of the recipe, and what `--set` said; nothing for one file as it is written."""
    bases = {"bases": [str(base) for base in recipe.source.bases]}
    overrides = {"set": dict(recipe.source.overrides)}
    return {**(bases if bases["bases"] else {}), **(overrides if overrides["set"] else {})}


def _shrunken(recipe: Recipe) -> dict[str, Any]:
    """What `--shrink` changed; nothing for a recipe as it is written."""
    return {} if recipe.shrink is None else {"shrink": dict(recipe.shrink)}


def _given(recipe: Recipe) -> dict[str, Any]:
    """The bundle that the recipe came in; nothing for one that came in none."""
    return {} if recipe.given is None else {"given": recipe.given.as_data()}


def _host() -> dict[str, Any]:
    return {
        "name": socket.gethostname(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "image": os.environ.get("SPARK_RECIPES_IMAGE"),
    }


def _error(error: BaseException) -> dict[str, str]:
    if isinstance(error, KeyboardInterrupt):
        error = Interrupted(signal.SIGINT)
    if isinstance(error, RecipeToolError):
        return {"code": error.code, "message": error.message, "hint": error.hint}
    return {"code": "", "message": f"{type(error).__name__}: {error}", "hint": ""}
