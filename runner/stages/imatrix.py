"""Measure on the recipe's own data which weights matter: the importance matrix of the quantiser.

llama-imatrix runs the merged model over chunks of the prepared rows and sums the squares of what
reaches every weight. The sums are floating point of this platform; what the quantiser makes of
them is not, so the GGUF files follow from this file's bytes on any machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import StageFailed
from runner.stages.contract import Class, Context, Upstream
from runner.stages.deployment import deployed
from runner.stages.export import conversion
from runner.system import platforms

if TYPE_CHECKING:
    from runner.recipe.model import Imatrix, Recipe

NAME = "imatrix"
VERSION = 2
FILE = "imatrix.gguf"  # a bare name wherever it is passed: llama-quantize writes it into its files
OUTPUTS = {FILE: Class.PLATFORM}
NEEDS = (*deployed.NEEDS, "prepare")
ENVIRONMENT = conversion.ENVIRONMENT
TOOLS = ("llama.cpp",)
DEVICE = False

TEXT = "calibration.txt"  # a bare name too, for the same reason
CHUNK_SIZES = (512, 256, 128, 64, 32)  # tokens; the largest that gives enough chunks is taken
CHUNKS_WANTED = 8
CHUNKS_NEEDED = 3  # llama-imatrix refuses less than two full ones


def wanted(recipe: Recipe) -> bool:
    """Does the recipe ask for an importance matrix?"""
    return recipe.gguf is not None and recipe.gguf.imatrix is not None


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """The merged model, the rows it reads, and how much of them. Pure."""
    section = _section(recipe)
    return {
        "name": recipe.name,
        "dtype": deployed.dtype_of(recipe),
        "chunks": section.chunks,
        "model": deployed.model_of(upstream).digest("model/*"),
        "tokens": upstream["prepare"].digest(tokens_file(section.data)),
    }


def _section(recipe: Recipe) -> Imatrix:
    assert recipe.gguf is not None
    assert recipe.gguf.imatrix is not None
    return recipe.gguf.imatrix


def tokens_file(data: str) -> str:
    """The output of `prepare` with the rows of `gguf.imatrix.data`."""
    return f"{data}.tokens.safetensors"


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write imatrix.gguf. Raises StageFailed (E544) on too little text, MachineCannot (E545)."""
    section = _section(recipe)
    tool = context.tool("llama.cpp")
    model = deployed.model_of(inputs).folder / "model"
    conversion.need_space(context.scratch, conversion.weights_size(model), "the converted weights")
    tokens = write_text(
        model,
        inputs["prepare"].path(tokens_file(section.data)),
        section.chunks * CHUNK_SIZES[0],
        context,
    )
    size, chunks = cut(tokens, section.chunks)
    if chunks < CHUNKS_NEEDED:
        raise StageFailed(
            f"the {section.data} rows have {tokens} tokens; an importance matrix needs at least "
            f"{CHUNKS_NEEDED * CHUNK_SIZES[-1]}",
            hint="give it more rows (gguf.imatrix.data), or remove gguf.imatrix",
            code="E544",
            stage=NAME,
        )
    context.progress(1, 3, message=f"{chunks} chunks of {size} tokens")
    with conversion.converted(recipe, model, tool, context) as file:
        context.progress(2, 3, message="converted")
        collect(file, size, chunks, tool, context)
    (context.scratch / FILE).rename(folder / FILE)
    (context.scratch / TEXT).unlink()
    context.measure("chunks", chunks)
    context.measure("chunk_tokens", size)


def write_text(model: Path, tokens: Path, most: int, context: Context) -> int:
    """Write about `most` tokens of the rows as text into the scratch folder; returns how many."""
    measured = context.run_script(
        "calibration_text",
        {"most": most, "file": TEXT},
        folder=context.scratch,
        inputs={"model": model, "tokens": tokens},
    )
    return int(measured["calibration_tokens"])


def cut(tokens: int, chunks: int) -> tuple[int, int]:
    """Tokens a chunk and number of chunks for a text of so many tokens, at most `chunks`.

    >>> cut(1000, 128), cut(10_000, 8), cut(90, 128)
    ((64, 15), (512, 8), (32, 2))
    """
    for size in CHUNK_SIZES:
        if tokens // size >= min(chunks, CHUNKS_WANTED):
            return size, min(chunks, tokens // size)
    return CHUNK_SIZES[-1], tokens // CHUNK_SIZES[-1]


def collect(model: Path, size: int, chunks: int, tool: Path, context: Context) -> None:
    """Run llama-imatrix in the scratch folder, on names without a path, one chunk at a time.

    A batch of one chunk keeps the logits small, whatever the vocabulary; the number of threads is
    the platform's.
    """
    what = ["--model", str(model), "--file", TEXT, "--output-file", FILE, "--parse-special"]
    how = ["--ctx-size", str(size), "--batch-size", str(size), "--ubatch-size", str(size)]
    most = ["--chunks", str(chunks), "--no-ppl", "--output-format", "gguf", "--offline"]
    threads = ["--threads", str(platforms.compute_threads())]
    context.run_program(
        [str(tool / "bin" / "llama-imatrix"), *what, *how, *most, *threads],
        log="imatrix",
        folder=context.scratch,
    )
