"""Whether a training fits machines, as text, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runner.plan.cost import Cost
from runner.plan.fit import MOST_ROWS, Fit, Way
from runner.plan.fits import Fits
from runner.plan.job import Memory
from runner.plan.machines import Hardware

FIT = 2  # version of the JSON
_HEADS = ("machine", "a training may use", "at the peak", "of", "verdict")

_Counted = tuple[Hardware, Fit, Cost]


def as_text(fits: Fits) -> str:
    """The verdicts; then what each machine would hold, where all hold the same only once."""
    lines = [f"{machine.title}: {verdict(found)}" for machine, found, _ in fits.machines]
    several = len(fits.machines) > 1
    for machines in _alike(fits):
        titles = ", ".join(machine.title for machine, _, _ in machines)
        lines += ["", f"{titles}:"] if several else []
        lines += [f"    {line}" for line in _phase_lines(machines[0][1], full=not several)]
        for machine, found, cost in machines:
            name = f"{machine.title}: " if len(machines) > 1 else ""
            lines.append(
                f"    {name}a training may use {_gb(found.budget)} of {_gb(machine.memory)}: "
                f"{machine.why_usable}"
            )
            lines += [
                f"    {name}{line}" for line in (*_largest_lines(found), *_times(found, cost))
            ]
    return "\n".join([*lines, *_disk(fits), *_notes(fits)])


def as_markdown(fits: Fits) -> str:
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
        for machine, found, _ in fits.machines
    ]
    return "\n".join([*(table(_HEADS, rows) if rows else ()), "", *_notes(fits)]).strip()


def as_data(fits: Fits) -> dict[str, Any]:
    """For machines: bytes and seconds. `changes` null: no known change makes it fit one machine;
    `together`: what makes it fit two, where one is not enough or only for another training."""
    from runner.plan.cost import as_data as cost_data

    return {
        "schema": FIT,
        "recipe": fits.recipe,
        "facts_from": fits.where,
        "unknown": fits.unknown,
        "machines": [
            {
                "machine": machine.title,
                "source": machine.source,
                "memory": machine.memory,
                "usable": found.budget,
                "fits": found.changes == (),
                "changes": None if found.changes is None else list(found.changes),
                "peak_after_changes": found.changed,
                "least_by": list(found.least),
                "together": _way(found.together),
                "peak": found.peak,
                "phases": _memories(found.phases),
                "beside": _memories(found.beside),
                "largest": [
                    {"length": length, "rows": rows} for length, rows in found.largest.items()
                ],
                "longest": found.longest,
                **{part: cost_data(cost)[part] for part in ("disk", "time")},
            }
            for machine, found, cost in fits.machines
        ],
    }


def _way(way: Way | None) -> dict[str, Any] | None:
    return None if way is None else {"changes": list(way[0]), "peak": way[1]}


def _memories(phases: Mapping[str, Memory]) -> dict[str, Any]:
    return {
        name: {
            "total": memory.total,
            "items": [{"name": item.name, "bytes": item.bytes} for item in memory.items],
        }
        for name, memory in phases.items()
    }


def verdict(found: Fit) -> str:
    """Fits, fits with what, by one machine or by two, or does not, because of what."""
    peak = found.phases[found.peak]
    if found.changes == ():
        return f"fits: about {_gb(peak.total)} at the peak, {found.peak}"
    if found.changes:
        more = f"; {_by_two(*found.together)}" if found.together else ""
        return f"fits with {' and '.join(found.changes)}: about {_gb(found.changed)} then{more}"
    if found.together:
        return f"fits {_by_two(*found.together)}"
    largest = max(peak.items, key=lambda item: item.bytes)
    return (
        f"does not fit: about {_gb(peak.total)} at the peak, {found.peak}, of which "
        f"{largest.name} {_gb(largest.bytes)}; {still(found.least, found.changed)}"
    )


def still(changes: tuple[str, ...], size: int) -> str:
    """What it takes at least, where no change of the recipe makes it fit."""
    if not changes:
        return "no change of the recipe makes it less"
    return f"even with {' and '.join(changes)} still {_gb(size)}"


def _by_two(changes: tuple[str, ...], peak: int) -> str:
    return f"two of them with {' and '.join(changes)}: about {_gb(peak)} on each"


def _alike(fits: Fits) -> list[list[_Counted]]:
    """Machines of which every phase holds the same, in the order in which they were asked for."""
    groups: list[list[_Counted]] = []
    for each in fits.machines:
        same = (group for group in groups if group[0][1].phases == each[1].phases)
        group = next(same, None)
        if group is None:
            groups.append([each])
        else:
            group.append(each)
    return groups


def _phase_lines(found: Fit, *, full: bool) -> Iterator[str]:
    """Every phase; what it holds at the peak, `full`: in all of them."""
    for name, memory in found.phases.items():
        mark = "  <- the peak" if name == found.peak else ""
        yield f"{_gb(memory.total):>9}  {name}{mark}"
        if mark or full:
            yield from (f"{'':>9}    {_gb(item.bytes):>9}  {item.name}" for item in memory.items)
    for name, memory in found.beside.items():
        yield f"{_gb(memory.total):>9}  {name}, without a GPU, in the machine's own memory"


def _largest_lines(found: Fit) -> Iterator[str]:
    if found.largest:
        most = ", ".join(
            f"{rows}{' or more' if rows == MOST_ROWS else ''} x {length}"
            for length, rows in sorted(found.largest.items())
        )
        yield f"at most in one forward pass of the training, rows x tokens: {most}"
    if found.longest:
        yield f"one row by itself may have {found.longest} tokens"


def _times(found: Fit, cost: Cost) -> Iterator[str]:
    """How long the stages take there of which that can be told."""
    from runner.report.plan_text import time_lines

    known = [each for each in cost.time if each.seconds is not None]
    if found.changes is not None:
        yield from (" ".join(line.split()) for line in time_lines(known))


def _disk(fits: Fits) -> Iterator[str]:
    """Of the whole run, which is the same everywhere."""
    for _, _, cost in fits.machines[:1]:
        copy = f", and {_gb(cost.models)} for Ollama's copy" if cost.models else ""
        yield f"On the disk: about {_gb(cost.stored)} in the store{copy}."


def _notes(fits: Fits) -> Iterator[str]:
    if fits.unknown:
        yield f"memory {fits.unknown}"
    else:
        yield f"Counted from {fits.where}; an estimate, not a measurement."


def _gb(size: int) -> str:
    from runner.execution.lacks import gb

    return gb(size)
