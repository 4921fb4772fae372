"""A judge's file: text -> places -> schema -> defaults -> frozen settings, as a recipe is read."""

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
from runner.recipe.finding import Finding, describe
from runner.recipe.schema import fill_defaults, load_schema
from runner.recipe.source import Source, read_source
from runner.recipe.validate import findings

SCHEMA = "judge-1"


@dataclass(frozen=True, slots=True)
class Settings:
    """Who judges, and by what. `limit`: most prompts of a pair of models; None for all."""

    source: Source
    endpoint: Endpoint
    about: str
    limit: int | None
    reasons: bool
    seed: int
    sampling: Mapping[str, Any]
    requests: Requests
    budget: Budget

    @property
    def kind(self) -> str:
        """What is asked for."""
        return "judge"

    @property
    def endpoints(self) -> list[Endpoint]:
        """Everybody who is asked."""
        return [self.endpoint]


def read_settings(path: Path) -> Settings:
    """The judge's file at `path`. Raises RecipeInvalid with everything that is wrong."""
    source = read_source(path)
    found = list(_problems(source))
    diagnostics = [*source.problems, *(each.diagnostic(source) for each in found)]
    if diagnostics:
        raise RecipeInvalid(sorted(diagnostics, key=lambda each: each.sort_key))
    filled = fill_defaults(source.data, load_schema(SCHEMA))
    return Settings(
        source=source,
        endpoint=endpoint_of(filled["endpoint"]),
        about=filled["about"],
        limit=filled["limit"],
        reasons=filled["reasons"],
        seed=filled["seed"],
        sampling=filled["sampling"],
        requests=Requests(**filled["requests"]),
        budget=Budget(**filled["budget"]),
    )


def _problems(source: Source) -> Iterator[Finding]:
    data = source.data
    if not isinstance(data, dict) or "judge" not in data:
        if not source.is_damaged(""):
            hint = "it begins with `judge: 1`; docs/evaluation.md shows one"
            what = "a file without the key judge" if isinstance(data, dict) else describe(data)
            yield Finding("E916", "", f"a judge's file is wanted, not {what}", hint)
        return
    shape = [
        each for each in findings(data, load_schema(SCHEMA)) if not source.is_damaged(each.pointer)
    ]
    yield from map(_in_own_words, shape)
    if shape or source.damaged:
        return
    url = data["endpoint"].get("api")
    if url is not None and not is_address(url):
        hint = "write it as https://HOST/v1"
        yield Finding("E916", "/endpoint/api", "this is not the address of a server", hint)


def _in_own_words(found: Finding) -> Finding:
    """What a value of `key` or `api` says may be the key itself, and is never repeated."""
    if (about_a_secret := not_repeated(found)) is not None:
        return about_a_secret
    return replace(found, message=found.message.replace("the recipe", "the judge's file"))
