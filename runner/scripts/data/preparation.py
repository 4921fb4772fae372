"""What preparing conversations and preparing preferences have in common.

The tokenizer and the rows at the beginning; at the end the tokens' file, and what stands beside it
for the stages after the training.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.scripts.data.chunks.chunk import Counts, Making, tokenizer_for
from runner.scripts.data.chunks.documents import Documents, made
from runner.scripts.data.chunks.reading import Reading, read_rows_of
from runner.scripts.data.chunks.spool import Files, Part, waiting_files
from runner.scripts.data.chunks.stored import StoredRows
from runner.scripts.data.chunks.workers import Workers, workers
from runner.scripts.data.cleaning.texts import sides_of, wanted_sides
from runner.scripts.data.conversation import (
    Conversation,
    Message,
    fill_system,
    with_system,
)
from runner.scripts.data.dividing.division import Division, Sift
from runner.scripts.data.dividing.kinship import Row
from runner.scripts.data.files.rows import MAX_SHOWN, Problem, RowError, by_place
from runner.scripts.data.prompted import Prompted
from runner.scripts.data.template_tokens import FOREIGN, foreign_template
from runner.scripts.data.tokens import last_rendered
from runner.scripts.data.tokens.chat_tokens import ChatTokenizer, template_text
from runner.scripts.data.tokens.parity_cases import cases
from runner.scripts.data.tokens.template_limits import naming
from runner.scripts.spec import Events, ScriptError, Spec
from runner.scripts.weights.floats import Array

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


def in_chunks(
    prepare: Callable[[Files, Workers, Spec, Events], None],
) -> Callable[[Spec, Events], None]:
    """The job of a script: `prepare` with files for what waits and processes that work."""

    def job(spec: Spec, events: Events) -> None:
        environ, template = spec.hashed.get("env", {}), spec.hashed["template"]
        with (
            waiting_files(spec.scratch) as files,
            last_rendered.kept_in(spec.scratch, template),
            naming(template),
            workers(environ=environ) as crew,
        ):
            prepare(files, crew, spec, events)

    return job


def making_of(spec: Spec) -> Making:
    """The model's tokenizer with the chat template of the recipe, or else its own; the settings."""
    settings, named = spec.hashed, spec.hashed["template"]
    template = template_text(spec.inputs["template"]) if named else None
    wanted = ("template", "seed", "system", "system_variants", "max_length", "too_long")
    wanted += ("max_completion_length",)
    kept = {name: settings[name] for name in wanted if name in settings}
    return Making(spec.inputs["model"], template, kept)


def sound_rows(
    spec: Spec, reading: Reading, cleaning: Cleaning | None, files: Files, crew: Workers
) -> tuple[StoredRows[Any], StoredRows[Any]]:
    """Rows to train on, before some are held out, and those of files to hold out, all cleaned.

    Raises one ScriptError for all that cannot be used.
    """
    settings = spec.hashed
    bad = Counts()
    train = read_rows_of(spec, "train", reading, cleaning, files, crew, bad)
    held_out = replace(reading, split={})  # no column is asked of them
    validation = read_rows_of(spec, "validation", held_out, cleaning, files, crew, bad)
    if bad.problems:
        seen = (
            f"recipe data inspect --recipe RECIPE --rows 0 --bad {bad.unusable} names all of them"
        )
        raise_problems(bad.problems, bad.unusable, seen)
    if cleaning:
        cleaning.require_rows(train, validation, held_out=bool(settings["validation"]))
    return train, validation


def cleaning_of(spec: Spec, events: Events) -> Cleaning | None:
    """The steps that the recipe asks for, of which the one that takes long says how far it is; None
    for rows as they are."""
    if "clean" not in spec.hashed:
        return None
    from runner.scripts.data.cleaning.pipeline import Cleaning

    return Cleaning(spec.hashed["clean"], partial(events.progress, message="rows compared"))


def sift_of(spec: Spec, cleaning: Cleaning | None) -> Sift | None:
    """What leaves rows out of training that hold what is measured by, once rows are held out.

    It raises ScriptError when cleaning has left none.
    """
    if cleaning is None:
        return None
    names = spec.hashed["measured"]
    files = [(spec.inputs[f"measured-{number}"], name) for number, name in enumerate(names)]
    tasks = spec.hashed.get("measured_tasks", 0)

    def sift(train: Sequence[Any], validation: Sequence[Any]) -> list[bool]:
        left = cleaning.uncontaminated(train, validation, files[tasks:], files[:tasks])
        cleaning.require_rows([None] * sum(left), validation, held_out=False)
        return left

    return sift


def dropped_by(cleaning: Cleaning | None) -> Callable[[str | None], str]:
    """Says of a file, or of all (None), what cleaning dropped of it; "" for nothing."""
    return cleaning.dropped_of if cleaning else lambda _: ""


def raise_problems(problems: Sequence[Problem], count: int, seen: str = "") -> None:
    """Raise one ScriptError for `count` bad rows, the first ones named, with the first's code.

    Where they have several codes, each row has its own, and the hint those of all. `seen`: where
    those are seen that are not named here.
    """
    shown = problems[:MAX_SHOWN]
    codes = list(dict.fromkeys(problem.error.code for problem in shown))
    lines = [
        f"{each.place}: {each.error.message}" + (f" ({each.error.code})" if len(codes) > 1 else "")
        for each in shown
    ]
    if (more := count - len(shown)) > 0:
        lines.append(f"and {more} more row{'' if more == 1 else 's'}")
    hints = [f"{code}: {HINTS[code]}" for code in codes] if codes[1:] else [HINTS[codes[0]]]
    if seen and more > 0:
        hints.append(seen)
    raise ScriptError("\n".join(lines), hint="; ".join(hints), code=codes[0])


def nothing_left(dropped: Mapping[str, int]) -> ScriptError:
    """What to say when all rows to train on were dropped, or none was taken to begin with."""
    if not dropped:
        return ScriptError(
            "no row is left to train on: repeat in data.train takes no row of any file",
            hint="raise repeat in data.train: 0.5 is half of a file's rows, each by its hash",
            code="E329",
        )
    return ScriptError(
        f"no row is left to train on: {count_words(dropped)}",
        hint="raise data.max_length or look at the rows",
        code="E329",
    )


def count_words(counts: Counter[str]) -> str:
    """`3 too long, 1 no answer within max_length`."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def tokenised_division(
    division: Division[Any], making: Making, files: Files, crew: Workers, events: Events, name: str
) -> tuple[Documents, Documents]:
    """Tokens of the rows to train on and of those to measure with. `name`: the chat template's.

    Raises one ScriptError for all rows of both that cannot be used and may not be dropped, or E328
    at the first of them where none can be.
    """
    total = len(division.train) + len(division.validation)
    both, looked = [], False
    done = 0
    for split, rows, how in (
        ("train", division.train, making),
        ("validation", division.validation, making.of_held_out()),
    ):
        documents = Documents(files, split)
        for count in made(rows, how, documents, crew):
            if not looked and (problems := documents.counts.problems):
                looked = True
                _check_foreign(problems, making, name)
            events.progress(done + count, total, message="rows")
        done += len(rows)
        both.append(documents)
    if problems := [each for documents in both for each in documents.counts.problems]:
        count = sum(documents.counts.unusable for documents in both)
        raise_problems(sorted(problems, key=by_place), count)
    return both[0], both[1]


def _check_foreign(problems: Sequence[Problem], making: Making, name: str) -> None:
    """Raises ScriptError E328 where the template is not for the model's tokenizer."""
    if not any(problem.error.code in FOREIGN for problem in problems):
        return
    error = foreign_template(tokenizer_for(making.model, making.template), name)
    if error is not None:
        raise error


# --- files


def write_beside(
    spec: Spec, making: Making, rows: StoredRows[Any], asked: Array, crew: Workers
) -> dict[str, Any]:
    """What stands beside the tokens, for the stages after the training: validation rows as JSON and
    as text, prompts, the chat template. Measures of the prompts.

    `rows`: those that are held out, as they were made into documents. `asked`: the indexes of those
    whose prompts are kept.
    """
    tokenizer = tokenizer_for(making.model, making.template)
    written = crew.each(partial(beside, making=making), rows.parts())
    with (
        (spec.folder / "validation.jsonl").open("wb") as lines,
        (spec.folder / "validation.txt").open("wb") as texts,
    ):
        for line, text in written:
            lines.write(line)
            texts.write(text)
    count, left_out = 0, Counter[str]()
    with (spec.folder / "prompts.jsonl").open("wb") as out:
        questions = numbered(rows.take(asked).parts())
        for found in crew.each(partial(prompts_of_part, making=making), questions):
            out.write(found.lines)
            count += found.count
            left_out += found.left_out
        hard = [("hard", f"hard-{name}", messages) for name, messages in cases()]
        found = prompts_of(hard, tokenizer, making.settings["system"])
        out.write(found.lines)
    write_text(spec.folder / "chat_template.jinja", tokenizer.template)
    left_out += found.left_out
    return {
        "parity_prompts": count + found.count,
        "parity_prompts_refused": sum(left_out.values()),
        "parity_prompts_left_out": dict(sorted(left_out.items())),
    }


def beside(part: Part, making: Making) -> tuple[bytes, bytes]:
    """The rows as JSON lines, and as the model sees them: of preferences the good answers, of
    prompts the right ones."""
    tokenizer = tokenizer_for(making.model, making.template)
    sides = [side for row in part.rows() for side in _shown(row)]
    kept = [with_system(side, making.settings["system"]) for side in sides]
    lines = "".join(json.dumps(row.as_json(), ensure_ascii=False) + "\n" for row in kept)
    return lines.encode(), validation_text(kept, tokenizer).encode()


def _shown(row: Row) -> tuple[Conversation, ...]:
    return (row.answered(),) if isinstance(row, Prompted) else wanted_sides(row)


def validation_text(rows: Iterable[Conversation], tokenizer: ChatTokenizer) -> str:
    """The held-out rows as the model sees them, one after another."""
    texts = [
        row.text if row.text is not None else tokenizer.render(row.messages, row.tools)
        for row in rows
    ]
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts)


@dataclass(frozen=True)
class Prompts:
    """JSON lines of prompts; why how many were left out."""

    lines: bytes
    count: int
    left_out: Counter[str]


def numbered(parts: Iterable[Part]) -> Iterator[tuple[int, Part]]:
    """Each part, and the number of its first row, from 1."""
    start = 1
    for part in parts:
        yield start, part
        start += len(part)


def prompts_of_part(question: tuple[int, Part], making: Making) -> Prompts:
    """What the deployed model is asked of rows, which are counted from a number on."""
    start, part = question
    asked = [
        ("validation", f"validation-{number:05d}", question_of(sides_of(row)[0]))
        for number, row in enumerate(part.rows(), start)
    ]
    tokenizer = tokenizer_for(making.model, making.template)
    return prompts_of(asked, tokenizer, making.settings["system"])


def prompts_of(
    asked: Iterable[tuple[str, str, list[Message]]], tokenizer: ChatTokenizer, system: str | None
) -> Prompts:
    """What the deployed model is asked, with the ids it must see. `asked`: kind, name, turns.

    The messages are as a client sends them: the missing system turn is not filled in. A hard case
    that the template refuses (a system turn, say) is left out and counted under its reason.
    """
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
    lines = "".join(json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in prompts)
    return Prompts(lines.encode(), len(prompts), left_out)


def question_of(row: Conversation) -> list[Message]:
    """The turns up to the last user turn; none for plain text and where tools are at hand.

    How a deployed model is given tools is up to its server, so no prompt with tools is compared.
    """
    if row.tools:
        return []
    users = [index for index, turn in enumerate(row.messages) if turn["role"] == "user"]
    return list(row.messages[: users[-1] + 1]) if users else []


def write_text(path: Path, text: str) -> None:
    """As it is: no newline is translated."""
    path.write_bytes(text.encode())
