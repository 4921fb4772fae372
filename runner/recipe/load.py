"""Load a recipe: text -> places -> schema -> defaults -> frozen recipe -> checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.errors import RecipeInvalid
from runner.recipe.finding import Finding, describe
from runner.recipe.model import Recipe, build
from runner.recipe.paths import project_root
from runner.recipe.schema import Schema, fill_defaults, load_schema
from runner.recipe.source import Source, pointer_tokens, read_source
from runner.recipe.suggest import nearest
from runner.recipe.validate import findings
from runner.report.diagnostic import Diagnostic, has_errors

__all__ = ["check_recipe", "load_recipe", "project_root"]

KNOWN_SCHEMA = 1


def load_recipe(
    path: Path, warn: Callable[[list[Diagnostic]], None] = lambda warnings: None
) -> Recipe:
    """The recipe at `path`; `warn` is told of its warnings.

    Raises RecipeInvalid with every diagnostic when it has an error.
    """
    recipe, diagnostics = check_recipe(path)
    if recipe is None:
        raise RecipeInvalid(diagnostics)
    warn(diagnostics)
    return recipe


def check_recipe(path: Path) -> tuple[Recipe | None, list[Diagnostic]]:
    """The recipe at `path` (None when it has an error) and all diagnostics, sorted by place.

    Reads the files that the recipe names; writes nothing, touches no network.
    """
    try:
        source = read_source(path)
    except RecipeInvalid as error:
        return None, _sorted(error.diagnostics)
    if _is_lock(source.data):
        source = source.part("/recipe")
    recipe, diagnostics = _check_source(source)
    diagnostics = _sorted(diagnostics)
    return (None if has_errors(diagnostics) else recipe), diagnostics


def _check_source(source: Source) -> tuple[Recipe | None, list[Diagnostic]]:
    problems = list(source.problems)
    if source.is_damaged("") and not isinstance(source.data, dict):
        return None, problems
    unfit = _unfit(source)
    if unfit is not None:
        return None, [*problems, _diagnostic(source, unfit)]
    schema = load_schema()
    found = [each for each in findings(source.data, schema) if not source.is_damaged(each.pointer)]
    unsound = _unsound_sections(source, schema, found)
    sound = {key: value for key, value in source.data.items() if key not in unsound}
    recipe = build(fill_defaults(sound, schema), source)
    problems += [_diagnostic(source, finding) for finding in found]
    problems += _cross_checks(recipe, unsound)
    return recipe, problems


def _is_lock(data: Any) -> bool:
    """A lock carries its recipe inside."""
    return isinstance(data, dict) and "lock" in data and isinstance(data.get("recipe"), dict)


def _unfit(source: Source) -> Finding | None:
    """A file that the schema says nothing useful about: no mapping, or a newer schema."""
    if not isinstance(source.data, dict):
        message = f"a recipe is a mapping of keys to values, not {describe(source.data)}"
        return Finding("E121", "", message, "start from recipes/quickstart.yaml")
    version = source.data.get("schema")
    if isinstance(version, int) and not isinstance(version, bool) and version > KNOWN_SCHEMA:
        message = f"the recipe is of schema {version}; this Spark Recipes knows {KNOWN_SCHEMA}"
        return Finding("E122", "/schema", message, "update Spark Recipes")
    return None


def _unsound_sections(source: Source, schema: Schema, found: list[Finding]) -> set[str]:
    """Top-level keys about which checks would only repeat, or wrongly add to, what was found."""
    properties: dict[str, Any] = schema["properties"]
    cut_short = any(finding.code == "E124" for finding in found)
    if source.is_damaged("") or cut_short:
        return set(properties)
    unsound = {key for key in schema["required"] if key not in source.data}
    for pointer in (*(each.pointer for each in found), *source.damaged):
        key = pointer_tokens(pointer)[0] if pointer else ""
        unsound.add(key if key in properties else nearest(key, properties) or key)
    return unsound


def _cross_checks(recipe: Recipe, unsound: set[str]) -> list[Diagnostic]:
    from runner.recipe import disk_checks, width_checks
    from runner.recipe.checks import CHECKS

    found = [
        finding for check in CHECKS if not check.needs & unsound for finding in check.rule(recipe)
    ]
    paths = disk_checks.check_paths(recipe)
    known = {finding.pointer for finding in found if finding.code.startswith("E")}
    found += [finding for finding in paths if finding.pointer not in known]
    bad = known | {finding.pointer for finding in paths}
    if not {"data", "evaluate"} & unsound and not any(p.startswith("/data") for p in bad):
        found += disk_checks.check_held_out_rows(recipe)
    if not {"model", "gguf"} & unsound and not any(p.startswith("/model") for p in bad):
        found += width_checks.check_widths(recipe)
    diagnostics = [_diagnostic(recipe.source, finding) for finding in found]
    if "/evaluate/questions" not in bad:
        diagnostics += disk_checks.check_questions(recipe)
    return diagnostics


def _diagnostic(source: Source, finding: Finding) -> Diagnostic:
    return source.diagnostic(
        finding.code, finding.pointer, finding.message, hint=finding.hint, at=finding.at
    )


def _sorted(diagnostics: Any) -> list[Diagnostic]:
    return sorted(diagnostics, key=lambda diagnostic: diagnostic.sort_key)
