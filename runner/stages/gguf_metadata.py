"""What a GGUF file says about prompts: the token that begins a text, and the chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.errors import StageFailed
from runner.stages.go_template import Bos
from runner.system import llama_server

_BOS_ID = "tokenizer.ggml.bos_token_id"
_ADD_BOS = "tokenizer.ggml.add_bos_token"
_TEMPLATE = "tokenizer.chat_template"
_TOKENS = "tokenizer.ggml.tokens"


def bos_of(file: Path, tool: Path, log: Path) -> Bos:
    """The file's BOS. `tool` is llama.cpp, asked where the file does not say whether to add it.

    llama.cpp then decides by the kind of the tokenizer, and so shows it best itself. Raises
    StageFailed (E550) for a damaged file.
    """
    fields = _fields(file)
    if _BOS_ID not in fields or _TOKENS not in fields:
        return Bos()
    token = int(fields[_BOS_ID].contents())
    text = _text(fields[_TOKENS], token)
    if _ADD_BOS in fields:
        return Bos(token, text, bool(fields[_ADD_BOS].contents()))
    with llama_server.tokenizer(tool, file, log) as tokenizer:
        return Bos(token, text, tokenizer.ids("x")[:1] == [token])


def template_of(file: Path) -> str:
    """The file's chat template, a Jinja text; "" when it has none. Raises StageFailed."""
    field = _fields(file).get(_TEMPLATE)
    return str(field.contents()) if field is not None else ""


def _fields(file: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    try:
        return dict(GGUFReader(file).fields)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise StageFailed(
            f"{file.name} is not a readable GGUF file: {error}",
            hint="remove it from the store with `recipe gc`, and run the same command again",
            code="E550",
            stage="ollama",
        ) from error


def _text(field: Any, token: int) -> str:
    """One entry of the list of tokens, without reading the others."""
    if not 0 <= token < len(field.data):
        return ""
    return bytes(field.parts[field.data[token]]).decode("utf-8", errors="replace")
