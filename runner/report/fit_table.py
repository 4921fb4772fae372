"""Whether a training fits machines, as text, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.plan.fit import Fit
from runner.plan.machines import Hardware

FIT = 1  # version of the JSON
_HEADS = ("machine", "a training may use", "at the peak", "of", "verdict")

Fits = Sequence[tuple[Hardware, Fit]]


def as_text(fits: Fits, where: str) -> str:
    """A block a machine: the verdict, what fits at most, and the phases by what they hold."""
    lines = []
    for machine, found in fits:
        lines.append(f"{machine.title}: {verdict(found)}")
        lines.append(
            f"    a training may use {_gb(found.budget)} of {_gb(machine.memory)}: "
            f"{machine.why_usable}"
        )
        lines += [f"    {line}" for line in _phase_lines(found)]
        lines += [f"    {line}" for line in _largest_lines(found)]
    return "\n".join([*lines, *_notes(where)])


def as_markdown(fits: Fits, where: str) -> str:
    """One table, a machine a row."""
    from runner.report.markdown import table

    rows = [
        (
            machine.title,
            _gb(found.budget),
            _gb(found.phases[found.peak].total),
            found.peak,
            verdict(found),
        )
        for machine, found in fits
    ]
    return "\n".join([*table(_HEADS, rows), "", *_notes(where)])


def as_data(fits: Fits, where: str) -> dict[str, Any]:
    """For machines: bytes. `changes` null: no known change makes it fit."""
    return {
        "schema": FIT,
        "facts_from": where,
        "machines": [
            {
                "machine": machine.title,
                "source": machine.source,
                "memory": machine.memory,
                "usable": found.budget,
                "fits": found.changes == (),
                "changes": None if found.changes is None else list(found.changes),
                "peak_after_changes": found.changed,
                "peak": found.peak,
                "phases": {
                    name: {
                        "total": memory.total,
                        "items": [{"name": i.name, "bytes": i.bytes} for i in memory.items],
                    }
                    for name, memory in found.phases.items()
                },
                "largest": [
                    {"length": length, "rows": rows} for length, rows in found.largest.items()
                ],
            }
            for machine, found in fits
        ],
    }


def verdict(found: Fit) -> str:
    """Fits, fits with what, or does not, because of what."""
    peak = found.phases[found.peak]
    if found.changes == ():
        return f"fits: about {_gb(peak.total)} at the peak, {found.peak}"
    if found.changes:
        return f"fits with {' and '.join(found.changes)}: about {_gb(found.changed)} then"
    largest = max(peak.items, key=lambda item: item.bytes)
    return (
        f"does not fit: about {_gb(peak.total)} at the peak, {found.peak}, of which "
        f"{largest.name} {_gb(largest.bytes)}; after all changes still {_gb(found.changed)}"
    )


def _phase_lines(found: Fit) -> Iterator[str]:
    for name, memory in found.phases.items():
        mark = "  <- the peak" if name == found.peak else ""
        yield f"{_gb(memory.total):>9}  {name}{mark}"
        if mark:
            yield from (f"{'':>9}    {_gb(item.bytes):>9}  {item.name}" for item in memory.items)


def _largest_lines(found: Fit) -> Iterator[str]:
    if found.largest:
        most = ", ".join(f"{rows} x {length}" for length, rows in _by_length(found.largest))
        yield f"at most in one forward pass of the training, rows x tokens: {most}"


def _by_length(largest: Mapping[int, int]) -> list[tuple[int, int]]:
    return sorted(largest.items())


def _notes(where: str) -> list[str]:
    return [f"Counted from {where}; an estimate, not a measurement."]


def _gb(size: int) -> str:
    from runner.execution.lacks import gb

    return gb(size)
