"""Rows and surveys of them as text for a person; a stranger's characters never reach a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from runner.recipe.flow import flow
from runner.report.printable import escaped, quoted
from runner.rows.survey import Survey, rendered_of
from runner.scripts.data.files.rows import MAX_SHOWN
from runner.scripts.data.prompted import Prompted
from runner.scripts.data.sides import sides_of
from runner.scripts.data.turns import as_json

MAX_CHARACTERS = 2000  # of one part of a row
MAX_PARTS = 40  # of a row: turns, or parts that are trained on, or are not
_TRAINED, _END = "\x1b[32m", "\x1b[0m"

Parts = Sequence[tuple[str, bool]]  # text, and whether it is trained on


def plain_number(value: float) -> str:
    """Without a power of ten, however large: 4000000, 2.5."""
    return f"{value:.1f}".removesuffix(".0")


def survey_lines(found: Survey) -> Iterator[str]:
    """What is in a file, and what is wrong with it."""
    yield escaped(found.name)
    if found.guess is not None:
        yield f"  {escaped(str(found.guess))}"
    if found.guess is not None and found.guess.others:
        yield f"  could also be {escaped(', '.join(found.guess.others))}: --from says which"
    if found.format and (found.guess is None or found.format != found.guess.format):
        yield f"  read as {found.format}"
    if found.format and (_is_as_guessed(found) or found.unfit < found.rows):
        told = {"path": found.name, "format": found.format}
        columns = {"columns": dict(found.columns)} if found.columns else {}
        yield f"  in a recipe: {flow(told | columns)}"
    yield f"  {_fit_words(found)}"
    for step, count in sorted(found.dropped.items()):
        yield f"  {rows_words(count)} {'is' if count == 1 else 'are'} left out by data.clean.{step}"
    if found.not_counted:
        yield f"  not counted: what is left out by {', '.join(found.not_counted)} of data.clean"
    if found.turns:
        turns = ", ".join(f"{count} of {role}" for role, count in sorted(found.turns.items()))
        yield f"  turns: {turns}; {found.answers} are trained on"
    if found.labels:
        yield f"  answers: {found.labels['good']} good, {found.labels['bad']} bad"
    if found.with_tools:
        yield f"  {rows_words(found.with_tools)} with tools"
    if found.ignored:
        yield f"  ignored: {_keys(found.unread)}"
    for name, why in found.left_out.items():
        yield f"  left out: {quoted(name, 60)}, which is no JSON: {escaped(why)}"
    if length := found.length:
        shown = {name: plain_number(value) for name, value in length.items()}
        yield "  characters a row: {min} to {max}, median {median}".format(**shown)
    if found.both_ways:
        yield f"  warning: {both_ways_words(found.both_ways['count'], found.both_ways['first'])}"
    if len(found.labels) == 1:
        other = "bad" if found.labels["good"] else "good"
        yield (
            f"  warning: all answers have the same label; with no {other} answers from another "
            "file there is nothing to tell good answers by"
        )
    yield from (f"  warning: {words}" for words in _odd_words(found))
    if found.special:
        yield f"  warning: {special_words(found.special, found.special_first)}"
    if not found.is_sound:
        yield "  problems:"
        yield from (
            f"    {escaped(str(each.place))}: {escaped(each.error.message)} ({each.error.code})"
            for each in found.problems
        )
        if found.bad > len(found.problems) and not found.named_at_once:
            more = rows_words(found.bad - len(found.problems), "more ")
            yield f"    and {more}: --bad {found.bad} names all of them"
    if found.advice:
        yield f"  next: {escaped(found.advice)}"


def _is_as_guessed(found: Survey) -> bool:
    guess = found.guess
    told = found.format, dict(found.columns)
    return guess is not None and told == (guess.format, dict(guess.columns))


def _fit_words(found: Survey) -> str:
    """How many rows fit the format, and of those that were rendered the model: no others were."""
    fit = found.rows - found.unfit
    if found.rendered is None:
        return f"{rows_words(found.rows)}, {fit} fit"
    told = rendered_of(found)
    if not told["rows"]:
        return f"{rows_words(found.rows)}, {fit} fit the format; none was rendered for the model"
    return (
        f"{rows_words(found.rows)}, {fit} fit the format; of the {told['rows']} that "
        f"{'was' if told['rows'] == 1 else 'were'} rendered {told['fit']} fit the model"
    )


def rows_words(count: int, before: str = "") -> str:
    """1 row, 2 rows; `before`: a word that stands between."""
    return f"{count} {before}row{'' if count == 1 else 's'}"


def both_ways_words(count: int, places: Sequence[str]) -> str:
    """Answers that are preferred and not preferred, with the rows of the first."""
    return (
        f"{count} {'pairs of answers are' if count > 1 else 'pair of answers is'} preferred both "
        f"ways, or judged good and bad: nothing can be learnt from them; the first: "
        f"{escaped(places[0])} and {escaped(places[1])}"
    )


def _odd_words(found: Survey) -> Iterator[str]:
    if told := found.odd.get("begins_with_answer"):
        begin = f"{rows_words(told[0])} {'begins' if told[0] == 1 else 'begin'}"
        yield (
            f"{begin} with an answer, before which nothing is asked; the first: "
            f"{escaped(told[1])}; without a data.system, which then stands before it, prepare "
            "refuses that: put a question first, give the answer weight 0, or write "
            "data.clean: {alternation: merge}"
        )
    if told := found.odd.get("empty_questions"):
        yield empty_words(told[0], [told[1]])


def empty_words(count: int, first: Sequence[str]) -> str:
    """Rows with a question of blanks alone, and the first of them."""
    return (
        f"{rows_words(count)} {'has' if count == 1 else 'have'} an empty question, so the model "
        f"learns to answer nothing; the first: {escaped(', '.join(first))}; give the question, or "
        "leave such rows out"
    )


def special_words(count: int, first: Sequence[Mapping[str, str]]) -> str:
    """Rows with a special token of the template in a turn, and the first of them."""
    places = ", ".join(f"{escaped(each['place'])} ({escaped(each['token'])})" for each in first)
    rows = "rows have" if count > 1 else "row has"
    return (
        f"{count} {rows} a special token of the chat template in the text of a turn, which ends "
        f"or opens a turn there; the first: {places}; leave such text out of the rows"
    )


def _keys(rows: Mapping[str, int]) -> str:
    """The first keys, and in how many rows each is."""
    shown = [f"{quoted(key, 60)} in {rows_words(count)}" for key, count in rows.items()]
    if len(shown) > MAX_SHOWN:
        shown[MAX_SHOWN:] = [f"and {len(shown) - MAX_SHOWN} more keys"]
    return ", ".join(shown)


def canonical_lines(found: Survey, *, color: bool) -> Iterator[str]:
    """The first rows as turns, what is trained on marked."""
    for place, read in found.first:
        for name, side in sides_of(read):
            yield f"\n{escaped(str(place))}{f' ({name})' if name else ''}"
            if side.text is not None:
                yield marked([(side.text, True)], color=color)
            if side.tools:
                yield f"  tools: {escaped(shortened(as_json(list(side.tools))))}"
            answers = frozenset(side.answers)
            for index, turn in enumerate(side.messages[:MAX_PARTS]):
                said = turn["content"]
                if "tool_calls" in turn:
                    said += as_json(turn["tool_calls"])
                who = f"{turn['role']} {turn['name']}" if "name" in turn else turn["role"]
                part = marked([(said, index in answers)], color=color)
                yield f"  {escaped(who)}: {part}"
            if (more := len(side.messages) - MAX_PARTS) > 0:
                yield f"  … ({more} turns more: they are in the file)"
        if isinstance(read, Prompted) and read.answer is not None:
            yield f"  right answer: {printable(read.answer)}"


def seen_lines(rows: Iterable[Mapping[str, Any]], *, color: bool) -> Iterator[str]:
    """Rows as the model will see them, as the script `inspect_rows` wrote them."""
    for row in rows:
        side = f" ({row['side']})" if row.get("side") else ""
        place = f"\n{escaped(row['file'])}:{row['line']}{side}"
        if "problem" in row:
            yield f"{place}: {escaped(row['problem'])} ({row['code']})"
            continue
        if "left_out" in row:
            yield f"{place}: left out by {row['left_out']}: {escaped(row['why'])}"
            continue
        tokens = f"{row['tokens']} token{'' if row['tokens'] == 1 else 's'}"
        yield f"{place}: {tokens}, {row['trained']} trained on{_done(row)}"
        yield marked(row["parts"], color=color)
        if "answer" in row:
            yield f"right answer: {printable(row['answer'])}"


def _done(row: Mapping[str, Any]) -> str:
    """What `prepare` makes of the row before it is trained on."""
    whole = " (nothing comes before the first, so it is not predicted)" * bool(row.get("text"))
    changed = whole + (f"; changed by {', '.join(row['changed'])}" if row.get("changed") else "")
    return f"{changed}; truncated from {row['whole']} tokens" if "whole" in row else changed


def marked(parts: Parts, *, color: bool) -> str:
    """The text in one, what is trained on in colour, or between brackets."""
    begin, end = (_TRAINED, _END) if color else ("⟦", "⟧")
    shown = "".join(
        f"{begin}{printable(text)}{end}" if trained else printable(text)
        for text, trained in parts[:MAX_PARTS]
    )
    if len(parts) <= MAX_PARTS:
        return shown
    left = sum(len(text) for text, _ in parts[MAX_PARTS:])
    return f"{shown}… ({left} characters more: --format json shows them)"


def printable(text: str) -> str:
    """Lines stay lines; everything else that is no character to be seen is escaped."""
    return "\n".join(escaped(line) for line in shortened(text).split("\n"))


def shortened(text: str) -> str:
    """At most MAX_CHARACTERS; what is left out is counted."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]}… ({len(text) - MAX_CHARACTERS} characters more)"
