"""The memory of a run by kind and step, and beside it what the plan counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from runner.plan.phases import PHASES

KINDS = ("weights", "trained", "gradients", "optimizer", "rest", "peak", "used", "available")
_PREFIX = "memory_"
_SHOWN = 40  # steps; of more, every second or third, and so on, and the last


def timeline(events: Iterable[Mapping[str, Any]]) -> list[dict[str, int]]:
    """Of every step of the training that told it: `step` and bytes by kind, in order.

    A step that was trained twice, since the run was killed behind it, counts as it was last.
    """
    steps: dict[int, dict[str, int]] = {}
    for event in events:
        if event.get("stage") != "train" or event.get("event") != "progress":
            continue
        found = {kind: event[_PREFIX + kind] for kind in KINDS if _PREFIX + kind in event}
        if found:
            steps[event["step"]] = {"step": event["step"], **found}
    return [steps[step] for step in sorted(steps)]


def memory_report(record: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`phases`: name -> planned (bytes by item, and their sum) and measured (bytes by kind).

    `record`: run.json. `steps`: the timeline. `unplanned`: why nothing was planned, null if it was.
    """
    events = list(events)
    measured = _measured(record, events)
    planned = record.get("planned_memory", {})
    phases = {
        name: {
            "planned": {"total": sum(planned[name].values()), **planned[name]}
            if name in planned
            else None,
            "measured": measured.get(name),
        }
        for name in PHASES
        if name in planned or name in measured
    }
    unplanned = None if planned else _why_unplanned(record)
    return {"schema": 1, "phases": phases, "steps": timeline(events), "unplanned": unplanned}


def _why_unplanned(record: Mapping[str, Any]) -> str:
    if record.get("shrink"):
        return "a shrunken twin is small whatever the model; without --shrink it is counted"
    return "the model's sizes were not known when the run began; recipe lock brings them"


def _measured(
    record: Mapping[str, Any], events: list[Mapping[str, Any]]
) -> dict[str, dict[str, int]]:
    """Phase -> kind -> bytes, at most: of run.json, or of a run that goes on from its events."""
    found: dict[str, dict[str, int]] = {}
    told = [(stage["name"], stage["measures"]) for stage in record.get("stages", ())]
    told += [(each["stage"], each["values"]) for each in events if each.get("event") == "measure"]
    for stage, measures in told:
        if stage == "train":
            found |= measures.get("memory_by_phase", {})
        elif "peak_memory" in measures:
            found[stage] = {"peak": measures["peak_memory"]}
    return found


def memory_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """For people, in GB; in MB where all is less than one."""
    if not report["phases"]:
        yield "nothing is known of this run's memory: no training has begun, or an older one did"
        return
    unit, size_of = _unit(report), _sizes(report)
    yield f"{unit:<11}{'planned':>10}{'measured':>10}   planned by kind"
    for name, phase in report["phases"].items():
        planned, measured = phase["planned"] or {}, phase["measured"] or {}
        largest = sorted(planned.items(), key=lambda item: -item[1])
        kinds = ", ".join(f"{kind} {size_of(size)}" for kind, size in largest if kind != "total")
        sums = f"{size_of(planned.get('total')):>10}{size_of(measured.get('peak')):>10}"
        yield f"{name:<11}{sums}   {kinds}".rstrip()
    if report["unplanned"]:
        yield f"nothing was planned: {report['unplanned']}"
    steps = report["steps"]
    if not steps:
        return
    yield ""
    yield f"{'step':>6}" + "".join(f"{kind:>11}" for kind in KINDS) + f"  ({unit})"
    stride = -(-len(steps) // _SHOWN)
    for number, step in enumerate(steps):
        if number % stride == 0 or number == len(steps) - 1:
            yield f"{step['step']:>6}" + "".join(f"{size_of(step.get(kind)):>11}" for kind in KINDS)


def _unit(report: Mapping[str, Any]) -> str:
    """GB, or MB where no memory of the run's own is as much: what else is used may be."""
    sums = [sum_ for phase in report["phases"].values() for sum_ in _sums(phase)]
    sums += [step["peak"] for step in report["steps"] if "peak" in step]
    return "GB" if max(sums, default=0) >= 1e9 else "MB"


def _sums(phase: Mapping[str, Any]) -> Iterator[int]:
    yield from ((phase["planned"] or {}).get("total", 0), (phase["measured"] or {}).get("peak", 0))


def _sizes(report: Mapping[str, Any]) -> Callable[[int | None], str]:
    return _gb if _unit(report) == "GB" else _mb


def _mb(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.2f}"


def _gb(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e9:.2f}"


def summary_line(record: Mapping[str, Any]) -> str | None:
    """The peak of the training beside the planned one; None where it was not measured."""
    phases = memory_report(record, ())["phases"]
    trained = (phases[name] for name in ("train", "first step") if name in phases)
    phase = next((each for each in trained if each["measured"]), None)
    if phase is None:
        return None
    words = f"memory            {_gb(phase['measured']['peak'])} GB at the peak of the training"
    planned = phase["planned"]
    return words + (f", planned {_gb(planned['total'])} GB" if planned else "")
