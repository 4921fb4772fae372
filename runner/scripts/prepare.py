"""Turn rows of data files into token ids and label masks.

spec.hashed: seed, system, max_length, too_long, packing, fraction, train and validation (lists of
{name, format, input, columns where there are some}), template (name, or null for the model's own),
and those of data/division.py; where rows are cleaned, clean (step -> its setting) and measured
(names of the files to look for).
spec.inputs: model (folder of fetch), template, the data files under their `input` names, and
measured-0 and so on.
The bytes written depend on data, tokenizer and settings alone.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.scripts.data.chat_tokens import (
    ChatTokenizer,
    Tokens,
    check_system,
    check_template,
)
from runner.scripts.data.conversation import (
    Conversation,
    check_turns,
    with_system,
)
from runner.scripts.data.division import by_source, divide
from runner.scripts.data.formats import ANY_ORDER, ASKED, FORMATS
from runner.scripts.data.kinship import traits_of
from runner.scripts.data.packing import pack
from runner.scripts.data.preparation import (
    cleaning_of,
    fit,
    nothing_left,
    raise_problems,
    sift_of,
    sound_rows,
    tokenizer_of,
    write_beside,
    write_tokens,
)
from runner.scripts.data.rows import Problem, RowError, read_rows
from runner.scripts.data.systems import system_of, without_own
from runner.scripts.spec import Events, ScriptError, Spec, main

if TYPE_CHECKING:
    from runner.scripts.data.cleaning.pipeline import Cleaning


@dataclass
class Documents:
    """Tokenised rows of one split, and what happened to the others."""

    rows: list[Conversation] = field(default_factory=list)
    tokens: list[Tokens] = field(default_factory=list)
    truncated: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # reason, or "truncated" -> first place


def prepare(spec: Spec, events: Events) -> None:
    """Write the outputs into spec.folder and report statistics."""
    settings, tokenizer, cleaning = spec.hashed, tokenizer_of(spec), cleaning_of(spec)
    train_rows, validation_rows = sound_rows(spec, read_files, cleaning)
    if any(row.text is None for row in (*train_rows, *validation_rows)):
        name = settings["template"] or "of the model"
        check_template(tokenizer, name)
        check_system(tokenizer, settings["system"], name)
    sift = sift_of(spec, cleaning)
    division = divide(train_rows, validation_rows, settings, Conversation.digest, sift)
    train_rows, validation_rows = division.train, division.validation

    total = len(train_rows) + len(validation_rows)
    train = tokenise(train_rows, tokenizer, settings, events, 0, total)
    held_out = {**settings, "system_variants": ()}  # measured with what is deployed
    validation = tokenise(validation_rows, tokenizer, held_out, events, len(train_rows), total)
    if not train.tokens:
        raise nothing_left(train.dropped)

    packs = None
    if settings["packing"]:
        packs = pack([len(tokens.ids) for tokens in train.tokens], settings["max_length"])
    write_tokens(spec.folder / "train.tokens.safetensors", train.tokens, packs)
    write_tokens(spec.folder / "validation.tokens.safetensors", validation.tokens, None)
    events.measure(
        train=statistics_of(train, packs, settings["max_length"]),
        validation=statistics_of(validation, None, settings["max_length"]),
        rows_in_both=len(digests(train.rows) & digests(validation.rows)),
        **division.measures(by_source(train.rows, [len(each.ids) for each in train.tokens])),
        **({"clean": cleaning.measures()} if cleaning else {}),
        **write_beside(spec, tokenizer, validation.rows, validation.rows),
    )


# --- rows


def read_files(
    spec: Spec,
    files: Sequence[dict[str, Any]],
    split: Mapping[str, Any] | None = None,
    cleaning: Cleaning | None = None,
) -> tuple[list[Conversation], list[Problem]]:
    """Conversations of all files in order, cleaned, and the rows that cannot be used.

    `split`: whose columns rows must have (data/division.py).
    """
    rows: list[Conversation] = []
    problems: list[Problem] = []
    for number, file in enumerate(files):
        before = len(rows)
        path = spec.inputs[file["input"]]
        found, bad = read_file(path, file, number, spec.hashed, split or {}, cleaning)
        rows += found
        problems += bad
        if len(rows) == before and not bad:
            raise ScriptError(
                f"{file['name']} holds no rows",
                hint="name a file with rows in data, or leave it out",
                code="E324",
            )
    if cleaning:
        rows, broken = cleaning.cleaned(rows)
        problems += broken
    return rows, problems


def read_file(
    path: Path,
    file: Mapping[str, Any],
    number: int,
    settings: Mapping[str, Any],
    split: Mapping[str, Any],
    cleaning: Cleaning | None,
) -> tuple[list[Conversation], list[Problem]]:
    """The rows of a file, the `number`-th of its kind, that can be used or cleaned; the others."""
    waiting = file["format"] in ASKED
    parse = (ASKED if waiting else FORMATS)[file["format"]]
    columns = file.get("columns")
    if cleaning and cleaning.orders_turns:
        parse = ANY_ORDER.get(file["format"], parse)
    rows: list[Conversation] = []
    problems: list[Problem] = []
    for item in read_rows(path, file["name"], columns):
        if isinstance(item, Problem):
            problems.append(item)
            continue
        place, row = item
        try:
            conversation = without_own(parse(row), settings)
            if not cleaning and not waiting:
                check_turns(conversation)
            traits = traits_of(row, number, columns, split)
        except RowError as error:
            problems.append(Problem(place, error))
            continue
        rows.append(replace(conversation, place=place, traits=traits))
    return rows, problems


def digests(rows: Sequence[Conversation]) -> set[str]:
    """Contents of the rows."""
    return {row.digest() for row in rows}


# --- tokens


def tokenise(
    rows: Sequence[Conversation],
    tokenizer: ChatTokenizer,
    settings: dict[str, Any],
    events: Events,
    done: int,
    total: int,
) -> Documents:
    """Tokens of the rows that can be used. Raises ScriptError when others may not be dropped."""
    documents = Documents()
    problems: list[Problem] = []
    for number, row in enumerate(rows, done + 1):
        try:
            system = system_of(row.digest, settings)
            parts = tokenizer.documents(with_system(row, system))
            fitted = [
                fit(tokens, settings["max_length"], settings["too_long"]) for _, tokens in parts
            ]
        except RowError as error:
            problems.append(Problem(row.place, error))
            continue
        for (part, tokens), kept in zip(parts, fitted, strict=True):
            if isinstance(kept, str):
                documents.dropped[kept] += 1
                documents.examples.setdefault(kept, str(row.place))
                continue
            if len(kept.ids) < len(tokens.ids):
                documents.truncated += 1
                documents.examples.setdefault("truncated", str(row.place))
            documents.rows.append(row if len(parts) == 1 else part)
            documents.tokens.append(kept)
        if number % 256 == 0 or number == total:
            events.progress(number, total, message="rows")
    if problems:
        raise_problems(problems)
    check_masks(documents)
    return documents


def check_masks(documents: Documents) -> None:
    """What must hold of every row that is trained on, whatever made it."""
    for row, tokens in zip(documents.rows, documents.tokens, strict=True):
        trained = {index for index, bit in enumerate(tokens.mask()) if bit}
        answers = {index for begin, end in tokens.spans for index in range(begin, end)}
        assert trained, f"{row.place}: nothing to train on"
        assert trained == answers - {0}, f"{row.place}: a prompt token is trained on"
        assert all(begin < end for begin, end in tokens.spans), f"{row.place}: an empty answer"


# --- statistics and files


def statistics_of(
    documents: Documents, packs: list[list[int]] | None, max_length: int
) -> dict[str, Any]:
    """Counts for run.json."""
    lengths = [len(tokens.ids) for tokens in documents.tokens]
    total = sum(lengths)
    trained = sum(sum(tokens.mask()) for tokens in documents.tokens)
    result: dict[str, Any] = {
        "rows": len(lengths),
        "duplicates": len(lengths) - len(digests(documents.rows)),
        "tokens": {"total": total, "trained": trained, "context": total - trained},
        "truncated": documents.truncated,
        "dropped": dict(sorted(documents.dropped.items())),
    }
    if documents.examples:
        result["examples"] = dict(sorted(documents.examples.items()))
    if lengths:
        result["length"] = {
            "min": min(lengths),
            "median": statistics.median(lengths),
            "max": max(lengths),
        }
    if packs is not None:
        result |= packing_cost(packs, total, max_length)
    return result


def packing_cost(packs: Sequence[Sequence[int]], tokens: int, max_length: int) -> dict[str, Any]:
    """How many packs there are, which part of their room is left empty, and how many documents
    share one."""
    documents = [len(members) for members in packs]
    filled = tokens / (len(packs) * max_length)
    return {
        "packs": len(packs),
        "packs_filled": round(filled, 4),
        "packs_padding": round(1 - filled, 4),
        "documents_a_pack": {
            "min": min(documents),
            "mean": round(statistics.fmean(documents), 2),
            "max": max(documents),
        },
    }


if __name__ == "__main__":
    main(prepare)
