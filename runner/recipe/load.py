"""Load a recipe: text -> places -> bases and options -> schema -> defaults -> recipe -> checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.errors import RecipeInvalid
from runner.plan.published_models import facts_for_checks
from runner.recipe.base_recipe import (
    PLACES,
    POINTER,
    SCORER,
    as_seen_from,
    names_recipe,
    of_one_name,
    read_recipe,
    section_of,
)
from runner.recipe.checks.unfit import is_lock, unfit
from runner.recipe.compared_recipes import SECTION as COMPARE
from runner.recipe.compared_recipes import places, read_compared
from runner.recipe.finding import Finding
from runner.recipe.layers import layered
from runner.recipe.model import Recipe, build
from runner.recipe.overrides import parse_overrides
from runner.recipe.paths import moved_path, project_root, replace_paths
from runner.recipe.schema import Schema, fill_defaults, load_schema, part_schema
from runner.recipe.source import Source, pointer_tokens, read_source
from runner.recipe.suggest import nearest
from runner.recipe.validate import findings
from runner.recipe.versions import newest, up_to_date
from runner.report.diagnostic import Diagnostic, has_errors

__all__ = ["check_recipe", "load_recipe", "project_root"]

Read = tuple[Recipe | None, list[Diagnostic]]

UNPINNED = frozenset({"W206"})  # an error where everything must be pinned (--locked)


@dataclass(frozen=True, slots=True)
class Checked:
    """Everything that is wrong with a file, sorted by place; what could not be checked, or ""."""

    diagnostics: list[Diagnostic]
    not_checked: str = ""


def load_recipe(
    path: Path,
    warn: Callable[[list[Diagnostic]], None] = lambda warnings: None,
    overrides: Sequence[str] = (),
    errors: Collection[str] = (),
) -> Recipe:
    """The recipe at `path`, with what `--set` says; `warn` is told of its warnings.

    Raises RecipeInvalid with every diagnostic when it has an error, or a warning whose code is one
    of `errors`.
    """
    recipe, diagnostics = check_recipe(path, overrides)
    diagnostics = as_errors(diagnostics, errors)
    if recipe is None or has_errors(diagnostics):
        raise RecipeInvalid(diagnostics)
    warn(diagnostics)
    return recipe


def check_recipe(
    path: Path, overrides: Sequence[str] = ()
) -> tuple[Recipe | None, list[Diagnostic]]:
    """The recipe at `path` (None when it has an error) and all diagnostics, sorted by place.

    Reads the files that the recipe names; writes nothing, touches no network.
    """
    return check_content(lambda: read_source(path), overrides)


def check_content(
    read: Callable[[], Source], overrides: Sequence[str] = ()
) -> tuple[Recipe | None, list[Diagnostic]]:
    """As `check_recipe`, for what `read` gives: a recipe need not be on the disk yet."""
    try:
        source, schema = _prepared(read(), overrides)
    except RecipeInvalid as error:
        return None, _sorted(error.diagnostics)
    return _usable(source, schema, (source.path.resolve(),))


def _usable(
    source: Source, schema: Schema, above: tuple[Path, ...], *, compares: bool = True
) -> Read:
    """A recipe that can be run; `above`: the files of those that start from it, and its own."""
    recipe, checked = _check_source(source, schema, above, compares=compares)
    diagnostics = checked.diagnostics
    if source.data.get("abstract") is True:
        message = f"{source.path.name} is abstract: it is there to be extended"
        hint = "name a recipe that extends it"
        diagnostics.append(source.diagnostic("E127", "/abstract", message, hint=hint))
    return (None if has_errors(diagnostics) else recipe), _sorted(diagnostics)


def check_file(path: Path, overrides: Sequence[str] = ()) -> Checked:
    """What is to be said of the file at `path`: a recipe, or an abstract one."""
    try:
        source, schema = _prepared(read_source(path), overrides)
    except RecipeInvalid as error:
        return Checked(_sorted(error.diagnostics))
    checked = _check_source(source, schema, (source.path.resolve(),))[1]
    silent = has_errors(checked.diagnostics) or source.data.get("abstract") is True
    return Checked(_sorted(checked.diagnostics), "" if silent else checked.not_checked)


def as_errors(diagnostics: list[Diagnostic], codes: Collection[str]) -> list[Diagnostic]:
    """`diagnostics`, with every one whose code is among `codes` as an error."""
    return [replace(each, severity="error") if each.code in codes else each for each in diagnostics]


def _prepared(source: Source, overrides: Sequence[str]) -> tuple[Source, Schema]:
    """The file, in the newest shape, with its bases and options, and what it is held to.

    Raises RecipeInvalid when nothing can be made of it.
    """
    options = parse_overrides(overrides)
    locked = is_lock(source.data)
    if locked and options:
        message, hint = "a lock pins every value", "set it on the recipe, not on its lock"
        raise RecipeInvalid([each.problem("E133", message, hint) for each in options])
    if locked:
        source = up_to_date(source, root="/recipe").part("/recipe")
    if source.is_damaged("") and not isinstance(source.data, dict):
        raise RecipeInvalid(source.problems)
    if (problem := unfit(source)) is not None:
        raise RecipeInvalid([*source.problems, _diagnostic(source, problem)])
    if locked:
        return source, newest().resolved()
    source = layered(source, options)
    return source, newest().schema(source.data)


def _check_source(
    source: Source, schema: Schema, above: tuple[Path, ...], *, compares: bool = True
) -> tuple[Recipe, Checked]:
    """`compares`: is it also about the recipes that this one is compared with?"""
    found = [each for each in findings(source.data, schema) if not source.is_damaged(each.pointer)]
    unsound = _unsound_sections(source, schema, found)
    problems = [*source.problems, *(_diagnostic(source, finding) for finding in found)]
    inner: dict[str, Recipe | None] = {}
    for place in PLACES:
        if section_of(place) in unsound or not names_recipe(source, place):
            continue
        inner[place], said = read_recipe(source, place, above, _check_base)
        problems += said
        unsound |= {section_of(place)} if inner[place] is None else set()
    left_out = set() if compares else {COMPARE}
    compared: list[Recipe | None] = []
    if COMPARE not in unsound | left_out:
        compared, said = read_compared(source, above, _check_base)
        problems += said
        unsound |= {COMPARE} if None in compared else set()
    inner |= dict(zip(places(source), compared, strict=False))
    sound = {key: value for key, value in source.data.items() if key not in unsound | left_out}
    recipe = _build(fill_defaults(sound, newest().resolved()), source, inner)
    problems += [
        finding.diagnostic(source)
        for place, each in inner.items()
        if (finding := of_one_name(place, each, recipe)) is not None
    ]
    more, not_checked = _cross_checks(recipe, unsound)
    return recipe, Checked(problems + more, not_checked)


def _check_base(source: Source, above: tuple[Path, ...]) -> Read:
    """The recipe that another one starts from: no option changes it."""
    try:
        return _usable(*_prepared(source, ()), above, compares=False)
    except RecipeInvalid as error:
        return None, list(error.diagnostics)


def _build(filled: dict[str, Any], source: Source, inner: Mapping[str, Recipe | None]) -> Recipe:
    """The recipe, its paths as seen from its own folder, wherever the base lies that names them.

    `inner`: the recipes that it names, by their place.
    """
    compared = [each for place, each in inner.items() if place not in PLACES and each is not None]
    for place in PLACES:
        if (each := inner.get(place)) is not None:
            filled[section_of(place)]["recipe"] = as_seen_from(each, source.folder)
    if COMPARE in filled:
        filled[COMPARE]["recipes"] = [as_seen_from(each, source.folder) for each in compared]
    recipe = build(filled, source)
    if source.bases:
        moved = replace_paths(recipe, lambda pointer, text: _seen(source, pointer, text))
        recipe = build(moved, source)
    made = replace(recipe, base=inner.get(POINTER), scorer=inner.get(SCORER))
    return replace(made, compared=tuple(compared) if COMPARE in filled else ())


def _seen(source: Source, pointer: str, text: str) -> str:
    if any(pointer.startswith(f"{place}/") for place in (*PLACES, f"/{COMPARE}")):
        return text  # is seen from here already
    base = source.file(pointer)
    return text if base not in source.bases else moved_path(text, base.resolve(), source.folder)


def _unsound_sections(source: Source, schema: Schema, found: list[Finding]) -> set[str]:
    """Top-level keys about which checks would only repeat, or wrongly add to, what was found."""
    whole = load_schema()
    properties: dict[str, Any] = whole["properties"]
    if source.is_damaged("") or any(finding.code == "E124" for finding in found):
        return set(properties)
    absent = set(whole["required"]).difference(source.data)
    if schema is part_schema():  # nobody knows what the rest will be
        absent = set(properties).difference(source.data)
        train = source.data.get("train")
        if isinstance(train, dict) and "method" not in train:
            absent |= {"train"}  # nor by which method it will learn
        found = [*found, *(each for each in findings(source.data, whole) if each.pointer)]
    return absent | _named(found, source, properties)


def _named(found: list[Finding], source: Source, properties: dict[str, Any]) -> set[str]:
    """The sections that findings and damage are in."""
    unsound: set[str] = set()
    for pointer in (*(each.pointer for each in found), *source.damaged):
        key = pointer_tokens(pointer)[0] if pointer else ""
        unsound.add(key if key in properties else nearest(key, properties) or key)
    return unsound


def _cross_checks(recipe: Recipe, unsound: set[str]) -> tuple[list[Diagnostic], str]:
    """What rules and files say, and what could not be checked."""
    # the rules of these join CHECKS
    from runner.recipe.checks import (  # noqa: F401
        adapter,
        cleaning,
        compared,
        disk,
        methods,
        named_tasks,
        processes,
        rewards,
        settings,
        shares,
    )
    from runner.recipe.checks.registry import CHECKS

    found = [
        finding for check in CHECKS if not check.needs & unsound for finding in check.rule(recipe)
    ]
    paths = disk.check_paths(recipe)
    known = {finding.pointer for finding in found if finding.code.startswith("E")}
    bad = known | {finding.pointer for finding in paths}
    paths = [finding for finding in paths if finding.pointer not in known]
    more, not_checked = _file_checks(recipe, unsound, bad)
    diagnostics = [_of_rule(recipe.source, each) for each in found]
    diagnostics += [_diagnostic(recipe.source, each) for each in [*paths, *more]]
    if "/evaluate/questions" not in bad:
        diagnostics += disk.check_questions(recipe)
    return diagnostics, not_checked


def _file_checks(recipe: Recipe, unsound: set[str], bad: set[str]) -> tuple[list[Finding], str]:
    """What the rows and the model's facts say. Nothing is read at a place that is wrong itself."""
    from runner.recipe.checks import disk, harness, model, parquet, rows, widths

    found: list[Finding] = []
    data = "data" not in unsound and not any(pointer.startswith("/data") for pointer in bad)
    if data:
        found += rows.check_template_is_text(recipe)
        found += rows.check_formats(recipe)
        found += parquet.check_parquet(recipe)
        found += rows.check_split_columns(recipe)
        found += rows.check_repeats(recipe)
    if data and "evaluate" not in unsound:
        found += disk.check_held_out_rows(recipe)
    if "evaluate" not in unsound and not any("/evaluate/harness" in pointer for pointer in bad):
        found += harness.check_tasks(recipe)
    if data and "train" not in unsound:
        found += rows.check_batch(recipe)
        found += rows.check_passes(recipe)
    if "model" in unsound or any(pointer.startswith("/model") for pointer in bad):
        return found, ""
    facts = facts_for_checks(recipe)
    if "gguf" not in unsound:
        found += widths.check_widths(recipe, facts)
    if "train" not in unsound:
        found += model.check_targets(recipe, facts)
        found += model.check_learning_layers(recipe, facts)
    if "reward" not in unsound and not any(pointer.startswith("/reward") for pointer in bad):
        found += model.check_scorer(recipe, facts)
    if data and "train" not in unsound:
        found += model.check_room_for_answers(recipe, facts)
    if data:
        found += model.check_context(recipe, facts)
        found += model.check_template_of_base(recipe, facts)
        found += rows.check_roles(recipe, facts)
    return found, model.not_checked(recipe, facts)


def _of_rule(source: Source, finding: Finding) -> Diagnostic:
    """What a rule that joins several values says of a base: also which recipe extends it."""
    if source.file(finding.pointer) not in source.bases:
        return finding.diagnostic(source)
    words = f"found in {source.path.name}, which extends it"
    hint = f"{finding.hint} ({words})" if finding.hint else words
    return replace(finding, hint=hint).diagnostic(source)


def _diagnostic(source: Source, finding: Finding) -> Diagnostic:
    if finding.code == "E103" and _may_be_left_to(source, finding.pointer):
        return source.diagnostic(finding.code, "/extends", finding.message, hint=finding.hint)
    return finding.diagnostic(source)


def _may_be_left_to(source: Source, pointer: str) -> bool:
    """Stands what lacks a key in a base, which may lack it? Lists are whole, wherever they are."""
    in_a_list = any(token.isdecimal() for token in pointer_tokens(pointer))
    return source.file(pointer) in source.bases and not in_a_list


def _sorted(diagnostics: Any) -> list[Diagnostic]:
    return sorted(diagnostics, key=lambda diagnostic: diagnostic.sort_key)
