"""The GGUF files of a run side by side: how large, how far from the merged model, which to ship."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def quantisation_table(measures: Mapping[str, Any]) -> Any:
    """A table of the measures of stage `gguf`, the file to ship marked; None without files."""
    from rich.table import Table

    files = measures.get("files")
    if not files:
        return None
    table = Table("", title="GGUF files against the merged model", title_justify="left")
    table.add_column("type")
    for name in ("MB", "perplexity", "change", "KL divergence", "same top token"):
        table.add_column(name, justify="right")
    for row in files:
        matrix = " (imatrix)" if row["imatrix"] else ""
        table.add_row(
            "ship" if row["file"] == measures.get("ship") else "",
            f"{row['type']}{matrix}",
            f"{row['size'] / 1e6:,.1f}",
            f"{row['perplexity']:.3f}",
            f"{row['perplexity_increase']:+.2%}",
            f"{row['kl_divergence']:.4f}",
            f"{row['same_top_token']:.1%}",
        )
    return table


def quantisation_lines(measures: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    """What the table does not say: where types fell back, and by which limits a file is shipped."""
    files = measures.get("files") or []
    lines = [_fallback_line(row) for row in files if row["fallback"]]
    if files:
        lines.append(_ship_line(measures.get("ship"), limits))
    return lines


def _fallback_line(row: Mapping[str, Any]) -> str:
    fallback = row["fallback"]
    fallen = sum(fallback["to"].values())
    to = " and ".join(f"{count} to {kind}" for kind, count in fallback["to"].items())
    lengths = " and ".join(str(length) for length in fallback["row_lengths"])
    return (
        f"asked {row['type']}: {fallen} of {fallback['weights']} weights fell back, {to} "
        f"(rows of {lengths} values are no multiple of 256)"
    )


def _ship_line(ship: str | None, limits: Mapping[str, Any]) -> str:
    within = (
        f"KL divergence up to {limits['max_kl_divergence']:g} and perplexity up to "
        f"{limits['max_perplexity_increase']:+.1%}"
    )
    if ship is None:
        return f"ship              none: no file is within {within}"
    return f"ship              {ship}: the smallest within {within}"
