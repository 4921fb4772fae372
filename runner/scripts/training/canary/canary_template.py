"""Do template and labels belong to the tokenizer and the rows? Without torch, and by other means
than those that made them.
"""

from __future__ import annotations

import re
from typing import Any

from runner.scripts.data.files.rows import RowError
from runner.scripts.data.tokens.template_rendering import rendered
from runner.scripts.spec import ScriptError
from runner.scripts.training.token_rows import IGNORED, Row, TokenRows

# What begins a turn where a model has tokens for it: <|im_start|>, <|start_header_id|>, <|user|>,
# <start_of_turn>, <|start_of_role|>, <|turn>. Brackets of plain text ([INST]) are no such tokens.
_MARK = re.compile(r"<\|[A-Za-z_]*(?:start|user)[A-Za-z_]*\|>|<start_of_turn>", re.IGNORECASE)


def check_marks(tokenizer: Any, template: str) -> None:
    """Raise ScriptError E943 when `template` marks turns in another way than the tokenizer knows.

    A template may write marks as plain text, as Zephyr's does over Mistral: what is wrong is to do
    that where the tokenizer has tokens for turns, which the template then leaves unused.
    """
    known = {token for token in tokenizer.get_added_vocab() if _MARK.fullmatch(token)}
    used = set(_MARK.findall(template))
    strange = sorted(used - known)
    if strange and known and not used & known:
        raise ScriptError(
            f"the chat template writes {strange[0]}, which the tokenizer breaks into pieces; its "
            f"own token for that is {sorted(known)[0]}",
            hint="data.chat_template: model, or the name of the template of this model's family "
            "(docs/templates.md)",
            code="E943",
        )


def check_generation_prompt(tokenizer: Any, template: str) -> None:
    """Raise ScriptError E943 unless a conversation begins with the prompt that its answer follows.

    What it writes of the rows themselves was looked at by `prepare`. A template that wants another
    beginning is not looked at. Raises Runaway for one that takes too much time or memory.
    """
    asked = [{"role": "user", "content": "One?"}]
    answered = [*asked, {"role": "assistant", "content": "Two."}]

    try:
        begun = rendered(tokenizer, template, asked, generate=True)
        whole = rendered(tokenizer, template, answered, generate=False)
    except RowError:
        return
    if "Two." in whole and not whole.startswith(begun):
        raise ScriptError(
            "the chat template begins an answer in another way than it writes one: "
            f"{begun[-60:]!r} is not how the conversation goes on",
            hint="correct add_generation_prompt in the template, or use data.chat_template: model",
            code="E943",
        )


def check_prompts_are_free(data: TokenRows, name: str) -> None:
    """Raise ScriptError E944 when a row of a prompt and an answer is trained on from its beginning.

    Other than check_answers it needs no generation prompt, which some templates have none of.
    """
    for number, row in enumerate(data.rows, 1):
        if _learns_its_beginning(row):
            raise ScriptError(
                f"row {number} of {name} is trained on from its first token: a label lies on the "
                "prompt",
                hint="report this with your data.chat_template; rows without prompts are of "
                "format: text",
                code="E944",
            )


def _learns_its_beginning(row: Row) -> bool:
    """Has the second token a label? The first has none anyway; a prompt has more than one."""
    return len(row.labels) > 1 and bool(row.labels[1] != IGNORED)
