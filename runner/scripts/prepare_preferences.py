"""Turn rows of preferences into token ids and label masks: pairs, or answers called good or bad.

As `prepare` (its spec, its outputs), but for what the tokens files hold: the rows of a pair follow
one another, chosen before rejected, and begin with the same prompt; `preferred` (int8, one a row)
is 1 for a chosen or a good answer, 0 for the others. A row ends where its last answer's turn does.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.scripts.data.chat_tokens import (
    ChatTokenizer,
    Tokens,
    check_system,
    check_template,
)
from runner.scripts.data.conversation import Conversation, with_system
from runner.scripts.data.division import by_source, divide
from runner.scripts.data.formats import COMPARED
from runner.scripts.data.kinship import traits_of
from runner.scripts.data.preference import Compared, Judged, check_compared
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

SAME = "the same within max_length"


@dataclass
class Answers:
    """Tokenised rows of one split, each with its sides, and what happened to the others."""

    rows: list[Compared] = field(default_factory=list)
    sides: list[list[Tokens]] = field(default_factory=list)
    truncated: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # reason, or "truncated" -> first place

    def tokens(self) -> list[Tokens]:
        """Of all sides, in their order."""
        return [tokens for sides in self.sides for tokens in sides]

    def lengths(self) -> list[int]:
        """Tokens of each row, those of its sides together."""
        return [sum(len(tokens.ids) for tokens in sides) for sides in self.sides]

    def preferred(self) -> list[bool]:
        """Of each of `tokens`: is it the better one of its pair, or a good one?"""
        return [good for row in self.rows for _, good in row.sides]


def prepare(spec: Spec, events: Events) -> None:
    """Write the outputs into spec.folder and report statistics."""
    settings, tokenizer, cleaning = spec.hashed, tokenizer_of(spec), cleaning_of(spec)
    train_rows, validation_rows = sound_rows(spec, read_files, cleaning)
    name = settings["template"] or "of the model"
    check_template(tokenizer, name)
    check_system(tokenizer, settings["system"], name)
    sift = sift_of(spec, cleaning)
    division = divide(train_rows, validation_rows, settings, prompt_of, sift)
    train_rows, validation_rows = division.train, division.validation
    check_labels(train_rows)

    total = len(train_rows) + len(validation_rows)
    train = tokenise(train_rows, tokenizer, settings, events, 0, total)
    held_out = {**settings, "system_variants": ()}  # measured with what is deployed
    validation = tokenise(validation_rows, tokenizer, held_out, events, len(train_rows), total)
    if not train.rows:
        raise nothing_left(train.dropped)

    write(spec.folder / "train.tokens.safetensors", train)
    write(spec.folder / "validation.tokens.safetensors", validation)
    good = [side for row in validation.rows for side, preferred in row.sides if preferred]
    events.measure(
        train=statistics_of(train),
        validation=statistics_of(validation),
        rows_in_both=len({*map(prompt_of, train.rows)} & {*map(prompt_of, validation.rows)}),
        **division.measures(by_source(train.rows, train.lengths())),
        **({"clean": cleaning.measures()} if cleaning else {}),
        **write_beside(spec, tokenizer, good, one_of_each_prompt(validation.rows)),
    )


# --- rows


def read_files(
    spec: Spec,
    files: Sequence[dict[str, Any]],
    split: Mapping[str, Any] | None = None,
    cleaning: Cleaning | None = None,
) -> tuple[list[Compared], list[Problem]]:
    """The usable rows of all files in order, cleaned, and the others. `split`: as of `prepare`."""
    rows: list[Compared] = []
    problems: list[Problem] = []
    for number, file in enumerate(files):
        before, columns = (len(rows), len(problems)), file.get("columns")
        for item in read_rows(spec.inputs[file["input"]], file["name"], columns):
            if isinstance(item, Problem):
                problems.append(item)
                continue
            place, values = item
            try:
                row = without_own_system(COMPARED[file["format"]](values), spec.hashed)
                if not cleaning:
                    check_compared(row)
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
    if cleaning:
        rows, broken = cleaning.cleaned(rows)
        problems += broken
    return rows, problems


def without_own_system(row: Compared, settings: Mapping[str, Any]) -> Compared:
    """The row without its system turn, where the recipe's takes the place of all."""
    if isinstance(row, Judged):
        return replace(row, answered=without_own(row.answered, settings))
    sides = (without_own(side, settings) for side, _ in row.sides)
    chosen, rejected = sides
    return replace(row, chosen=chosen, rejected=rejected)


def prompt_of(row: Compared) -> str:
    """Digest of what the answers of `row` are answers to."""
    side, _ = row.sides[0]
    return Conversation(messages=side.messages[: side.answers[0]], tools=side.tools).digest()


def one_of_each_prompt(rows: Sequence[Compared]) -> list[Conversation]:
    """The first side of the first row of each prompt."""
    first = {prompt_of(row): row.sides[0][0] for row in reversed(rows)}
    return list(first.values())[::-1]


def check_labels(rows: Sequence[Compared]) -> None:
    """Raise ScriptError E336 when all answers are called the same."""
    labels = {good for row in rows for _, good in row.sides}
    if len(labels) == 1:
        raise ScriptError(
            f"all rows to train on have the label {str(labels.pop()).lower()}:"
            " there is nothing to tell good answers by",
            hint="add rows of the other kind; to learn from good answers alone, use method: sft",
            code="E336",
        )


# --- tokens


def tokenise(
    rows: Sequence[Compared],
    tokenizer: ChatTokenizer,
    settings: dict[str, Any],
    events: Events,
    done: int,
    total: int,
) -> Answers:
    """Tokens of the rows that can be used. Raises ScriptError when others may not be dropped."""
    answers = Answers()
    problems: list[Problem] = []
    for number, row in enumerate(rows, done + 1):
        try:
            system = system_of(partial(prompt_of, row), settings)
            whole = [answer_tokens(side, tokenizer, system) for side, _ in row.sides]
            sides = [fit(each, settings["max_length"], settings["too_long"]) for each in whole]
            check_same_prompt(whole)
        except RowError as error:
            problems.append(Problem(row.place, error))
            continue
        reason = why_dropped(sides)
        if reason:
            answers.dropped[reason] += 1
            answers.examples.setdefault(reason, str(row.place))
        else:
            kept = [each for each in sides if isinstance(each, Tokens)]
            answers.rows.append(row)
            answers.sides.append(kept)
            if any(len(short.ids) < len(long.ids) for short, long in zip(kept, whole, strict=True)):
                answers.truncated += 1
                answers.examples.setdefault("truncated", str(row.place))
        if number % 256 == 0 or number == total:
            events.progress(number, total, message="rows")
    if problems:
        raise_problems(problems)
    return answers


def answer_tokens(side: Conversation, tokenizer: ChatTokenizer, system: str | None) -> Tokens:
    """Ids up to the end of the last answer. Raises RowError."""
    tokens = tokenizer.tokens(with_system(side, system))
    assert tokens.spans
    assert all(begin < end for begin, end in tokens.spans), side.place
    return Tokens(tokens.ids[: tokens.spans[-1][1]], tokens.spans)


def check_same_prompt(sides: Sequence[Tokens]) -> None:
    """Raise RowError E327 when the template writes the prompt by what the answer is."""
    prompts = {tuple(tokens.ids[: tokens.spans[0][0]]) for tokens in sides}
    if len(prompts) > 1:
        raise RowError("the chat template writes another prompt for each of the answers", "E327")


def why_dropped(sides: Sequence[Tokens | str]) -> str:
    """Why the row cannot be used; "" when it can."""
    for each in sides:
        if isinstance(each, str):
            return each
    ids = [tuple(each.ids) for each in sides if isinstance(each, Tokens)]
    return SAME if len(set(ids)) < len(ids) else ""


def write(path: Path, answers: Answers) -> None:
    """The tokens file of one split."""
    preferred = np.array(answers.preferred(), np.int8)
    write_tokens(path, answers.tokens(), None, {"preferred": preferred})


def statistics_of(answers: Answers) -> dict[str, Any]:
    """Counts for run.json. `answers`: how many of each kind, and how long they are on average."""
    tokens, preferred = answers.tokens(), answers.preferred()
    lengths = [len(each.ids) for each in tokens]
    trained = [sum(each.mask()) for each in tokens]
    found: dict[str, Any] = {
        "rows": len(answers.rows),
        "duplicates": len(answers.rows) - len({row.digest() for row in answers.rows}),
        "tokens": {
            "total": sum(lengths),
            "trained": sum(trained),
            "context": sum(lengths) - sum(trained),
        },
        "truncated": answers.truncated,
        "dropped": dict(sorted(answers.dropped.items())),
    }
    if answers.examples:
        found["examples"] = dict(sorted(answers.examples.items()))
    if not lengths:
        return found
    found["length"] = {
        "min": min(lengths),
        "median": statistics.median(lengths),
        "max": max(lengths),
    }
    names = ("good", "bad") if isinstance(answers.rows[0], Judged) else ("chosen", "rejected")
    found["answers"] = {}
    for name, wanted in zip(names, (True, False), strict=True):
        of_kind = [each for each, good in zip(trained, preferred, strict=True) if good is wanted]
        if of_kind:
            found["answers"][name] = {
                "count": len(of_kind),
                "mean_tokens": round(statistics.fmean(of_kind), 2),
            }
    return found


if __name__ == "__main__":
    main(prepare)
