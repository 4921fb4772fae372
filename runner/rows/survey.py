"""A file of rows, read once from begin to end: what is in it, and what is wrong with it."""

from __future__ import annotations

import shlex
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import UsageError
from runner.report.printable import escaped
from runner.rows.advice import advice, keys_of, plain_text
from runner.rows.cleaned import read_to_clean
from runner.rows.opening import unreadable
from runner.scripts.data.both_ways import BothWays
from runner.scripts.data.conversation import Conversation, asks_nothing, begins_with_answer
from runner.scripts.data.files.rows import MAX_SHOWN, Place, Problem, RowError, read_rows
from runner.scripts.data.formats import FIELDS
from runner.scripts.data.guess import Guess, guess_format
from runner.scripts.data.preference import Judged, Pair
from runner.scripts.data.special_text import SHOWN, SpecialText
from runner.scripts.data.writing import Read

GUESSED_BY = 100  # rows
NO_SPECIAL = SpecialText(())
_NO_JSON = "no line of it is JSON; it looks like plain text"
ODD: Mapping[str, Callable[[Read], bool]] = {
    "begins_with_answer": begins_with_answer,
    "empty_questions": asks_nothing,
}
NO_STEPS: Mapping[str, Any] = {}
TOO_LONG = "too_long"  # what the script says of a row that `data.too_long` drops, once rendered
MAX_KEYS = 1000  # different ones that are counted


@dataclass
class Survey:
    """One file. `lengths` has the characters of each row that fits; the rest are counts.

    `format` is "" where no row can be read, so that nothing tells it; `advice` is then for that.
    """

    name: str
    format: str
    columns: Mapping[str, str]
    guess: Guess | None
    rows: int = 0
    named: int = MAX_SHOWN  # bad rows that are kept in `problems`
    problems: list[Problem] = field(default_factory=list)  # the first ones
    unfit: int = 0
    turns: Counter[str] = field(default_factory=Counter)  # by role
    answers: int = 0
    labels: Counter[str] = field(default_factory=Counter)  # "good", "bad": rows judged so
    untrained: int = 0
    with_tools: int = 0
    ignored: Counter[str] = field(default_factory=Counter)  # rows that fill a key, by the key
    lengths: array[int] = field(default_factory=lambda: array("Q"))
    first: list[tuple[Place, Read]] = field(default_factory=list)
    advice: str = ""
    named_at_once: bool = False  # is the one problem that of all the rows?
    both_ways: Mapping[str, Any] = field(default_factory=dict)  # `count`, `first`: two places
    left_out: Mapping[str, str] = field(default_factory=dict)  # column of Parquet -> why
    # Step of data.clean -> rows that it leaves out, and the steps of which that is not counted.
    dropped: Counter[str] = field(default_factory=Counter)
    not_counted: Sequence[str] = ()
    rendered: int | None = None  # rows that fit, and were rendered; None: nobody asked
    refused: int = 0  # of them, those that do not fit the model
    # Rows that fit, and are probably not meant so -> how many, and the first: see ODD.
    odd: dict[str, tuple[int, str]] = field(default_factory=dict)
    special: int = 0  # rows whose turns hold a special token of the template
    special_first: list[dict[str, str]] = field(default_factory=list)  # place, token

    @property
    def is_sound(self) -> bool:
        """Are there rows, and does every one fit?"""
        return bool(self.rows) and not self.bad

    @property
    def bad(self) -> int:
        """Rows that do not fit the format, or were rendered and do not fit the model."""
        return self.unfit + self.refused

    @property
    def unread(self) -> dict[str, int]:
        """Keys that the format does not read, and in how many rows they are filled."""
        return dict(sorted(self.ignored.items(), key=lambda item: (-item[1], item[0])))

    @property
    def length(self) -> dict[str, float]:
        """Characters a row; empty without rows."""
        if not self.lengths:
            return {}
        middle = statistics.median(self.lengths)
        return {"min": min(self.lengths), "median": middle, "max": max(self.lengths)}


def guess_file(path: Path, name: str) -> Guess | None:
    """By the first rows that can be read at all. Raises UsageError E862."""
    return guess_format(_first_of(path, name)[0])


def _first_of(path: Path, name: str) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The first rows that can be read, and what is wrong with the first others on the way.

    Raises UsageError E862.
    """
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    try:
        for item in read_rows(path, name):
            if not isinstance(item, Problem):
                rows.append(item[1])
            elif len(problems) < MAX_SHOWN:
                problems.append(item)
            if len(rows) == GUESSED_BY:
                break
    except OSError as error:
        raise unreadable(path, error) from None
    return rows, problems


def survey(
    path: Path,
    name: str,
    shown: int,
    format_name: str | None = None,
    columns: Mapping[str, str] | None = None,
    named: int = MAX_SHOWN,
    clean: Mapping[str, Any] = NO_STEPS,
    special: SpecialText = NO_SPECIAL,
) -> Survey:
    """Read `path` as `format_name`, else as what it looks like; keep the first `shown` rows that
    fit, and the first `named` that do not. Raises UsageError E862, E864.

    `clean`: the steps of a recipe that cleans the rows. `special`: finds in turns what its template
    writes as special tokens.
    """
    rows, _ = _first_of(path, name)
    guess = guess_format(rows)
    if format_name is None and guess is None and rows:
        raise not_guessed(path, name)
    given = format_name or (guess.format if guess else "")
    if format_name is None and guess is not None:
        columns = guess.columns
    found = Survey(name, given, columns or {}, guess, named=named)
    compared, fit = BothWays(), array("Q")
    for item in read_rows(path, name, columns):
        found.rows += 1
        try:
            if isinstance(item, Problem):
                raise item.error
            _count_keys(found, item[1])
            read, left_out_by = read_to_clean(item[1], given, clean)
        except RowError as error:
            place = item.place if isinstance(item, Problem) else item[0]
            _note(found, Problem(place, error))
            continue
        if len(found.first) < shown:
            found.first.append((item[0], read))
        if left_out_by:
            continue
        _count(found, read)
        _note_odd(found, item[0], read)
        if token := special.first_in(read):
            _note_special(found, item[0], token)
        if isinstance(read, Pair | Judged):
            compared.add(read)
            fit.append(item[0].line)
    if both := compared.found():
        lines = [str(Place(name, fit[row])) for row in (both.first, both.second)]
        found.both_ways = {"count": both.count, "first": lines}
    if not found.rows:
        found.problems.append(Problem(Place(name, 1), RowError("the file holds no rows", "E862")))
    if found.unfit == found.rows:
        found.advice = advice(path, name, rows, found.problems, given)
        if plain_text(path, name, rows, found.problems):
            found.problems = [Problem(Place(name, 1), RowError(_NO_JSON, "E321"))]
            found.named_at_once = True
    return found


def note_seen(found: Survey, seen: Sequence[Mapping[str, Any]]) -> None:
    """Count the rows that were rendered, and as problems those that do not fit the model.

    `seen`: what `runner/scripts/inspect_rows` says of the first rows.
    """
    fits = {(place.file, place.line): place for place, _ in found.first}
    rendered = set()
    for row in seen:
        where = row["file"], row["line"]
        if where not in fits or row.get("left_out", TOO_LONG) != TOO_LONG:
            continue
        if "problem" in row and where not in rendered:
            found.refused += 1
            _keep(found, Problem(fits[where], RowError(row["problem"], row["code"])))
        rendered.add(where)
    found.rendered = len(rendered)


def _note(found: Survey, problem: Problem) -> None:
    found.unfit += 1
    _keep(found, problem)


def _keep(found: Survey, problem: Problem) -> None:
    if len(found.problems) < found.named:
        found.problems.append(problem)


def _note_odd(found: Survey, place: Place, read: Read) -> None:
    odd = [name for name, is_odd in ODD.items() if is_odd(read)]
    for name in odd:
        count, first = found.odd.get(name, (0, str(place)))
        found.odd[name] = count + 1, first


def _note_special(found: Survey, place: Place, token: str) -> None:
    found.special += 1
    if len(found.special_first) < SHOWN:
        found.special_first.append({"place": str(place), "token": token})


def _count_keys(found: Survey, row: Mapping[str, Any]) -> None:
    for key, value in row.items():
        if key in FIELDS[found.format] or value is None or value == "":
            continue
        if key in found.ignored or len(found.ignored) < MAX_KEYS:
            found.ignored[key] += 1


def _count(found: Survey, read: Read) -> None:
    sides = [read] if isinstance(read, Conversation) else [side for side, _ in read.sides]
    for side in sides:
        found.turns.update(turn["role"] for turn in side.messages)
        found.answers += len(side.answers)
        found.untrained += len(side.untrained)
    if isinstance(read, Judged):
        found.labels["good" if read.desirable else "bad"] += 1
    found.with_tools += bool(sides[0].tools)
    texts = [turn["content"] for turn in read.messages]
    if isinstance(read, Conversation) and read.text is not None:
        texts = [read.text]
    found.lengths.append(sum(map(len, texts)))


def rendered_of(found: Survey) -> dict[str, int]:
    """How many rows the recipe's template has written, and how many of them fit the model."""
    rendered = found.rendered or 0
    return {"rows": rendered, "fit": rendered - found.refused}


def as_data(found: Survey) -> dict[str, Any]:
    """For --format json."""
    return {
        "file": found.name,
        "format": found.format or None,
        "columns": dict(found.columns),
        "guess": None
        if found.guess is None
        else {
            "format": found.guess.format,
            "columns": dict(found.guess.columns),
            "reason": found.guess.reason,
            "others": list(found.guess.others),
        },
        "rows": found.rows,
        "fit": found.rows - found.unfit,
        **({} if found.rendered is None else {"rendered": rendered_of(found)}),
        "problems": [
            {
                "line": problem.place.line,
                "code": problem.error.code,
                "message": problem.error.message,
            }
            for problem in found.problems
        ],
        "turns": dict(sorted(found.turns.items())),
        "answers": {"trained": found.answers, "context": found.untrained},
        **({"labels": dict(sorted(found.labels.items()))} if found.labels else {}),
        "with_tools": found.with_tools,
        "ignored": found.unread,
        "characters": found.length,
        **({"dropped": dict(sorted(found.dropped.items()))} if found.dropped else {}),
        **({"not_counted": list(found.not_counted)} if found.not_counted else {}),
        **({"both_ways": dict(found.both_ways)} if found.both_ways else {}),
        **(
            {"special_text": {"count": found.special, "first": found.special_first}}
            if found.special
            else {}
        ),
        **{name: {"count": count, "first": at} for name, (count, at) in found.odd.items()},
        **({"left_out": dict(found.left_out)} if found.left_out else {}),
    }


def not_guessed(path: Path, name: str) -> UsageError:
    """Why no format can be told: no rows, none that can be read, or keys of no format.

    Raises UsageError E862.
    """
    rows, problems = _first_of(path, name)
    hint = advice(path, name, rows, problems)
    if not rows and not problems:
        return no_rows(name)
    if not rows:
        lines = [f"{each.place}: {each.error.message} ({each.error.code})" for each in problems]
        if plain_text(path, name, rows, problems):
            lines = [f"{_NO_JSON} (E321)"]
        return UsageError(
            "\n  ".join([f"no row of {escaped(name)} can be read:", *map(escaped, lines)]),
            hint=hint or f"correct them: recipe data inspect {shlex.quote(name)}",
            code="E867",
        )
    return UsageError(
        f"the keys of the first rows of {escaped(name)} are those of no format: {keys_of(rows[0])}",
        hint=hint
        or "name the format, and the columns: --from alpaca --column instruction=NAME --column "
        "output=NAME; of two answers --from preference --column prompt=NAME --column chosen=NAME "
        "--column rejected=NAME; docs/data.md shows each format",
        code="E864",
    )


def no_rows(name: str) -> UsageError:
    """A file that is empty, or holds an empty list, or column names alone."""
    return UsageError(
        f"{escaped(name)} holds no rows",
        hint="name a file with rows; docs/data.md shows each format",
        code="E862",
    )
