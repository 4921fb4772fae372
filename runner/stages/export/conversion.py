"""The merged model as one unquantised GGUF file, by llama.cpp's converter; a large scratch file.

Metadata is given, never guessed: the converter would take it from folder names and model cards.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import MachineCannot
from runner.stages.contract import Context
from runner.stages.deployment import deployed
from runner.stages.export import converter

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

ENVIRONMENT = "export"
OUTTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}

# Every field that the converter would otherwise guess from a folder's name, a model card or
# generation_config.json (class Metadata of gguf-py). null means: not in the file.
GUESSED_METADATA = (
    *(f"general.{name}" for name in ("author", "version", "organization", "finetune", "basename")),
    *(f"general.{name}" for name in ("description", "quantized_by", "size_label", "url", "doi")),
    *(f"general.{name}" for name in ("uuid", "repo_url", "base_models", "tags", "languages")),
    *(f"general.{name}" for name in ("datasets", "license.name", "license.link")),
    *(f"general.source.{name}" for name in ("url", "doi", "uuid", "repo_url")),
    *(f"general.sampling.{name}" for name in ("sequence", "top_k", "top_p", "min_p", "temp")),
    *(f"general.sampling.xtc_{name}" for name in ("probability", "threshold")),
    *(f"general.sampling.penalty_{name}" for name in ("last_n", "repeat")),
    *(f"general.sampling.{name}" for name in ("mirostat", "mirostat_tau", "mirostat_eta")),
)


# What llama.cpp looks for in a model's name (llama_vocab::impl::load): special tokens of a Phi-3
# swallow the white space on their right, and nothing else in the file says so.
_STRIPPING = re.compile(r"phi-?3", re.IGNORECASE)


def metadata(name: str) -> dict[str, Any]:
    """What the converter is told instead of letting it guess."""
    return {"general.name": name, **dict.fromkeys(GUESSED_METADATA)}


def name_in_file(name: str, model: Path) -> str:
    """The recipe's name, so that llama.cpp treats white space as the model's tokenizer does."""
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = tokenizer.get("added_tokens", ())
    strips = any(token.get("rstrip") and token.get("special") for token in tokens)
    if strips and not _STRIPPING.search(name):
        return f"{name}-phi-3"
    return name if strips else _STRIPPING.sub("phi 3", name)


@contextlib.contextmanager
def converted(recipe: Recipe, model: Path, tool: Path, context: Context) -> Iterator[Path]:
    """The file in the scratch folder; removed at the end, whatever happens inside.

    The scratch folder outlives a kill, and this file is as large as the model: the next try
    converts again, in a fraction of the time that everything before took.
    """
    try:
        yield convert(recipe, model, tool, context)
    finally:
        (context.scratch / "converted.gguf").unlink(missing_ok=True)


def convert(recipe: Recipe, model: Path, tool: Path, context: Context) -> Path:
    """The merged model as one unquantised GGUF file in the scratch folder."""
    told = context.scratch / "metadata.json"
    name = name_in_file(recipe.name, model)
    told.write_text(json.dumps(metadata(name), indent=2) + "\n", encoding="utf-8")
    file = context.scratch / "converted.gguf"
    file.unlink(missing_ok=True)
    python = context.environment_python(ENVIRONMENT)
    what = ["--outfile", str(file), "--outtype", OUTTYPES[deployed.dtype_of(recipe)]]
    names = ["--model-name", name, "--metadata", str(told)]
    converter.run([str(model), *what, *names], python=python, tool=tool, context=context)
    return file


def weights_size(model: Path) -> int:
    """Bytes of a model folder's weights; the converted file is about as large."""
    return sum(path.stat().st_size for path in model.glob("*.safetensors"))


def need_space(folder: Path, size: float, what: str) -> None:
    """Raise MachineCannot (E545) unless `size` bytes are free where `folder` lies."""
    from runner.store.atomic import more_room

    free = shutil.disk_usage(folder).free
    if free < size:
        raise MachineCannot(
            f"{what} need about {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on the disk "
            f"of {folder}",
            hint=f"ask for fewer types in gguf.quantize; or {more_room(folder)}",
            code="E545",
        )
