"""Turn rows of prompts into token ids, for methods that learn from answers of their own.

As `prepare` (its spec, its outputs), with `max_completion_length` and `reads` (what the rewards
read of a row's answer: "text", "number") beside, and but for what the tokens files hold: a row is
a prompt with the generation prompt behind it, of which nothing is trained; `answers` (UTF-8, one
text after the other) and `answer_offsets` (int64, [rows + 1]) are the right answers; `answered`
(int8, one a row) is 0 where there is none.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from runner.scripts.data.chat_tokens import (
    ChatTokenizer,
    Tokens,
    check_system,
    check_template,
)
from runner.scripts.data.chunk import tokenizer_for
from runner.scripts.data.conversation import with_system
from runner.scripts.data.division import by_source, divide
from runner.scripts.data.formats import PROMPTED
from runner.scripts.data.kinship import traits_of
from runner.scripts.data.listed import write_beside, write_tokens
from runner.scripts.data.preparation import making_of, nothing_left, raise_problems
from runner.scripts.data.prompted import Prompted, check_prompted
from runner.scripts.data.rows import Problem, RowError, read_rows
from runner.scripts.data.systems import system_of, without_own
from runner.scripts.rewards.functions import is_number
from runner.scripts.spec import Events, ScriptError, Spec, main

TOO_LONG = "too long"


@dataclass
class Prompts:
    """Tokenised rows of one split, and what happened to the others."""

    rows: list[Prompted] = field(default_factory=list)
    tokens: list[Tokens] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # reason -> first place

    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(each.ids) for each in self.tokens]


def prepare(spec: Spec, events: Events) -> None:
    """Write the outputs into spec.folder and report statistics."""
    settings, making = spec.hashed, making_of(spec)
    tokenizer = tokenizer_for(making.model, making.template)
    train_rows, problems = read_files(spec, settings["train"], settings.get("split"))
    validation_rows, more = read_files(spec, settings["validation"])
    if problems + more:
        raise_problems(problems + more, len(problems + more))
    name = settings["template"] or "of the model"
    check_template(tokenizer, name)
    check_system(tokenizer, settings["system"], name)
    division = divide(train_rows, validation_rows, settings, asked_of, None)
    train_rows, validation_rows = division.train, division.validation

    total = len(train_rows) + len(validation_rows)
    train = tokenise(train_rows, tokenizer, settings, events, 0, total)
    held_out = {**settings, "system_variants": ()}  # measured with what is deployed
    validation = tokenise(validation_rows, tokenizer, held_out, events, len(train_rows), total)
    if not train.rows:
        raise nothing_left(train.dropped)

    write(spec.folder / "train.tokens.safetensors", train)
    write(spec.folder / "validation.tokens.safetensors", validation)
    events.measure(
        train=statistics_of(train),
        validation=statistics_of(validation),
        rows_in_both=len({*map(asked_of, train.rows)} & {*map(asked_of, validation.rows)}),
        **division.measures(by_source(train.rows, train.lengths())),
        **write_beside(
            spec,
            tokenizer,
            [row.answered() for row in validation.rows],
            [row.asked for row in validation.rows],
        ),
    )


# --- rows


def read_files(
    spec: Spec,
    files: Sequence[dict[str, Any]],
    split: Mapping[str, Any] | None = None,
    cleaning: None = None,
) -> tuple[list[Prompted], list[Problem]]:
    """The usable rows of all files in order, and the others. `split`: as of `prepare`."""
    rows: list[Prompted] = []
    problems: list[Problem] = []
    for number, file in enumerate(files):
        before, columns = (len(rows), len(problems)), file.get("columns")
        for item in read_rows(spec.inputs[file["input"]], file["name"], columns):
            if isinstance(item, Problem):
                problems.append(item)
                continue
            place, values = item
            try:
                row = PROMPTED[file["format"]](values)
                row = replace(row, asked=without_own(row.asked, spec.hashed))
                check_prompted(row)
                check_answer(row, spec.hashed["reads"])
                traits = traits_of(values, number, columns, split or {})
            except RowError as error:
                problems.append(Problem(place, error))
                continue
            rows.append(replace(row.at(place), traits=traits))
        if (len(rows), len(problems)) == before:
            raise ScriptError(
                f"{file['name']} holds no rows",
                hint="name a file with rows in data, or leave it out",
                code="E324",
            )
    return rows, problems


def check_answer(row: Prompted, reads: Sequence[str]) -> None:
    """Raise RowError E357 when the rewards cannot be held against the row's answer."""
    if reads and row.answer is None:
        raise RowError('"answer" is missing, which the rewards hold answers against', "E357")
    if "number" in reads and not is_number(row.answer or ""):
        raise RowError('"answer" is no number, and number-answer holds answers against it', "E357")


def asked_of(row: Prompted) -> str:
    """Digest of what is asked."""
    return row.asked.digest()


# --- tokens


def tokenise(
    rows: Sequence[Prompted],
    tokenizer: ChatTokenizer,
    settings: Mapping[str, Any],
    events: Events,
    done: int,
    total: int,
) -> Prompts:
    """Tokens of the rows that can be used. Raises ScriptError when others may not be dropped."""
    found = Prompts()
    problems: list[Problem] = []
    for number, row in enumerate(rows, done + 1):
        try:
            system = system_of(partial(asked_of, row), settings)
            ids = tokenizer.prompt_tokens(with_system(row.asked, system))
            check_room(ids, settings)
        except RowError as error:
            problems.append(Problem(row.place, error))
            continue
        if len(ids) > room(settings):
            found.dropped[TOO_LONG] += 1
            found.examples.setdefault(TOO_LONG, str(row.place))
        else:
            found.rows.append(row)
            found.tokens.append(Tokens(ids, []))
        if number % 256 == 0 or number == total:
            events.progress(number, total, message="rows")
    if problems:
        raise_problems(problems, len(problems))
    return found


def room(settings: Mapping[str, Any]) -> int:
    """Tokens that a prompt may have beside an answer."""
    return int(settings["max_length"] - settings["max_completion_length"])


def check_room(ids: Sequence[int], settings: Mapping[str, Any]) -> None:
    """Raise RowError E325 for a prompt that is too long and may not be dropped."""
    if settings["too_long"] == "error" and len(ids) > room(settings):
        raise RowError(
            f"the prompt has {len(ids)} tokens, and beside an answer of "
            f"{settings['max_completion_length']} data.max_length leaves {room(settings)}",
            "E325",
        )


def write(path: Path, prompts: Prompts) -> None:
    """The tokens file of one split."""
    texts = [(row.answer or "").encode() for row in prompts.rows]
    more = {
        "answers": np.frombuffer(b"".join(texts), np.uint8),
        "answer_offsets": np.array([0, *accumulate(map(len, texts))], np.int64),
        "answered": np.array([row.answer is not None for row in prompts.rows], np.int8),
    }
    write_tokens(path, prompts.tokens, more)


def statistics_of(prompts: Prompts) -> dict[str, Any]:
    """Counts for run.json."""
    lengths = prompts.lengths()
    found: dict[str, Any] = {
        "rows": len(prompts.rows),
        "duplicates": len(prompts.rows) - len({row.digest() for row in prompts.rows}),
        "tokens": {"total": sum(lengths), "trained": 0, "context": sum(lengths)},
        "truncated": 0,
        "dropped": dict(sorted(prompts.dropped.items())),
    }
    if prompts.examples:
        found["examples"] = dict(sorted(prompts.examples.items()))
    if lengths:
        found["length"] = {
            "min": min(lengths),
            "median": statistics.median(lengths),
            "max": max(lengths),
        }
    return found


if __name__ == "__main__":
    main(prepare)
