"""How far a GGUF file is from the merged model, by one protocol: llama-perplexity's own.

The text is cut into chunks of `context` tokens, and in each chunk the second half is scored. Both
sides get llama.cpp's token ids, so the numbers differ by the weights alone. Perplexity is measured
by two engines, Transformers and llama.cpp. KL divergence and top tokens compare a file with the
converted, not yet quantised weights, in llama.cpp alone.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from runner.errors import StageFailed
from runner.stages.contract import Context, Outputs
from runner.stages.deployment.prompts import read_prompts
from runner.system import hardware, llama_server

_Found = TypeVar("_Found")

CONTEXTS = (256, 128, 64, 32)  # tokens; the largest with enough chunks is taken
CHUNKS_WANTED = 8
# llama-perplexity was seen, once and on a busy machine, to end with status 0 and without its last
# chunk; the same command then gave a whole result. So a part is not a verdict until it comes twice.
TRIES = 2
MAX_TOKENS = 2048  # more would not change the verdict, only the time
# Printed after every chunk: its number and what was found up to its end, each with its standard
# error: perplexity, logarithm of its ratio, KL divergence, change of probabilities, top tokens (%).
# The statistics at the end are left out for short texts, these rows never.
_NUMBER = r"\s+(-?[0-9.]+|-?nan|-?inf)"
_SO_FAR = re.compile(
    r"^\s*(\d+)" + rf"{_NUMBER} ±{_NUMBER}" * 3 + rf"{_NUMBER} ±{_NUMBER} %" * 2, re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is scored: the text as a file, its token ids, and how it is cut."""

    text: Path
    ids: Path  # JSON: {"ids": [...], "bos": int or null}
    context: int  # tokens a chunk
    chunks: int


@dataclass(frozen=True, slots=True)
class Distance:
    """A file against the merged model: perplexity, mean KL divergence (nats), equal top tokens."""

    perplexity: float
    kl_divergence: float
    same_top_token: float  # part of the scored positions, 0 to 1


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


def of_merged_model(
    protocol: Protocol, model: Path, context: Context, *, trust_remote_code: bool
) -> float:
    """Perplexity of a Transformers model folder."""
    measured = context.run_script(
        "perplexity",
        {
            "context": protocol.context,
            "chunks": protocol.chunks,
            "trust_remote_code": trust_remote_code,
            "memory": hardware.memory().available,
        },
        folder=context.scratch,
        inputs={"model": model, "tokens": protocol.ids},
    )
    return float(measured["perplexity_merged"])


def logits_size(context: int, chunks: int, vocabulary: int) -> int:
    """Bytes of the file that `keep_logits` writes: 16 bits a token of the vocabulary."""
    scored = context - 1 - context // 2
    row = 2 * ((vocabulary + 1) // 2) + 4
    return 20 + 4 * context * chunks + 2 * row * scored * chunks


def keep_logits(protocol: Protocol, gguf: Path, tool: Path, context: Context) -> Path:
    """Write what the unquantised model expects at every scored position into the scratch folder.

    Raises StageFailed (E543) when the file is not whole: llama-perplexity ignores a full disk.
    """
    file = context.scratch / "logits.bin"
    file.unlink(missing_ok=True)
    what = ["--model", str(gguf), "--file", str(protocol.text), "--no-escape"]
    more = ["--chunks", str(protocol.chunks), "--save-all-logits", str(file)]

    def whole(said: str) -> Path | None:
        return file if _is_whole(file, protocol) else None

    found = _run(protocol, [*what, *more], "logits", whole, tool, context)
    if found is None:
        raise _no_result("the merged model", context)
    return found


def _is_whole(file: Path, protocol: Protocol) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        _, _, vocabulary, chunks = struct.unpack("<8sIii", stream.read(20).ljust(20, b"\0"))
    whole = logits_size(protocol.context, chunks, vocabulary)
    return chunks == protocol.chunks and file.stat().st_size == whole


def of_file(protocol: Protocol, file: Path, logits: Path, tool: Path, context: Context) -> Distance:
    """A GGUF file, loaded and run by llama.cpp, against `logits` of `keep_logits`.

    Raises StageFailed (E543) when llama-perplexity does not get to the end.
    """
    what = ["--model", str(file), "--kl-divergence", "--kl-divergence-base", str(logits)]

    def last(said: str) -> Distance | None:
        return last_distance(said, protocol.chunks)

    distance = _run(protocol, what, f"distance-{file.stem}", last, tool, context)
    if distance is None:
        raise _no_result(file.name, context)
    return distance


def last_distance(said: str, chunks: int) -> Distance | None:
    """What llama-perplexity printed after the last of `chunks`; None when it did not get there."""
    found = _SO_FAR.findall(said)
    if not found or int(found[-1][0]) != chunks:
        return None
    perplexity, divergence, same = (float(found[-1][place]) for place in (1, 5, 9))
    if math.isfinite(perplexity) and not math.isfinite(divergence):
        return None
    # The kept logits are rounded to 16 bits, so equal models may come out a little below zero.
    return Distance(perplexity, 0.0 if divergence < 0 else divergence, same / 100)


def _run(
    protocol: Protocol,
    what: list[str],
    log: str,
    result: Callable[[str], _Found | None],
    tool: Path,
    context: Context,
) -> _Found | None:
    """What `result` finds after a run; where that is nothing, after another one.

    The measure `repeats_of_LOG` counts the further runs; there is none when the first was whole.
    """
    how = ["--ctx-size", str(protocol.context), "--batch-size", str(protocol.context)]
    threads = ["--threads", str(hardware.available_cpus()), "--offline"]
    program = [str(tool / "bin" / "llama-perplexity"), *what, *how, *threads]
    for repeats in range(TRIES):
        if repeats:
            context.measure(f"repeats_of_{log}", repeats)
        found = result(context.run_program(program, log=log))
        if found is not None:
            return found
    return None


def _no_result(what: str, context: Context) -> StageFailed:
    return StageFailed(
        f"llama-perplexity gave no result for {what}",
        hint=f"read the log in {context.log_folder}; is the disk full?",
        code="E543",
        stage="gguf",
    )
