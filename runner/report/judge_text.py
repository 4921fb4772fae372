"""What a judge said of two models, in lines for a terminal and a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runner.report.compare_text import interval_words, number, one_line, value_words

EXAMPLES_SHOWN = 2  # of two models; the page has all


def judge_rows(found: Mapping[str, Any]) -> Iterator[list[str]]:
    """What, and the value in words: of one pair of models."""
    if not found["drawn"]:
        yield ["judged", found["verdict"]]
        return
    first, second = found["first"], found["second"]
    yield [f"win rate of {second}", f"{value_words(found['win_rate'])}: {found['verdict']}"]
    yield ["prompts", _prompts_words(found)]
    yield [f"{second} better in both orders", str(found["wins"])]
    yield [f"{first} better in both orders", str(found["losses"])]
    yield ["ties", f"{found['ties']} in both orders, {found['half']} in one"]
    yield ["the judge contradicts itself", f"{found['contradictions']} of {found['asked']} prompts"]
    yield ["names the one shown first", _share_words(found["position"], "no bias is 0.5")]
    yield ["the longer one wins", _share_words(found["length"]["longer_won"], "of those decided")]
    lengths = found["length"]["characters"]
    if lengths["first"] is not None:
        yield [
            "characters of an answer",
            f"{first} {number(lengths['first'])}, {second} {number(lengths['second'])}",
        ]
    if found["without"]:
        said = ", ".join(f"{reason} ({count})" for reason, count in found["unusable"].items())
        yield ["without a verdict", f"{found['without']}: {said}"]


def judge_lines(data: Mapping[str, Any]) -> Iterator[str]:
    """The whole judgement for a terminal. Models' words never reach it raw."""
    judge = data["judge"]
    yield f"Judged by {judge['judge']}, each prompt in both orders (log: {judge['log']})"
    for found in judge["comparisons"]:
        yield f"  {found['second']} against {found['first']}"
        rows = list(judge_rows(found))
        width = max(len(name) for name, _ in rows)
        yield from (f"    {name:<{width}}  {one_line(words)}" for name, words in rows)
        for each in found["most"][:EXAMPLES_SHOWN]:
            yield f"    {one_line(each['prompt'])}"
            for side in ("first", "second"):
                mark = "  (better)" if each["won"] == side else ""
                yield f"      {found[side]}: {one_line(each[f'{side}_answer'])}{mark}"


def _prompts_words(found: Mapping[str, Any]) -> str:
    words = f"{found['asked'] + found['same']} of {found['in_common']} that both answered"
    return words + (f", {found['same']} with the same answer" if found["same"] else "")


def _share_words(found: Mapping[str, Any] | None, what: str) -> str:
    if found is None:
        return "-"
    few = f", too few prompts: {found['count']}" if found["few"] else ""
    return f"{number(found['value'])} {interval_words(found)} ({what}{few})"
