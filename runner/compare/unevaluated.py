"""The error of a run that has not evaluated its model, and what can be named instead of it."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path

from runner.errors import UsageError
from runner.execution.run_folder import runs_newest_first
from runner.verify.run import Run, open_run

MOST = 50  # runs of the recipe that are looked at, from the newest one on
_ADD = 'add "evaluate: {metrics: true}" to its recipe and run it again: what was trained is reused'


def is_evaluated(run: Run) -> bool:
    """Was its model evaluated, and is that in its results?"""
    return "evaluate" in run.stages and "evaluate" in run.manifest


def unevaluated(run: Run) -> UsageError:
    """The error (E920), with the newest run of the same folder that was evaluated."""
    until = run.record.get("until")
    ended = f"; it ended after {until}" if until else ""
    instead = _evaluated_before(run.folder)
    hint = _run_further(run) if until and _wants_evaluation(run) else _turned_off(run) or _ADD
    if instead is not None:
        hint = f"name the run that was evaluated: {shlex.quote(str(instead))}; or {hint}"
    return UsageError(f"{run.folder} has not evaluated its model{ended}", hint=hint, code="E920")


def _wants_evaluation(run: Run) -> bool:
    resolved = run.record.get("resolved")
    return isinstance(resolved, dict) and bool(resolved.get("evaluate"))


def _run_further(run: Run) -> str:
    file = str(run.record.get("recipe_file") or "")
    again = f": recipe run {shlex.quote(file)}" if file else ""
    return f"run its recipe without --until{again}; what was trained is reused"


def _turned_off(run: Run) -> str:
    """What to do where the command line has taken the evaluation out; "" where it has not."""
    said = run.record.get("set")
    if not isinstance(said, dict) or "evaluate" not in said or said["evaluate"] is not None:
        return ""
    further = " and --until" if run.record.get("until") else ""
    return f"run its recipe without --set evaluate=null{further}; what was trained is reused"


def _evaluated_before(folder: Path) -> Path | None:
    others = [each for each in runs_newest_first(folder.parent) if each != folder]
    for each in others[:MOST]:
        with contextlib.suppress(UsageError):  # not finished, or damaged
            if is_evaluated(open_run(each)):
                return each
    return None
