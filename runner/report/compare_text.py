"""A comparison of runs on a terminal: values, differences with intervals, what is not the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from runner.compare.result import exponential
from runner.report.canary_line import duration
from runner.report.printable import escaped

EXAMPLES_SHOWN = 2  # of a comparison; the page has all
_CUT = 140


def print_comparison(data: Mapping[str, Any], page: str | None, stream: TextIO) -> None:
    """For a person. `page`: where the HTML page was written."""
    from rich.console import Console

    console = Console(
        file=stream, highlight=False, width=None if stream.isatty() else 120, soft_wrap=False
    )
    console.print(_values(data, "Side by side", value_rows(data)))
    if words := rows_words(data):
        console.print(words, markup=False)
    if rows := cost_rows(data):
        console.print(_values(data, "What they took", rows))
    for found in data["comparisons"]:
        console.print(_differences(data, found))
        for line in (
            *through_lines(found),
            *price_lines(data, found),
            *held_lines(found),
            *_example_lines(data, found),
        ):
            console.print(line, markup=False)
    if "judge" in data:
        from runner.report.judge_text import judge_lines

        for line in judge_lines(data):
            console.print(line, markup=False)
    for note in data["notes"]:
        console.print(f"warning[{note['code']}]: {note['message']}", markup=False)
        console.print(f"  hint: {note['hint']}", markup=False)
    console.print(method_words(data), markup=False)
    if page:
        console.print(f"The page: {page}", markup=False, soft_wrap=True)


def titles(data: Mapping[str, Any]) -> dict[str, str]:
    """measure -> its title."""
    return {each["name"]: each["title"] for each in data["measures"]}


def value_rows(data: Mapping[str, Any]) -> list[list[str]]:
    """Title, then a cell a model; of the measures that some model has.

    Where not all were measured on the same, a letter in each cell says on which rows it was.
    """
    rows = []
    for name, title in titles(data).items():
        cells = [model["values"].get(name) for model in data["models"]]
        if not any(cells):
            continue
        marks = _letters(data["models"], name)
        rows.append([title, *map(_joined, map(value_words, cells), marks)])
        if name == "loss":
            rows.append(["perplexity", *map(_joined, map(_perplexity_words, cells), marks)])
    return rows


def rows_words(data: Mapping[str, Any]) -> str:
    """What the letters of cells mean; "" where there are none."""
    if not any(any(_letters(data["models"], name)) for name in titles(data)):
        return ""
    return (
        "rows A, rows B, ...: values of one line with different letters are of different held-out "
        "rows or questions, or not known to be of the same, and say nothing of who is better."
    )


def _letters(models: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """Of each model, the letter of the examples behind its value; "" where all have the same."""
    sets = [
        (each.get("digest") or f"unknown, of {model['run']}") if each else None
        for model in models
        for each in (model["values"].get(name),)
    ]
    order = [each for each in dict.fromkeys(sets) if each is not None]
    if len(order) < 2:
        return [""] * len(sets)
    return ["" if each is None else f"rows {_letter(order.index(each))}" for each in sets]


def _letter(number: int) -> str:
    """A to Z, then A2 to Z2 and so on."""
    turn, place = divmod(number, 26)
    return chr(ord("A") + place) + (str(turn + 1) if turn else "")


def _joined(words: str, mark: str) -> str:
    return f"{words}, {mark}" if mark else words


def cost_rows(data: Mapping[str, Any]) -> list[list[str]]:
    """What each model took: name, then a cell a model; of what is known of some model."""
    costs = [model["cost"] for model in data["models"]]
    rows = [
        ["parameters", *(_parameter_words(each["parameters"]) for each in costs)],
        ["training took", *map(_time_words, costs)],
        ["training, memory at its peak", *(_gigabytes(each["train_memory"]) for each in costs)],
        ["measuring, memory at its peak", *(_gigabytes(each["answer_memory"]) for each in costs)],
        ["on", *(each["hardware"] or "-" for each in costs)],
    ]
    return [row for row in rows if any(cell != "-" for cell in row[1:])]


def price_lines(data: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What a hundredth of each measure cost in which the second model is better."""
    names = titles(data)
    return [
        f"  0.01 of {names[each['measure']]}: {_price(each['seconds'])} of training "
        f"[{_price(each['low'])}, {_price(each['high'])}]"
        for each in found["prices"]
    ]


def _price(seconds: float) -> str:
    """No training is free, however little a hundredth of a measure takes."""
    return duration(seconds) if seconds >= 0.5 else "less than 1 s"


def through_lines(found: Mapping[str, Any]) -> list[str]:
    """Where one of the two models was measured as the base of the other, in words."""
    return [
        f"  what was not measured in the one's own run is of: {name}" for name in found["through"]
    ]


def _parameter_words(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def _time_words(cost: Mapping[str, Any]) -> str:
    if cost["train_seconds"] is None:
        return "-"
    return ("at least " if cost["at_least"] else "") + duration(cost["train_seconds"])


def _gigabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e9:.1f} GB"


def value_words(found: Mapping[str, Any] | None) -> str:
    """`0.812 [0.71, 0.9]`, the mean with its interval."""
    if found is None:
        return "-"
    return f"{number(found['value'])} {interval_words(found)}".strip()


def interval_words(found: Mapping[str, Any]) -> str:
    """In brackets; `of 1` where there is none for want of examples."""
    if found["low"] is None:
        return "" if found["count"] is None else f"(of {found['count']})"
    return f"[{number(found['low'])}, {number(found['high'])}]"


def difference_rows(titles_of: Mapping[str, str], found: Mapping[str, Any]) -> list[list[str]]:
    """Title, difference, interval, examples, verdict. No difference without its interval.

    Of a loss a second row: by which factor the perplexity differs.
    """
    title, known = titles_of[found["measure"]], found["estimate"]
    if known is None:
        return [[title, "-", "-", "0", found["verdict"]]]
    count = str(known["count"])
    if known["low"] is None:
        return [[title, "-", "-", count, found["verdict"]]]
    words = found["verdict"] + alike_words(known)
    change = f"{known['value']:+.4g}" if known["value"] else "0"
    rows = [[title, change, interval_words(known), count, words]]
    ratio = found.get("perplexity_ratio")
    if ratio is not None and None not in ratio.values():
        factors = f"[{number(ratio['low'])}, {number(ratio['high'])}]"
        rows.append(["perplexity, as a factor", number(ratio["value"]), factors, count, words])
    return rows


def alike_words(found: Mapping[str, Any]) -> str:
    """What may still be when every example differs by the same: the rule of three."""
    if not found["alike"] or found["count"] < 2:
        return ""
    return f"; all alike: up to {min(1.0, 3 / found['count']):.0%} of others may not be"


def held_lines(found: Mapping[str, Any]) -> list[str]:
    """kind by kind, by digest, whether both were measured on the same."""
    return [
        f"  {each['kind']:<12} {_same(each)}"
        for each in sorted(found["held"], key=lambda each: not each["same"])
    ]


def _same(each: Mapping[str, Any]) -> str:
    sides = [each[name] for name in ("first", "second")]
    if each["same"]:
        return f"the same {sides[0]['count']} (sha256 {sides[0]['digest'][:12]})"
    words = [
        "none" if side is None else f"{side['count']} (sha256 {side['digest'][:12]})"
        for side in sides
    ]
    return f"NOT the same: {words[0]} and {words[1]}, {each['common']} in common"


def method_words(data: Mapping[str, Any]) -> str:
    """How the intervals were made."""
    return (
        f"In brackets: 95% intervals, {data['interval']['method']}, {data['interval']['drawn']} "
        f"times; fewer than {data['few']} examples are too few to say more."
    )


def number(value: float | None) -> str:
    """Four digits that count."""
    return "-" if value is None else f"{value:.4g}"


def one_line(text: str, limit: int = _CUT) -> str:
    """For a person to look at."""
    flat = escaped(" ".join(text.split()))
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _perplexity_words(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    ends = {name: exponential(found[name]) for name in ("value", "low", "high")}
    return value_words({**ends, "count": found["count"]})


def _values(data: Mapping[str, Any], title: str, rows: Sequence[Sequence[str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for name in ("", *(model["name"] for model in data["models"])):
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _differences(data: Mapping[str, Any], found: Mapping[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{found['second']} minus {found['first']}")
    table = Table(title=title, title_justify="left")
    for name in ("", "difference", "95%", "examples", "so it is"):
        table.add_column(name, overflow="fold")
    for each in found["differences"]:
        for row in difference_rows(titles(data), each):
            table.add_row(*map(Text, row))
    return table


def _example_lines(data: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """The examples that differ most, of the first measure in which some do."""
    telling = next((each for each in found["differences"] if each["most"]), None)
    if telling is None:
        return
    yield f"  most different in {titles(data)[telling['measure']]}:"
    for each in telling["most"][:EXAMPLES_SHOWN]:
        yield f"    {one_line(each.get('prompt', ''))}"
        for side in ("first", "second"):
            said = each[f"{side}_answer"]
            words = "" if said is None else f"  {one_line(said)}"
            yield f"      {found[side]}: {number(each[side])}{words}"
