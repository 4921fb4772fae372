"""What a synthesis came to, for a person and as JSON. Models' words never reach a terminal raw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runner.report.diagnostic import Diagnostic
from runner.report.printable import quoted
from runner.rows.prepared import cleaning_lines
from runner.synthesis.command import Finished
from runner.synthesis.kinds import Material
from runner.synthesis.settings import Settings
from runner.synthesis.synthesize import IN_VAIN, Result, most_rows

MAX_SHOWN = 120  # characters of an example

# What of a kind's own settings multiplies its rows.
_TIMES = {
    "question-answer": ("rounds", "per_chunk"),
    "paraphrase": ("variants",),
    "preference": (),
    "critique": (),
}
_WHY = {
    "budget": ("the budget is reached", "raise `budget`, then run the same command again"),
    "used up": (
        "every row or part of a document is used",
        "give more of them, or raise `rounds`, `variants` or `per_chunk`; look at what was refused",
    ),
    "in vain": (
        f"the last {IN_VAIN} tasks gave no row that was not refused",
        "look at what was refused; another model, `about` or `filters` may do better",
    ),
}


def lines(settings: Settings, out: Path, finished: Finished) -> Iterator[str]:
    """The statistics as text."""
    result, tally = finished.result, finished.tally
    yield f"{out}: {len(result.rows)} rows of {settings.kind}, {settings.count} wanted"
    yield from _counted("refused", result.refused)
    yield from _counted("asked anew", result.asked_anew)
    for reason, examples in sorted(result.examples.items()):
        for each in examples:
            yield f"    {reason}, task {each.task}: {quoted(each.text, MAX_SHOWN)}"
    if result.cleaning:
        yield from (f"  {line}" for line in cleaning_lines(result.cleaning))
    found = result.diversity
    yield (
        f"  diversity: distinct-1 {found.distinct_1:.2f}, distinct-2 {found.distinct_2:.2f}, "
        f"distinct-3 {found.distinct_3:.2f}; overlap with the nearest earlier text "
        f"{found.mean_overlap:.2f}"
    )
    yield (
        f"  requests: {tally.from_log} answers from the log, {tally.new} new; "
        f"{tally.failed_tries} tries failed"
    )
    yield (
        f"  tokens: {tally.prompt_tokens} of prompts, {tally.answer_tokens} of answers; "
        f"{tally.new_tokens} of them now"
    )
    yield f"  log: {finished.log}, {finished.logged} answers"


def _counted(name: str, counts: Counter[str]) -> Iterator[str]:
    if counts:
        said = ", ".join(f"{count} {reason}" for reason, count in _sorted(counts).items())
        yield f"  {name}: {said}"


def as_data(settings: Settings, out: Path, finished: Finished) -> dict[str, Any]:
    """For --format json."""
    result = finished.result
    return {
        "schema": 1,
        "out": str(out),
        "kind": settings.kind,
        "rows": len(result.rows),
        "wanted": settings.count,
        "ended": result.ended,
        "refused": _sorted(result.refused),
        "asked_anew": _sorted(result.asked_anew),
        "examples": {
            reason: [asdict(each) for each in examples]
            for reason, examples in sorted(result.examples.items())
        },
        **({"clean": result.cleaning} if result.cleaning else {}),
        "diversity": asdict(result.diversity),
        "requests": {
            "from_log": finished.tally.from_log,
            "new": finished.tally.new,
            "failed_tries": finished.tally.failed_tries,
        },
        "tokens": {
            "prompts": finished.tally.prompt_tokens,
            "answers": finished.tally.answer_tokens,
            "new": finished.tally.new_tokens,
        },
        "log": str(finished.log),
    }


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def foreseen(settings: Settings, material: Material) -> list[Diagnostic]:
    """W900 where there will be fewer rows than are wanted, whatever the model answers."""
    most = most_rows(settings, material)
    if most is None or most >= settings.count:
        return []
    sources = [
        f"{count} {name}"
        for count, name in (
            (len(material.seeds), "seed rows"),
            (len(material.parts), "parts of documents"),
        )
        if count
    ]
    times = [f"{name}: {settings.own[name]}" for name in _TIMES[settings.kind]]
    by = f" with {' and '.join(times)}" if times else ""
    message = f"at most {most} rows can come of {' and '.join(sources)}{by}"
    ways = [f"raise `{name}`" for name in _TIMES[settings.kind]]
    hint = ", ".join([f"lower count to {most}", "give more rows or documents", *ways])
    return [settings.source.diagnostic("W900", "/count", message, hint=hint)]


def warnings(settings: Settings, result: Result) -> list[Diagnostic]:
    """W900 where there are fewer rows than were wanted."""
    if result.ended == "complete":
        return []
    why, hint = _WHY[result.ended]
    message = f"{len(result.rows)} of {settings.count} rows: {why}"
    return [settings.source.diagnostic("W900", "/count", message, hint=hint)]
