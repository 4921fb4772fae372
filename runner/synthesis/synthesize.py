"""Make the rows of a synthesis recipe: task by task, in order, until there are enough.

    tasks 0, 1, 2 ... ── kinds/ ── asking (log, else server) ── cleaning ── filters ── accepted

What is asked depends on the recipe and on earlier answers alone. Tasks run in waves: as many as
rows are missing, at most WAVE of the kind; so neither the rows nor what is paid for depend on the
concurrency.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from runner.asking.asker import Asker, NotInTheLog
from runner.asking.spending import BudgetReached
from runner.asking.talk import MAX_SHOWN, Talk, Unusable
from runner.asking.wave import in_order
from runner.errors import RecipeToolError
from runner.report.printable import quoted
from runner.synthesis.cleaning import Account, Cleaned, cleaned
from runner.synthesis.kinds import Kind, Material, load_kind
from runner.synthesis.rows import Diversity, Known, Made, check_lengths, diversity
from runner.synthesis.settings import Settings
from runner.synthesis.sources import parts_of, seeds_of

IN_VAIN = 50  # tasks in a row without a row, after which it ends
MAX_EXAMPLES = 3  # of each reason for which something was refused

Ended = Literal["complete", "budget", "used up", "in vain"]


@dataclass(frozen=True, slots=True)
class Refused:
    """An example of a row or answer that was refused."""

    task: int
    text: str


@dataclass
class Result:
    """Rows as they are written, and what there is to say of them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    ended: Ended = "complete"
    refused: Counter[str] = field(default_factory=Counter)  # reason -> rows, or tasks without one
    asked_anew: Counter[str] = field(default_factory=Counter)  # reason -> answers
    examples: dict[str, list[Refused]] = field(default_factory=dict)
    diversity: Diversity = field(default_factory=lambda: diversity([], []))
    cleaning: dict[str, Any] = field(default_factory=dict)  # as `prepare` measures it; {}: none


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a task came to; `failure` where it gave no row."""

    task: int
    made: list[Made]
    talk: Talk[Settings]
    failure: Unusable | BudgetReached | NotInTheLog | None = None


def material_of(settings: Settings) -> Material:
    """Seeds and parts of documents. Raises RecipeInvalid."""
    return Material(seeds_of(settings), parts_of(settings))


def most_rows(settings: Settings, material: Material) -> int | None:
    """How many rows there can be at most; None where only the model knows."""
    kind = load_kind(settings.kind)
    tasks = kind.tasks(settings, material)
    return None if tasks is None else tasks * kind.rows_a_task(settings)


def synthesize(
    settings: Settings,
    material: Material,
    asker: Asker,
    stopping: threading.Event,
    progress: Callable[[int], None],
    on_early_end: Callable[[str], None],
) -> Result:
    """All rows. Raises RecipeToolError when the server does not answer, or nothing is usable."""
    acceptance = _Acceptance(settings, load_kind(settings.kind), material)

    def work(task: int) -> _Outcome:
        return _made(task, settings, acceptance, asker)

    for tasks in _waves(settings, acceptance, material):
        acceptance.next_wave()
        outcomes = in_order(tasks, work, settings.requests.concurrency, stopping, on_early_end)
        with contextlib.closing(outcomes):
            for outcome, rows in _cleaned(outcomes, settings):
                progress(len(acceptance.result.rows))
                if not acceptance.take(outcome, rows):
                    break
    return acceptance.finished(asker.log_path)


def _waves(settings: Settings, acceptance: _Acceptance, material: Material) -> Iterator[range]:
    """Which tasks run next, until there are enough rows or no more tasks."""
    kind, result = acceptance.kind, acceptance.result
    most = kind.tasks(settings, material)
    begin = 0
    while result.ended == "complete" and (missing := settings.count - len(result.rows)) > 0:
        wanted = -(-missing // kind.rows_a_task(settings))
        end = begin + min(wanted, kind.WAVE)
        if most is not None:
            end = min(end, most)
        if begin == end:
            result.ended = "used up"
            return
        yield range(begin, end)
        begin = end


def _cleaned(
    outcomes: Iterable[_Outcome], settings: Settings
) -> Iterator[tuple[_Outcome, list[Cleaned]]]:
    """Each outcome with its rows after cleaning: of a wave at once, since that takes a process."""
    waves = [_until_the_end(outcomes)] if settings.clean else ([each] for each in outcomes)
    for wave in waves:
        whole = [*wave]
        rows = iter(cleaned([made for each in whole for made in each.made], settings.clean))
        yield from ((each, [next(rows) for _ in each.made]) for each in whole)


def _until_the_end(outcomes: Iterable[_Outcome]) -> Iterator[_Outcome]:
    """All, or those up to the first after which nothing can be made."""
    for outcome in outcomes:
        yield outcome
        if isinstance(outcome.failure, BudgetReached | NotInTheLog):
            return


def _made(task: int, settings: Settings, acceptance: _Acceptance, asker: Asker) -> _Outcome:
    talk = Talk(settings, asker, task)
    try:
        return _Outcome(task, acceptance.kind.make(task, talk, acceptance.before), talk)
    except (Unusable, BudgetReached, NotInTheLog) as error:
        return _Outcome(task, [], talk, error)


class _Acceptance:
    """Rows in the order of their tasks; each is held against seeds and all rows before it."""

    def __init__(self, settings: Settings, kind: Kind, material: Material) -> None:
        self.kind, self.before, self.result = kind, material, Result()
        self._settings = settings
        self._known = Known(settings.filters)
        self._texts: list[str] = []
        self._overlaps: list[float] = []
        self._made: list[Made] = []
        self._in_vain = 0
        self._cleaning = Account(settings.clean)
        if kind.SEEDS_ARE_KNOWN:
            for seed in material.seeds:
                self._known.add(seed.question, seed.place)

    def take(self, outcome: _Outcome, rows: list[Cleaned]) -> bool:
        """Accept or refuse the `rows` of a task. False when nothing more is to be made.

        Raises NotInTheLog, unless rows had ended with an earlier task.
        """
        if isinstance(outcome.failure, NotInTheLog):
            raise outcome.failure
        if isinstance(outcome.failure, BudgetReached):
            self.result.ended = "budget"
            return False
        for error in outcome.talk.unusable:
            self._count(self.result.asked_anew, error, outcome.task)
        if outcome.failure is not None:
            self.result.refused[f"no usable answer: {outcome.failure.reason}"] += 1
            self._example(outcome.failure, outcome.task)
        accepted = sum(self._accept(row, outcome) for row in rows)
        self._in_vain = 0 if accepted else self._in_vain + 1
        if self._in_vain == IN_VAIN:
            self.result.ended = "in vain"
        return self._in_vain < IN_VAIN

    def next_wave(self) -> None:
        """From now on tasks see the rows that were accepted; not while others run beside them."""
        self.before.made.extend(self._made)
        self._made.clear()

    def finished(self, log: Path) -> Result:
        """Everything. Raises RecipeToolError (E908) where it is nothing."""
        result = self.result
        if not result.rows:
            raise _nothing(result, log)
        result.cleaning = self._cleaning.measures()
        result.diversity = diversity(self._texts, self._overlaps)
        return result

    def _accept(self, row: Cleaned, outcome: _Outcome) -> bool:
        if len(self.result.rows) == self._settings.count:
            return False
        self._cleaning.add(row, outcome.task)
        made = row.made
        try:
            if isinstance(made, Unusable):
                raise made
            check_lengths(made, self._settings.filters)
            overlap = self._known.check(made.new)
        except Unusable as error:
            self._count(self.result.refused, error, outcome.task)
            return False
        number = len(self.result.rows) + 1
        self._known.add(made.new, f"row {number}")
        self._texts.append(made.new)
        self._overlaps.append(overlap)
        self._made.append(made)
        self.result.rows.append(made.as_row(self._settings, outcome.task, outcome.talk.digests))
        return True

    def _count(self, counter: Counter[str], error: Unusable, task: int) -> None:
        counter[error.reason] += 1
        self._example(error, task)

    def _example(self, error: Unusable, task: int) -> None:
        examples = self.result.examples.setdefault(error.reason, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(Refused(task, error.detail[:MAX_SHOWN]))


def _nothing(result: Result, log: Path) -> RecipeToolError:
    reasons = [f"{reason} ({count})" for reason, count in result.refused.most_common(3)]
    said = [each.text for examples in result.examples.values() for each in examples][:1]
    hint = f"read the answers in {log}; another model, `about` or filters may do better"
    if result.ended == "budget":
        reasons.append("the budget is reached")
        hint = "raise `budget`: one row may need several requests, each with sampling.max_tokens"
    return RecipeToolError(
        "no row came out: "
        + ", ".join(reasons)
        + (f"; the first: {quoted(said[0], MAX_SHOWN)}" if said else ""),
        hint=hint,
        code="E908",
    )
