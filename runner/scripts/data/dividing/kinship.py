"""Which rows say the same: what a split keeps together, and what a leak is. Standard library only.

Texts are compared without regard to case and to how much white space stands between words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from runner.scripts.data.conversation import Conversation, Message, Traits, is_empty
from runner.scripts.data.files.rows import RowError
from runner.scripts.data.preference import Compared
from runner.scripts.data.prompted import Prompted

Row = Conversation | Compared | Prompted


def content_key(row: Row) -> str:
    """Digest of all that a row says."""
    if isinstance(row, Conversation):
        return _key([row.as_json(), sorted(row.untrained)])
    return _key([[side.as_json(), good] for side, good in row.sides])


def prompt_key(row: Row) -> str:
    """Digest of what a row's first answer is an answer to; of all that it says where that is none.

    Rows of one prompt are kept together: copies, other answers to the same question, and the
    beginnings of one conversation as rows of their own.
    """
    side = row if isinstance(row, Conversation) else row.sides[0][0]
    prompt = side.messages[: side.answers[0]] if side.answers else ()
    if not any(_asks(turn) for turn in prompt):
        return content_key(row)
    return _key(Conversation(messages=prompt, tools=side.tools).as_json())


def traits_of(
    values: Mapping[str, Any],
    source: int,
    columns: Mapping[str, str] | None,
    wanted: Mapping[str, Any],
) -> Traits:
    """What the row of `values` has in the columns of the split `wanted`. Raises RowError E361.

    `columns` renamed some for the format: they are found by the names that they have in the file.
    """
    group, stratify = wanted.get("group_by"), wanted.get("stratify")
    return Traits(
        source,
        None if group is None else _cell(values, group, columns, "group_by"),
        None if stratify is None else _cell(values, stratify, columns, "stratify"),
    )


def _cell(
    values: Mapping[str, Any], column: str, columns: Mapping[str, str] | None, setting: str
) -> str:
    """A column's value as a text; a number is the same in a table, where all are texts."""
    renamed = {theirs: ours for ours, theirs in (columns or {}).items()}
    value = values.get(renamed.get(column, column))
    if value is None:
        raise RowError(
            f'the column "{column}" is missing, which data.validation.{setting} names', "E361"
        )
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _asks(turn: Message) -> bool:
    return turn["role"] != "system" and not is_empty(turn)


def _key(content: Any) -> str:
    text = json.dumps(_plain(content), ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """`value` with every text in it in lower case, its words one space apart."""
    if isinstance(value, str):
        return " ".join(value.split()).casefold()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
