"""A merged model that no memory holds is measured all the same, one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import shrunken
from tests.sparse_model import NORMS, write_sparse_model
from tests.talking_model import byte_ids, write_talking_model
from tests.training_runs import Finished, ScriptRun, WarmInterpreter

PLENTY, NONE = 1 << 40, 0


@pytest.fixture(scope="module")
def model(
    warm: WarmInterpreter,
    environment_python: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A shrunken Llama with random weights and a tokenizer."""
    place = tmp_path_factory.mktemp("model")
    source = shrunken.write_source("llama-3.2-1b", place / "source")
    made = shrunken.shrink(warm, environment_python("native"), source, place / "shrunken")
    assert made.status == 0, made.log
    return made.folder / "model"


def measured(
    python: Path, script: str, hashed: dict[str, Any], inputs: dict[str, Path], place: Path
) -> Finished:
    place.mkdir()
    done = ScriptRun(python, script, {"trust_remote_code": False} | hashed, inputs, place)
    result = done.finish_cold()
    assert result.status == 0, result.log
    return result


def perplexity(python: Path, model: Path, memory: int, place: Path, context: int = 32) -> Finished:
    ids = np.random.default_rng(5).integers(0, 200, 8 * context).tolist()
    tokens = place.with_suffix(".json")
    tokens.write_text(json.dumps({"ids": ids, "bos": 3}))
    hashed = {"context": context, "chunks": 8, "memory": memory}
    return measured(python, "perplexity", hashed, {"model": model, "tokens": tokens}, place)


def test_the_perplexity_is_the_same(
    model: Path, environment_python: Callable[[str], Path], tmp_path: Path
) -> None:
    """But for its rounding: what stays on the disk is computed in the dtype it is stored in."""
    python = environment_python("export")
    whole = perplexity(python, model, PLENTY, tmp_path / "whole").measures()
    part = perplexity(python, model, NONE, tmp_path / "part").measures()
    assert (whole["merged_model_streamed"], part["merged_model_streamed"]) == (False, True)
    assert part["perplexity_tokens"] == whole["perplexity_tokens"] == 8 * 15
    assert part["perplexity_merged"] == pytest.approx(whole["perplexity_merged"], rel=2e-3)


def write_deep_model(folder: Path, layers: int) -> Path:
    """A Llama of 48 MiB a layer, most of it zeros that are nowhere on the disk."""
    width, between, words = 1024, 6144, 512
    linear = {
        **{f"self_attn.{name}_proj": (width, width) for name in "qkvo"},
        "mlp.gate_proj": (between, width),
        "mlp.up_proj": (between, width),
        "mlp.down_proj": (width, between),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, width)}
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        shapes |= {f"{stem}.{name}.weight": shape for name, shape in linear.items()}
        shapes |= {f"{stem}.{name}.weight": (width,) for name in NORMS}
    shapes |= {"model.norm.weight": (width,), "lm_head.weight": (words, width)}
    write_sparse_model(folder, shapes, 1 << 40)
    config = shrunken.public_config("llama-3.2-1b") | {
        "hidden_size": width,
        "intermediate_size": between,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 64,
        "num_hidden_layers": layers,
        "vocab_size": words,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_memory_does_not_grow_with_the_depth(
    environment_python: Callable[[str], Path], tmp_path: Path
) -> None:
    python = environment_python("export")
    peaks = []
    for layers in (2, 12):
        folder = write_deep_model(tmp_path / f"model-{layers}", layers)
        run = perplexity(python, folder, NONE, tmp_path / f"run-{layers}")
        peaks.append(run.measures()["merged_model_peak_memory"])
    print(f"2 layers: {peaks[0] >> 20} MiB, 12 layers: {peaks[1] >> 20} MiB")
    assert peaks[1] - peaks[0] < 100 << 20  # ten more layers have 480 MiB


@pytest.mark.parametrize(
    ("drafts", "answers"),
    [
        (["Certainly", "Certainly"], ["Certainly", "Certainly"]),  # as when all of it is in memory
        (["Cerxainly", ""], ["Cert", "C"]),
        (["Certainly not", "Ce"], ["Certainly", "Cer"]),
        (["Certainly, and more than is asked for", "x"], ["Certainly", "C"]),
    ],
)
def test_greedy_answers_go_as_far_as_they_agree_and_one_token_on(
    drafts: list[str],
    answers: list[str],
    environment_python: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    model = write_talking_model(tmp_path / "talker", says="Certainly")
    prompts = [byte_ids("<|im_start|>assistant\n"), byte_ids("\n")]
    hashed = {"prompts": prompts, "max_new_tokens": 12, "drafts": drafts}
    python = environment_python("evaluate")
    for memory, expected in ((PLENTY, ["Certainly"] * 2), (NONE, answers)):
        place = tmp_path / f"run-{memory}"
        result = measured(python, "greedy", hashed | {"memory": memory}, {"model": model}, place)
        assert json.loads(result.files()["greedy.json"]) == expected
