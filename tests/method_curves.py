"""Small curves side by side as one SVG picture: each recipe's line and its control's."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

Curve = Sequence[Sequence[float]]  # (step, value) each
Panel = tuple[str, Curve, Curve]  # title, recipe, control

_COLUMNS, _WIDTH, _HEIGHT = 3, 300, 200  # of a panel, in user units
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 30, 30
_LEGEND = 24
# Told apart by dashes too, for who sees no colours or prints without them.
_STROKES = (
    ("recipe", 'stroke="#1f77b4" stroke-width="2" fill="none"'),
    ("control", 'stroke="#c44e00" stroke-width="2" stroke-dasharray="5 3" fill="none"'),
)


def curves(panels: Sequence[Panel]) -> str:
    """The picture, with a line break at its end."""
    rows = -(-len(panels) // _COLUMNS)
    width, height = _COLUMNS * _WIDTH, rows * _HEIGHT + _LEGEND
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        ' role="img" font-family="sans-serif" font-size="12">',
        "<title>What each method optimises, by step, and with labels by chance</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *_legend(),
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, _COLUMNS)
        place = f"translate({column * _WIDTH},{row * _HEIGHT + _LEGEND})"
        lines += [f'<g transform="{place}">', *_panel(*panel), "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _legend() -> list[str]:
    found = []
    for number, (name, stroke) in enumerate(_STROKES):
        x = _LEFT + 110 * number
        found.append(f'<line {stroke} x1="{x}" y1="14" x2="{x + 34}" y2="14"/>')
        found.append(f'<text x="{x + 40}" y="18">{name}</text>')
    return found


def _panel(title: str, recipe: Curve, control: Curve) -> list[str]:
    """Axes and both lines; both have the same scale."""
    values = [value for _, value in (*recipe, *control)]
    low, high, last = min(values), max(values), max(step for step, _ in (*recipe, *control))
    right, floor = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place(step: float, value: float) -> str:
        x = _LEFT + (right - _LEFT) * (step - 1) / max(last - 1, 1)
        y = floor - (floor - _TOP) * (value - low) / ((high - low) or 1.0)
        return f"{x:.1f},{y:.1f}"

    lines = [
        f'<text x="{_LEFT}" y="{_TOP - 12}">{escape(title)}</text>',
        *(
            f'<line x1="{_LEFT}" y1="{y}" x2="{right}" y2="{y}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.2f}</text>'
            for y, value in ((floor, low), (_TOP, high))
        ),
        f'<text x="{_LEFT}" y="{_HEIGHT - 10}" text-anchor="middle">1</text>',
        f'<text x="{right}" y="{_HEIGHT - 10}" text-anchor="end">step {last:.0f}</text>',
    ]
    for (_, stroke), curve in zip(_STROKES, (recipe, control), strict=True):
        points = " ".join(place(*point) for point in curve)
        lines.append(f'<polyline {stroke} points="{points}"/>')
    return lines
