"""Expected results: `NAME.results/PLATFORM.json`, one file a platform, beside the recipe.

Two machines' results never meet in one file, and a lock's own digest does not change with them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError
from runner.lock.file import is_lock, recipe_path
from runner.store.atomic import write_as_told

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.verify.run import Run


def results_path(recipe: Path, platform: str) -> Path:
    """Where the results of one platform lie."""
    folder = recipe.with_name(recipe.name.removesuffix(recipe.suffix) + ".results")
    return folder / f"{platform}.json"


def write_results(recipe: Recipe, run: Run) -> Path:
    """Write the run's manifest as what is expected. Raises UsageError (E805), MachineCannot.

    Only a run of this very recipe counts: what it gave is not what another one gives.
    """
    if run.record["resolved"] != recipe.resolved():
        raise UsageError(
            f"the newest run, {run.folder}, is not of the recipe as it is now",
            hint=f"run it first: recipe run {recipe.source.path}",
            code="E805",
        )
    path = results_path(recipe.source.path, str(run.record["platform"]["name"]))
    text = json.dumps({"schema": 1, "stages": run.manifest}, indent=2, sort_keys=True)
    write_as_told(path, text + "\n")
    return path


def expected_results(recipe: Path, platform: str) -> Mapping[str, Any] | None:
    """The stages that are expected on this platform, or None where nobody wrote any down."""
    try:
        stages = json.loads(results_path(recipe, platform).read_text(encoding="utf-8"))["stages"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{results_path(recipe, platform)} cannot be read: {error}",
            hint=f"write it anew: recipe lock {shlex.quote(str(recipe))} --results",
            code="E806",
        ) from None
    found: Mapping[str, Any] = stages
    return found


def unexpected(recipe: Recipe, run: Run) -> list[str] | None:
    """What of the run is not as expected, one line a file; None where nothing is written down.

    Only stages that the run has are compared: it may have ended earlier (`--until`).
    """
    file = recipe_path(recipe.source.path) if is_lock(recipe.source.path) else recipe.source.path
    expected = expected_results(file, str(run.record["platform"]["name"]))
    if expected is None:
        return None
    return [
        f"{stage}/{path}"
        for stage, files in run.manifest.items()
        for path in sorted({*files, *expected.get(stage, {})})
        if files.get(path) != expected.get(stage, {}).get(path)
    ]
