"""Measure the deployed model: how fast it answers, in how much memory, and what it says.

Speeds are Ollama's own counters and the wall clock, repeated after a warm-up, shown with their
spread. Greedy answers are compared with those of the merged model in Transformers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.stages.contract import Class, Context, Upstream
from runner.stages.deployment import deployed
from runner.stages.deployment.prompts import Prompt, read_prompts
from runner.stages.gguf import file_name
from runner.stages.ollama import open_server
from runner.system import hardware, llama_server, process_tree
from runner.system.local_server import NoAnswer
from runner.system.ollama import Server

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = "benchmark"
VERSION = 1
OUTPUTS = {"benchmark.json": Class.MEASURED}
NEEDS = ("ollama", "gguf", *deployed.NEEDS, "prepare")
ENVIRONMENT = "evaluate"
TOOLS = ("llama.cpp", "ollama")
DEVICE = True

COMPARED = 4  # conversations answered greedily by both
ANSWER_SECONDS = 1800.0
NANOSECONDS = 1e-9
# About 250 tokens to read, and a task whose answer is long.
_TEXT = (
    "A recipe names a base model, the data it learns from and the settings of the training. "
    "Each stage reads what earlier stages wrote and leaves its own results in a store, under a "
    "key made of everything that decides them, so that nothing is computed twice. "
)
QUESTION = _TEXT * 4 + "Write the numbers from one to two hundred in words, one on each line."


def wanted(recipe: Recipe) -> bool:
    """Does the recipe ask for a benchmark?"""
    return recipe.benchmark is not None


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """The deployed model and how it is measured. Pure."""
    section = recipe.benchmark
    assert section is not None
    return {
        "runs": section.runs,
        "max_tokens": section.max_tokens,
        "created": upstream["ollama"].digest("create.json"),
        "prompts": upstream["prepare"].digest("prompts.jsonl"),
        "model": deployed.model_of(upstream).digest("model/*"),
    }


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write benchmark.json. Raises StageFailed when Ollama refuses or goes away."""
    section, target = recipe.benchmark, recipe.ollama
    assert section is not None
    assert target is not None
    prompts = compared(read_prompts(inputs["prepare"].path("prompts.jsonl")))
    with open_server(context) as server:
        speeds = measure(server, target.name, section.runs, section.max_tokens, context)
        said = [answer(server.url, target.name, each, section.max_tokens) for each in prompts]
    expected = merged_answers(
        deployed.model_of(inputs).folder / "model",
        prompts,
        said,
        section.max_tokens,
        context,
        trust_remote_code=recipe.model.trust_remote_code,
    )
    file = inputs["gguf"].path(file_name(recipe, target.quantize))
    log = context.log_folder / "benchmark-tokenizer.log"
    with llama_server.tokenizer(context.tool("llama.cpp"), file, log) as tokenizer:
        greedy = [
            agreement(prompt.id, tokenizer.ids(ours), tokenizer.ids(theirs))
            for prompt, ours, theirs in zip(prompts, said, expected, strict=True)
        ]
    agreed = {
        "prompts": len(greedy),
        "equal": sum(each["equal"] for each in greedy),
        "common_tokens": sum(each["common_tokens"] for each in greedy),
        "tokens": sum(each["tokens_merged"] for each in greedy),
    }
    for name, value in {**speeds, "greedy": agreed}.items():
        context.measure(name, value)
    result = {**speeds, "greedy": agreed, "greedy_by_prompt": greedy}
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "benchmark.json").write_text(text + "\n", encoding="utf-8")


def measure(
    server: Server, name: str, runs: int, max_tokens: int, context: Context
) -> dict[str, Any]:
    """Speeds and memory over `runs` answers, after one that is not counted."""
    one_answer(server.url, name, 0, max_tokens)
    measured = []
    memory = 0
    for number in range(1, runs + 1):
        measured.append(one_answer(server.url, name, number, max_tokens))
        memory = max(memory, process_tree.memory(server.service.pid) if server.service else 0)
        context.progress(number, runs, message="benchmark")
    result: dict[str, Any] = {
        key: spread([each[key] for each in measured])
        for key in (
            "time_to_first_token",
            "prompt_tokens_per_second",
            "generation_tokens_per_second",
            "generation_tokens_per_second_wall",
        )
    }
    result["runs"] = runs
    result["prompt_tokens"] = [each["prompt_tokens"] for each in measured]
    result["generated_tokens"] = [each["generated_tokens"] for each in measured]
    if memory:
        result["memory_bytes"] = memory
    return result


def one_answer(url: str, name: str, number: int, max_tokens: int) -> dict[str, float]:
    """One streamed answer. Seconds and tokens per second.

    The number stands at the beginning of the prompt, so that no run finds its prompt in a cache.
    """
    messages = [
        {"role": "system", "content": f"Run {number}."},
        {"role": "user", "content": QUESTION},
    ]
    started = time.perf_counter()
    first = 0.0
    last: Mapping[str, Any] = {}
    for part in chat(url, name, messages, max_tokens):
        if not first and part["message"]["content"]:
            first = time.perf_counter()
        last = part
    ended = time.perf_counter()
    first = first or ended
    generated = _count(last, "eval")
    return {
        "time_to_first_token": first - started,
        "prompt_tokens": _count(last, "prompt_eval"),
        "generated_tokens": generated,
        "prompt_tokens_per_second": _rate(last, "prompt_eval"),
        "generation_tokens_per_second": _rate(last, "eval"),
        "generation_tokens_per_second_wall": max(generated - 1, 0) / max(ended - first, 1e-9),
    }


def answer(url: str, name: str, prompt: Prompt, max_tokens: int) -> str:
    """The greedy answer of the deployed model."""
    parts = chat(url, name, list(prompt.messages), max_tokens)
    return "".join(part["message"]["content"] for part in parts)


def chat(
    url: str, name: str, messages: Sequence[Mapping[str, str]], max_tokens: int
) -> Iterator[Mapping[str, Any]]:
    """The parts of a streamed greedy answer. The recipe's own sampling parameters do not count."""
    import httpx
    import ollama

    options = {"temperature": 0, "num_predict": max_tokens, "repeat_penalty": 1.0, "seed": 0}
    try:
        with ollama.Client(host=url, trust_env=False, timeout=ANSWER_SECONDS) as client:
            for part in client.chat(model=name, messages=messages, stream=True, options=options):
                yield part.model_dump()
    except httpx.HTTPError as error:
        raise NoAnswer(f"{url}: {error or type(error).__name__}") from error


def compared(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The conversations to answer greedily: of the validation data, else of the hard cases."""
    validation = [prompt for prompt in prompts if prompt.kind == "validation"]
    return (validation or list(prompts))[:COMPARED]


def merged_answers(
    model: Path,
    prompts: Sequence[Prompt],
    said: Sequence[str],
    max_tokens: int,
    context: Context,
    *,
    trust_remote_code: bool,
) -> list[str]:
    """The greedy answers of the merged model in Transformers, as text.

    Of a model larger than the memory: as far as it agrees with what the deployed model `said`.
    """
    context.run_script(
        "greedy",
        {
            "prompts": [list(prompt.ids) for prompt in prompts],
            "drafts": list(said),
            "max_new_tokens": max_tokens,
            "trust_remote_code": trust_remote_code,
            "memory": hardware.memory().available,
        },
        folder=context.scratch,
        inputs={"model": model},
    )
    texts = json.loads((context.scratch / "greedy.json").read_text(encoding="utf-8"))
    return [str(text) for text in texts]


def agreement(name: str, ours: Sequence[int], theirs: Sequence[int]) -> dict[str, Any]:
    """How far two answers agree, as token ids of one tokenizer."""
    pairs = zip(ours, theirs, strict=False)
    shorter = min(len(ours), len(theirs))
    common = next((index for index, (a, b) in enumerate(pairs) if a != b), shorter)
    return {
        "prompt": name,
        "equal": list(ours) == list(theirs),
        "common_tokens": common,
        "tokens_ollama": len(ours),
        "tokens_merged": len(theirs),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Smallest, median and largest."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return {"min": ordered[0], "median": median, "max": ordered[-1]}


def _rate(part: Mapping[str, Any], what: str) -> float:
    seconds = int(part[f"{what}_duration"] or 0) * NANOSECONDS
    return _count(part, what) / max(seconds, 1e-9)


def _count(part: Mapping[str, Any], what: str) -> int:
    """Tokens; a count of 0, of an answer that ends before it begins, is left out by the server."""
    return int(part[f"{what}_count"] or 0)
