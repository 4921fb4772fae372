"""`recipe data prepare`: the stage `prepare` alone, and what it made of the rows."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.errors import RecipeInvalid, RecipeToolError
from runner.report.beside import error_data


def main(args: argparse.Namespace) -> int:
    """Run the recipe until `prepare`, and say what it made of the rows."""
    try:
        measures, folder = _prepared(args)
    except RecipeToolError as error:
        if args.format == "json":
            _say_prepared({"run": None, "measures": None, "errors": _errors_of(error)})
        raise
    if args.format == "json":
        told = {"run": folder and str(folder), "up_to_date": folder is None, "measures": measures}
        _say_prepared(told)
        return 0
    from runner.rows.prepared import prepared_lines

    for line in prepared_lines(measures):
        print(line)
    print(f"run folder: {folder}" if folder else "everything is up to date; nothing was run")
    return 0


def _say_prepared(said: Mapping[str, Any]) -> None:
    print(json.dumps({"schema": 1, **said}, indent=2, ensure_ascii=False))


def _prepared(args: argparse.Namespace) -> tuple[Mapping[str, Any], Path | None]:
    """What `prepare` measured, and the folder of the run; None where all of it is in the store."""
    from runner.cli import run
    from runner.plan.chain import plan_chain
    from runner.runs.reading import loaded
    from runner.stages import stages_of
    from runner.store import known_digests
    from runner.store.store import Store
    from runner.system.folders import store_folder

    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    options = parser.parse_args([str(args.recipe), "--until", "prepare"])
    options.recipe, options.set = args.recipe, args.set
    recipe, lock = loaded(options)
    stages, store = stages_of(recipe, "prepare"), Store(store_folder())
    *_, link = plan_chain(recipe, stages, store)
    known_digests.keep()
    if (outputs := link.steps[-1].outputs) is not None:
        return outputs.measures, None
    folder = run.execute_chain(options, link, store, lock, run.nothing)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    stage = next(stage for stage in record["stages"] if stage["name"] == "prepare")
    return stage["measures"], folder


def _errors_of(error: RecipeToolError) -> list[dict[str, Any]]:
    """Of a recipe that is wrong each thing that is, with its place."""
    if isinstance(error, RecipeInvalid):
        return [asdict(each) for each in error.diagnostics if each.severity == "error"]
    return [error_data(error)]
