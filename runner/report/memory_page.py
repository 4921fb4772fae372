"""What works on a Spark and not on an RTX 4090, counted (docs/course/10.3-memory.md).

usage: python -m runner.report.memory_page > docs/course/10.3-memory.md, in the project's root.

Every number is of runner/plan: no weight, no GPU and no lock is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from runner.plan.cost import Time, cost_of, known_shapes
from runner.plan.fit import Fit, fit
from runner.plan.job import Job, Memory
from runner.plan.machines import Hardware, hardware
from runner.plan.plan import Action, Step
from runner.plan.published_models import published_facts
from runner.plan.shapes import Shapes
from runner.plan.trained import trained_parameters
from runner.recipe.load import load_recipe
from runner.report.markdown import table
from runner.report.plan_text import in_words

SPARK, CARD = "dgx-spark", "rtx-4090"
COURSE = "recipes/course"
LARGE = f"{COURSE}/10.3-70b-qlora.yaml"
LENGTHS = (2048, 4096, 8192)

_HEAD = """# What works on a Spark that would not on an RTX 4090

Written by `python -m runner.report.memory_page` from the plan's arithmetic, and held to it by a
test. Nothing here was measured on either machine. `recipe plan RECIPE --hardware
dgx-spark,rtx-4090` counts any recipe of yours, `recipe logs RUN --memory` sets a run's measured
memory beside its plan."""

_MEANING = """A card's memory is its own: what does not fit ends with an error, and nothing else
suffers. The Spark's is one for processor and GPU: it holds more, and the system, the page cache and
every other process take from the same. So files are read tensor by tensor there and the page cache
is given back ([how models are loaded](../hardware.md#loading-a-model)), and a load that would not
fit is refused beforehand. The card reads its memory nearly four times as fast (1008 against
273 GB/s, by the data sheets): what fits both is faster there."""


@dataclass(frozen=True, slots=True)
class _Counted:
    """One recipe on both machines."""

    path: str
    shapes: Shapes
    job: Job
    spark: Fit
    card: Fit
    time: Time  # of the training, on the Spark

    @property
    def name(self) -> str:
        return Path(self.path).stem


def page(root: Path) -> str:
    """The whole page. `root`: of the project, whose recipes are counted."""
    spark, card = hardware(SPARK), hardware(CARD)
    others = sorted((root / COURSE).glob("10.2-*.yaml"))
    paths = [LARGE, *(f"{COURSE}/{path.name}" for path in others)]
    counted = [_count(root, path, spark, card) for path in paths]
    parts = [
        _HEAD,
        "## Which recipes fit",
        "\n".join(_overview(counted, spark)),
        _sorted_out(counted),
        "## The 70B, by phase and kind",
        "\n".join(_by_kind(counted[0], card)),
        "## How far rows may grow on the Spark",
        "\n".join(_lengths(counted, spark, card)),
        "## What the difference means",
        _MEANING,
    ]
    return "\n\n".join(parts) + "\n"


def _count(root: Path, path: str, spark: Hardware, card: Hardware) -> _Counted:
    recipe = load_recipe(root / path)
    facts = published_facts(recipe)
    shapes, unknown = known_shapes(recipe, facts)
    assert shapes is not None, unknown
    job = Job.of(recipe)
    training = [Step("train", Action.RUN, "")]
    (time,) = cost_of(recipe, training, facts, root / "no-runs-there", spark.machine).time
    return _Counted(
        path, shapes, job, fit(shapes, job, spark.budget), fit(shapes, job, card.budget), time
    )


def _overview(counted: Iterable[_Counted], spark: Hardware) -> Iterator[str]:
    rows = [
        (
            f"[{each.name}](../../{each.path})",
            f"{each.shapes.parameters / 1e9:.1f}",
            f"{trained_parameters(each.shapes, each.job.adapter) / 1e6:,.0f}",
            _peak(each.spark),
            _verdict(each.spark),
            _verdict(each.card),
            "not known" if each.time.seconds is None else in_words(each.time.seconds),
        )
        for each in counted
    ]
    heads = ("recipe", "10^9 weights", "10^6 that learn", "at the peak, GB", "Spark", "RTX 4090")
    yield from table((*heads, "training on a Spark"), rows)
    yield ""
    rate = f"at an assumed {spark.flops:.0e} FLOP/s"
    yield f"The time is that of the training alone, {rate}, its tokens estimated from"
    yield "the characters of the rows. Loading, evaluation and the rest come on top."


def _peak(found: Fit) -> str:
    return f"{found.phases[found.peak].total / 1e9:.1f} ({found.peak})"


def _verdict(found: Fit) -> str:
    if found.changes == ():
        return f"fits, {(found.budget - found.phases[found.peak].total) / 1e9:.1f} GB left"
    if found.changes:
        return f"only with `{'` and `'.join(found.changes)}`"
    if found.together:
        return f"two with `{'` and `'.join(found.together[0])}`"
    changes = f"`{'` and `'.join(found.least)}`" if found.least else "any change"
    return f"no: with {changes} {found.changed / 1e9:.1f} of {found.budget / 1e9:.1f} GB"


def _sorted_out(counted: Iterable[_Counted]) -> str:
    """Which recipes are the answer, in words."""
    counted = list(counted)
    fitting = [each for each in counted if each.spark.changes == () and each.card.changes != ()]
    alone = [each.name for each in fitting if _is_another(each.card)]
    changed = [each.name for each in fitting if not _is_another(each.card)]
    both = [each.name for each in counted if each.spark.changes == each.card.changes == ()]
    lines = (
        ("On a Spark alone, on the card not at all or only by training an adapter", alone),
        ("On a Spark as they are, on the card with changes alone", changed),
        ("On both", both),
    )
    return "\n".join(f"- {words}: {', '.join(names) or 'none'}." for words, names in lines)


def _is_another(found: Fit) -> bool:
    """Does it fit in no known way, or only as an adapter where every weight was to learn?"""
    return found.changes is None or any(
        change.startswith("train.adapter") for change in found.changes
    )


def _by_kind(large: _Counted, card: Hardware) -> Iterator[str]:
    """Every item of every phase; what alone is more than the card has is marked."""
    phases = large.spark.phases
    kinds = list(dict.fromkeys(item.name for memory in phases.values() for item in memory.items))
    rows = [
        (
            kind + _mark(kind, phases.values(), card),
            *(_of(memory, kind) for memory in phases.values()),
        )
        for kind in kinds
    ]
    rows.append(("all", *(f"{memory.total / 1e9:.1f}" for memory in phases.values())))
    yield from table(("GB", *phases), rows)
    yield ""
    yield f"\\*: by itself more than the {card.budget / 1e9:.1f} GB that a training may use there."


def _mark(kind: str, phases: Iterable[Memory], card: Hardware) -> str:
    sizes = [item.bytes for memory in phases for item in memory.items if item.name == kind]
    return " \\*" if max(sizes) > card.budget else ""


def _of(memory: Memory, kind: str) -> str:
    size = sum(item.bytes for item in memory.items if item.name == kind)
    return f"{size / 1e9:.2f}" if size else ""


def _lengths(counted: Iterable[_Counted], spark: Hardware, card: Hardware) -> Iterator[str]:
    """Peak with one row of each length, with checkpointing, on which of the machines it fits."""
    rows = []
    for each in counted:
        cells = []
        for length in LENGTHS:
            job = replace(
                each.job, length=length, batch=each.job.sides, gradient_checkpointing=True
            )
            found = fit(each.shapes, job, spark.budget)
            peak = found.phases[found.peak].total
            cells.append(f"{peak / 1e9:.1f} {_where(peak, spark, card)}")
        rows.append((each.name, *cells))
    yield from table(("one row of, tokens", *map(str, LENGTHS)), rows)
    yield ""
    yield "GB at the peak, with `train.gradient_checkpointing: true`, and where that fits."


def _where(peak: int, spark: Hardware, card: Hardware) -> str:
    if peak <= card.budget:
        return "both"
    return "Spark" if peak <= spark.budget else "neither"


if __name__ == "__main__":
    print(page(Path.cwd()), end="")
