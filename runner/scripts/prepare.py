"""Turn rows of data files into token ids and label masks.

spec.hashed: seed, system, max_length, too_long, packing, fraction, train and validation (lists of
{name, format, input, columns where there are some}), template (name, or null for the model's own),
and those of data/dividing/division.py; where rows are cleaned, clean (step -> its setting) and
measured (names of the files to look for; the first measured_tasks of them are rows of tasks, which
may be too short for that).
spec.inputs: model (folder of fetch), template, the data files under their `input` names, and
measured-0 and so on.
The bytes written depend on data, tokenizer and settings alone: neither how many processes there are
nor how many rows each gets at a time changes any. Rows, ids and masks wait on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from runner.scripts.data.chunks.chunk import tokenizer_for
from runner.scripts.data.chunks.digests import in_both
from runner.scripts.data.chunks.documents import notes_of, statistics_of, write_tokens
from runner.scripts.data.chunks.reading import Reading
from runner.scripts.data.chunks.spool import Files
from runner.scripts.data.chunks.workers import Workers
from runner.scripts.data.conversation import Conversation, check_turns
from runner.scripts.data.dividing.division import divide, sums_by_source
from runner.scripts.data.formats import ANY_ORDER, ASKED, FORMATS
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
from runner.scripts.data.systems import without_own
from runner.scripts.data.tokens.chat_tokens import check_system, check_template
from runner.scripts.data.tokens.packing import Packs, pack
from runner.scripts.spec import Events, Spec, main


def prepare(files: Files, crew: Workers, spec: Spec, events: Events) -> None:
    """Write the outputs into spec.folder and report statistics. `files`: for what waits."""
    settings, making, cleaning = spec.hashed, making_of(spec), cleaning_of(spec, events)
    tokenizer = tokenizer_for(making.model, making.template)
    train_rows, validation_rows = sound_rows(spec, reading_of(settings), cleaning, files, crew)
    name = settings["template"] or "of the model"
    if train_rows.facts.has_turns or validation_rows.facts.has_turns:
        check_template(tokenizer, name)
        check_system(tokenizer, settings["system"], name)
    sift = sift_of(spec, cleaning)
    division = divide(
        train_rows, validation_rows, settings, Conversation.digest, sift, dropped_by(cleaning)
    )
    train, validation = tokenised_division(division, making, files, crew, events, name)
    if not train.row_count:
        raise nothing_left(train.counts.dropped)

    packs, lengths = None, train.column("lengths")
    if settings["packing"]:
        packs = pack(lengths, settings["max_length"])
    write_tokens(spec.folder / "train.tokens.safetensors", train, packs)
    write_tokens(spec.folder / "validation.tokens.safetensors", validation, None)
    counts = statistics_of(train)
    if packs is not None:
        counts |= packing_cost(packs, counts["tokens"]["total"], settings["max_length"])
    asked = np.arange(validation.row_count)
    events.measure(
        train=counts,
        validation=statistics_of(validation),
        rows_in_both=in_both(train.prompts, validation.prompts),
        **division.measures(sums_by_source(train.column("sources"), lengths)),
        **({"clean": cleaning.measures()} if cleaning else {}),
        **notes_of(train, validation),
        **write_beside(spec, making, validation.rows(), asked, crew),
    )


def reading_of(settings: Mapping[str, Any]) -> Reading:
    """How rows of files become conversations."""
    split = settings.get("split", {})
    return Reading(understand, Conversation.digest, settings, split, settings.get("clean"))


def understand(row: dict[str, Any], file: Mapping[str, Any], reading: Reading) -> Conversation:
    """A row that can be used, or cleaned where rows are. Raises RowError."""
    waiting = file["format"] in ASKED
    parse = (ASKED if waiting else FORMATS)[file["format"]]
    if reading.orders_turns:
        parse = ANY_ORDER.get(file["format"], parse)
    conversation = without_own(parse(row), reading.settings)
    if reading.steps is None and not waiting:
        check_turns(conversation)
    return conversation


def packing_cost(packs: Packs, tokens: int, max_length: int) -> dict[str, Any]:
    """How many packs there are, which part of their room is left empty, and how many documents
    share one."""
    documents = packs.sizes
    filled = tokens / (len(packs) * max_length)
    return {
        "packs": len(packs),
        "packs_filled": round(filled, 4),
        "packs_padding": round(1 - filled, 4),
        "documents_a_pack": {
            "min": int(documents.min()),
            "mean": round(int(documents.sum()) / len(documents), 2),
            "max": int(documents.max()),
        },
    }


if __name__ == "__main__":
    main(in_chunks(prepare))
