"""Turn rows of prompts into token ids, for methods that learn from answers of their own.

As `prepare` (its spec, its outputs), with `max_completion_length` and `reads` (what the rewards
read of a row's answer: "text", "number") beside, and but for what the tokens files hold: a row is
a prompt with the generation prompt behind it, of which nothing is trained; `answers` (UTF-8, one
text after the other) and `answer_offsets` (int64, [rows + 1]) are the right answers; `answered`
(int8, one a row) is 0 where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from runner.scripts.data.chunks.chunk import tokenizer_for
from runner.scripts.data.chunks.digests import in_both
from runner.scripts.data.chunks.documents import notes_of, statistics_of, write_tokens
from runner.scripts.data.chunks.reading import Reading
from runner.scripts.data.chunks.spool import Files
from runner.scripts.data.chunks.workers import Workers
from runner.scripts.data.dividing.division import divide, sums_by_source
from runner.scripts.data.files.rows import RowError
from runner.scripts.data.formats import PROMPTED
from runner.scripts.data.preparation import (
    in_chunks,
    making_of,
    nothing_left,
    sound_rows,
    tokenised_division,
    write_beside,
)
from runner.scripts.data.prompted import Prompted, check_prompted
from runner.scripts.data.systems import prompt_of, without_own
from runner.scripts.data.tokens.chat_tokens import check_system, check_template
from runner.scripts.rewards.functions import is_number
from runner.scripts.spec import Events, Spec, main
from runner.scripts.weights.floats import Array


def prepare(files: Files, crew: Workers, spec: Spec, events: Events) -> None:
    """Write the outputs into spec.folder and report statistics. `files`: for what waits."""
    settings, making = spec.hashed, replace(making_of(spec), keeps_rows=True)
    tokenizer = tokenizer_for(making.model, making.template)
    train_rows, validation_rows = sound_rows(spec, reading_of(settings), None, files, crew)
    name = settings["template"] or "of the model"
    check_template(tokenizer, name)
    check_system(tokenizer, settings["system"], name)
    division = divide(train_rows, validation_rows, settings, prompt_of)
    train, validation = tokenised_division(division, making, files, crew, events, name)
    if not train.row_count:
        raise nothing_left(train.counts.dropped)

    for kind, split in (("train", train), ("validation", validation)):
        answers = answers_of(split.rows())
        write_tokens(spec.folder / f"{kind}.tokens.safetensors", split, None, answers)
    asked = np.arange(validation.row_count)
    events.measure(
        train=statistics_of(train),
        validation=statistics_of(validation),
        rows_in_both=in_both(train.prompts, validation.prompts),
        **division.measures(sums_by_source(train.column("sources"), train.column("lengths"))),
        **notes_of(train, validation),
        **write_beside(spec, making, validation.rows(), asked, crew),
    )


def reading_of(settings: Mapping[str, Any]) -> Reading:
    """How rows of files become prompts."""
    return Reading(understand, prompt_of, settings, settings.get("split", {}))


def understand(row: dict[str, Any], file: Mapping[str, Any], reading: Reading) -> Prompted:
    """A row that can be answered, and its answer held against. Raises RowError."""
    prompted = PROMPTED[file["format"]](row)
    prompted = replace(prompted, asked=without_own(prompted.asked, reading.settings))
    check_prompted(prompted)
    check_answer(prompted, reading.settings["reads"])
    return prompted


def check_answer(row: Prompted, reads: Sequence[str]) -> None:
    """Raise RowError E357 when the rewards cannot be held against the row's answer."""
    if reads and row.answer is None:
        raise RowError('"answer" is missing, which the rewards hold answers against', "E357")
    if "number" in reads and not is_number(row.answer or ""):
        raise RowError('"answer" is no number, and number-answer holds answers against it', "E357")


def answers_of(rows: Iterable[Prompted]) -> dict[str, Array]:
    """The right answers of all rows, as the tokens file has them."""
    told = [row.answer for row in rows]
    texts = [(answer or "").encode() for answer in told]
    return {
        "answers": np.frombuffer(b"".join(texts), np.uint8),
        "answer_offsets": np.array([0, *accumulate(map(len, texts))], np.int64),
        "answered": np.array([answer is not None for answer in told], np.int8),
    }


if __name__ == "__main__":
    main(in_chunks(prepare))
