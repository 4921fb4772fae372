"""Turn rows of preferences into token ids and label masks: pairs, or answers called good or bad.

As `prepare` (its spec, its outputs), but for what the tokens files hold: the rows of a pair follow
one another, chosen before rejected, and begin with the same prompt; `preferred` (int8, one a row)
is 1 for a chosen or a good answer, 0 for the others. A row ends where its last answer's turn does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from runner.scripts.data.both_ways import BothWays
from runner.scripts.data.chunks.chunk import tokenizer_for
from runner.scripts.data.chunks.digests import Digests, in_both, ordered
from runner.scripts.data.chunks.documents import (
    Documents,
    notes_of,
    statistics_of,
    write_tokens,
)
from runner.scripts.data.chunks.reading import Reading
from runner.scripts.data.chunks.spool import Files
from runner.scripts.data.chunks.workers import Workers
from runner.scripts.data.dividing.division import divide, sums_by_source
from runner.scripts.data.formats import COMPARED
from runner.scripts.data.preference import Compared, check_compared
from runner.scripts.data.preparation import (
    cleaning_of,
    dropped_by,
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
    settings, making, cleaning = spec.hashed, making_of(spec), cleaning_of(spec, events)
    tokenizer = tokenizer_for(making.model, making.template)
    train_rows, validation_rows = sound_rows(spec, reading_of(settings), cleaning, files, crew)
    name = settings["template"] or "of the model"
    check_template(tokenizer, name)
    check_system(tokenizer, settings["system"], name)
    sift = sift_of(spec, cleaning)
    division = divide(train_rows, validation_rows, settings, prompt_of, sift, dropped_by(cleaning))
    check_labels(division.train, division.validation)
    contradictions = both_ways(division.train, division.validation)
    train, validation = tokenised_division(division, making, files, crew, events, name)
    if not train.row_count:
        raise nothing_left(train.counts.dropped)

    for name, split in (("train", train), ("validation", validation)):
        preferred = {"preferred": split.column("preferred")}
        write_tokens(spec.folder / f"{name}.tokens.safetensors", split, None, preferred)
    asked = one_of_each_prompt(validation.prompts)
    events.measure(
        train=statistics_of(train) | answers_of(train),
        validation=statistics_of(validation) | answers_of(validation),
        rows_in_both=in_both(train.prompts, validation.prompts),
        **contradictions,
        **division.measures(sums_by_source(train.column("sources"), train.column("row_lengths"))),
        **({"clean": cleaning.measures()} if cleaning else {}),
        **notes_of(train, validation),
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


def one_of_each_prompt(prompts: Digests) -> Array:
    """Indexes of the first row of each prompt, in the order in which the prompts are last seen."""
    found = ordered(prompts)
    return np.asarray(found.firsts()[np.argsort(found.lasts())])


def check_labels(rows: Sequence[Compared], held_out: Sequence[Compared]) -> None:
    """Raise ScriptError E336 when all answers are called the same."""
    labels = _labels(rows)
    if len(labels) != 1:
        return
    (label,) = labels
    others = (not label) in _labels(held_out)
    raise ScriptError(
        f"all rows to train on have the label {str(label).lower()}:"
        " there is nothing to tell good answers by"
        + ("; the rows of the other kind are all held out" if others else ""),
        hint=_other_labels(label, held_out=others),
        code="E336",
    )


def _labels(rows: Sequence[Compared]) -> set[bool]:
    labels: set[bool] = set()
    for row in rows:
        labels |= {good for _, good in row.sides}
        if len(labels) > 1:
            break
    return labels


def _other_labels(label: bool, *, held_out: bool) -> str:
    """What to do where all have this label."""
    if held_out:
        return "lower data.validation.fraction, add rows of the other kind, or try another seed"
    if label:
        return "add bad answers; to learn from good answers alone, use method: sft"
    return "add good answers, which have the label true"


def both_ways(*splits: Sequence[Compared]) -> dict[str, Any]:
    """For run.json, under `both_ways`: how many answers are judged both ways, and where the first
    of them stand; nothing without such answers."""
    known = BothWays()
    for row in chain(*splits):
        known.add(row)
    found = known.found()
    if found is None:
        return {}
    rows = (found.first, found.second)
    places = [str(next(islice(chain(*splits), row, None)).place) for row in rows]
    return {"both_ways": {"count": found.count, "first": places}}


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
            mean = round(int(of_kind.sum()) / len(of_kind), 2)
            found[name] = {"count": len(of_kind), "mean_tokens": mean}
    return {"answers": found}


if __name__ == "__main__":
    main(in_chunks(prepare))
