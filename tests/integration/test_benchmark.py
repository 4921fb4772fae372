"""The stage `benchmark` on the real server, with a tiny model whose answers are known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.scripts.data.tokens.parity_cases import cases
from runner.stages import benchmark
from runner.stages import ollama as deployment
from runner.stages.contract import Class, Outputs
from tests.integration.conftest import ContextFor, outputs_of, write_prompts
from tests.integration.test_ollama import deployable, prompt_lines


@pytest.fixture
def inputs(
    own_ollama: Path, llama_cpp: Path, tmp_path: Path, context_for: ContextFor
) -> dict[str, Outputs]:
    """A talking model, merged and deployed."""
    gguf = deployable(tmp_path / "talker", llama_cpp, says="Certainly")
    merged = tmp_path / "merged"
    merged.mkdir()
    (tmp_path / "talker" / "hf").rename(merged / "model")
    prepared = write_prompts(tmp_path / "prepared", prompt_lines(cases()[:6], None))
    folder = tmp_path / "deployed"
    folder.mkdir()
    chain = {"gguf": gguf, "prepare": prepared, "merge": outputs_of("merge", merged)}
    deployment.run(recipe(), chain, folder, context_for(deployment, "deployment"))
    return chain | {"ollama": outputs_of("ollama", folder)}


def recipe() -> Any:
    section = {"name": "talker", "quantize": "F32", "parameters": {}, "smoke": "Are you there?"}
    return SimpleNamespace(
        shrink=None,
        model=SimpleNamespace(trust_remote_code=False),
        name="tiny",
        data=SimpleNamespace(system=None),
        ollama=SimpleNamespace(**section),
        benchmark=SimpleNamespace(runs=3, max_tokens=32),
    )


def test_speeds_memory_and_greedy_answers_are_measured(
    inputs: dict[str, Outputs], tmp_path: Path, context_for: ContextFor
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    context = context_for(benchmark, "benchmark")
    benchmark.run(recipe(), inputs, folder, context)
    result = json.loads((folder / "benchmark.json").read_text())
    for name in (
        "time_to_first_token",
        "prompt_tokens_per_second",
        "generation_tokens_per_second",
    ):
        assert 0 < result[name]["min"] <= result[name]["median"] <= result[name]["max"]
        assert context.measures[name] == result[name]
    assert result["runs"] == 3
    # The bytes of the answer and the end of turn.
    assert result["generated_tokens"] == [len("Certainly") + 1] * 3
    # Server and model runner, but neither us nor anything else on the machine.
    assert 20 << 20 < result["memory_bytes"] < 1 << 30
    # Four prompts, answered by two engines in the same words.
    assert result["greedy"] == {
        "prompts": 4,
        "equal": 4,
        "common_tokens": 4 * len("Certainly"),
        "tokens": 4 * len("Certainly"),
    }


def test_no_measure_can_reach_the_manifest() -> None:
    assert set(benchmark.OUTPUTS.values()) == {Class.MEASURED}


def test_every_run_reads_its_whole_prompt(
    inputs: dict[str, Outputs],
    tmp_path: Path,
    context_for: ContextFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A prompt that is found in the cache would make reading look faster than it is."""
    # Every byte is a token for this model, and its context has 512.
    monkeypatch.setattr(benchmark, "QUESTION", "Count. " * 40)
    context = context_for(benchmark, "benchmark")
    with deployment.open_server(context) as server:
        for number in (0, 1, 2):
            read = benchmark.one_answer(server.url, "talker", number, 8)["prompt_tokens"]
    log = (context.log_folder / "ollama-server.log").read_text()
    cached = [int(count) for count in re.findall(r"cached n_tokens = (\d+)", log)]
    # What is common to all of them is the beginning of the system turn: "<|im_start|>system\nRun ".
    assert max(cached) <= len("|system\nRun ")
    assert read > 280
