"""The files of rows that memory holds: prompts, of which a training takes some thousand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.scripts.data.chat_tokens import ChatTokenizer, Tokens
from runner.scripts.data.conversation import Conversation, with_system
from runner.scripts.data.parity_cases import cases
from runner.scripts.data.preparation import prompts_of, question_of, validation_text, write_text
from runner.scripts.spec import Spec
from runner.scripts.weights.floats import Array
from runner.scripts.weights.safetensors_stream import SafetensorsWriter, TensorSpec

_KINDS = {"int32": "I32", "int64": "I64", "int8": "I8", "uint8": "U8"}


def write_tokens(path: Path, documents: Sequence[Tokens], more: Mapping[str, Array]) -> None:
    """input_ids int32, labels_mask int8, offsets int64 [rows + 1], and `more`."""
    ids = [np.array(document.ids, np.int32) for document in documents]
    masks = [np.frombuffer(document.mask(), np.int8) for document in documents]
    lengths = np.array([len(each) for each in ids], np.int64)
    tensors: dict[str, Array] = {
        "input_ids": np.concatenate([np.empty(0, np.int32), *ids]),
        "labels_mask": np.concatenate([np.empty(0, np.int8), *masks]),
        "offsets": np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        **more,
    }
    specs = [
        TensorSpec(name, _KINDS[values.dtype.name], values.shape)
        for name, values in tensors.items()
    ]
    with SafetensorsWriter(path, specs) as writer:
        for name, values in tensors.items():
            writer.write(name, values)


def write_beside(
    spec: Spec,
    tokenizer: ChatTokenizer,
    kept: Sequence[Conversation],
    asked: Sequence[Conversation],
) -> dict[str, Any]:
    """As that of data/preparation.py, for the rows `kept` and the prompts of `asked`."""
    system = spec.hashed["system"]
    kept = [with_system(row, system) for row in kept]
    lines = (json.dumps(row.as_json(), ensure_ascii=False) + "\n" for row in kept)
    write_text(spec.folder / "validation.jsonl", "".join(lines))
    write_text(spec.folder / "validation.txt", validation_text(kept, tokenizer))
    named = [
        ("validation", f"validation-{number:05d}", question_of(row))
        for number, row in enumerate(asked, 1)
    ]
    hard = [("hard", f"hard-{name}", messages) for name, messages in cases()]
    found = prompts_of([*named, *hard], tokenizer, system)
    (spec.folder / "prompts.jsonl").write_bytes(found.lines)
    write_text(spec.folder / "chat_template.jinja", tokenizer.template)
    return {
        "parity_prompts": found.count,
        "parity_prompts_refused": sum(found.left_out.values()),
        "parity_prompts_left_out": dict(sorted(found.left_out.items())),
    }
