"""Turn rows of preferences into token ids and label masks: pairs, or answers called good or bad.

As `prepare` (its spec, its outputs), but for what the tokens files hold: the rows of a pair follow
one another, chosen before rejected, and begin with the same prompt; `preferred` (int8, one a row)
is 1 for a chosen or a good answer, 0 for the others. A row ends where its last answer's turn does.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from runner.scripts.data.chunks.chunk import tokenizer_for
from runner.scripts.data.chunks.documents import Documents, in_both, statistics_of, write_tokens
from runner.scripts.data.chunks.reading import Reading
from runner.scripts.data.chunks.spool import Files
from runner.scripts.data.chunks.stored import StoredRows
from runner.scripts.data.chunks.workers import Workers
from runner.scripts.data.dividing.division import divide, sums_by_source
from runner.scripts.data.formats import COMPARED
from runner.scripts.data.preference import Compared, check_compared
from runner.scripts.data.preparation import (
    cleaning_of,
    in_chunks,
    making_of,
    nothing_left,
    sift_of,
    sound_rows,
    tokenised_division,
    write_beside,
)
from runner.scripts.data.systems import compared_without_own, prompt_of
from runner.scripts.data.tokens.chat_tokens import check_system, check_template
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.weights.floats import Array


def prepare(files: Files, crew: Workers, spec: Spec, events: Events) -> None:
    """Write the outputs into spec.folder and report statistics. `files`: for what waits."""
    settings, making, cleaning = spec.hashed, making_of(spec), cleaning_of(spec)
    tokenizer = tokenizer_for(making.model, making.template)
    train_rows, validation_rows = sound_rows(spec, reading_of(settings), cleaning, files, crew)
    name = settings["template"] or "of the model"
    check_template(tokenizer, name)
    check_system(tokenizer, settings["system"], name)
    sift = sift_of(spec, cleaning)
    division = divide(train_rows, validation_rows, settings, prompt_of, sift)
    check_labels(division.train)
    train, validation = tokenised_division(division, making, files, crew, events, name)
    if not train.row_count:
        raise nothing_left(train.counts.dropped)

    for name, split in (("train", train), ("validation", validation)):
        preferred = {"preferred": split.column("preferred")}
        write_tokens(spec.folder / f"{name}.tokens.safetensors", split, None, preferred)
    asked = one_of_each_prompt(validation.column("prompts"))
    events.measure(
        train=statistics_of(train) | answers_of(train),
        validation=statistics_of(validation) | answers_of(validation),
        rows_in_both=in_both(train, validation),
        **division.measures(sums_by_source(train.column("sources"), train.column("row_lengths"))),
        **({"clean": cleaning.measures()} if cleaning else {}),
        **write_beside(spec, making, validation.rows(), asked, crew),
    )


def reading_of(settings: Mapping[str, Any]) -> Reading:
    """How rows of files become answers that are compared."""
    return Reading(
        understand, prompt_of, settings, settings.get("split", {}), settings.get("clean")
    )


def understand(row: dict[str, Any], file: Mapping[str, Any], reading: Reading) -> Compared:
    """A row that can be used, or cleaned where rows are. Raises RowError."""
    compared = compared_without_own(COMPARED[file["format"]](row), reading.settings)
    if reading.steps is None:
        check_compared(compared)
    return compared


def one_of_each_prompt(prompts: Array) -> Array:
    """Indexes of the first row of each prompt, in the order in which the prompts are last seen."""
    _, first = np.unique(prompts, return_index=True)
    _, last = np.unique(prompts[::-1], return_index=True)
    return np.asarray(first[np.argsort(-last)])


def check_labels(rows: StoredRows[Compared]) -> None:
    """Raise ScriptError E336 when all answers are called the same."""
    labels: set[bool] = set()
    for row in rows:
        labels |= {good for _, good in row.sides}
        if len(labels) > 1:
            return
    if len(labels) == 1:
        raise ScriptError(
            f"all rows to train on have the label {str(labels.pop()).lower()}:"
            " there is nothing to tell good answers by",
            hint="add rows of the other kind; to learn from good answers alone, use method: sft",
            code="E336",
        )


def answers_of(documents: Documents) -> dict[str, Any]:
    """How many answers there are of each kind, and how long they are on average. For run.json."""
    if not documents.row_count:
        return {}
    trained, good = documents.column("trained"), documents.column("preferred").astype(bool)
    one_a_row = len(good) == documents.row_count
    names = ("good", "bad") if one_a_row else ("chosen", "rejected")
    found = {}
    for name, of_kind in zip(names, (trained[good], trained[~good]), strict=True):
        if len(of_kind):
            mean = round(statistics.fmean(of_kind.tolist()), 2)
            found[name] = {"count": len(of_kind), "mean_tokens": mean}
    return {"answers": found}


if __name__ == "__main__":
    main(in_chunks(prepare))
