"""Perplexity of the merged model and of GGUF files, by one protocol: llama-perplexity's own.

The text is cut into chunks of `context` tokens, and in each chunk the second half is scored. Both
sides get llama.cpp's token ids, so the numbers differ by the weights alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from runner.errors import StageFailed
from runner.stages.contract import Context, Outputs
from runner.stages.prompts import read_prompts
from runner.system import hardware, llama_server

CONTEXTS = (256, 128, 64, 32)  # tokens; the largest with enough chunks is taken
CHUNKS_WANTED = 8
MAX_TOKENS = 2048  # more would not change the verdict, only the time
# Printed after every chunk: its number, and the perplexity up to its end.
_SO_FAR = re.compile(r"\[(\d+)\]([0-9.]+|-?nan|inf),")


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is scored: the text as a file, its token ids, and how it is cut."""

    text: Path
    ids: Path  # JSON: {"ids": [...], "bos": int or null}
    context: int  # tokens a chunk
    chunks: int


def reference_text(prepared: Outputs) -> str:
    """The validation text; where little or nothing was held out, the parity prompts after it."""
    text = prepared.path("validation.txt").read_text(encoding="utf-8")
    more = [prompt.text for prompt in read_prompts(prepared.path("prompts.jsonl"))]
    enough = 4 * CONTEXTS[0] * CHUNKS_WANTED  # characters: a token is seldom longer than 4
    return text if len(text) >= enough else "\n".join([text, *more])


def cut(tokens: int) -> tuple[int, int]:
    """Tokens a chunk and number of chunks for a text of so many tokens.

    >>> cut(1000), cut(100_000)
    ((64, 15), (256, 8))
    """
    tokens = min(tokens, MAX_TOKENS)
    for context in CONTEXTS:
        if tokens // context >= CHUNKS_WANTED:
            return context, tokens // context
    return CONTEXTS[-1], tokens // CONTEXTS[-1]


def prepare(text: str, gguf: Path, tool: Path, context: Context) -> Protocol:
    """Write text and ids into the scratch folder. Raises StageFailed (E542) on too short a text."""
    text = text.rstrip("\n")  # llama-perplexity drops one newline at the end
    path = context.scratch / "perplexity.txt"
    path.write_text(text, encoding="utf-8", newline="")
    with llama_server.tokenizer(tool, gguf, context.log_folder / "gguf-tokenizer.log") as tokenizer:
        ids = tokenizer.ids(text, parse_special=False)
        first = tokenizer.ids("", parse_special=False)
    size, chunks = cut(len(ids))
    if chunks < 2:
        raise StageFailed(
            f"the validation text has {len(ids)} tokens; perplexity needs at least "
            f"{2 * CONTEXTS[-1]}",
            hint="hold out more rows: data.validation",
            code="E542",
            stage="gguf",
        )
    file = context.scratch / "perplexity.json"
    file.write_text(json.dumps({"ids": ids, "bos": first[0] if first else None}), encoding="utf-8")
    return Protocol(path, file, size, chunks)


def of_merged_model(protocol: Protocol, model: Path, context: Context) -> float:
    """Perplexity of a Transformers model folder."""
    measured = context.run_script(
        "perplexity",
        {"context": protocol.context, "chunks": protocol.chunks},
        folder=context.scratch,
        inputs={"model": model, "tokens": protocol.ids},
    )
    return float(measured["perplexity_merged"])


def of_file(protocol: Protocol, file: Path, tool: Path, context: Context) -> float:
    """Perplexity of a GGUF file, loaded and run by llama.cpp."""
    what = ["--model", str(file), "--file", str(protocol.text), "--no-escape"]
    how = ["--ctx-size", str(protocol.context), "--batch-size", str(protocol.context)]
    most = ["--chunks", str(protocol.chunks), "--offline"]
    threads = ["--threads", str(hardware.available_cpus())]
    said = context.run_program(
        [str(tool / "bin" / "llama-perplexity"), *what, *how, *most, *threads],
        log=f"perplexity-{file.stem}",
    )
    found = _SO_FAR.findall(said)
    if not found or int(found[-1][0]) != protocol.chunks:
        raise StageFailed(
            f"llama-perplexity gave no result for {file.name}",
            hint=f"read the log in {context.log_folder}",
            code="E543",
            stage="gguf",
        )
    return float(found[-1][1])
