"""A crosscheck as one HTML page: no script, nothing that is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from runner.report.crosscheck_text import (
    FIGURES,
    comparison_lines,
    figures,
    own_words,
    recipe_words,
    telling,
    verdict,
)
from runner.report.html_page import page, table

# Distinguished by colour, by width and by dashes, since equal curves lie on each other.
STROKES = (
    ("#1f77b4", 7, ""),
    ("#ff7f0e", 4.5, ""),
    ("#2ca02c", 2.5, "8 6"),
    ("#000000", 1.2, "2 5"),
)
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 900, 360, 70, 45, 15, 15


def as_html(data: Mapping[str, Any]) -> str:
    """The whole page; screenshots are read from where `data` says they lie, and put into it."""
    kind = "equal" if data["equal"] else "different"
    name = escape(data["recipe"])
    parts = [
        f"<h1>{name}: one recipe, {len(data['ways'])} ways to train it</h1>",
        f'<p class="{kind}"><strong>{escape(verdict(data))}.</strong></p>',
        f"<p>Platform: <code>{escape(data['platform'])}</code></p>",
        "<h2>Loss</h2>",
        loss_curves(data["ways"]),
        "<h2>Measured</h2>",
        table(
            ("way", "what it is", *FIGURES, "adapter sha256"),
            [(way["name"], way["title"], *figures(way), _digests(way)) for way in data["ways"]],
        ),
        "<h2>Equal?</h2>",
        *(
            f"<pre>{escape(chr(10).join(comparison_lines(found)))}</pre>"
            for found in data["comparisons"]
        ),
        "<h2>What each would have done by itself</h2>",
        table(
            ("setting", "all ways used", *data["columns"].values()),
            [
                (row["setting"], recipe_words(row), *own_words(row, data["columns"]))
                for row in telling(data)
            ],
        ),
        *_pictures(data["ways"]),
    ]
    return page(f"{data['recipe']}: crosscheck", parts)


def loss_curves(ways: Sequence[Mapping[str, Any]]) -> str:
    """An SVG picture of the loss of every step, one line a way, laid over each other."""
    traces = [[(point["step"], point["loss"]) for point in way["trace"]] for way in ways]
    points = [point for trace in traces for point in trace] or [(0, 0.0)]
    steps, losses = [point[0] for point in points], [point[1] for point in points]
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0
    last = max(steps)

    def place(step: float, loss: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step - 1) / max(last - 1, 1)
        y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - loss) / span
        return f"{x:.1f},{y:.1f}"

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
        ' role="img" font-family="sans-serif" font-size="13">',
        "<title>Loss by step</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        *_axes(low, span, last),
    ]
    for number, (way, trace) in enumerate(zip(ways, traces, strict=True)):
        colour, width, dashes = STROKES[number % len(STROKES)]
        drawn = f'stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dashes}" fill="none"'
        lines.append(f'<polyline {drawn} points="{" ".join(place(*each) for each in trace)}"/>')
        x, y = _WIDTH - 230, _TOP + 20 + 20 * number
        lines.append(f'<line {drawn} x1="{x}" y1="{y}" x2="{x + 40}" y2="{y}"/>')
        lines.append(f'<text x="{x + 50}" y="{y + 4}">{escape(way["name"])}</text>')
    return "\n".join([*lines, "</svg>"])


def _axes(low: float, span: float, last: int) -> list[str]:
    floor = _HEIGHT - _BOTTOM
    lines = []
    for part in range(5):
        y = floor - (floor - _TOP) * part / 4
        lines.append(
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{low + span * part / 4:.3f}'
            "</text>"
        )
    for step in sorted({1, (last + 1) // 2, last}):
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step - 1) / max(last - 1, 1)
        lines.append(f'<text x="{x:.1f}" y="{floor + 20}" text-anchor="middle">{step}</text>')
    lines.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 6}" text-anchor="middle">step</text>')
    return lines


def _digests(way: Mapping[str, Any]) -> str:
    return " ".join(digest[:16] for digest in way["weights"].values())


def _pictures(ways: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [Path(path) for way in ways for path in way["screenshots"]]
    lines = ["<h2>The web UI</h2>"] if found else []
    for picture in found:
        title = f"LLaMA Board: {picture.stem.split('-', 1)[-1]}"
        held = base64.b64encode(picture.read_bytes()).decode()
        lines.append(
            f"<figure><figcaption>{title}</figcaption>"
            f'<img alt="{title}" src="data:image/png;base64,{held}"></figure>'
        )
    return lines
