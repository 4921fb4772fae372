"""Show the first rows of each file as the model will see them, token by token.

spec.hashed: seed, system, those of data/systems.py where there are some, max_length, template
(name, or null for the model's own), rows (how many of each file), files (list of {name, format,
input, held_out, columns where there are some}). spec.inputs: model (folder of fetch), template, and
the files under their `input` names. Written: rows.jsonl, for each row and side {file, line, side,
tokens, trained, parts, answer of a prompt that has one}, where parts are [text, trained on?]; or
{file, line, code, problem}. A row that is not of a file to hold out is shown as one to train on is.
Nothing of a file is run; templates are rendered in transformers'
sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

from runner.scripts.data.conversation import Conversation
from runner.scripts.data.convert import read_one
from runner.scripts.data.files.rows import Problem, RowError, read_rows
from runner.scripts.data.prompted import Prompted
from runner.scripts.data.sides import sides_as_seen
from runner.scripts.data.template_tokens import FOREIGN, foreign_template
from runner.scripts.data.tokens import last_rendered
from runner.scripts.data.tokens.chat_tokens import (
    ChatTokenizer,
    Tokens,
    check_system,
    check_template,
    end_ids_of,
    template_text,
)
from runner.scripts.data.tokens.template_limits import Runaway, naming
from runner.scripts.data.writing import Read
from runner.scripts.spec import Events, Spec, main


def inspect_rows(spec: Spec, events: Events) -> None:
    """Write rows.jsonl into spec.folder. Raises Runaway where the template takes too much."""
    template = spec.hashed["template"]
    with last_rendered.kept_in(spec.scratch, template), naming(template):
        _write_rows(spec)


def _write_rows(spec: Spec) -> None:
    settings = spec.hashed
    model = spec.inputs["model"]
    template = template_text(spec.inputs["template"]) if settings["template"] else None
    tokenizer = ChatTokenizer(model, template, end_ids_of(model))
    if any(file["format"] != "text" for file in settings["files"]):
        name = settings["template"] or "of the model"
        check_template(tokenizer, name)
        check_system(tokenizer, settings["system"], name)
    with (spec.folder / "rows.jsonl").open("w", encoding="utf-8") as out:
        for file in settings["files"]:
            for row in seen(spec, file, tokenizer):
                out.write(json.dumps(row) + "\n")


def seen(spec: Spec, file: dict[str, Any], tokenizer: ChatTokenizer) -> Iterator[dict[str, Any]]:
    """What becomes of the first rows of a file."""
    rows = read_rows(spec.inputs[file["input"]], file["name"], file.get("columns"))
    settings = spec.hashed | ({"system_variants": ()} if file["held_out"] else {})
    for item in islice(rows, spec.hashed["rows"]):
        place = item.place if isinstance(item, Problem) else item[0]
        where = {"file": place.file, "line": place.line}
        last_rendered.at(place)
        try:
            if isinstance(item, Problem):
                raise item.error
            read = read_one(item[1], file["format"])
            for side, conversation in sides_as_seen(read, settings):
                for tokens in documents_of(conversation, side, tokenizer):
                    yield {**where, "side": side, **shown(tokens, tokenizer), **answer_to(read)}
        except Runaway as error:
            raise error.of(spec.hashed["template"], place) from None
        except RowError as error:
            yield {**where, **_problem(error, tokenizer, spec.hashed["template"])}


def _problem(error: RowError, tokenizer: ChatTokenizer, template: str | None) -> dict[str, Any]:
    """What is wrong with a row; where it is the chat template, that is."""
    if error.code in FOREIGN and (cause := foreign_template(tokenizer, template or "of the model")):
        return {"code": cause.code, "problem": cause.message}
    return {"code": error.code, "problem": error.message}


def documents_of(conversation: Conversation, side: str, tokenizer: ChatTokenizer) -> list[Tokens]:
    """What is trained on, or where the model begins to answer a prompt. Raises RowError."""
    if side == "prompt":
        return [Tokens(tokenizer.prompt_tokens(conversation), [])]
    return [tokens for _, tokens in tokenizer.documents(conversation)]


def answer_to(read: Read) -> dict[str, str]:
    """The right answer of a prompt, where the row has one."""
    if not isinstance(read, Prompted) or read.answer is None:
        return {}
    return {"answer": read.answer}


def shown(tokens: Tokens, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """The text in parts that are trained on, or are not."""
    mask = tokens.mask()
    cuts = [0, *(n for n in range(1, len(mask)) if mask[n] != mask[n - 1]), len(mask)]
    texts = [tokenizer.decode(tokens.ids[:cut]) for cut in cuts]
    parts = []
    for number, (begin, end) in enumerate(pairwise(cuts)):
        before, upto = texts[number], texts[number + 1]
        # A tokenizer may write the first token of a text differently, so parts are differences.
        whole = upto.startswith(before)
        text = upto[len(before) :] if whole else tokenizer.decode(tokens.ids[begin:end])
        parts.append([text, bool(mask[begin])])
    return {"tokens": len(mask), "trained": sum(mask), "parts": parts}


if __name__ == "__main__":
    main(inspect_rows)
