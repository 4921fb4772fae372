"""SmolLM2 in an Ollama of the test's own, for the tests that ask a real model."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from runner.store.digest import file_sha256
from runner.system.local_server import ask

NAME = "smollm2-synthesis"
SECONDS = 600.0
# ChatML, as SmolLM2 was trained.
TEMPLATE = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n"
)


def create(url: str, gguf: Path) -> None:
    """Have the Ollama at `url` know the model as NAME."""
    digest = f"sha256:{file_sha256(gguf)}"
    with gguf.open("rb") as file:
        request = urllib.request.Request(f"{url}/api/blobs/{digest}", file, method="POST")
        request.add_header("Content-Length", str(gguf.stat().st_size))
        with urllib.request.urlopen(request, timeout=SECONDS):
            pass
    created = {"model": NAME, "files": {gguf.name: digest}, "template": TEMPLATE}
    created |= {"parameters": {"stop": ["<|im_end|>"], "num_ctx": 1024}, "stream": False}
    ask(url, "POST", "/api/create", created, timeout=SECONDS)
