"""Two runs side by side: for every stage whether its inputs and its outputs are equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.plan.plan import list_changes
from runner.stages import ORDER
from runner.verify.differences import Difference, first_difference

if TYPE_CHECKING:
    from runner.store.store import Store
    from runner.verify.run import Run


@dataclass(frozen=True, slots=True)
class StageComparison:
    """`inputs`: what its key was made of and differs; `difference`: the first in its outputs."""

    stage: str
    inputs: tuple[str, ...]
    difference: Difference | None
    only_in: str = ""  # "first" or "second" when the other run has no such stage

    @property
    def equal(self) -> bool:
        """Are the outputs the same, byte for byte? Other inputs may give equal bytes."""
        return self.difference is None and not self.only_in


def compare_runs(first: Run, second: Run, store: Store) -> list[StageComparison]:
    """One comparison a stage, in the order of the chain."""
    return [
        _compare(first, second, stage, store)
        for stage in ORDER
        if stage in first.stages or stage in second.stages
    ]


def _compare(first: Run, second: Run, stage: str, store: Store) -> StageComparison:
    if stage not in first.stages or stage not in second.stages:
        which = "first" if stage in first.stages else "second"
        return StageComparison(stage, (f"only the {which} run has this stage",), None, which)
    before, after = (dict(run.stage(stage).get("material", {})) for run in (first, second))
    found = first_difference(first, second, [stage], store, store)
    return StageComparison(stage, tuple(list_changes(before, after)), found)
