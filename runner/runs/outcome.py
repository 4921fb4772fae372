"""How a run has ended, in words, and which stages there were to be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.errors import UsageError
from runner.runs.known import BUSY, KnownRun


def how_it_ended(run: KnownRun) -> str:
    """Why it ended early, or how far it was to go; "" for one that did the whole recipe."""
    message = str(run.error.get("message", ""))
    if run.state == BUSY:
        began = any(stage.get("action") == "run" for stage in run.record.get("stages", ()))
        return f"did not {'go on' if began else 'begin'}: {message}"
    if message or run.state != "done":
        return message
    until = run.record.get("until")
    return f"up to {until}" if until and until != (planned(run.record) or [until])[-1] else ""


def planned(record: Mapping[str, Any]) -> list[str]:
    """The stages of the whole recipe of a run.json; none where that holds no recipe."""
    from runner.recipe.base_recipe import resolved_findings
    from runner.recipe.model import build_resolved
    from runner.stages import stages_of

    resolved = record.get("resolved")
    if not isinstance(resolved, dict) or resolved_findings(resolved):
        return []
    recipe = build_resolved(resolved, Path(str(record.get("recipe_file", "x.yaml"))))
    return [stage.NAME for stage in stages_of(recipe)]


def why_no_log(run: KnownRun, stage: str) -> str:
    """Why nothing is to be read of a stage.

    Raises UsageError (E008) for one that the run was not to have.
    """
    from runner.runs.progress import stages_of

    stages = planned(run.record)
    until = run.record.get("until")
    wanted = stages[: stages.index(until) + 1] if until in stages else stages
    states = {each["name"]: each["state"] for each in stages_of(run.all_events())}
    if stage not in states and wanted and stage not in wanted:
        raise UsageError(
            f"runs/{run.name} has no stage {stage}",
            hint=f"its stages: {', '.join(wanted)}",
            code="E008",
        )
    if stage not in states:
        return f"{stage} has not begun"
    if states[stage] == "reuse":
        return f"{stage} was reused: no program ran, and the logs are those of the run that made it"
    return f"no program of {stage} has said anything"
