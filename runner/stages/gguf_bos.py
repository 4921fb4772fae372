"""What a GGUF file says about the token that begins a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.stages.go_template import Bos
from runner.system import llama_server

_BOS_ID = "tokenizer.ggml.bos_token_id"
_ADD_BOS = "tokenizer.ggml.add_bos_token"
_TOKENS = "tokenizer.ggml.tokens"


def bos_of(file: Path, tool: Path, log: Path) -> Bos:
    """The file's BOS. `tool` is llama.cpp, asked where the file does not say whether to add it.

    llama.cpp then decides by the kind of the tokenizer, and so shows it best itself.
    """
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    if _BOS_ID not in fields or _TOKENS not in fields:
        return Bos()
    token = int(fields[_BOS_ID].contents())
    text = _text(fields[_TOKENS], token)
    if _ADD_BOS in fields:
        return Bos(token, text, bool(fields[_ADD_BOS].contents()))
    with llama_server.tokenizer(tool, file, log) as tokenizer:
        return Bos(token, text, tokenizer.ids("x")[:1] == [token])


def _text(field: Any, token: int) -> str:
    """One entry of the list of tokens, without reading the others."""
    if not 0 <= token < len(field.data):
        return ""
    return bytes(field.parts[field.data[token]]).decode("utf-8", errors="replace")
