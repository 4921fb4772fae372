"""How far a run is, from its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def at_work(events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The stage at work with its last step, or what it waits for (`for`, and `holder` where that is
    another run's); None where the events tell of none.
    """
    found: dict[str, Any] | None = None
    for event in events:
        if event["event"] == "stage":
            found = {"stage": event["stage"]} if event["state"] == "start" else None
        elif event["event"] == "waiting":
            found = {name: event[name] for name in ("stage", "for", "holder") if name in event}
        elif event["event"] == "progress":
            steps = {name: value for name, value in event.items() if name not in ("event", "time")}
            found = {**(found or {}), **steps}
    return found


def stage_at_work(events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The event with which the stage at work began; None between stages, and for one that waits."""
    found = [event for event in events if event["event"] in ("stage", "waiting")]
    return found[-1] if found and found[-1].get("state") == "start" else None


def waits_for(events: Sequence[dict[str, Any]]) -> str:
    """What the run waits for, in words; "" where it waits for nothing."""
    return _waited(at_work(events) or {})


def _waited(found: dict[str, Any]) -> str:
    held = f", held by {found['holder']}" if "holder" in found else ""
    return f"{found['for']}{held}" if "for" in found else ""


def in_words(found: dict[str, Any] | None) -> str:
    """Stage and step in a line; "" for none.

    >>> in_words({"stage": "train", "step": 3, "total": 40, "loss": 1.5, "eta": 90.0})
    'train 3/40  loss 1.500  90 s left'
    >>> in_words({"stage": "train", "for": "the device", "holder": "process 7 (recipe run x.yaml)"})
    'train: waiting for the device, held by process 7 (recipe run x.yaml)'
    >>> in_words({"stage": "train", "for": "1 more; on each: recipe join x.yaml 10.0.0.1:29400"})
    'train: waiting for 1 more; on each: recipe join x.yaml 10.0.0.1:29400'
    >>> in_words(None)
    ''
    """
    from runner.report.progress import amount, step_details

    if found is None:
        return ""
    if waited := _waited(found):
        return f"{found['stage']}: waiting for {waited}"
    if "total" not in found:
        return str(found["stage"])
    return f"{found['stage']} {amount(found)}  {step_details(found)}".strip()


def stages_of(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every stage that began, in order, with its last state and how long it took."""
    stages: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "stage":
            seconds = {"seconds": event["seconds"]} if "seconds" in event else {}
            stages[event["stage"]] = {"name": event["stage"], "state": event["state"], **seconds}
    return list(stages.values())
