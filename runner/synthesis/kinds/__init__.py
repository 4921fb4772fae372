"""The kinds of synthesis, one module each. To add one: a module, a line here, its schema."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Protocol, cast

from runner.asking.talk import Talk
from runner.synthesis.rows import Made
from runner.synthesis.settings import Settings
from runner.synthesis.sources import Part, Seed

KINDS = {
    "self-instruct": "self_instruct",
    "question-answer": "question_answer",
    "paraphrase": "paraphrase",
    "preference": "preference",
    "critique": "critique",
}


@dataclass(frozen=True, slots=True)
class Material:
    """What tasks may use. `made` are rows accepted before the tasks that now run."""

    seeds: list[Seed]
    parts: list[Part]
    made: list[Made] = field(default_factory=list)


class Kind(Protocol):
    """What every module here has."""

    # Tasks that run without knowing of each other's rows, whatever the concurrency.
    WAVE: int
    # Must what a row says be new against the seeds, too?
    SEEDS_ARE_KNOWN: bool

    def tasks(self, settings: Settings, material: Material) -> int | None:
        """How many there can be; None for any number."""

    def rows_a_task(self, settings: Settings) -> int:
        """How many one gives where all goes well."""

    def make(self, task: int, talk: Talk[Settings], material: Material) -> list[Made]:
        """The rows of one task, a pure function of the answers. Raises Unusable."""


def load_kind(name: str) -> Kind:
    """The module of a kind."""
    return cast(Kind, importlib.import_module(f"{__name__}.{KINDS[name]}"))


def one_for_each_seed(settings: Settings, material: Material) -> int | None:
    """Tasks of a kind that makes something of every row."""
    return len(material.seeds)


def one_row(settings: Settings) -> int:
    """Rows of a task of most kinds."""
    return 1


def about(settings: Settings) -> str:
    """What the recipe says of the rows, for a prompt."""
    return f"\n\n{settings.about.strip()}" if settings.about.strip() else ""
