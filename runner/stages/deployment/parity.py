"""The parity gate: the deployed model sees exactly the token ids it was trained on.

Ollama itself renders every reference prompt, llama.cpp's tokenizer reads the text with the stored
file's own vocabulary, and the ids must be those that training used. For a few prompts the token
count of a real reply is a second witness.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.errors import StageFailed
from runner.stages.contract import Context
from runner.stages.deployment.prompts import Prompt
from runner.stages.templates.go_template import first_difference
from runner.store.digest import canonical_sha256
from runner.system import llama_server
from runner.system.local_server import ask

WITNESSES = 4
WITNESS_TOKENS = 200  # longer prompts take long to evaluate on a CPU and prove no more
RENDER_SECONDS = 600.0  # the first request loads the model
SHOWN_BEFORE, SHOWN_AFTER = 2, 4  # tokens around the first difference


def check(
    url: str, name: str, file: Path, prompts: Sequence[Prompt], context: Context
) -> dict[str, Any]:
    """Compare all prompts; returns the content of parity.json. Raises StageFailed (E552)."""
    tool, log = context.tool("llama.cpp"), context.log_folder / "ollama-tokenizer.log"
    with llama_server.tokenizer(tool, file, log) as tokenizer:
        for prompt in prompts:
            text = rendered(url, name, prompt)
            ids = tokenizer.ids(text)
            if tuple(ids) != prompt.ids:
                raise _differs(prompt, text, ids, tokenizer)
    seen = witnesses(prompts)
    for prompt in seen:
        _check_count(url, name, prompt)
    return {
        "prompts": {prompt.id: len(prompt.ids) for prompt in prompts},
        "ids_sha256": canonical_sha256([[prompt.id, list(prompt.ids)] for prompt in prompts]),
        "counted_in_replies": [prompt.id for prompt in seen],
    }


def rendered(url: str, name: str, prompt: Prompt) -> str:
    """What Ollama would hand to the model for these messages, untruncated."""
    answer = ask(
        url,
        "POST",
        "/api/chat",
        {
            "model": name,
            "messages": list(prompt.messages),
            "stream": False,
            "truncate": False,
            "_debug_render_only": True,
        },
        timeout=RENDER_SECONDS,
    )
    try:
        return str(answer["_debug_info"]["rendered_template"])
    except (KeyError, TypeError):
        raise StageFailed(
            "this Ollama does not show the prompt that it renders, so parity cannot be checked",
            hint="use a newer Ollama (0.32 is known to), or none at all to have one built",
            code="E555",
            stage="ollama",
        ) from None


def witnesses(prompts: Sequence[Prompt]) -> list[Prompt]:
    """A few prompts spread over all that are short enough to be evaluated quickly."""
    short = [prompt for prompt in prompts if len(prompt.ids) <= WITNESS_TOKENS]
    if len(short) <= WITNESSES:
        return short
    return [short[index * (len(short) - 1) // (WITNESSES - 1)] for index in range(WITNESSES)]


def _check_count(url: str, name: str, prompt: Prompt) -> None:
    body = {
        "model": name,
        "messages": list(prompt.messages),
        "stream": False,
        "options": {"num_predict": 1, "temperature": 0},
    }
    reply = ask(url, "POST", "/api/chat", body, timeout=RENDER_SECONDS)
    count = reply.get("prompt_eval_count")
    if count != len(prompt.ids):
        raise StageFailed(
            f"replying to {prompt.id!r}, Ollama read {count} tokens; training has "
            f"{len(prompt.ids)}",
            hint="the rendered text agrees: look at num_ctx in ollama.parameters",
            code="E552",
            stage="ollama",
        )


def _differs(
    prompt: Prompt, text: str, ids: list[int], tokenizer: llama_server.Tokenizer
) -> StageFailed:
    """Both texts and both rows of ids, side by side, from just before the first difference."""
    where = first_difference(prompt.text, text) if text != prompt.text else "in no character"
    return StageFailed(
        f"the prompt {prompt.id!r} gives other tokens in Ollama than in training.\n"
        f"The texts differ {where}\n{side_by_side(prompt.ids, ids, tokenizer.piece)}",
        hint="the deployed template or tokenizer is not the trained one (docs/errors.md, E552)",
        code="E552",
        stage="ollama",
    )


def side_by_side(expected: Sequence[int], actual: Sequence[int], piece: Any) -> str:
    """A table of two rows of ids around their first difference; `piece` gives a token's text."""
    pairs = zip(expected, actual, strict=False)
    shorter = min(len(expected), len(actual))
    at = next((index for index, (a, b) in enumerate(pairs) if a != b), shorter)
    lines = [f"{'token':>6}  {'in training':<28}in Ollama"]
    for index in range(max(0, at - SHOWN_BEFORE), at + SHOWN_AFTER):
        left, right = _cell(expected, index, piece), _cell(actual, index, piece)
        mark = " " if left == right else "*"
        if left or right:
            lines.append(f"{index:>5}{mark}  {left:<28}{right}".rstrip())
    return "\n".join(lines)


def _cell(ids: Sequence[int], index: int, piece: Any) -> str:
    return f"{ids[index]} {piece(ids[index])!r}" if index < len(ids) else ""
