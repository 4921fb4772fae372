"""Conversations and preferences as rows of any format, and what is lost by it.

Standard library only. What `as_rows` writes without a loss, the format's own `parse` reads back as
the same. Where a format has no place for something, that is named; where nothing of the row would
be left, CannotHold is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runner.scripts.data.conversation import Conversation, Message
from runner.scripts.data.files.numbers import with_all_digits
from runner.scripts.data.files.rows import RowError
from runner.scripts.data.formats.sharegpt import FUNCTION_CALL, check_order
from runner.scripts.data.preference import Judged, Pair
from runner.scripts.data.prompted import Prompted

Row = dict[str, Any]
Read = Conversation | Pair | Judged | Prompted


class CannotHold(Exception):
    """Why a format has no place for a row."""


def as_json(value: Any) -> str:
    """A value as JSON. Raises CannotHold for a number that JSON has no way to write: 1e400 is read
    as infinity."""
    try:
        return with_all_digits(value)
    except ValueError:
        raise CannotHold("a number is too large, and is read as infinity") from None
    except RecursionError:
        raise CannotHold("a number of many digits stands too deep in it") from None


def as_rows(read: Read, target: str, losses: list[str]) -> list[Row]:
    """Rows of the format `target`; what they do not say is added to `losses`. Raises CannotHold."""
    if isinstance(read, Pair):
        return _of_pair(read, target, losses)
    if isinstance(read, Judged):
        return _of_judged(read, target, losses)
    if isinstance(read, Prompted):
        return _of_prompted(read, target, losses)
    if target == "preference":
        raise CannotHold("there is no second answer to compare with")
    if target == "kto":
        raise CannotHold("nothing says whether the answer is a good one")
    return [_WRITERS[target](read, losses)]


def _of_pair(pair: Pair, target: str, losses: list[str]) -> list[Row]:
    if target == "preference":
        return [_preference(pair)]
    if target == "kto":
        losses.append("which answers belong together")
        return [{**_prompt_completion(side, losses), "label": good} for side, good in pair.sides]
    losses.append("the rejected answer")
    return [_WRITERS[target](pair.chosen, losses)]


def _of_judged(judged: Judged, target: str, losses: list[str]) -> list[Row]:
    if target == "kto":
        row = _prompt_completion(judged.answered, losses)
        return [{**row, "label": judged.desirable}]
    if target == "preference":
        raise CannotHold("there is no second answer to compare with")
    if not judged.desirable:
        raise CannotHold("the answer is a bad one")
    losses.append("that the answer is a good one")
    return [_WRITERS[target](judged.answered, losses)]


def _of_prompted(prompted: Prompted, target: str, losses: list[str]) -> list[Row]:
    if target == "prompt":
        asked = _text_or_turns([dict(turn) for turn in prompted.messages], "user")
        answer = {} if prompted.answer is None else {"answer": prompted.answer}
        return [{"prompt": asked, **answer, **_tools(prompted.asked)}]
    if prompted.answer is None:
        raise CannotHold("there is no answer to learn from")
    made = as_rows(prompted.answered(), target, losses)
    losses.append("that the answer is not trained on")
    return made


# --- one writer a format


def _text(read: Conversation, losses: list[str]) -> Row:
    if read.text is None:
        raise CannotHold("turns become a text only by a model's chat template")
    return {"text": read.text}


def _messages(read: Conversation, losses: list[str]) -> Row:
    return {"messages": _turns(read, 0, len(_turns_of(read))), **_tools(read)}


def _prompt_completion(read: Conversation, losses: list[str]) -> Row:
    messages = _turns_of(read)
    first = _first_answer(read)
    if not first:
        raise CannotHold("nobody asks before the first answer")
    prompt = [dict(turn) for turn in messages[:first]]
    completion = _turns(read, first, len(messages))
    return {
        "prompt": _text_or_turns(prompt, "user"),
        "completion": _text_or_turns(completion, "assistant"),
        **_tools(read),
    }


def _prompt(read: Conversation, losses: list[str]) -> Row:
    """The last answer becomes what others are held against; ones before it are in the prompt."""
    last = len(_turns_of(read)) - 1
    if last < 1 or read.messages[last]["role"] != "assistant":
        raise CannotHold("there is no answer to a question")
    if "tool_calls" in read.messages[last]:
        raise CannotHold("the answer calls a tool")
    _lose(losses, "which answers are not trained on", last in read.untrained)
    _lose(losses, "that earlier answers are trained on", len(read.answers) > 1)
    prompt = [dict(turn) for turn in read.messages[:last]]
    return {
        "prompt": _text_or_turns(prompt, "user"),
        "answer": read.messages[last]["content"],
        **_tools(read),
    }


def _preference(pair: Pair) -> Row:
    chosen, rejected = pair.chosen, pair.rejected
    limit = min(_first_answer(chosen), _first_answer(rejected))
    same = 0
    while same < limit and chosen.messages[same] == rejected.messages[same]:
        same += 1
    if not same:
        raise CannotHold("the answers have no question in common")
    prompt = [dict(turn) for turn in chosen.messages[:same]]
    sides = [_turns(side, same, len(side.messages)) for side in (chosen, rejected)]
    begins = (side.messages[same : 2 * same] for side in (chosen, rejected))
    if chosen.messages[:same] in begins:
        # beside a prompt they would be read as whole conversations, which they become
        if all(turn["role"] not in ("user", "tool") for turn in prompt):
            raise CannotHold("the answers repeat what stands before them, which is no question")
        whole = [_turns(side, 0, len(side.messages)) for side in (chosen, rejected)]
        return {"chosen": whole[0], "rejected": whole[1], **_tools(chosen)}
    return {
        "prompt": _text_or_turns(prompt, "user"),
        "chosen": _text_or_turns(sides[0], "assistant"),
        "rejected": _text_or_turns(sides[1], "assistant"),
        **_tools(chosen),
    }


def _alpaca(read: Conversation, losses: list[str]) -> Row:
    messages = list(_turns_of(read))
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
    if [turn["role"] for turn in messages] != ["user", "assistant"] * (len(messages) // 2):
        raise CannotHold("the turns are not questions and answers in turn")
    if any("tool_calls" in turn for turn in messages):
        raise CannotHold("a turn calls a tool")
    if system == "":
        losses.append("an empty system turn")
    _lose(losses, "the tools", bool(read.tools))
    _lose(losses, "which answers are not trained on", bool(read.untrained))
    _lose(losses, "names of turns", any("name" in turn for turn in read.messages))
    texts = [turn["content"] for turn in messages]
    history = [[ask, answer] for ask, answer in zip(texts[:-2:2], texts[1:-2:2], strict=True)]
    return {
        "instruction": texts[-2],
        "output": texts[-1],
        **({"system": system} if system else {}),
        **({"history": history} if history else {}),
    }


_SAID_BY = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}


def _sharegpt(read: Conversation, losses: list[str]) -> Row:
    turns: list[Row] = []
    before: list[Message] = []
    for number, turn in enumerate(_turns_of(read), 1):
        try:
            check_order(before, turn["role"], number, turn["role"])
        except RowError as error:
            raise CannotHold(error.message) from None
        weight = {"weight": 0} if number - 1 in read.untrained else {}
        turns.append({**_said(turn, losses), **weight})
        before.append(turn)
    tools = [_bare(tool) for tool in read.tools]
    return {"conversations": turns, **({"tools": as_json(tools)} if tools else {})}


def _said(turn: Message, losses: list[str]) -> Row:
    _lose(losses, "names of turns", "name" in turn)
    _lose(losses, "which call a tool answers", "tool_call_id" in turn)
    if "tool_calls" not in turn:
        return {"from": _SAID_BY[turn["role"]], "value": turn["content"]}
    calls = turn["tool_calls"]
    _lose(losses, "what is said beside a call", bool(turn["content"]))
    _lose(losses, "ids of calls", any("id" in call for call in calls))
    bare = [call["function"] for call in calls]
    return {"from": FUNCTION_CALL, "value": as_json(bare[0] if len(bare) == 1 else bare)}


_WRITERS: dict[str, Callable[[Conversation, list[str]], Row]] = {
    "messages": _messages,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "prompt-completion": _prompt_completion,
    "text": _text,
    "prompt": _prompt,
}


# --- parts


def _turns_of(read: Conversation) -> tuple[Message, ...]:
    if read.text is not None:
        raise CannotHold("a text has no turns")
    return read.messages


def _first_answer(read: Conversation) -> int:
    if not read.answers:
        raise CannotHold("no answer is trained on")
    return read.answers[0]


def _turns(read: Conversation, begin: int, end: int) -> list[Row]:
    """Turns as they are, with weight 0 where they are not trained on."""
    return [
        {**read.messages[index], **({"weight": 0} if index in read.untrained else {})}
        for index in range(begin, end)
    ]


def _text_or_turns(turns: Sequence[Row], role: str) -> str | list[Row]:
    """A single turn of `role` that says nothing but its content is a text."""
    if len(turns) == 1 and turns[0].keys() == {"role", "content"} and turns[0]["role"] == role:
        return str(turns[0]["content"])
    return list(turns)


def _tools(read: Conversation) -> Row:
    return {"tools": list(read.tools)} if read.tools else {}


def _bare(tool: Row) -> Row:
    function: Row = tool["function"]
    plain = tool == {"type": "function", "function": function} and "function" not in function
    return function if plain else tool


def _lose(losses: list[str], what: str, lost: bool) -> None:
    if lost and what not in losses:
        losses.append(what)
