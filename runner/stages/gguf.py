"""Turn the merged model into GGUF files, and prove by perplexity that each is still that model.

llama.cpp's converter writes one file in the merged dtype; every wanted file is then written by
llama-quantize, also the unquantised ones, because Ollama would rewrite anything else. Metadata is
given, never guessed: the converter would take it from folder names and model cards. Two fields
follow the chat template: whether a BOS is added, and the template itself where no Go template for
Ollama renders like it (runner/stages/go_template.py).
"""

from __future__ import annotations

import collections
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import StageFailed
from runner.stages import deployed, go_template, perplexity
from runner.stages.contract import Class, Context, Upstream
from runner.stages.gguf_metadata import PromptMetadata
from runner.stages.prompts import Prompt, read_prompts

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = "gguf"
VERSION = 1
OUTPUTS = {"*.gguf": Class.PORTABLE}
NEEDS = (*deployed.NEEDS, "prepare")
ENVIRONMENT = "export"
TOOLS = ("llama.cpp",)
DEVICE = False

TEMPLATE_FILE = "chat_template.jinja"

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


def wanted(recipe: Recipe) -> bool:
    """Does the recipe ask for GGUF files?"""
    return recipe.gguf is not None


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """The merged model, the text that perplexity is measured on, and the gguf section. Pure."""
    assert recipe.gguf is not None
    return {
        "name": recipe.name,
        "dtype": deployed.dtype_of(recipe),
        "quantize": list(recipe.gguf.quantize),
        "max_perplexity_increase": recipe.gguf.max_perplexity_increase,
        "model": deployed.model_of(upstream).digest("model/*"),
        "validation": upstream["prepare"].digest("validation.txt"),
        "prompts": upstream["prepare"].digest("prompts.jsonl"),
    }


def file_name(recipe: Recipe, quantize: str) -> str:
    """The name of the file of one type: `quickstart-Q8_0.gguf`."""
    return f"{recipe.name}-{quantize}.gguf"


def metadata(name: str) -> dict[str, Any]:
    """What the converter is told instead of letting it guess."""
    return {"general.name": name, **dict.fromkeys(GUESSED_METADATA)}


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write NAME-TYPE.gguf for every type of the recipe.

    Raises StageFailed when a file's perplexity rises too far above the merged model's (E541).
    """
    assert recipe.gguf is not None
    tool = context.tool("llama.cpp")
    steps = 2 + 2 * len(recipe.gguf.quantize)
    model = deployed.model_of(inputs).folder / "model"
    prompts = read_prompts(inputs["prepare"].path("prompts.jsonl"))
    choice = chosen(prompts, model, context)
    if choice is not None and choice.kind == "jinja":
        model = with_marked_template(model, context)
    converted = convert(recipe, model, tool, context)
    converted = without_a_needless_bos(converted, choice, tool, context)
    context.progress(1, steps, message="converted")
    files = {kind: folder / file_name(recipe, kind) for kind in recipe.gguf.quantize}
    for done, (kind, file) in enumerate(files.items(), start=2):
        quantize(converted, file, kind, tool, context)
        context.progress(done, steps, message=f"{kind} written")
    text = perplexity.reference_text(inputs["prepare"])
    protocol = perplexity.prepare(text, converted, tool, context)
    converted.unlink()
    merged = perplexity.of_merged_model(protocol, model, context)
    context.progress(steps - len(files), steps, message=f"merged model: perplexity {merged:.3f}")
    for done, (kind, file) in enumerate(files.items(), start=steps - len(files) + 1):
        value = perplexity.of_file(protocol, file, tool, context)
        check_increase(recipe, file.name, merged, value, context)
        context.progress(done, steps, message=f"{kind}: perplexity {value:.3f}")


def convert(recipe: Recipe, model: Path, tool: Path, context: Context) -> Path:
    """The merged model as one unquantised GGUF file in the scratch folder."""
    told = context.scratch / "metadata.json"
    told.write_text(json.dumps(metadata(recipe.name), indent=2) + "\n", encoding="utf-8")
    converted = context.scratch / "converted.gguf"
    converted.unlink(missing_ok=True)
    python = context.environment_python(ENVIRONMENT)
    what = ["--outfile", str(converted), "--outtype", OUTTYPES[deployed.dtype_of(recipe)]]
    names = ["--model-name", recipe.name, "--metadata", str(told)]
    context.run_program(
        [str(python), str(tool / "convert_hf_to_gguf.py"), str(model), *what, *names],
        log="convert",
        env={"HF_HUB_OFFLINE": "1"},
    )
    return converted


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


def without_a_needless_bos(
    converted: Path, choice: go_template.Choice | None, tool: Path, context: Context
) -> Path:
    """The file, or a copy to which llama.cpp adds no BOS where no prompt was trained with one.

    A step of its own: llama-quantize puts an overridden field behind those that it writes itself,
    and only another pass over the file gives the order that Ollama's rewriting leaves alone.
    """
    if choice is None:
        return converted
    bos = PromptMetadata(converted).bos(tool, context.log_folder / "bos-tokenizer.log")
    if not bos.added or (choice.begin and choice.begin == bos.text):
        return converted
    copy = context.scratch / "without-bos.gguf"
    override = ["--override-kv", "tokenizer.ggml.add_bos_token=bool:false"]
    context.run_program(
        [str(tool / "bin" / "llama-quantize"), *override, str(converted), str(copy), "COPY"],
        log="without-bos",
    )
    converted.unlink()
    return copy


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


def quantize(source: Path, target: Path, kind: str, tool: Path, context: Context) -> None:
    """Write one file by llama-quantize; its bytes do not depend on the number of threads."""
    context.run_program(
        [str(tool / "bin" / "llama-quantize"), str(source), str(target), kind],
        log=f"quantize-{kind}",
    )
    context.measure(f"tensors_{target.name}", tensor_types(target))


def tensor_types(file: Path) -> dict[str, int]:
    """How many tensors of which type a GGUF file holds: shows where llama-quantize fell back."""
    from gguf import GGUFReader

    counts = collections.Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors)
    return dict(sorted(counts.items()))


def check_increase(
    recipe: Recipe, file: str, merged: float, value: float, context: Context
) -> None:
    """Record a file's perplexity; raise StageFailed when it is too far above the merged model's."""
    assert recipe.gguf is not None
    increase = value / merged - 1
    context.measure(f"perplexity_{file}", value)
    context.measure(f"perplexity_increase_{file}", increase)
    allowed = recipe.gguf.max_perplexity_increase
    if math.isfinite(value) and value <= merged * (1 + allowed):
        return
    raise StageFailed(
        f"{file} has perplexity {value:.3f}, the merged model {merged:.3f}: "
        f"{increase:+.1%}, and {allowed:+.1%} is allowed",
        hint="choose a type with more bits in gguf.quantize, or raise gguf.max_perplexity_increase",
        code="E541",
        stage=NAME,
    )
