"""Prove a run at one of three levels, each stronger: `files`, `export`, `train`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.plan.keys import PRIVATE
from runner.verify.files import Checked, verify_files
from runner.verify.rederive import Rederived, rederive

if TYPE_CHECKING:
    from runner.execution.display import OpenDisplay
    from runner.store.store import Store
    from runner.verify.run import Run

LEVELS = ("files", "export", "train")


@dataclass(frozen=True)
class Proof:
    """What was found. `again` is None when nothing was derived: not asked for, or files changed."""

    run: Run
    level: str
    checked: list[Checked]
    again: Rederived | None
    remedy: str = "run the recipe again; what is damaged is made anew"

    @property
    def unproved(self) -> list[str]:
        """Stages of the level whose result is this run's own: nobody claims its bytes."""
        if self.level != "train":
            return []
        stages = self.run.record["stages"]
        return [stage["name"] for stage in stages if PRIVATE in stage.get("material", {})]

    @property
    def holds(self) -> bool:
        """Is everything as recorded, and derived again to the same bytes?"""
        intact = not any(item.problem for item in self.checked)
        return (
            intact and not self.unproved and (self.again is None or self.again.difference is None)
        )


def prove(
    run: Run,
    level: str,
    store: Store,
    cache: Path,
    *,
    on_file: Callable[[int, int], None],
    open_display: OpenDisplay,
) -> Proof:
    """Hash the run's files again and, when they are intact, derive what the level asks for."""
    checked = verify_files(run, store, on_file)
    proof = Proof(run, level, checked, None)
    if level == "files" or proof.unproved or any(item.problem for item in checked):
        return proof
    again = rederive(run, level, store, cache, open_display=open_display)
    return Proof(run, level, checked, again)
