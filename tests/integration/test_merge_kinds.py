"""Every kind of adapter that PEFT makes, merged by the real script and held to PEFT itself."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from runner.scripts.weights.floats import DTYPES, from_f64
from runner.scripts.weights.safetensors_stream import ModelFolder
from tests.script_runs import ScriptRun, run_script

PROGRAM = Path(__file__).resolve().parent.parent / "peft_reference.py"
ALL = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
DORA = ALL | {"use_dora": True}
ATTENTION = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
GPT2 = {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn", "c_proj", "c_fc"]}


def case(architecture: str, *adapters: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"architecture": architecture, "adapters": list(adapters), **more}


CASES: dict[str, dict[str, Any]] = {
    "llama, LoRA": case("llama", ALL),
    "llama, LoRA, shards": case("llama", ALL, shard="60KB"),
    "llama, bfloat16": case("llama", ALL, dtype="bfloat16"),
    "llama, float16, DoRA": case("llama", DORA, dtype="float16"),
    "llama, rsLoRA": case("llama", ALL | {"use_rslora": True}),
    "llama, DoRA": case("llama", DORA),
    "llama, DoRA and rsLoRA on the head": case(
        "llama", DORA | {"use_rslora": True, "target_modules": ["lm_head", "down_proj"]}
    ),
    "llama, patterns": case(
        "llama",
        ALL | {
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*": 7},
            "alpha_pattern": {"up_proj": 3, "model.layers.0.self_attn.v_proj": 1},
        },
    ),
    "llama, embeddings": case("llama", ALL | {"target_modules": ["embed_tokens", "lm_head"]}),
    "llama, DoRA of the embedding": case("llama", DORA | {"target_modules": ["embed_tokens"]}),
    "llama, whole modules": case(
        "llama", ATTENTION | {"modules_to_save": ["embed_tokens", "lm_head", "model.norm"]}
    ),
    "llama, whole block": case("llama", ATTENTION | {"modules_to_save": ["mlp"]}),
    "llama, resized": case("llama", ALL, resize=300),
    "llama, resized and adapted": case(
        "llama", ALL | {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}, resize=300
    ),
    "llama, two adapters": case("llama", ALL, ATTENTION | {"use_rslora": True}),
    "llama, LoRA and two DoRA": case("llama", ATTENTION, DORA, DORA | {"r": 3}),
    "qwen2, LoRA": case("qwen2", ALL),
    "qwen2, biases": case("qwen2", ATTENTION | {"lora_bias": True}),
    "qwen2, DoRA": case("qwen2", DORA),
    "gpt2, LoRA": case("gpt2", GPT2),
    "gpt2, DoRA": case("gpt2", GPT2 | {"use_dora": True}),
    "gpt2, rsLoRA, bfloat16": case("gpt2", GPT2 | {"use_rslora": True}, dtype="bfloat16"),
    "gpt2, with the tied head": case(
        "gpt2", GPT2 | {"target_modules": ["c_attn", "c_proj", "lm_head"]}
    ),
    "gpt2, with the tied embedding": case(
        "gpt2", GPT2 | {"target_modules": ["c_attn", "wte"], "use_dora": True}
    ),
    "gemma, LoRA": case("gemma", ALL),
    "gemma, DoRA": case("gemma", DORA),
    "gemma, tied embedding adapted": case("gemma", ALL | {"target_modules": ["embed_tokens"]}),
    "gemma, tied head adapted": case("gemma", ALL | {"target_modules": ["lm_head", "q_proj"]}),
    "gemma, tied embedding saved": case("gemma", ATTENTION | {"modules_to_save": ["embed_tokens"]}),
    "gemma, tied head saved": case("gemma", ATTENTION | {"modules_to_save": ["lm_head"]}),
    "gemma, tied both saved": case(
        "gemma", ATTENTION | {"modules_to_save": ["embed_tokens", "lm_head"]}
    ),
    "gemma, resized": case("gemma", ALL, resize=300),
    "gemma, resized, shards": case("gemma", ALL, resize=280, shard="60KB"),
    "gemma, saved as one": case(
        "gemma", ATTENTION | {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    ),
    "gemma, adapted as one": case(
        "gemma", ALL | {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}
    ),
    "gemma, DoRA adapted as one": case(
        "gemma", DORA | {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}
    ),
    "llama-tied, DoRA of embedding and head": case(
        "llama-tied", DORA | {"target_modules": ["embed_tokens", "lm_head", "o_proj"]}
    ),
}  # fmt: skip
# tied before, and one tensor afterwards too
STAY_TIED = {
    "gpt2, LoRA", "gpt2, DoRA", "gpt2, rsLoRA, bfloat16", "gemma, LoRA", "gemma, DoRA",
    "gemma, resized", "gemma, resized, shards", "gemma, saved as one", "gemma, adapted as one",
}  # fmt: skip


def peft(python: Path, mode: str, place: Path) -> str:
    """Run the reference program; one process for all cases, since loading torch takes longest."""
    argv = [str(python), str(PROGRAM), mode, str(place), str(place / "cases.json")]
    done = subprocess.run(
        argv, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def place(
    environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Models, adapters and PEFT's results of all cases."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "cases.json").write_text(json.dumps(CASES))
    peft(environment_python("native"), "make", folder)
    return folder


Merged = Callable[[str, str], ScriptRun]


@pytest.fixture(scope="module")
def merged(environment_python: Callable[[str], Path], place: Path) -> Merged:
    """Merge a case into a dtype; each only once."""
    done: dict[tuple[str, str], ScriptRun] = {}

    def run(name: str, dtype: str) -> ScriptRun:
        if (name, dtype) not in done:
            folder = place / name
            names = [f"adapter-{index}" for index in range(len(CASES[name]["adapters"]))]
            (folder / "template").write_text("")
            inputs = {"model": folder / "model", "template": folder / "template"}
            inputs |= {each: folder / each for each in names}
            hashed = {"dtype": dtype, "adapters": names}
            python = environment_python("export")
            done[name, dtype] = run_script(python, "merge", hashed, inputs, folder / dtype)
            assert done[name, dtype].returncode == 0, done[name, dtype].log
        return done[name, dtype]

    return run


def differing(ours: np.ndarray, exact: np.ndarray, dtype: str) -> int:
    """How many elements are not PEFT's, rounded once; each may be off by one step."""
    expected = from_f64(exact, dtype)
    steps = np.abs(ordinal(ours) - ordinal(expected))
    assert steps.max(initial=0) <= 1
    return int((steps > 0).sum())


def ordinal(values: np.ndarray) -> np.ndarray:
    """Stored floats as whole numbers in the order of their values: neighbours differ by one."""
    bits = values.dtype.itemsize * 8
    raw = values.view(f"u{values.dtype.itemsize}").astype(np.int64)
    magnitude = raw & ((1 << (bits - 1)) - 1)
    return np.where(raw >> (bits - 1), -magnitude, magnitude)


@pytest.mark.parametrize("name", CASES)
def test_a_merged_model_is_what_peft_merges_in_float64(
    place: Path, merged: Merged, name: str, record_property: Callable[[str, object], None]
) -> None:
    expected = load_file(place / name / "expected.safetensors")
    config = json.loads((merged(name, "float32").folder / "model" / "config.json").read_text())
    half = ("bfloat16", "float16")[list(CASES).index(name) % 2]
    for dtype in ("float32", half):
        elements = wrong = 0
        with ModelFolder(merged(name, dtype).folder / "model") as model:
            for tensor in set(expected) - set(model.tensors):
                assert tensor == "lm_head.weight"
                assert name in STAY_TIED
                first = next(
                    t for t in expected if t.endswith(("embed_tokens.weight", "wte.weight"))
                )
                assert np.array_equal(expected.pop(tensor), expected[first])
            assert set(model.tensors) == set(expected)
            for tensor, spec in model.tensors.items():
                assert spec.dtype == DTYPES[dtype]
                elements += expected[tensor].size
                wrong += differing(model.read(tensor), expected[tensor], spec.dtype)
        record_property(f"differing_elements_{dtype}", f"{wrong} of {elements}")
        print(f"{name}: {wrong} of {elements} elements in {dtype} are not PEFT's, by one step")
        assert wrong <= elements / 10_000
        assert config["vocab_size"] == CASES[name].get("resize", 260)
    base = json.loads((place / name / "model" / "config.json").read_text())
    if base.get("tie_word_embeddings", CASES[name]["architecture"] in ("gemma", "gpt2")):
        assert config.get("tie_word_embeddings", True) == (name in STAY_TIED)


def test_the_merged_models_logits_are_those_of_base_and_adapter(
    place: Path, merged: Merged, environment_python: Callable[[str], Path]
) -> None:
    for name in CASES:
        link = place / name / "merged"
        link.symlink_to(merged(name, "float32").folder / "model")
    found = json.loads(peft(environment_python("native"), "logits", place))
    assert set(found) == set(CASES)
    assert {name: error for name, error in found.items() if error > 1e-5} == {}
