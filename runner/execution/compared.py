"""Run the recipes that a recipe is compared with, and set all of them side by side on a page.

Each is a run of its own. The page lies in the run's folder, beside the results: times and memory
are on it, so it is no output of a stage, and nothing of it is in a key or in the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.compare.page import compared, read_page, write_page
from runner.execution.run_folder import MANIFEST, runs_newest_first
from runner.plan.chain import Link, compared_in, plan_compared
from runner.store.roots import register_root
from runner.system.regular import NotReadable, read_regular

if TYPE_CHECKING:
    from runner.plan.plan import Step
    from runner.recipe.model import Recipe
    from runner.stages.contract import Stage
    from runner.store.store import Store

MAX_RECORD = 64 << 20  # bytes of a run.json
Entry = tuple[str, str]  # stage, key


def runs_beside(
    recipe: Recipe, stages: Sequence[Stage], store: Store, run: Callable[[Link], Path]
) -> list[Path]:
    """A run of each recipe that a run of `stages` of `recipe` is compared with, in order; `run`
    makes a missing one."""
    found = []
    for number, _ in enumerate(compared_in(recipe, stages)):
        # planned now: the ones before it have filled the store
        *_, last = plan_compared(recipe, stages, store)[number]
        found.append(run_that_has(last.steps, last.runs) or run(last))
    return found


def run_that_has(steps: Sequence[Step], runs: Path) -> Path | None:
    """The newest finished run with the results of these steps, whatever else it has."""
    wanted = {(step.stage, step.key) for step in steps}
    finished = [each for each in runs_newest_first(runs) if (each / MANIFEST).is_file()]
    latest = (runs / "latest").resolve()
    finished.sort(key=lambda each: each.resolve() != latest)  # finished last, if not begun last
    return next((each for each in finished if wanted <= set(_own_entries(_record(each)))), None)


def make_page(folder: Path, beside: Sequence[Path], store: Store) -> tuple[dict[str, Any], bool]:
    """The comparison of `beside` with the run in `folder`, written there; was it made now?

    What the compared runs hold in the store stays as long as that folder does. Raises UsageError.
    """
    runs = [each.resolve() for each in (*beside, folder)]
    register_root(store, folder, [entry for run in runs for entry in entries_of(run)])
    if (known := read_page(folder, runs)) is not None:
        return known, False
    data = compared(runs)
    write_page(folder, data)
    return data, True


def entries_of(run: Path) -> list[Entry]:
    """What a run needs of the store: its stages, and those of the recipes that it started from."""
    record = _record(run)
    base = record.get("base")
    of_base = base["stages"] if isinstance(base, dict) else ()
    return [*((each["name"], each["key"]) for each in of_base), *_own_entries(record)]


def _own_entries(record: Mapping[str, Any]) -> list[Entry]:
    try:
        return [(str(each["name"]), str(each["key"])) for each in record["stages"]]
    except (KeyError, TypeError):
        return []


def _record(run: Path) -> dict[str, Any]:
    """Its run.json; nothing of one that cannot be read."""
    try:
        data = json.loads(read_regular(run / "run.json", MAX_RECORD))
    except (OSError, NotReadable, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
