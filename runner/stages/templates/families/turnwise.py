"""Layouts whose turns differ only in the name of the role that is written into them."""

from __future__ import annotations

from runner.stages.templates.families.layout import Layout, System, Turn


def turnwise(head: str, tail: str, ask: str, *, trim: bool = False, **more: bool) -> Layout:
    """Every turn as `head` (with `{role}` in it), content, `tail`; system turns like the others."""

    def turn(role: str) -> Turn:
        return Turn(head.format(role=role), tail, trim)

    system = System("front", turn("system"), late=turn("system"))
    return Layout(turn("user"), turn("assistant"), ask, system, **more)
