"""The page of a recipe and those that it is compared with: made, and told at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.plan.chain import Link
    from runner.runs.several import Job, Say
    from runner.store.store import Store


Execute = Callable[["Link", str], Path]  # as far as a stage; gives the run's folder


@dataclass(frozen=True)
class Page:
    """A comparison, its file, and whether it was made now."""

    data: Mapping[str, Any]
    file: str
    made: bool

    def as_data(self) -> dict[str, Any]:
        """For the result as JSON."""
        models = [model["name"] for model in self.data["models"]]
        return {"page": self.file, "made": self.made, "models": models}

    def show(self) -> None:
        """Its main lines."""
        from runner.report.compare_lines import compare_lines

        print("\n".join(compare_lines(self.data, self.file, made=self.made)))


def run_compared(job: Job, store: Store, execute: Execute, say: Say) -> list[Path]:
    """The runs that the recipe is compared with, made by `execute` where they are missing."""
    from runner.execution.compared import runs_beside

    if not job.compares:
        if job.recipe.compared:
            say(f"no page: --until {job.args.until} ends before the evaluation")
        return []

    def run(link: Link) -> Path:
        until = link.stages[-1].NAME
        say(f"first the recipe {link.recipe.name}, which {job.recipe.name} is compared with")
        return execute(link, until)

    return runs_beside(job.recipe, job.stages, store, run)


def page_of(folder: Path, beside: Sequence[Path], store: Store) -> Page | None:
    """The page in the run's folder; made again where it is not of these runs."""
    from runner.compare.page import PAGE
    from runner.errors import RecipeToolError
    from runner.execution.compared import make_page

    if not beside:
        return None
    try:
        data, made = make_page(folder, beside, store)
    except RecipeToolError as error:
        error.add_note(f"the run itself is done: {folder}")
        raise
    return Page(data, str(folder / PAGE), made)
