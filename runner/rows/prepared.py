"""What the stage `prepare` made of the rows, by its measures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from runner.report.printable import escaped


def prepared_lines(measures: Mapping[str, Any]) -> Iterator[str]:
    """Rows, tokens by kind, lengths, and what was left out and why, of each split."""
    if "clean" in measures:
        yield from _cleaning(measures["clean"])
    for split in ("train", "validation"):
        yield from _split(split, measures[split])
    if measures["rows_in_both"]:
        yield f"{measures['rows_in_both']} held-out rows are trained on too"


def _cleaning(counts: Mapping[str, Any]) -> Iterator[str]:
    """What each step did, and the first rows that it did it to."""
    yield f"cleaning: {counts['rows']} rows, {counts['kept']} of them kept"
    for step in counts["steps"]:
        dropped = ", ".join(f"{count} {why}" for why, count in step["dropped"].items())
        yield f"  {step['step']}: {step['changed']} rows changed, dropped: {dropped or 'none'}"
        for example in step["examples"]:
            yield f"    {escaped(_example(example))}"


def _example(example: Mapping[str, str]) -> str:
    if example["what"] == "changed":
        return f"{example['place']}: {_quoted(example['text'])} is now {_quoted(example['now'])}"
    return f"{example['place']}: {example['why']}: {_quoted(example['text'])}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _split(name: str, counts: Mapping[str, Any]) -> Iterator[str]:
    yield f"{name}: {counts['rows']} rows, {counts['duplicates']} of them duplicates"
    tokens = counts["tokens"]
    yield (
        f"  tokens: {tokens['total']}, of them {tokens['trained']} trained on and "
        f"{tokens['context']} context"
    )
    if "length" in counts:
        yield "  tokens a row: {min} to {max}, median {median:g}".format(**counts["length"])
    if "packs" in counts:
        yield f"  packs: {counts['packs']}, filled to {counts['packs_filled']:.0%}"
    for kind, told in counts.get("answers", {}).items():
        yield f"  {kind}: {told['count']} answers of {told['mean_tokens']:g} tokens on average"
    examples = counts.get("examples", {})
    if counts["truncated"]:
        yield f"  truncated: {counts['truncated']} rows{_such_as(examples, 'truncated')}"
    for reason, count in counts["dropped"].items():
        yield f"  dropped, {reason}: {count} rows{_such_as(examples, reason)}"


def _such_as(examples: Mapping[str, str], reason: str) -> str:
    return f", such as {escaped(examples[reason])}" if reason in examples else ""
