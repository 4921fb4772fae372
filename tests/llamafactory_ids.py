"""The ids of conversations by our templates and by LLaMA Factory's, in its environment.

    python tests/llamafactory_ids.py PAIRS.json    prints {pair: {case: difference, or null}}

PAIRS.json: [{ours, theirs, model}], a folder with a tokenizer and a template of ours. A difference
is the text of both from the first other token on; of equal ids, what one alone trains on.
"""

from __future__ import annotations

import json
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

from llamafactory.data.template import TEMPLATES  # type: ignore[import-not-found, unused-ignore]

from runner.scripts.data.conversation import Conversation, message
from runner.scripts.data.tokens.chat_tokens import ChatTokenizer, end_ids_of

SHOWN = 48  # characters
SYSTEM = "Be brief and kind."
TURNS = [("What is up?", "The sky."), ("What is down?", "The sea, mostly."), ("So?", "So.")]
CASES = {
    f"{'one turn' if count == 1 else 'three turns'}{', system' if system else ''}": (count, system)
    for count in (1, 3)
    for system in (None, SYSTEM)
}
Ids = tuple[list[int], list[int]]  # ids, and 1 for each that is trained on


def ours(tokenizer: ChatTokenizer, count: int, system: str | None) -> Ids:
    """Of the last document, which has the whole conversation."""
    turns = [message("system", system)] if system else []
    for question, answer in TURNS[:count]:
        turns += [message("user", question), message("assistant", answer)]
    *_, (_, tokens) = tokenizer.documents(Conversation(tuple(turns)))
    return tokens.ids, list(tokens.mask())


def theirs(name: str, tokenizer: Any, count: int, system: str | None) -> Ids:
    """All answers trained on."""
    turns = [
        {"role": role, "content": content}
        for both in TURNS[:count]
        for role, content in zip(("user", "assistant"), both, strict=True)
    ]
    ids: list[int] = []
    mask: list[int] = []
    for prompt, answer in TEMPLATES[name].encode_multiturn(tokenizer, turns, system):
        ids += [*prompt, *answer]
        mask += [0] * len(prompt) + [1] * len(answer)
    return ids, mask


def difference(mine: Ids, other: Ids, tokenizer: Any) -> dict[str, str] | None:
    """Where they part; None where they do not."""

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids))[:SHOWN]

    if mine[0] != other[0]:
        pairs = zip(mine[0], other[0], strict=False)
        alike = sum(1 for _ in takewhile(lambda both: both[0] == both[1], pairs))
        return {"ours": text(mine[0][alike:]), "theirs": text(other[0][alike:])}
    at = [number for number, trained in enumerate(mine[1]) if trained != other[1][number]]
    if at:
        who = "theirs" if other[1][at[0]] else "ours"
        return {"trained by": who, "text": text([mine[0][number] for number in at])}
    return None


def compared(pair: dict[str, str]) -> dict[str, Any]:
    """case -> difference."""
    folder = Path(pair["model"])
    mine = ChatTokenizer(folder, None, end_ids_of(folder))
    plain = mine._tokenizer
    found: dict[str, Any] = {}
    for case, (count, system) in CASES.items():
        both = ours(mine, count, system), theirs(pair["theirs"], plain, count, system)
        found[case] = difference(*both, plain)
    return found


if __name__ == "__main__":
    pairs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    said = {f"{pair['ours']} and {pair['theirs']}": compared(pair) for pair in pairs}
    print(json.dumps(said, ensure_ascii=False, indent=1))
