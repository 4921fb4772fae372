"""A chat template of another family: what it writes as special tokens is plain text to the model.

Such a template fails at every row in the same way, so the cause is said once instead. Nothing is
refused by this that could be used: it is asked only where rows have failed, and is the cause only
where the plainest conversation fails too.
"""

from __future__ import annotations

import re

from runner.scripts.data.conversation import Conversation, message
from runner.scripts.data.files.rows import RowError
from runner.scripts.data.tokens.chat_tokens import ChatTokenizer
from runner.scripts.spec import ScriptError

FOREIGN = ("E327", "E328")  # of rows, where the markers of a template melt into the text
_MARKER = re.compile(r"</?[^<>\s]{1,40}>")
_PLAINEST = Conversation(messages=(message("user", "Hello."), message("assistant", "Hello.")))


def missing_tokens(tokenizer: ChatTokenizer) -> list[str]:
    """What the template writes like a special token and the tokenizer has no token for.

    In the order in which it writes them; none where a plain conversation can be trained on, or
    fails otherwise.
    """
    try:
        tokenizer.tokens(_PLAINEST)
    except RowError as error:
        if error.code not in FOREIGN:
            return []
        written = dict.fromkeys(_MARKER.findall(tokenizer.render(_PLAINEST.messages)))
        return [text for text in written if len(tokenizer.encode(text)) > 1]
    return []


def foreign_template(tokenizer: ChatTokenizer, name: str) -> ScriptError | None:
    """What to say where the template is of another family than the tokenizer; None where not."""
    missing = missing_tokens(tokenizer)
    if not missing:
        return None
    return ScriptError(
        f"the chat template {name} is not for this model: its tokenizer has no special token "
        f"{', '.join(missing)}, so no answer can be told from its prompt",
        hint="choose the data.chat_template whose special tokens the model has, or "
        "data.chat_template: model",
        code="E328",
    )
