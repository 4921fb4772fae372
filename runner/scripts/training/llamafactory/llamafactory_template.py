"""Tokens by one of LLaMA Factory's own templates, and how they differ from the shared ones.

The rows are those that `prepare` trains on, read and split as it does it; LLaMA Factory gets them
as conversations and makes tokens and labels of them by its own code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer

from runner.backends.llamafactory_rows import TURNS
from runner.scripts import prepare
from runner.scripts.data.chunks.chunk import Making, tokenised
from runner.scripts.data.chunks.spool import waiting_files
from runner.scripts.data.chunks.workers import workers
from runner.scripts.data.conversation import Conversation, with_system
from runner.scripts.data.dividing.division import divide
from runner.scripts.data.preparation import raise_problems, sound_rows
from runner.scripts.spec import Events, ScriptError, Spec
from runner.scripts.training.token_rows import Row, TokenRows
from runner.scripts.weights.floats import Array
from runner.scripts.weights.model_folder import write_json

NAME = "rows"  # in dataset_info.json
AROUND = 8  # tokens shown before and behind the first one that differs


def tokens_by_own_template(spec: Spec, events: Events, shared: TokenRows) -> TokenRows:
    """LLaMA Factory's rows in the place of `shared`. Writes template/difference.json.

    Raises ScriptError E531 when it leaves rows out, E532 when the rows are not those of `shared`.
    """
    rows = conversations(spec, events, shared)
    theirs, tokenizer = encode(spec, rows)
    if len(theirs.rows) != len(rows):
        raise ScriptError(
            f"LLaMA Factory makes {len(theirs.rows)} rows of {len(rows)} by its template",
            hint="every conversation must begin with the user and alternate; or set "
            "train.template: shared",
            code="E531",
        )
    found = difference(spec.hashed["settings"]["own_template"], rows, shared, theirs, tokenizer)
    (spec.folder / "template").mkdir(parents=True, exist_ok=True)
    write_json(spec.folder / "template" / "difference.json", found)
    events.measure(template=found)
    events.progress(
        len(rows),
        len(rows),
        message=f"{found['different']} of {found['rows']} rows have other tokens than the shared",
    )
    return theirs


def conversations(spec: Spec, events: Events, shared: TokenRows) -> list[Conversation]:
    """The rows that `shared` was made of, in its order."""
    settings = spec.hashed["rows"]
    template = spec.inputs["template"].read_text(encoding="utf-8")
    making = Making(spec.inputs["model"], template, settings, keeps_rows=True)
    of_rows = replace(spec, hashed=settings)
    with waiting_files(spec.scratch) as files, workers() as crew:
        read, held_out = sound_rows(of_rows, prepare.reading_of(settings), None, files, crew)
        division = divide(read, held_out, settings, Conversation.digest)
        made, ids = [], []
        for part in division.train.parts():
            chunk = tokenised(part.rows(), making)
            if chunk.counts.problems:
                raise_problems(chunk.counts.problems, chunk.counts.unusable)
            ids += np.split(chunk.ids, np.cumsum(chunk.lengths)[:-1])
            made += chunk.rows
    if not same_ids(ids, shared):
        raise ScriptError(
            "the rows give other tokens than those that were prepared of them",
            hint="run the same command again; the files may have been changed meanwhile",
            code="E532",
        )
    return [with_system(row, settings["system"]) for row in made]


def same_ids(ids: Sequence[Array], shared: TokenRows) -> bool:
    """Are these the ids of the shared rows?"""
    return len(ids) == len(shared.rows) and all(
        np.array_equal(ours, row.input_ids) for ours, row in zip(ids, shared.rows, strict=True)
    )


def encode(spec: Spec, rows: Sequence[Conversation]) -> tuple[TokenRows, Any]:
    """Tokens and labels by LLaMA Factory's own reading, and the tokenizer as it uses it."""
    place = spec.scratch / "own-template"
    place.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"messages": list(row.messages)}, ensure_ascii=False) for row in rows]
    (place / f"{NAME}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(place / "dataset_info.json", {NAME: {"file_name": f"{NAME}.jsonl", **TURNS}})
    model_args, data_args, training_args, _, _ = get_train_args(arguments(spec, place))
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    made = get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)
    found = [as_row(each) for each in made["train_dataset"]]
    return TokenRows(found, packed=False), loaded["tokenizer"]


def arguments(spec: Spec, place: Path) -> dict[str, Any]:
    """What LLaMA Factory must be told to read rows; nothing is trained by it."""
    settings = spec.hashed["settings"]
    return {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": settings["configuration"]["finetuning_type"],
        "model_name_or_path": str(spec.inputs["model"]),
        "trust_remote_code": settings["configuration"]["trust_remote_code"],
        "template": settings["own_template"],
        "dataset": NAME,
        "dataset_dir": str(place),
        "cutoff_len": spec.hashed["rows"]["max_length"],
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,
        "output_dir": str(place / "out"),
        "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),  # as the training after it
    }


def as_row(made: dict[str, Any]) -> Row:
    ids = np.array(made["input_ids"], np.int64)
    labels = np.array(made["labels"], np.int64)
    return Row(ids, labels, np.arange(len(ids), dtype=np.int64), np.ones(len(ids), np.int64))


# --- the difference


def difference(
    name: str,
    rows: Sequence[Conversation],
    shared: TokenRows,
    theirs: TokenRows,
    tokenizer: Any,
) -> dict[str, Any]:
    """How many rows differ, in ids or in what is trained on; the first one, side by side."""
    unequal = [
        number
        for number, (ours, other) in enumerate(zip(shared.rows, theirs.rows, strict=True))
        if not same(ours, other)
    ]
    found: dict[str, Any] = {"name": name, "rows": len(rows), "different": len(unequal)}
    if unequal:
        number = unequal[0]
        ours, other = shared.rows[number], theirs.rows[number]
        at = first_difference(ours, other)
        found["first"] = {
            "row": str(rows[number].place),
            "token": at,
            "shared": shown(ours, at, tokenizer),
            "own": shown(other, at, tokenizer),
        }
    return found


def same(one: Row, other: Row) -> bool:
    return np.array_equal(one.input_ids, other.input_ids) and np.array_equal(
        one.labels, other.labels
    )


def first_difference(one: Row, other: Row) -> int:
    """Index of the first token that is another one, or is trained on in one of the two only."""
    pairs = zip(one.input_ids, one.labels, other.input_ids, other.labels, strict=False)
    for number, (a, b, c, d) in enumerate(pairs):
        if a != c or b != d:
            return number
    return min(len(one.input_ids), len(other.input_ids))


def shown(row: Row, at: int, tokenizer: Any) -> dict[str, Any]:
    """The tokens around `at`: ids, whether each is trained on, and their text."""
    part = slice(max(0, at - AROUND), at + AROUND)
    ids = row.input_ids[part].tolist()
    return {
        "tokens": len(row.input_ids),
        "ids": ids,
        "trained": [int(label >= 0) for label in row.labels[part]],
        "text": tokenizer.decode(ids),
    }
