"""What a GGUF file says about prompts: the token that begins a text, and the chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.errors import StageFailed
from runner.stages.templates.go_template import Bos
from runner.system import llama_server

_BOS_ID = "tokenizer.ggml.bos_token_id"
_ADD_BOS = "tokenizer.ggml.add_bos_token"
_TEMPLATE = "tokenizer.chat_template"
_TOKENS = "tokenizer.ggml.tokens"


class PromptMetadata:
    """One file's metadata, read once: a large vocabulary takes seconds.

    `template` is a Jinja text, "" when the file has none.
    """

    def __init__(self, file: Path) -> None:
        """Raises StageFailed (E550) for a damaged file."""
        self._file, fields = file, _fields(file)
        self.template = str(fields[_TEMPLATE].contents()) if _TEMPLATE in fields else ""
        self._bos = int(fields[_BOS_ID].contents()) if _BOS_ID in fields else -1
        self._text = _text(fields[_TOKENS], self._bos) if _TOKENS in fields else ""
        self._added = bool(fields[_ADD_BOS].contents()) if _ADD_BOS in fields else None

    def bos(self, tool: Path, log: Path) -> Bos:
        """The file's BOS. `tool` is llama.cpp, asked where the file does not say whether to add it.

        llama.cpp then decides by the kind of the tokenizer, and so shows it best itself.
        """
        if self._bos < 0:
            return Bos()
        added = self._added
        if added is None:
            with llama_server.tokenizer(tool, self._file, log) as tokenizer:
                added = tokenizer.ids("x")[:1] == [self._bos]
        return Bos(self._bos, self._text, added)


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
