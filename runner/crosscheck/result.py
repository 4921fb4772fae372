"""A crosscheck as plain data (schema 1): what every report of it is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from runner.crosscheck.compare import Comparison
from runner.crosscheck.own_defaults import TITLES, Row
from runner.crosscheck.trained import Trained

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

SCHEMA = 1
_TRACED = ("step", "loss", "grad_norm", "learning_rate")


def as_data(
    recipe: Recipe,
    trained: Sequence[Trained],
    comparisons: Sequence[Comparison],
    rows: Sequence[Row],
    columns: Sequence[str],
) -> dict[str, Any]:
    """All that was found. `equal`: every way gave the first one's tokens, steps and bytes."""
    first = trained[0].run.record
    return {
        "schema": SCHEMA,
        "recipe": recipe.name,
        "recipe_file": recipe.source.path.name,
        "set": dict(recipe.source.overrides) or {},
        "equal": all(each.equal for each in comparisons),
        "platform": first["platform"]["name"],
        "environments": _environments(trained),
        "ways": [_way(each) for each in trained],
        "comparisons": [{**asdict(each), "equal": each.equal} for each in comparisons],
        "columns": {column: TITLES[column] for column in columns},
        "defaults": [
            {
                "setting": row.pointer.strip("/").replace("/", "."),
                "recipe": row.recipe,
                "given": row.given,
                "own": dict(row.own),
                "differs": row.differs,
            }
            for row in rows
        ],
    }


def _environments(trained: Sequence[Trained]) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in trained:
        found |= dict(each.run.record["environments"])
    return dict(sorted(found.items()))


def _way(trained: Trained) -> dict[str, Any]:
    measures: Mapping[str, Any] = trained.measures
    pictures = sorted((trained.run.folder / "screenshots").glob("*.png"))
    return {
        "name": trained.way.name,
        "title": trained.way.title,
        "run": str(trained.run.folder),
        "reused": trained.reused,
        "steps": len(trained.trace),
        "loss_first_step": trained.trace[0]["loss"] if trained.trace else None,
        "loss_last_step": trained.trace[-1]["loss"] if trained.trace else None,
        "loss_decimals": trained.loss_decimals(),
        "seconds": trained.seconds,
        "training_seconds": trained.training_seconds(),
        "tokens_per_second": measures.get("non_pad_tokens_per_second"),
        "peak_memory": measures.get("peak_memory"),
        "weights": trained.weights,
        "screenshots": [str(path) for path in pictures],
        "trace": [{name: line[name] for name in _TRACED} for line in trained.trace],
    }
