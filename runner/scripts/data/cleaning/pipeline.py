"""The steps in their order, over the rows in theirs.

A row is brought into order (alternation), then its texts are repaired until nothing changes, then
it is judged: answers, refusals, language, duplicates. Rows that hold what the model is measured by
go last, when it is known which rows are held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runner.scripts.data.chunks.spool import Column
from runner.scripts.data.chunks.stored import facts_in
from runner.scripts.data.cleaning import duplicates, language, lengths, refusals, repair, turns
from runner.scripts.data.cleaning.contamination import Measure, nothing_to_look_for
from runner.scripts.data.cleaning.duplicates import signatures_of
from runner.scripts.data.cleaning.personal import personal_data_in, without_personal_data
from runner.scripts.data.cleaning.report import SHOWN, STEP_FOR, Drop, Told
from runner.scripts.data.cleaning.secret import secrets_in, without_secrets
from runner.scripts.data.cleaning.texts import (
    SAID,
    Row,
    changed,
    changed_everywhere,
    every_string,
    texts_of,
)
from runner.scripts.data.cleaning.web import without_web_text
from runner.scripts.data.conversation import Conversation, check_turns
from runner.scripts.data.files.rows import Problem, RowError
from runner.scripts.data.preference import check_compared
from runner.scripts.spec import ScriptError
from runner.scripts.weights.floats import Array

ORDER = (
    *("alternation", "web_text", "unicode", "whitespace", "secrets", "personal_data"),
    *("min_answer_chars", "max_answer_chars", "refusals", "language"),
    *("exact_duplicates", "near_duplicates", "decontaminate"),
)
_REPAIRS = ("web_text", "unicode", "whitespace", "secrets", "personal_data")
_COMPARING = ("exact_duplicates", "near_duplicates", "decontaminate")
_ROUNDS = 6  # what one repair does may give another one something to do

Step = Callable[[Row], Row | Drop]
Progress = Callable[[int, int], None]


@dataclass
class Sound:
    """Rows that are left, their numbers among those that were read; problems of broken ones."""

    rows: list[Any]
    positions: list[int]
    problems: list[Problem]


class Cleaning:
    """What the recipe asks for. `settings`: step -> its setting, of steps that do something.

    `progress`: is told how many rows of how many are compared, now and then.
    """

    def __init__(self, settings: Mapping[str, Any], progress: Progress = lambda *_: None) -> None:
        self.settings = settings
        self._progress = progress
        self.told = {step: Told(step) for step in ORDER if step in settings}
        self.read = 0
        self.kept = 0
        self.too_short: list[str] = []  # tasks without a text that is long enough to be looked for

    @property
    def orders_turns(self) -> bool:
        """Are rows to be read whose turns do not alternate?"""
        return "alternation" in self.settings

    def cleaned(self, rows: Iterable[Row]) -> tuple[list[Any], list[Problem]]:
        """The rows that are left, in their order, and the problems of those that are broken.

        Rows of one call are compared with each other.
        """
        found = self.row_by_row(rows)
        bands = signatures_of(found.rows).T if self.compares_nearly else ()
        left = self.compared(found.rows, found.positions, bands)
        return [found.rows[index] for index in left], found.problems

    def row_by_row(self, rows: Iterable[Row]) -> Sound:
        """What is left of rows by themselves: all steps but those that compare rows."""
        steps = [(name, _step(name, self.settings[name])) for name in ORDER if name in self.told]
        repairs = [(name, step) for name, step in steps if step and name in _REPAIRS]
        others = [(name, step) for name, step in steps if step and name not in _REPAIRS]
        first, after = _split_at_turns(others)
        found = Sound([], [], [])
        for row in rows:
            self.read += 1
            left = self._through(row, first)
            left = left and self._repaired(left, repairs)
            left = left and self._sound(left, row, found.problems)
            left = left and self._through(left, after)
            if left is not None:
                found.rows.append(left)
                found.positions.append(self.read)
        return found

    def add(self, told: Mapping[str, Told], read: int) -> int:
        """Count what `row_by_row` of another made of the rows that follow; how many went before."""
        offset = self.read
        for name, steps in told.items():
            self.told[name].add(steps, offset)
        self.read += read
        return offset

    def compared(
        self,
        rows: Sequence[Row],
        positions: Sequence[int] | Column,
        bands: Iterable[Array | Column],
    ) -> Array:
        """Indexes of the rows that are not there before. `bands`: the columns of `signatures_of`.

        `positions`: of each row, its number among those that were read.
        """
        left = np.ones(len(rows), bool)
        file_of = _FileOf(rows)
        for name, find in (
            ("exact_duplicates", lambda: duplicates.exact(facts_in(rows).digests)),
            (
                "near_duplicates",
                lambda: duplicates.near(rows, left, bands, self._threshold, self._progress),
            ),
        ):
            if name not in self.told:
                continue
            told = Told(name)
            for index, first, likeness in find():
                left[index] = False
                if told.dropped >= SHOWN:
                    told.why[_reason(name)] += 1
                    told.files[file_of(index)] += 1
                    continue
                where = rows[first].place
                why = f"{likeness:.2f} like {where}" if likeness else f"the same as {where}"
                row, position = rows[index], int(positions[index])
                told.drop(row.place, Drop(why, duplicates.text_of(row)), _reason(name), position)
            self.told[name].add(told)
        self.kept += int(left.sum())
        return np.flatnonzero(left)

    @property
    def compares_nearly(self) -> bool:
        """Are signatures of the rows needed?"""
        return "near_duplicates" in self.told

    @property
    def _threshold(self) -> float:
        return float(self.settings["near_duplicates"]["threshold"])

    def decontaminated(
        self,
        rows: Sequence[Row],
        held_out: Sequence[Row],
        named: Sequence[tuple[Path, str]],
    ) -> list[Any]:
        """The rows to train on that hold nothing of `held_out` and of the `named` files."""
        left = self.uncontaminated(rows, held_out, named)
        return [row for row, kept in zip(rows, left, strict=True) if kept]

    def uncontaminated(
        self,
        rows: Sequence[Row],
        held_out: Sequence[Row],
        named: Sequence[tuple[Path, str]],
        tasks: Sequence[tuple[Path, str]] = (),
    ) -> list[bool]:
        """Of each row to train on, is it left? As `decontaminated`; `tasks`: files of rows that
        tasks ask, of which some may have no text to look for.
        """
        told = self.told.get("decontaminate")
        if told is None:
            return [True] * len(rows)
        settings = self.settings["decontaminate"]
        measure = Measure(settings["ngram"])
        self.too_short += [name for path, name in tasks if not measure.add_file(path, name)]
        for path, name in named:
            if not measure.add_file(path, name):
                raise nothing_to_look_for(name)
        for row in held_out if settings["validation"] else ():
            measure.add(texts_of(row, SAID), str(row.place))
        left = [self._judged(row, measure, told) is not None for row in rows]
        self.kept -= left.count(False)
        return left

    def require_rows(
        self, train: Sequence[Row], validation: Sequence[Row], *, held_out: bool
    ) -> None:
        """Raise ScriptError E354 or E356 when nothing is left of what was given."""
        reasons = ", ".join(
            f"{told.step} {told.dropped}" for told in self.told.values() if told.dropped
        )
        hint = "look at rows: recipe data inspect FILE; then leave a step out of data.clean"
        if not train:
            message = f"cleaning left no row to train on; dropped: {reasons}"
            raise ScriptError(message, hint=hint, code="E354")
        if held_out and not validation:
            message = f"cleaning left no held-out row; dropped: {reasons}"
            raise ScriptError(message, hint=hint, code="E356")

    def dropped_of(self, file: str | None) -> str:
        """By which steps rows of a file (None: of all) were dropped, and how many; "" for none."""
        counts = (
            (told.step, told.dropped if file is None else told.files[file])
            for told in self.told.values()
        )
        return ", ".join(f"{step} {count}" for step, count in counts if count)

    def measures(self) -> dict[str, Any]:
        """For run.json: rows before and after, and each step's doings in their order."""
        steps = [told.measures() for told in self.told.values()]
        short = {"too_short": self.too_short} if self.too_short else {}
        return {"rows": self.read, "kept": self.kept, "steps": steps, **short}

    def _through(self, row: Row, steps: Sequence[tuple[str, Step]]) -> Row | None:
        left: Row | None = row
        for name, step in steps:
            left = left and self._judged(left, step, self.told[name])
        return left

    def _judged(self, row: Row, step: Step, told: Told) -> Row | None:
        """The row after one step, which is counted; None where it is dropped."""
        after = step(row)
        if isinstance(after, Drop):
            told.drop(row.place, after, _reason(told.step), self.read)
            return None
        if after != row:
            told.change(row.place, *_first_change(row, after), self.read)
        return after

    def _repaired(self, row: Row, steps: Sequence[tuple[str, Step]]) -> Row | None:
        """The row when no repair changes it any more. A step counts it once."""
        before: dict[str, tuple[Row, Row]] = {}
        for _ in range(_ROUNDS):
            start = row
            for name, step in steps:
                after = step(row)
                if isinstance(after, Drop):
                    self.told[name].drop(row.place, after, position=self.read)
                    return None
                if after != row:
                    before.setdefault(name, (row, after))
                    row = after
            if row == start:
                break
        else:
            last = next(reversed(before))
            text = texts_of(row)[0]
            drop = Drop("its text never settles", text)
            self.told[last].drop(row.place, drop, position=self.read)
            return None
        for name, (old, new) in before.items():
            self.told[name].change(row.place, *_first_change(old, new), self.read)
        return row

    def _sound(self, row: Row, given: Row, problems: list[Problem]) -> Row | None:
        """The row if it can be trained on. One that cannot is dropped where a step is for it, or
        made it so; others are problems, as without cleaning.
        """
        try:
            check = check_turns if isinstance(row, Conversation) else check_compared
            check(row)  # type: ignore[operator]
        except RowError as error:
            told = self._responsible(error, changed=row != given)
            if told is None:
                problems.append(Problem(row.place, error))
            else:
                text = next(iter(texts_of(row)), "")
                drop = Drop(error.message, text)
                told.drop(row.place, drop, _WHY.get(error.code, ""), self.read)
            return None
        return row

    def _responsible(self, error: RowError, *, changed: bool) -> Told | None:
        step = STEP_FOR.get(error.code)
        if step in self.told:
            return self.told[step]
        if not changed:
            return None
        return next(told for told in self.told.values() if told.step in ("alternation", *_REPAIRS))


class _FileOf:
    """The file of a row by its index; of each file one row is read."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows, self._sources = rows, facts_in(rows).sources
        self._names: dict[int, str] = {}

    def __call__(self, index: int) -> str:
        source = int(self._sources[index])
        if source not in self._names:
            self._names[source] = self._rows[index].place.file
        return self._names[source]


_WHY = {
    "E322": "an empty prompt",
    "E323": "nothing to train on",
    "E334": "no answer",
    "E333": "two answers that are the same",
    "E335": "answers to different questions",
}
# What rows are counted as, where the reason of each row is another.
_REASONS = {
    "alternation": "turns out of order",
    "min_answer_chars": "answer too short",
    "max_answer_chars": "answer too long",
    "language": "other language",
    "exact_duplicates": "duplicate",
    "near_duplicates": "near duplicate",
    "decontaminate": "holds what is measured by",
}


def _reason(step: str) -> str:
    return _REASONS.get(step, "")


def _split_at_turns(
    steps: Sequence[tuple[str, Step]],
) -> tuple[list[tuple[str, Step]], list[tuple[str, Step]]]:
    """What comes before the repairs, and what after them."""
    first = [each for each in steps if each[0] == "alternation"]
    return first, [each for each in steps if each[0] != "alternation"]


def _first_change(before: Row, after: Row) -> tuple[str, str]:
    """The first text that differs, as it was and as it is."""
    pairs = zip(every_string(before), every_string(after), strict=False)
    return next(((old, new) for old, new in pairs if old != new), ("", ""))


def _step(name: str, setting: Any) -> Step | None:
    """A step that looks at one row; None for those that compare rows."""
    if name in _COMPARING:
        return None
    if name in ("secrets", "personal_data"):
        return _guard(name, setting)
    made: dict[str, Callable[[], Step]] = {
        "alternation": lambda: turns.merged if setting == "merge" else turns.dropped_if_broken,
        "web_text": lambda: without_web_text,
        "unicode": lambda: lambda row: changed(row, repair.repaired),
        "whitespace": lambda: lambda row: changed(row, repair.tidied),
        "min_answer_chars": lambda: lengths.at_least(setting),
        "max_answer_chars": lambda: lengths.at_most(setting),
        "refusals": lambda: refusals.without_refusals,
        "language": lambda: language.only(setting),
    }
    return made[name]()


def _guard(name: str, setting: str) -> Step:
    """Masks what must not be learned, or drops the rows that hold it."""
    find, mask, why = {
        "secrets": (secrets_in, without_secrets, "holds a secret"),
        "personal_data": (personal_data_in, without_personal_data, "holds personal data"),
    }[name]

    def drop(row: Row) -> Row | Drop:
        text = next((text for text in every_string(row) if any(find(text))), None)
        return row if text is None else Drop(why, mask(text))

    def hide(row: Row) -> Row | Drop:
        return changed_everywhere(row, mask) if any(map(any, map(find, every_string(row)))) else row

    return hide if setting == "mask" else drop
