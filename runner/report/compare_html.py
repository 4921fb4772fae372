"""A comparison of runs as one HTML page: no script, nothing that is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from runner.report.compare_text import (
    cost_rows,
    difference_rows,
    held_lines,
    method_words,
    number,
    price_lines,
    rows_words,
    through_lines,
    titles,
    value_rows,
)
from runner.report.html_page import page, table, table_of_html
from runner.report.judge_text import judge_rows

_WIDTH, _HEIGHT = 220, 22
_STYLE = """
details { margin: .4rem 0; } summary { cursor: pointer; }
td svg { border: 0; vertical-align: middle; } td { white-space: pre-wrap; }
"""
_COLOURS = {"better": "equal", "worse": "different"}  # of a verdict's first word


def as_html(data: Mapping[str, Any]) -> str:
    """The whole page."""
    tuned = [model["name"] for model in data["models"] if model["side"] == "tuned"]
    title = f"{', '.join(tuned)}: quality side by side"
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(
            f'<p class="different">{escape(note["code"])}: {escape(note["message"])}. '
            f"{escape(note['hint'])}.</p>"
            for note in data["notes"]
        ),
        "<h2>Values</h2>",
        table(("", *(model["name"] for model in data["models"])), value_rows(data)),
        *(f"<p>{escape(words)}</p>" for words in [rows_words(data)] if words),
        f"<p>{escape(method_words(data))}</p>",
        *_costs(data),
        *(_comparison(data, found) for found in data["comparisons"]),
        *_judged(data),
        "<h2>Models</h2>",
        table(
            ("name", "run", "base sha256", "platform"),
            [
                (model["name"], model["run"], model["base"][:16], model["platform"])
                for model in data["models"]
            ],
        ),
    ]
    return page(title, parts, _STYLE)


def _costs(data: Mapping[str, Any]) -> Iterator[str]:
    if rows := cost_rows(data):
        yield "<h2>What they took</h2>"
        yield table(("", *(model["name"] for model in data["models"])), rows)


def _prices(data: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    if lines := price_lines(data, found):
        yield "<h3>What it cost</h3>"
        yield f"<pre>{escape(chr(10).join(lines))}</pre>"


def _comparison(data: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    names = titles(data)
    rows = []
    for each in found["differences"]:
        for number_of_row, row in enumerate(difference_rows(names, each)):
            *cells, verdict = map(escape, row)
            picture = interval_picture(each["estimate"]) if number_of_row == 0 else ""
            rows.append([*cells, picture, _marked(verdict)])
    head = ("", "difference", "95%", "examples", "around 0", "so it is")
    return "\n".join(
        [
            f"<h2>{escape(found['second'])} minus {escape(found['first'])}</h2>",
            table_of_html(head, rows),
            *(f"<p>{escape(line.strip())}.</p>" for line in through_lines(found)),
            *_prices(data, found),
            "<h3>The same held-out rows and questions?</h3>",
            f"<pre>{escape(chr(10).join(held_lines(found)))}</pre>",
            "<h3>Where they differ most</h3>",
            *(_most(names[each["measure"]], found, each) for each in found["differences"]),
        ]
    )


def _judged(data: Mapping[str, Any]) -> Iterator[str]:
    """What a judge said of each pair of models, where one was asked."""
    if "judge" not in data:
        return
    judge = data["judge"]
    yield f"<h2>Judged by {escape(judge['judge'])}</h2>"
    yield f"<p>Each prompt in both orders; all that was asked is in {escape(judge['log'])}.</p>"
    for found in judge["comparisons"]:
        first, second = found["first"], found["second"]
        yield f"<h3>{escape(second)} against {escape(first)}</h3>"
        yield table(("", ""), list(judge_rows(found)))
        if found["most"]:
            head = ("asked", "better", f"{first} said", f"{second} said", "why")
            rows = [
                (
                    each["prompt"],
                    found[each["won"]],
                    each["first_answer"],
                    each["second_answer"],
                    "\n".join(each["reasons"]),
                )
                for each in found["most"]
            ]
            summary = "<summary>Decided answers that differ most</summary>"
            yield f"<details>{summary}{table(head, rows)}</details>"


def _marked(verdict: str) -> str:
    kind = next((each for word, each in _COLOURS.items() if verdict.startswith(word)), "")
    return f'<span class="{kind}">{verdict}</span>' if kind else verdict


def interval_picture(found: Mapping[str, Any] | None) -> str:
    """The interval as a line, the difference as a dot on it, and where 0 is; "" without one."""
    if found is None or found["low"] is None:
        return ""
    reach = max(abs(found["low"]), abs(found["high"]), abs(found["value"])) or 1.0

    def place(value: float) -> str:
        return f"{_WIDTH / 2 + value / reach * (_WIDTH / 2 - 6):.1f}"

    middle = _HEIGHT // 2
    words = f"{number(found['value'])}, from {number(found['low'])} to {number(found['high'])}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" role="img"><title>{escape(words)}</title>'
        f'<line x1="{_WIDTH / 2}" y1="2" x2="{_WIDTH / 2}" y2="{_HEIGHT - 2}" stroke="#888" '
        'stroke-dasharray="3 3"/>'
        f'<line x1="{place(found["low"])}" y1="{middle}" x2="{place(found["high"])}" y2="{middle}" '
        'stroke="#1f77b4" stroke-width="3"/>'
        f'<circle cx="{place(found["value"])}" cy="{middle}" r="4" fill="#1f77b4"/></svg>'
    )


def _most(title: str, found: Mapping[str, Any], each: Mapping[str, Any]) -> str:
    if not each["most"]:
        return ""
    answered = any(one["first_answer"] is not None for one in each["most"])
    sides = (found["first"], found["second"])
    head = ["asked", "expected", *sides, *(f"{side} said" for side in sides if answered)]
    rows = [
        [
            one.get("prompt", ""),
            one.get("expected", ""),
            number(one["first"]),
            number(one["second"]),
            *((one["first_answer"] or "", one["second_answer"] or "") if answered else ()),
        ]
        for one in each["most"]
    ]
    return f"<details><summary>{escape(title)}</summary>{table(head, rows)}</details>"
