"""What preparing conversations and preparing preferences have in common.

The tokenizer and the rows at the beginning; at the end the tokens' file, and what stands beside it
for the stages after the training.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.scripts.data.chat_tokens import (
    ChatTokenizer,
    Tokens,
    end_ids_of,
)
from runner.scripts.data.conversation import (
    Conversation,
    Message,
    fill_system,
    with_system,
)
from runner.scripts.data.division import Sift
from runner.scripts.data.parity_cases import cases
from runner.scripts.data.rows import MAX_SHOWN, Problem, RowError
from runner.scripts.spec import ScriptError, Spec
from runner.scripts.weights.floats import Array
from runner.scripts.weights.safetensors_stream import SafetensorsWriter, TensorSpec

if TYPE_CHECKING:
    from runner.scripts.data.cleaning.pipeline import Cleaning

HINTS = {
    "E320": "save the file as UTF-8",
    "E321": "every row is one JSON object; check it with `python -m json.tool --json-lines`",
    "E322": "docs/data.md shows the shape of each format",
    "E323": "remove the row, or give it an answer",
    "E333": "remove the row, or correct one of its sides",
    "E334": "give both answers; docs/data.md shows the shape of a pair",
    "E335": 'add "prompt", or let both sides begin with the same turns',
    "E337": "write true for a good answer and false for a bad one",
    "E346": "correct the order of the turns, or leave the row out",
    "E347": "write it as JSON lines, compressed by gzip or xz if at all",
    "E349": "write JSON lines: one row a line",
    "E351": "write the table again with a program that quotes cells",
    "E348": "name the columns as they are in the file, in columns of this file",
    "E357": 'a row is {"prompt": "a question", "answer": "the right answer"}',
    "E361": "name a column that every row has, or give the row a value",
    "E350": "choose a data.chat_template that writes tools, or leave them out of the rows",
    "E325": "raise data.max_length, or set data.too_long to truncate or drop",
    "E326": "change the rows, or choose another data.chat_template",
    "E327": "change the rows, or choose another data.chat_template",
    "E556": "remove the system turns, or choose a data.chat_template that takes them",
    "E558": "write the BOS once: remove one from the template",
    "E328": "choose a data.chat_template whose answers end with the model's end-of-turn token",
}


def tokenizer_of(spec: Spec) -> ChatTokenizer:
    """The model's tokenizer with the chat template of the recipe, or else its own."""
    model, named = spec.inputs["model"], spec.hashed["template"]
    template = spec.inputs["template"].read_text(encoding="utf-8") if named else None
    return ChatTokenizer(model, template, end_ids_of(model))


def sound_rows(
    spec: Spec, read: Callable[..., tuple[list[Any], list[Problem]]], cleaning: Cleaning | None
) -> tuple[list[Any], list[Any]]:
    """Rows to train on, before some are held out, and those of files to hold out, all cleaned.

    `read`: as read_files. Raises one ScriptError for all that cannot be used.
    """
    settings = spec.hashed
    train, problems = read(spec, settings["train"], settings.get("split"), cleaning)
    validation, more = read(spec, settings["validation"], None, cleaning)
    if problems + more:
        raise_problems(problems + more)
    if cleaning:
        cleaning.require_rows(train, validation, held_out=bool(settings["validation"]))
    return train, validation


def cleaning_of(spec: Spec) -> Cleaning | None:
    """The steps that the recipe asks for; None for rows as they are."""
    if "clean" not in spec.hashed:
        return None
    from runner.scripts.data.cleaning.pipeline import Cleaning

    return Cleaning(spec.hashed["clean"])


def sift_of(spec: Spec, cleaning: Cleaning | None) -> Sift | None:
    """What leaves rows out of training that hold what is measured by, once rows are held out.

    It raises ScriptError when cleaning has left none.
    """
    if cleaning is None:
        return None
    names = spec.hashed["measured"]
    files = [(spec.inputs[f"measured-{number}"], name) for number, name in enumerate(names)]

    def sift(train: Sequence[Any], validation: Sequence[Any]) -> list[Any]:
        left = cleaning.decontaminated(train, validation, files)
        cleaning.require_rows(left, validation, held_out=False)
        return left

    return sift


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise one ScriptError for all bad rows, with the code of the first."""
    lines = [f"{problem.place}: {problem.error.message}" for problem in problems[:MAX_SHOWN]]
    if len(problems) > MAX_SHOWN:
        lines.append(f"and {len(problems) - MAX_SHOWN} more rows")
    code = problems[0].error.code
    raise ScriptError("\n".join(lines), hint=HINTS[code], code=code)


def nothing_left(dropped: Mapping[str, int]) -> ScriptError:
    """What to say when all rows to train on were dropped."""
    return ScriptError(
        f"no row is left to train on: {count_words(dropped)}",
        hint="raise data.max_length or look at the rows",
        code="E329",
    )


def count_words(counts: Counter[str]) -> str:
    """`3 too long, 1 no answer within max_length`."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def fit(tokens: Tokens, max_length: int, too_long: str) -> Tokens | str:
    """The tokens within `max_length`, or the reason why the row is dropped. Raises RowError E325.

    A truncated row ends with the last answer that has a token left, so no answer is empty.
    """
    length = len(tokens.ids)
    if length <= max_length:
        return tokens
    if too_long == "error":
        raise RowError(f"the row has {length} tokens, data.max_length is {max_length}", "E325")
    if too_long == "drop":
        return "too long"
    spans = [(begin, min(end, max_length)) for begin, end in tokens.spans if begin < max_length]
    spans = [(begin, end) for begin, end in spans if end > max(begin, 1)]
    if not spans:
        return "no answer within max_length"
    return Tokens(tokens.ids[: spans[-1][1]], spans)


# --- files


def write_tokens(
    path: Path,
    documents: Sequence[Tokens],
    packs: list[list[int]] | None,
    more: Mapping[str, Array] | None = None,
) -> None:
    """input_ids int32, labels_mask int8, offsets int64 [rows + 1]; packed: two more (see below)."""
    groups = packs if packs is not None else [[index] for index in range(len(documents))]
    ids, mask, positions = array("i"), bytearray(), array("i")
    offsets, document_offsets = [0], [0]
    for group in groups:
        for index in group:
            document = documents[index]
            ids.extend(document.ids)
            mask += document.mask()
            positions.extend(range(len(document.ids)))
            document_offsets.append(len(ids))
        offsets.append(len(ids))
    tensors: dict[str, Array] = {
        "input_ids": np.array(ids, np.int32),
        "labels_mask": np.frombuffer(mask, np.int8),
        "offsets": np.array(offsets, np.int64),
    }
    if packs is not None:
        tensors["position_ids"] = np.array(positions, np.int32)  # from 0 in every document
        tensors["document_offsets"] = np.array(document_offsets, np.int64)
    tensors |= more or {}
    kinds = {"int32": "I32", "int64": "I64", "int8": "I8", "uint8": "U8"}
    specs = [
        TensorSpec(name, kinds[values.dtype.name], values.shape) for name, values in tensors.items()
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
    """What stands beside the tokens, for the stages after the training: validation rows as JSON and
    as text, prompts of `asked`, the chat template. Measures of the prompts."""
    system = spec.hashed["system"]
    kept = [with_system(row, system) for row in kept]
    write_lines(spec.folder / "validation.jsonl", (row.as_json() for row in kept))
    write_text(spec.folder / "validation.txt", validation_text(kept, tokenizer))
    prompts, left_out = parity_prompts(asked, tokenizer, system)
    write_lines(spec.folder / "prompts.jsonl", prompts)
    write_text(spec.folder / "chat_template.jinja", tokenizer.template)
    return {
        "parity_prompts": len(prompts),
        "parity_prompts_refused": sum(left_out.values()),
        "parity_prompts_left_out": dict(sorted(left_out.items())),
    }


def validation_text(rows: Iterable[Conversation], tokenizer: ChatTokenizer) -> str:
    """The held-out rows as the model sees them, one after another."""
    texts = [
        row.text if row.text is not None else tokenizer.render(row.messages, row.tools)
        for row in rows
    ]
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts)


def parity_prompts(
    rows: Sequence[Conversation], tokenizer: ChatTokenizer, system: str | None
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """What the deployed model is asked, with the ids it must see; and why how many are left out.

    The messages are as a client sends them: the missing system turn is not filled in. A hard case
    that the template refuses (a system turn, say) is left out and counted under its reason.
    """
    asked = [
        ("validation", f"validation-{number:05d}", question_of(row))
        for number, row in enumerate(rows, 1)
    ]
    asked += [("hard", f"hard-{name}", messages) for name, messages in cases()]
    prompts = []
    left_out: Counter[str] = Counter()
    for kind, name, messages in asked:
        if not messages or not tokenizer.has_template:
            continue
        filled = fill_system(messages, system)
        try:
            text = tokenizer.render(filled, generate=True)
        except RowError as error:
            left_out[error.message] += 1
            continue
        ids = tokenizer.prompt_ids(filled)
        prompts.append({"id": name, "kind": kind, "messages": messages, "text": text, "ids": ids})
    return prompts, left_out


def question_of(row: Conversation) -> list[Message]:
    """The turns up to the last user turn; none for plain text and where tools are at hand.

    How a deployed model is given tools is up to its server, so no prompt with tools is compared.
    """
    if row.tools:
        return []
    users = [index for index, turn in enumerate(row.messages) if turn["role"] == "user"]
    return list(row.messages[: users[-1] + 1]) if users else []


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSON lines in UTF-8."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """As it is: no newline is translated."""
    path.write_bytes(text.encode())
