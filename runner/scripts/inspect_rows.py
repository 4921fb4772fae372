"""Show the first rows of each file as the model will see them, token by token.

spec.hashed: seed, system, those of data/systems.py where there are some, max_length and too_long,
clean (step of cleaning -> its setting; those that compare rows do nothing here), template
(name, or null for the model's own), rows (how many of each file), files (list of {name, format,
input, held_out, columns where there are some}). spec.inputs: model (folder of fetch), template, and
the files under their `input` names. Written: rows.jsonl, for each row and side {file, line, side,
tokens, trained, parts, text: true of a row without turns, answer of a prompt that has one, changed:
steps, whole: tokens before it was truncated}, where parts are [text, trained on?]; or {file, line,
left_out: step, why}; or {file, line, code, problem}. A row that is not of a file to hold out is
shown as one to train on is. Nothing of a file is run; templates are rendered in transformers'
sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice, pairwise
from typing import Any

from runner.scripts.data.conversation import Conversation
from runner.scripts.data.convert import read_one, read_to_clean
from runner.scripts.data.files.rows import Problem, RowError, read_rows
from runner.scripts.data.formats import PROMPTED
from runner.scripts.data.prompted import Prompted
from runner.scripts.data.sides import bare_of, sides_as_seen
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
from runner.scripts.data.tokens.fitting import fit
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
            read, told = cleaned(item[1], file["format"], settings)
            if read is None:
                yield {**where, **told}
                continue
            for side, conversation in sides_as_seen(read, settings):
                for tokens in documents_of(conversation, side, tokenizer):
                    part = within(tokens, settings, tokenizer)
                    text = {"text": True} if conversation.text is not None else {}
                    yield {**where, "side": side, **part, **text, **told, **answer_to(read)}
        except Runaway as error:
            raise error.of(spec.hashed["template"], place) from None
        except RowError as error:
            yield {**where, **_problem(error, tokenizer, spec.hashed["template"])}


def _problem(error: RowError, tokenizer: ChatTokenizer, template: str | None) -> dict[str, Any]:
    """What is wrong with a row; where it is the chat template, that is."""
    if error.code in FOREIGN and (cause := foreign_template(tokenizer, template or "of the model")):
        return {"code": cause.code, "problem": cause.message}
    return {"code": error.code, "problem": error.message}


def cleaned(
    row: dict[str, Any], format_name: str, settings: Mapping[str, Any]
) -> tuple[Read | None, dict[str, Any]]:
    """The row after the steps that look at it alone, and what they did; None where one drops it.

    Raises RowError.
    """
    if not settings["clean"] or format_name in PROMPTED:
        return read_one(row, format_name), {}
    from runner.scripts.data.cleaning.pipeline import Cleaning

    cleaning = Cleaning(settings["clean"])
    read = read_to_clean(row, format_name, orders_turns=cleaning.orders_turns)
    found = cleaning.row_by_row([bare_of(read, settings)])
    if found.problems:
        raise found.problems[0].error
    told = cleaning.told.values()
    if found.rows:
        return found.rows[0], {"changed": [each.step for each in told if each.changed]}
    dropped = next(each for each in told if each.dropped)
    why = next(each["why"] for each in dropped.examples if each["what"] == "dropped")
    return None, {"left_out": dropped.step, "why": why}


def within(tokens: Tokens, settings: Mapping[str, Any], tokenizer: ChatTokenizer) -> dict[str, Any]:
    """What of the tokens is trained on, or that `too_long` drops it. Raises RowError E325."""
    if not tokens.spans:  # a prompt, which needs room for an answer too
        return shown(tokens, tokenizer)
    left = fit(tokens, settings["max_length"], settings["too_long"])
    if isinstance(left, str):
        return {"left_out": "too_long", "why": left}
    cut = {"whole": len(tokens.ids)} if len(left.ids) < len(tokens.ids) else {}
    return shown(left, tokenizer) | cut


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
