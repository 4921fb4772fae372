"""Turn sharded bfloat16 models of growing depth into a Q8_0 file, beside llama.cpp's converter.

usage: .venv/bin/python -m benchmarks.conversion [RUNS] [LAYERS ...]

Ours is what the stage `gguf` does: the converter through our wrapper, into bfloat16, then
llama-quantize (only its output does Ollama store unchanged). The peer is the converter alone, which
writes Q8_0 by itself. Models as in benchmarks/merge.py, with SmolLM2's tokenizer. Whole processes,
peak memory of the largest.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.merge import write_model
from benchmarks.timing import Command, Timing, table, time_side_by_side
from runner.execution.context import SCRIPTS
from runner.scripts.weights.model_folder import COPIED
from runner.system import environments, tools
from runner.system.folders import cache_folder
from tests.chain import copy_checkout

VOCABULARY = 49_152  # SmolLM2's
BOTH = """
import os, subprocess, sys
python, script, converter, quantize, model, target = sys.argv[1:]
wide = target + ".wide"
subprocess.run([python, script, "convert_gguf", converter, model, "--outfile", wide,
                "--outtype", "bf16", "--model-name", "x"], check=True, capture_output=True)
subprocess.run([quantize, wide, target, "Q8_0"], check=True, capture_output=True)
os.unlink(wide)
"""


def main(runs: int, depths: list[int]) -> None:
    """Print a table for each depth, and the curve."""
    curve = [
        "| layers | ours s | converter s | ours MB | converter MB |",
        "|--:|--:|--:|--:|--:|",
    ]
    with tempfile.TemporaryDirectory(prefix="conversion-") as name:
        tokenizer = smollm_tokenizer(Path(name))
        for layers in depths:
            timings = measure(runs, layers, tokenizer, Path(name) / str(layers))
            print(f"{layers} layers, {runs} runs each\n\n{table(timings)}\n", flush=True)
            seconds = " | ".join(f"{each.median:.1f}" for each in timings)
            memory = " | ".join(f"{each.peak / 1e6:.0f}" for each in timings)
            curve.append(f"| {layers} | {seconds} | {memory} |")
    print("\n".join(curve))


def smollm_tokenizer(place: Path) -> Path:
    """The folder that the quickstart's stage `fetch` gives."""
    checkout = copy_checkout(
        place / "checkout", cache=cache_folder(), store=place / "store", home=place / "home"
    )
    result = checkout.recipe("run", "recipes/quickstart.yaml", "--until", "fetch")
    if result.returncode != 0:
        raise RuntimeError(result.stderr)
    (folder,) = (place / "store" / "fetch").glob("*/model")
    return folder


def measure(runs: int, layers: int, tokenizer: Path, place: Path) -> list[Timing]:
    """Time both on one model, in turn."""
    place.mkdir()
    model = write_model(place / "model", layers, VOCABULARY)
    for name in (*COPIED, "tokenizer_config.json"):
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, model / name)
    config = json.loads((tokenizer / "config.json").read_text())
    ids = {key: value for key, value in config.items() if key.endswith("_token_id")}
    own = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(own | ids))
    timings = time_side_by_side([ours(model, place), peer(model, place)], runs)
    shutil.rmtree(place)
    return timings


def ours(model: Path, place: Path) -> Command:
    """The wrapper and llama-quantize, as the stage calls them."""
    python, tool = programs()
    converter, quantize = tool / "convert_hf_to_gguf.py", tool / "bin" / "llama-quantize"
    words = [python, SCRIPTS, converter, quantize, model, place / "ours.gguf"]
    return Command("gguf stage: convert, quantise", [str(python), "-c", BOTH, *map(str, words)])


def peer(model: Path, place: Path) -> Command:
    """llama.cpp's converter by itself."""
    python, tool = programs()
    argv = [python, tool / "convert_hf_to_gguf.py", model, "--outfile", place / "peer.gguf"]
    return Command("convert_hf_to_gguf.py alone", [*map(str, argv), "--outtype", "q8_0"])


def programs() -> tuple[Path, Path]:
    """The interpreter of the environment `export`, and llama.cpp's folder."""
    python = environments.ensure("export", cache_folder(), print).python
    return python, tools.ensure_tool("llama.cpp", cache_folder(), print)


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(numbers[0] if numbers else 3, numbers[1:] or [4, 8, 16])
