"""Turn the merged model into GGUF files, and measure how far each is from that model.

llama.cpp's converter writes one file in the merged dtype; every wanted file is then written by
llama-quantize, also the unquantised ones, because Ollama would rewrite anything else. What the file
says about prompts follows the chat template (gguf_template.py).
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import StageFailed
from runner.stages import imatrix
from runner.stages.contract import Class, Context, Upstream
from runner.stages.deployment import deployed
from runner.stages.deployment.prompts import read_prompts
from runner.stages.export import conversion, gguf_types, perplexity
from runner.stages.export.gguf_types import Tensor
from runner.stages.models import shrunken
from runner.stages.templates import gguf_template

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = "gguf"
VERSION = 2
OUTPUTS = {"*.gguf": Class.PORTABLE}
NEEDS = (*deployed.NEEDS, "prepare", "imatrix")
ENVIRONMENT = conversion.ENVIRONMENT
TOOLS = ("llama.cpp",)
DEVICE = False

_UNSEEN = re.compile(r"Missing importance matrix for tensor (\S+)")


def wanted(recipe: Recipe) -> bool:
    """Does the recipe ask for GGUF files?"""
    return recipe.gguf is not None


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """The merged model, the text that files are measured on, and what decides files. Pure."""
    assert recipe.gguf is not None
    key: dict[str, Any] = {
        "name": recipe.name,
        "dtype": deployed.dtype_of(recipe),
        "quantize": list(recipe.gguf.quantize),
        "max_perplexity_increase": recipe.gguf.max_perplexity_increase,
        "model": deployed.model_of(upstream).digest("model/*"),
        "validation": upstream["prepare"].digest("validation.txt"),
        "prompts": upstream["prepare"].digest("prompts.jsonl"),
        **shrunken.key_fact(recipe),
    }
    if imatrix.wanted(recipe):
        key["imatrix"] = upstream["imatrix"].digest(imatrix.FILE)
    return key


def file_name(recipe: Recipe, quantize: str) -> str:
    """The name of the file of one type: `quickstart-Q8_0.gguf`."""
    return f"{recipe.name}-{quantize}.gguf"


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write NAME-TYPE.gguf for every type of the recipe, and measure each.

    Raises StageFailed when a file's perplexity rises too far above the merged model's (E541) or the
    importance matrix lacks a tensor (E546), MachineCannot when the disk is too small (E545).
    """
    assert recipe.gguf is not None
    tool = context.tool("llama.cpp")
    model = deployed.model_of(inputs).folder / "model"
    matrix = inputs["imatrix"].path(imatrix.FILE) if imatrix.wanted(recipe) else None
    choice = gguf_template.chosen(
        read_prompts(inputs["prepare"].path("prompts.jsonl")), model, context
    )
    files = {kind: folder / file_name(recipe, kind) for kind in recipe.gguf.quantize}
    steps = 2 + 2 * len(files)
    conversion.need_space(folder, space_needed(recipe, model), "the GGUF files and their source")
    with (
        gguf_template.source_of(model, choice, context) as source,
        conversion.converted(recipe, source, tool, context) as converted,
    ):
        gguf_template.remove_needless_bos(converted, choice, tool, context)
        context.progress(1, steps, message="converted")
        for done, (kind, file) in enumerate(files.items(), start=2):
            quantize(converted, file, kind, matrix, tool, context)
            context.progress(done, steps, message=f"{kind} written")
        text = perplexity.reference_text(inputs["prepare"])
        protocol = perplexity.prepare(text, converted, tool, context)
        logits = perplexity.keep_logits(protocol, converted, tool, context)
    try:
        merged = perplexity.of_merged_model(
            protocol, model, context, trust_remote_code=recipe.model.trust_remote_code
        )
        context.progress(2 + len(files), steps, message=f"merged model: perplexity {merged:.3f}")
        table = []
        for done, (kind, file) in enumerate(files.items(), start=3 + len(files)):
            distance = perplexity.of_file(protocol, file, logits, tool, context)
            check_increase(recipe, file.name, merged, distance.perplexity)
            table.append(about(kind, file, merged, distance, matrix is not None))
            context.progress(done, steps, message=f"{kind}: {in_words(table[-1])}")
    finally:
        logits.unlink()
    context.measure("files", table)


def judge(recipe: Recipe, measures: Mapping[str, Any]) -> dict[str, Any]:
    """Which file the recipe's limits recommend. No part of the key: other limits write no file."""
    return {"ship": to_ship(recipe, measures.get("files", ()))}


def space_needed(recipe: Recipe, model: Path) -> float:
    """Bytes of the converted weights and of all files, and of the logits that are compared with.

    About: a tenth is added for tensors with more bits than most.
    """
    assert recipe.gguf is not None
    source = conversion.weights_size(model)
    stored_bits = 32 if deployed.dtype_of(recipe) == "float32" else 16
    files = sum(gguf_types.KINDS[kind].bits for kind in recipe.gguf.quantize) / stored_bits
    largest_vocabulary = 1 << 18
    logits = perplexity.logits_size(perplexity.MAX_TOKENS, 1, largest_vocabulary)
    return source * (1 + 1.1 * files) + min(logits, source)


def quantize(
    source: Path, target: Path, kind: str, matrix: Path | None, tool: Path, context: Context
) -> None:
    """Write one file by llama-quantize; its bytes do not depend on the number of threads.

    The matrix is passed by its bare name, from its own folder: the name gets into the file. Types
    that do not use it are written without it, and are the same files as in a recipe without one.
    """
    used = matrix if matrix is not None and gguf_types.takes_matrix(kind) else None
    how = ["--imatrix", used.name] if used is not None else []
    try:
        context.run_program(
            [str(tool / "bin" / "llama-quantize"), *how, str(source), str(target), kind],
            log=f"quantize-{kind}",
            folder=used.parent if used is not None else None,
        )
    except StageFailed as error:
        raise _unseen(error, kind) or error from None


def _unseen(error: StageFailed, kind: str) -> StageFailed | None:
    """What to say when the matrix has nothing about a tensor, as of an expert never asked."""
    log = Path(error.log).read_text(encoding="utf-8", errors="replace") if error.log else ""
    found = _UNSEEN.search(log)
    if found is None:
        return None
    return StageFailed(
        f"the importance matrix says nothing about {found[1]}, and {kind} cannot do without",
        hint="measure on more text (gguf.imatrix.chunks, more rows), or choose a type with more "
        "bits",
        code="E546",
        stage=NAME,
        log=error.log,
    )


def read_tensors(file: Path) -> list[Tensor]:
    """Names, types and shapes of a GGUF file's tensors."""
    from gguf import GGUFReader

    return [
        Tensor(
            str(tensor.name),
            tensor.tensor_type.name,
            columns=int(tensor.shape[0]),
            rows=math.prod(int(size) for size in tensor.shape[1:]),
        )
        for tensor in GGUFReader(file).tensors
    ]


def about(
    kind: str, file: Path, merged: float, distance: perplexity.Distance, has_matrix: bool
) -> dict[str, Any]:
    """One row of the table: what the file is, and how far it is from the merged model."""
    tensors = read_tensors(file)
    return {
        "file": file.name,
        "type": kind,
        "imatrix": has_matrix and gguf_types.takes_matrix(kind),
        "size": file.stat().st_size,
        "perplexity": distance.perplexity,
        "perplexity_merged": merged,
        "perplexity_increase": distance.perplexity / merged - 1,
        "kl_divergence": distance.kl_divergence,
        "same_top_token": distance.same_top_token,
        "tensors": tensor_types(tensors),
        "fallback": fallback_of(kind, tensors),
    }


def tensor_types(tensors: Iterable[Tensor]) -> dict[str, int]:
    """How many tensors have which type."""
    return dict(sorted(collections.Counter(tensor.type for tensor in tensors).items()))


def fallback_of(kind: str, tensors: list[Tensor]) -> dict[str, Any] | None:
    """How many of how many weights fell back to which types, and the rows that did not fit."""
    fallen = gguf_types.fallen_back(kind, tensors)
    if not fallen:
        return None
    weights = [tensor for tensor in tensors if gguf_types.is_weight(tensor)]
    unfit = {tensor.columns for tensor in weights if tensor.columns % gguf_types.BLOCK}
    return {"to": fallen, "weights": len(weights), "row_lengths": sorted(unfit)}


def in_words(row: Mapping[str, Any]) -> str:
    """The row of one file, for the progress line."""
    return f"perplexity {row['perplexity']:.3f}, KL divergence {row['kl_divergence']:.4f}"


def check_increase(recipe: Recipe, file: str, merged: float, value: float) -> None:
    """Raise StageFailed (E541) when a perplexity is too far above the merged model's."""
    assert recipe.gguf is not None
    allowed = recipe.gguf.max_perplexity_increase
    near = value <= merged * (1 + allowed) or shrunken.is_shrunken(recipe)
    if math.isfinite(value) and near:
        return
    raise StageFailed(
        f"{file} has perplexity {value:.3f}, the merged model {merged:.3f}: "
        f"{value / merged - 1:+.1%}, and {allowed:+.1%} is allowed",
        hint="choose a type with more bits in gguf.quantize, or raise gguf.max_perplexity_increase",
        code="E541",
        stage=NAME,
    )


def to_ship(recipe: Recipe, table: Iterable[Mapping[str, Any]]) -> str | None:
    """The smallest file within both limits of the recipe; None when there is none.

    A recommendation: what is deployed is `ollama.quantize`.
    """
    assert recipe.gguf is not None
    within = [
        row
        for row in table
        if row["kl_divergence"] <= recipe.gguf.max_kl_divergence
        and row["perplexity_increase"] <= recipe.gguf.max_perplexity_increase
    ]
    best = min(within, key=lambda row: (row["size"], row["kl_divergence"]), default=None)
    return None if best is None else str(best["file"])
