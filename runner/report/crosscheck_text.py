"""A crosscheck on a terminal: one table of the ways, one of what each would have done by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from runner.report.printable import escaped


def print_crosscheck(data: Mapping[str, Any], folder: str, stream: TextIO) -> None:
    """For a person."""
    from rich.console import Console

    console = Console(
        file=stream, highlight=False, width=None if stream.isatty() else 120, soft_wrap=False
    )
    console.print(_ways(data))
    for each in data["comparisons"]:
        console.print("\n".join(comparison_lines(each)), markup=False)
    console.print(_defaults(data))
    console.print(verdict(data), markup=False)
    console.print(f"The report: {folder}/crosscheck.html", markup=False, soft_wrap=True)


def verdict(data: Mapping[str, Any]) -> str:
    """One sentence."""
    names = [way["name"] for way in data["ways"]]
    if data["equal"]:
        return f"EQUAL: {', '.join(names)} trained the same adapter, byte for byte"
    unequal = [each["second"] for each in data["comparisons"] if not each["equal"]]
    return f"NOT EQUAL: {', '.join(unequal)} differ from {names[0]}"


def comparison_lines(found: Mapping[str, Any]) -> list[str]:
    """What two ways have in common, and where they part."""
    digits = found["loss_decimals"]
    logged = "" if digits is None else f", to the {digits} decimals that are logged"
    lines = [
        f"{found['second']} and {found['first']}:",
        f"  tokens          {'equal' if found['tokens_equal'] else 'DIFFERENT'}",
        f"  losses          {step_words(found['loss'])}{logged}",
        f"  gradient norms  {step_words(found['grad_norm'])}",
        f"  learning rates  {step_words(found['learning_rate'])}",
        f"  adapter         {escaped(found['weights']) or 'equal, byte for byte'}",
    ]
    return [*lines, f"  why             {found['why']}"] if found["why"] else lines


def step_words(found: Mapping[str, Any] | None) -> str:
    """`equal at every step`, or the first step that differs."""
    if found is None:
        return "equal at every step"
    if found["name"] == "steps":
        return f"DIFFERENT: {found['first']:.0f} and {found['second']:.0f} steps"
    return f"DIFFERENT from step {found['step']} on: {found['first']!r} and {found['second']!r}"


def figures(way: Mapping[str, Any]) -> list[str]:
    """Steps, last loss, seconds of the steps, seconds of all, tokens a second, memory."""
    memory, speed, seconds = (
        way[name] for name in ("peak_memory", "tokens_per_second", "training_seconds")
    )
    loss = way["loss_last_step"]
    return [
        str(way["steps"]),
        "-" if loss is None else f"{loss:.4f}",
        "-" if seconds is None else f"{seconds:.1f} s",
        f"{way['seconds']:.1f} s",
        "-" if speed is None else f"{speed:,.0f}",
        "-" if memory is None else f"{memory / 1e9:.2f} GB",
    ]


FIGURES = ("steps", "last loss", "in steps", "with start-up", "tokens/s", "peak memory")


def _ways(data: Mapping[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"{data['recipe']} on {data['platform']}", title_justify="left")
    for name in ("way", "", *FIGURES, "adapter sha256"):
        table.add_column(name, overflow="fold")
    for way in data["ways"]:
        table.add_row(
            way["name"],
            "from the store" if way["reused"] else "trained now",
            *figures(way),
            next((digest[:12] for digest in way["weights"].values()), "-"),
        )
    return table


def _defaults(data: Mapping[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="Where the recipe is silent, or others would have chosen otherwise",
        title_justify="left",
    )
    for name in ("setting", "all ways used", *data["columns"].values()):
        table.add_column(name, overflow="fold")
    for row in telling(data):
        words = (recipe_words(row), *own_words(row, data["columns"]))
        table.add_row(row["setting"], *map(Text, words))  # a list in brackets is no markup
    return table


def telling(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The settings in which some program's own default is not what was trained with."""
    return [row for row in data["defaults"] if row["differs"]]


def recipe_words(row: Mapping[str, Any]) -> str:
    """The value of the recipe, and whether its file says it."""
    return f"{value_words(row['recipe'])} ({'given' if row['given'] else 'default'})"


def own_words(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    """A cell a column."""
    return [value_words(row["own"][name]) if name in row["own"] else "-" for name in columns]


def value_words(value: Any) -> str:
    """As YAML says it, and `none` for no value."""
    from runner.recipe.flow import flow

    return "none" if value is None else escaped(flow(value))
