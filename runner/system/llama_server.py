"""llama.cpp's own tokenizer, asked through its server: what Ollama's runner does with a prompt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from runner.system import process
from runner.system.local_server import Order, ask, start_on_free_port


class Tokenizer:
    """The tokenizer of one GGUF file."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ids(self, text: str, *, parse_special: bool = True) -> list[int]:
        """Token ids of a text; as it stands, how a completion request reads a rendered prompt.

        A BOS is added where the file's metadata says so. With `parse_special`, the text of a
        special token becomes that token.
        """
        body = {"content": text, "add_special": True, "parse_special": parse_special}
        answer = ask(self._url, "POST", "/tokenize", body, timeout=60.0)
        return [int(token) for token in answer["tokens"]]

    def piece(self, token: int) -> str:
        """The text of one token, for messages."""
        answer = ask(self._url, "POST", "/detokenize", {"tokens": [token]}, timeout=60.0)
        return str(answer["content"])


@contextlib.contextmanager
def tokenizer(tool: Path, gguf: Path, log: Path) -> Iterator[Tokenizer]:
    """Serve the tokenizer of `gguf`. `tool` is the root of the pinned llama.cpp.

    The weights are mapped but never read, so a large file costs no more memory than a small one.
    """

    def order(port: int) -> Order:
        where = ["--host", "127.0.0.1", "--port", str(port), "--model", str(gguf)]
        small = ["--ctx-size", "64", "--parallel", "1", "--threads", "1", "--gpu-layers", "0"]
        idle = ["--no-warmup", "--no-repack", "--no-slots", "--offline"]
        argv = [str(tool / "bin" / "llama-server"), *where, *small, *idle]
        return Order(argv, process.child_env({}))

    service, port = start_on_free_port(
        order, name="llama-server", ready_path="/health", folder=log.parent, log=log
    )
    with service:
        yield Tokenizer(f"http://127.0.0.1:{port}")
