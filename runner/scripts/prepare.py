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

import json
import statistics
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.scripts.data.chat_tokens import (
    ChatTokenizer,
    Tokens,
    check_system,
    check_template,
    end_ids_of,
)
from runner.scripts.data.conversation import (
    Conversation,
    Message,
    check_turns,
    fill_system,
    with_system,
)
from runner.scripts.data.division import Sift, by_source, divide
from runner.scripts.data.formats import ANY_ORDER, FORMATS
from runner.scripts.data.kinship import traits_of
from runner.scripts.data.packing import pack
from runner.scripts.data.parity_cases import cases
from runner.scripts.data.rows import MAX_SHOWN, Problem, RowError, read_rows
from runner.scripts.data.systems import system_of, without_own
from runner.scripts.spec import Events, ScriptError, Spec, main
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
    "E361": "name a column that every row has, or give the row a value",
    "E350": "choose a data.chat_template that writes tools, or leave them out of the rows",
    "E325": "raise data.max_length, or set data.too_long to truncate or drop",
    "E326": "change the rows, or choose another data.chat_template",
    "E327": "change the rows, or choose another data.chat_template",
    "E556": "remove the system turns, or choose a data.chat_template that takes them",
    "E558": "write the BOS once: remove one from the template",
    "E328": "choose a data.chat_template whose answers end with the model's end-of-turn token",
}


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
    settings = spec.hashed
    model = spec.inputs["model"]
    template = spec.inputs["template"].read_text(encoding="utf-8") if settings["template"] else None
    tokenizer = ChatTokenizer(model, template, end_ids_of(model))

    cleaning = cleaning_of(spec)
    train_rows, problems = read_files(spec, settings["train"], settings.get("split"), cleaning)
    validation_rows, more = read_files(spec, settings["validation"], None, cleaning)
    if problems + more:
        raise_problems(problems + more)
    if cleaning:
        cleaning.require_rows(train_rows, validation_rows, held_out=bool(settings["validation"]))
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
        raise ScriptError(
            f"no row is left to train on: {count_words(train.dropped)}",
            hint="raise data.max_length or look at the rows",
            code="E329",
        )

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


# --- rows


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
    parse, columns = FORMATS[file["format"]], file.get("columns")
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
            if not cleaning:
                check_turns(conversation)
            traits = traits_of(row, number, columns, split)
        except RowError as error:
            problems.append(Problem(place, error))
            continue
        rows.append(replace(conversation, place=place, traits=traits))
    return rows, problems


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise one ScriptError for all bad rows, with the code of the first."""
    lines = [f"{problem.place}: {problem.error.message}" for problem in problems[:MAX_SHOWN]]
    if len(problems) > MAX_SHOWN:
        lines.append(f"and {len(problems) - MAX_SHOWN} more rows")
    code = problems[0].error.code
    raise ScriptError("\n".join(lines), hint=HINTS[code], code=code)


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


def check_masks(documents: Documents) -> None:
    """What must hold of every row that is trained on, whatever made it."""
    for row, tokens in zip(documents.rows, documents.tokens, strict=True):
        trained = {index for index, bit in enumerate(tokens.mask()) if bit}
        answers = {index for begin, end in tokens.spans for index in range(begin, end)}
        assert trained, f"{row.place}: nothing to train on"
        assert trained == answers - {0}, f"{row.place}: a prompt token is trained on"
        assert all(begin < end for begin, end in tokens.spans), f"{row.place}: an empty answer"


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
    kinds = {"int32": "I32", "int64": "I64", "int8": "I8"}
    specs = [
        TensorSpec(name, kinds[values.dtype.name], values.shape) for name, values in tensors.items()
    ]
    with SafetensorsWriter(path, specs) as writer:
        for name, values in tensors.items():
            writer.write(name, values)


# --- what evaluation, export and parity read


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


def count_words(counts: Counter[str]) -> str:
    """`3 too long, 1 no answer within max_length`."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSON lines in UTF-8."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """As it is: no newline is translated."""
    path.write_bytes(text.encode())


if __name__ == "__main__":
    main(prepare)
