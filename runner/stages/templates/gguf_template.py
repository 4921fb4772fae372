"""What a GGUF file says about prompts: whether a BOS is added, and the chat template.

The template is the model's own; where no Go template for Ollama renders like it, it is marked, so
that Ollama takes it as it stands (go_template.py).
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from runner.stages.contract import Context
from runner.stages.deployment.prompts import Prompt
from runner.stages.export.gguf_metadata import PromptMetadata
from runner.stages.templates import go_template

TEMPLATE_FILE = "chat_template.jinja"


def chosen(prompts: list[Prompt], model: Path, context: Context) -> go_template.Choice | None:
    """How Ollama is to render the prompts; None: there are none."""
    if not prompts:
        return None
    settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    token = settings.get("bos_token") or ""
    text = token if isinstance(token, str) else str(token.get("content", ""))
    choice = go_template.choose(prompts, go_template.Bos(text=text))
    if choice.kind == "jinja":
        context.measure("no_go_template", choice.closest)
    return choice


@contextlib.contextmanager
def source_of(model: Path, choice: go_template.Choice | None, context: Context) -> Iterator[Path]:
    """The folder to convert: the model's own, or for a while a copy with its template marked."""
    if choice is None or choice.kind != "jinja":
        yield model
        return
    folder = with_marked_template(model, context)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def remove_needless_bos(
    file: Path, choice: go_template.Choice | None, tool: Path, context: Context
) -> None:
    """Rewrite the file so that llama.cpp adds no BOS, where no prompt was trained with one.

    A step of its own: llama-quantize puts an overridden field behind those that it writes itself,
    and only another pass over the file gives the order that Ollama's rewriting leaves alone.
    """
    if choice is None:
        return
    bos = PromptMetadata(file).bos(tool, context.log_folder / "bos-tokenizer.log")
    if not bos.added or (choice.begin and choice.begin == bos.text):
        return
    copy = context.scratch / "without-bos.gguf"
    override = ["--override-kv", "tokenizer.ggml.add_bos_token=bool:false"]
    try:
        context.run_program(
            [str(tool / "bin" / "llama-quantize"), *override, str(file), str(copy), "COPY"],
            log="without-bos",
        )
        copy.replace(file)
    finally:
        copy.unlink(missing_ok=True)


def with_marked_template(model: Path, context: Context) -> Path:
    """The model's folder, in the scratch folder, with a template that Ollama does not recognise."""
    folder = context.scratch / "marked"
    folder.mkdir(exist_ok=True)
    for path in sorted(model.iterdir()):
        if path.name != TEMPLATE_FILE:
            link = folder / path.name
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
    text = (model / TEMPLATE_FILE).read_bytes().decode("utf-8")
    (folder / TEMPLATE_FILE).write_bytes(go_template.marked(text).encode())
    return folder
