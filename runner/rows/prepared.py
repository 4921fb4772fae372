"""What the stage `prepare` made of the rows, by its measures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from runner.report.printable import escaped
from runner.rows.show import (
    both_ways_words,
    empty_words,
    plain_number,
    rows_words,
    special_words,
)


def prepared_lines(measures: Mapping[str, Any]) -> Iterator[str]:
    """Rows, tokens by kind, lengths, and what was left out and why, of each split."""
    if "clean" in measures:
        yield from cleaning_lines(measures["clean"])
    for split in ("train", "validation"):
        yield from _split(split, measures[split])
    yield from _sources(measures)
    yield from _leaks(measures.get("leaks", {}))
    for warning in split_warnings(measures):
        yield f"warning: {warning}"
    if told := measures.get("both_ways"):
        yield f"warning: {both_ways_words(told['count'], told['first'])}"
    if measures["rows_in_both"] and "near_copies" not in measures:  # which tells of them too
        one = measures["rows_in_both"] == 1
        held_out = rows_words(measures["rows_in_both"], "held-out ")
        yield f"{held_out} {'is' if one else 'are'} trained on too"


def split_warnings(measures: Mapping[str, Any]) -> Iterator[str]:
    """What to say of rows that the template reads otherwise than they are meant, and of a split
    that is not what was asked for, or that leaks."""
    if special := measures.get("special_text"):
        yield special_words(special["count"], special["first"])
    if asked := measures.get("empty_questions"):
        yield empty_words(asked["count"], [each["place"] for each in asked["first"]])
    if told := measures.get("held_out"):
        yield (_too_many if told["rows"] else _none)(told)
    if near := measures.get("near_copies"):
        yield (
            f"{near['rows']} of {near['of']} held-out rows are trained on too, but for case and "
            f"blanks (the first: {near['first']}), so the loss on them says little; write "
            "on_leak: drop in data.validation, which leaves such rows out of training, or "
            "on_leak: allow"
        )


def _none(told: Mapping[str, Any]) -> str:
    return (
        f"no row is held out, though data.validation.fraction is {told['fraction']:g}: equal rows "
        f"are never parted, and all that were read ({told['of']}) are equal; give other rows, or "
        "write fraction: 0"
    )


def _too_many(told: Mapping[str, Any]) -> str:
    share = told["rows"] / told["of"]
    return (
        f"{told['rows']} of {told['of']} rows are held out ({share:.0%}), though "
        f"data.validation.fraction is {told['fraction']:g}: rows of one prompt or group are never "
        "parted, and a large one was drawn; another seed may draw smaller ones"
    )


def cleaning_lines(counts: Mapping[str, Any]) -> Iterator[str]:
    """What each step did, and the first rows that it did it to."""
    yield f"cleaning: {rows_words(counts['rows'])}, {counts['kept']} of them kept"
    for step in counts["steps"]:
        dropped = ", ".join(f"{count} {why}" for why, count in step["dropped"].items())
        changed = rows_words(step["changed"])
        yield f"  {step['step']}: {changed} changed, dropped: {dropped or 'none'}"
        for example in step["examples"]:
            yield f"    {escaped(_example(example))}"
    for name in counts.get("too_short", ()):  # not in runs of before
        yield f"  decontaminate: no text of {escaped(name)} is long enough to be looked for"


def _example(example: Mapping[str, str]) -> str:
    if example["what"] == "changed":
        return f"{example['place']}: {_quoted(example['text'])} is now {_quoted(example['now'])}"
    return f"{example['place']}: {example['why']}: {_quoted(example['text'])}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _split(name: str, counts: Mapping[str, Any]) -> Iterator[str]:
    yield f"{name}: {rows_words(counts['rows'])}, {counts['duplicates']} of them duplicates"
    tokens = counts["tokens"]
    yield (
        f"  tokens: {tokens['total']}, of them {tokens['trained']} trained on and "
        f"{tokens['context']} context"
    )
    if "length" in counts:
        median = plain_number(counts["length"]["median"])
        yield "  tokens a row: {min} to {max}, median ".format(**counts["length"]) + median
    if "packs" in counts:
        yield f"  packs: {counts['packs']}, filled to {counts['packs_filled']:.0%}"
    if "documents_a_pack" in counts:  # not in runs of before
        yield "  documents a pack: {min} to {max}, on average {mean:g}".format(
            **counts["documents_a_pack"]
        )
    for kind, told in counts.get("answers", {}).items():
        yield f"  {kind}: {told['count']} answers of {told['mean_tokens']:g} tokens on average"
    places, texts = counts.get("examples", {}), counts.get("excerpts", {})  # not in older runs
    if counts["truncated"]:
        such = _such_as(places, "truncated", texts)
        yield f"  truncated: {rows_words(counts['truncated'])}{such}"
    for reason, count in counts["dropped"].items():
        yield f"  dropped, {reason}: {rows_words(count)}{_such_as(places, reason, texts)}"


def _sources(measures: Mapping[str, Any]) -> Iterator[str]:
    """The mix by source, where there is one: several files, or one that is not taken once."""
    sources = measures.get("sources", ())
    once = [source["trained"] == source["read"] - source.get("held_out", 0) for source in sources]
    if len(sources) < 2 and all(once):
        return
    yield "mix:"
    for source in sources:
        held_out = f", {source['held_out']} held out" if "held_out" in source else ""
        for what, why in (("leaking", "as a leak"), ("contaminated", "by decontaminate")):
            held_out += f", {source[what]} left out {why}" if what in source else ""
        taken = "" if source["taken"] == source["read"] else f"{source['taken']} of "
        yield (
            f"  {escaped(source['file'])}: {taken}{rows_words(source['read'])}{held_out}, "
            f"trained on as {source['trained']} ({source['share']:.1%}), {source['tokens']} tokens"
        )


def _leaks(leaks: Mapping[str, Any]) -> Iterator[str]:
    """Rows that were left out of training because they are held out."""
    for what, count in leaks.get("dropped", {}).items():
        yield (
            f"left out of training, {what} held out: {rows_words(count)}"
            f"{_such_as(leaks['examples'], what)}"
        )


def _such_as(
    examples: Mapping[str, str], reason: str, texts: Mapping[str, str] | None = None
) -> str:
    if reason not in examples:
        return ""
    said = f": {_quoted(texts[reason])}" if texts and reason in texts else ""
    return escaped(f", such as {examples[reason]}{said}")
