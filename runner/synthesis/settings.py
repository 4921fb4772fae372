"""A synthesis recipe: text -> places -> schema -> defaults -> frozen settings.

The way of a recipe (runner/recipe/load.py) with a schema of its own, `schemas/synthesis-1.json`.
Errors carry file, line and column; what a value says that must be secret is never repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.asking.settings import (
    Budget,
    Endpoint,
    Requests,
    endpoint_of,
    is_address,
    not_repeated,
)
from runner.errors import RecipeInvalid
from runner.recipe.checks.cleaning import LANGUAGES
from runner.recipe.elsewhere import hint_for_key
from runner.recipe.finding import Finding, describe
from runner.recipe.paths import is_readable_file, project_root, resolved
from runner.recipe.schema import Schema, fill_defaults, load_schema
from runner.recipe.source import Source, pointer_tokens, read_source
from runner.recipe.suggest import nearest
from runner.recipe.validate import findings
from runner.report.printable import quoted

SCHEMA = "synthesis-1"


@dataclass(frozen=True, slots=True)
class RowFile:
    """A file of seed rows: where it is, what messages call it."""

    path: Path
    name: str
    format: str
    limit: int | None


@dataclass(frozen=True, slots=True)
class Document:
    """A text: where it is, what messages call it."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rows are refused; lengths in characters, `ngram` in words."""

    min_characters: int
    max_characters: int
    ngram: int
    max_overlap: float


@dataclass(frozen=True, slots=True)
class Settings:
    """One synthesis recipe. `own` has what only its kind reads, by the names of the file."""

    source: Source
    kind: str
    count: int
    seed: int
    endpoint: Endpoint
    judge: Endpoint | None
    weak: Endpoint | None
    about: str
    system: str | None
    sampling: Mapping[str, Any]
    requests: Requests
    budget: Budget
    filters: Filters
    clean: Mapping[str, Any]  # step -> its setting, of those that do something
    rows: tuple[RowFile, ...]
    documents: tuple[Document, ...]
    own: Mapping[str, Any]

    @property
    def endpoints(self) -> list[Endpoint]:
        """Everybody who is asked."""
        return [each for each in (self.endpoint, self.judge, self.weak) if each is not None]


def read_settings(path: Path) -> Settings:
    """The synthesis recipe at `path`. Raises RecipeInvalid with everything that is wrong."""
    source = read_source(path)
    found = list(_problems(source))
    diagnostics = [*source.problems, *(each.diagnostic(source) for each in found)]
    if diagnostics:
        raise RecipeInvalid(sorted(diagnostics, key=lambda each: each.sort_key))
    return _settings(source, fill_defaults(source.data, load_schema(SCHEMA)))


# --- what is wrong


def _problems(source: Source) -> Iterator[Finding]:
    data = source.data
    if not isinstance(data, dict):
        if not source.is_damaged(""):
            message = f"a synthesis recipe is a mapping of keys to values, not {describe(data)}"
            yield Finding("E121", "", message, "start from recipes/course/10.4-synthesis.yaml")
        return
    if "synthesis" not in data and {"schema", "extends", "train"} & data.keys():
        message = "this is a recipe of a training, not of a synthesis"
        yield Finding("E121", "", message, "recipe run runs it; docs/synthesis.md shows the other")
        return
    shape = [
        each for each in findings(data, load_schema(SCHEMA)) if not source.is_damaged(each.pointer)
    ]
    yield from map(_in_own_words, shape)
    if not shape and not source.damaged:
        yield from _across(data)
        yield from _paths(source)


def _in_own_words(found: Finding) -> Finding:
    """Hints about keys know recipes of trainings; a value of `key` may be the key itself."""
    if (about_a_secret := not_repeated(found)) is not None:
        return about_a_secret
    tokens = pointer_tokens(found.pointer)
    parent = found.pointer.rpartition("/")[0]
    if found.code == "E102" and hint_for_key(tokens[-1], parent):
        meant = nearest(tokens[-1], _all_keys(load_schema(SCHEMA)))
        hint = f'did you mean "{meant}"?' if meant else "docs/synthesis.md shows every key"
        return replace(found, hint=hint)
    return replace(found, message=found.message.replace("the recipe", "the synthesis recipe"))


def _all_keys(schema: Schema) -> dict[str, None]:
    found: dict[str, None] = dict.fromkeys(schema.get("properties", ()))
    inner = [*schema.get("properties", {}).values(), *schema.get("oneOf", ())]
    for each in [*inner, *([schema["items"]] if "items" in schema else [])]:
        found |= _all_keys(each)
    return found


def _across(data: Mapping[str, Any]) -> Iterator[Finding]:
    """Rules between fields."""
    if not {"rows", "documents"} & data.keys():
        message = f'kind {data["kind"]} needs "rows" or "documents"'
        hint = "add rows: [{path: questions.jsonl, format: prompt}], or documents: [FILE]"
        yield Finding("E103", "", message, hint)
    if data["kind"] == "preference" and "documents" not in data:
        for key in {"chunk", "rounds"} & data.keys():
            message = f'"{key}" is for documents, and there are none'
            yield Finding("E912", f"/{key}", message, "add documents, or leave it out", "key")
    if "weak" in data:
        for key in ("judge", "candidates"):
            if key in data:
                message = f'"{key}" does not go with "weak": nobody judges there'
                yield Finding("E912", f"/{key}", message, "keep one way to make pairs", "key")
        if data["weak"] == data["endpoint"]:
            hint = "name another model"
            yield Finding("E912", "/weak", "the weak model is the strong one", hint)
    filters = data.get("filters", {})
    least, most = filters.get("min_characters"), filters.get("max_characters")
    if least is not None and most is not None and least > most:
        message = f"no text has {least} characters and at most {most}"
        yield Finding("E912", "/filters/min_characters", message, "lower one, or raise the other")
    for number, code in enumerate(data.get("clean", {}).get("language", ())):
        if code not in LANGUAGES:
            message, hint = f"the language {code} cannot be told", "docs/data.md lists the codes"
            yield Finding("E252", f"/clean/language/{number}", message, hint)
    for place in ("endpoint", "judge", "weak"):
        url = data.get(place, {}).get("api")
        if url is not None and not is_address(url):
            hint = "write it as https://HOST/v1"
            yield Finding("E912", f"/{place}/api", "this is not the address of a server", hint)


def _paths(source: Source) -> Iterator[Finding]:
    root = project_root(source.path)
    for pointer in _path_pointers(source.data):
        text = source.at(pointer)
        shown = quoted(text, 80)
        real = resolved(source.folder / text)
        if text.startswith("/"):
            yield Finding("E910", pointer, f"{shown} is absolute", "write it relative to this file")
        elif real is None:
            yield Finding("E910", pointer, f"{shown} is not a path", "check the name and its links")
        elif not real.is_relative_to(root):
            message = f"{shown} leads out of the project {quoted(str(root))}"
            yield Finding("E910", pointer, message, "move the file below that folder")
        elif not is_readable_file(real):
            what = "is a folder" if real.is_dir() else "is not there, or cannot be read"
            yield Finding("E910", pointer, f"{shown} {what}", _near_name(real))


def _near_name(path: Path) -> str:
    try:
        names = sorted(each.name for each in path.parent.iterdir())[:1000]
    except OSError:
        return "check the folder's name"
    meant = nearest(path.name, names)
    return f"did you mean {quoted(meant, 80)}?" if meant else "name a file"


def _path_pointers(data: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"/documents/{number}" for number in range(len(data.get("documents", ()))))
    yield from (f"/rows/{number}/path" for number in range(len(data.get("rows", ()))))


# --- what is right


def _settings(source: Source, filled: dict[str, Any]) -> Settings:
    shared = {"synthesis", "kind", "count", "seed", "endpoint", "judge", "weak", "about", "system"}
    shared |= {"sampling", "requests", "budget", "filters", "clean", "rows", "documents"}
    return Settings(
        source=source,
        kind=filled["kind"],
        count=filled["count"],
        seed=filled["seed"],
        endpoint=endpoint_of(filled["endpoint"]),
        judge=endpoint_of(filled["judge"]) if "judge" in filled else None,
        weak=endpoint_of(filled["weak"]) if "weak" in filled else None,
        about=filled["about"],
        system=filled["system"],
        sampling=filled["sampling"],
        requests=Requests(**filled["requests"]),
        budget=Budget(**filled["budget"]),
        filters=Filters(**filled["filters"]),
        clean={
            step: setting
            for step, setting in filled["clean"].items()
            if setting not in ("keep", False, [])
        },
        rows=tuple(
            RowFile(source.folder / each["path"], each["path"], each["format"], each["limit"])
            for each in filled.get("rows", ())
        ),
        documents=tuple(
            Document(source.folder / each, each) for each in filled.get("documents", ())
        ),
        own={name: value for name, value in filled.items() if name not in shared},
    )
