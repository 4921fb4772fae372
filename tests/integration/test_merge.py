"""Merging by the real script: against PEFT, against memory, against adapters that do not fit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runner.scripts.weights import floats
from runner.scripts.weights.safetensors_stream import (
    INDEX,
    METADATA,
    ModelFolder,
    TensorSpec,
    open_shards,
)
from tests.lora_files import write_adapter
from tests.script_runs import ScriptRun, run_script
from tests.tiny_model import write_tiny_model

Merge = Callable[..., ScriptRun]


@pytest.fixture
def merge(
    environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Merge:
    """Merge adapters into a model folder."""
    python = environment_python("export")

    def run(model: Path, *adapters: Path, dtype: str = "bfloat16") -> ScriptRun:
        inputs = {"model": model, "template": model / "chat_template.jinja"}
        inputs |= {f"adapter-{number}": adapter for number, adapter in enumerate(adapters)}
        hashed: dict[str, Any] = {"dtype": dtype}
        if len(adapters) == 1:  # as the stage does it
            inputs["adapter"] = inputs.pop("adapter-0")
        else:
            hashed["adapters"] = [f"adapter-{number}" for number in range(len(adapters))]
        place = tmp_path_factory.mktemp("merge")
        return run_script(python, "merge", hashed, inputs, place / "run")

    return run


def shapes_of(model: Path) -> dict[str, tuple[int, int]]:
    """All linear layers of a tiny model."""
    return {
        name.removesuffix(".weight"): (weight.shape[0], weight.shape[1])
        for name, weight in load_file(model / "model.safetensors").items()
        if name.endswith("_proj.weight")
    }


def in_dtype(model: Path, dtype: str) -> Path:
    """The folder, its weights rounded to `dtype`."""
    path = model / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    kind = floats.DTYPES[dtype]
    specs = [TensorSpec(name, kind, values.shape) for name, values in tensors.items()]
    with open_shards(model, specs) as writer:
        for name, values in tensors.items():
            writer.write(name, floats.from_f32(values, kind))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"torch_dtype": dtype}))
    return model


def stored(folder: Path) -> dict[str, tuple[str, np.ndarray]]:
    """dtype and stored values of every tensor."""
    with ModelFolder(folder) as model:
        return {name: (spec.dtype, model.read(name)) for name, spec in model.tensors.items()}


@pytest.mark.parametrize("base", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("target", ["float32", "bfloat16", "float16"])
def test_every_weight_is_the_exact_sum_rounded_once(
    merge: Merge, tmp_path: Path, base: str, target: str
) -> None:
    """The oracle: numpy's float64 loop over the rank, element by element in order."""
    model = write_tiny_model(tmp_path / "model")
    adapter = write_adapter(tmp_path / "adapter", shapes_of(model), rank=5)
    in_dtype(model, base)
    run = merge(model, adapter, dtype=target)
    assert run.returncode == 0, run.log
    pairs = load_file(adapter / "adapter_model.safetensors")
    originals = stored(model)
    for name, (dtype, values) in stored(run.folder / "model").items():
        assert dtype == floats.DTYPES[target]
        wide = floats.to_f64(originals[name][1], originals[name][0])
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in pairs:
            a = pairs[f"{stem}.lora_A.weight"].astype(np.float64)
            b = pairs[f"{stem}.lora_B.weight"].astype(np.float64)
            total = np.zeros(wide.shape)
            for k in range(5):
                total = total + np.outer(b[:, k], a[k])
            wide = total * 2.0 + wide
        assert np.array_equal(values, floats.from_f64(wide, dtype)), name


def test_matrices_in_bfloat16_add_what_they_add_in_float32(merge: Merge, tmp_path: Path) -> None:
    """Where it is left to itself, TRL trains an adapter over a 4-bit base in bfloat16."""
    model = write_tiny_model(tmp_path / "model")
    half = write_adapter(tmp_path / "half", shapes_of(model))
    wide = write_adapter(tmp_path / "wide", shapes_of(model))
    rounded = {
        name: floats.f32_to_bf16(values)
        for name, values in load_file(half / "adapter_model.safetensors").items()
    }
    specs = [TensorSpec(name, "BF16", bits.shape) for name, bits in rounded.items()]
    with open_shards(half, specs) as writer:
        for name, bits in rounded.items():
            writer.write(name, bits)
    (half / "model.safetensors").replace(half / "adapter_model.safetensors")
    exact = {name: floats.bf16_to_f32(bits) for name, bits in rounded.items()}
    save_file(exact, wide / "adapter_model.safetensors")

    runs = [merge(model, adapter) for adapter in (half, wide)]
    assert [run.returncode for run in runs] == [0, 0], runs[0].log
    ours, theirs = [(run.folder / "model" / "model.safetensors").read_bytes() for run in runs]
    assert ours == theirs
    merged, untouched = stored(runs[0].folder / "model"), stored(in_dtype(model, "bfloat16"))
    assert any((merged[name][1] != values).any() for name, (_, values) in untouched.items())


_PEFT = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
PeftModel.from_pretrained(base, sys.argv[2]).merge_and_unload().save_pretrained(sys.argv[3])
"""


def test_the_result_is_pefts_within_one_rounding(
    merge: Merge,
    environment_python: Callable[[str], Path],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    model = write_tiny_model(tmp_path / "model")
    adapter = write_adapter(tmp_path / "adapter", shapes_of(model))
    in_dtype(model, "bfloat16")
    run = merge(model, adapter)
    assert run.returncode == 0, run.log
    subprocess.run(
        [
            *(str(environment_python("native")), "-c", _PEFT),
            *(str(model), str(adapter), str(tmp_path / "peft")),
        ],
        check=True,
        capture_output=True,
    )
    ours, theirs = stored(run.folder / "model"), stored(tmp_path / "peft")
    assert ours.keys() == theirs.keys()
    base = stored(model)
    elements = differing = changed = 0
    for name, (dtype, values) in ours.items():
        assert dtype == theirs[name][0] == "BF16"
        distance = np.abs(ordinal(values) - ordinal(theirs[name][1]))
        assert distance.max() <= 1, name
        elements += distance.size
        differing += int(distance.sum())
        changed += int((values != base[name][1]).sum())
    record_property("differing_elements", f"{differing} of {elements}")
    print(f"{differing} of {elements} elements differ from PEFT's, each by one bfloat16 step")
    assert changed > elements / 4  # the adapter did something
    assert differing < elements / 1000


def ordinal(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits as whole numbers in the order of their values: neighbours differ by one."""
    magnitude = (bits & 0x7FFF).astype(np.int32)
    return np.where(bits & 0x8000, -magnitude, magnitude)


def test_shards_stay_shards_and_everything_else_is_copied(merge: Merge, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    adapter = write_adapter(tmp_path / "adapter", shapes_of(model))
    whole = merge(model, adapter, dtype="float32")
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    specs = [TensorSpec(name, "F32", values.shape) for name, values in tensors.items()]
    with open_shards(model, specs, max_bytes=100_000) as writer:
        for name, values in tensors.items():
            writer.write(name, values)
    sharded = merge(model, adapter, dtype="float32")
    assert sharded.returncode == 0, sharded.log
    out = sharded.folder / "model"
    assert (out / INDEX).read_bytes() == (model / INDEX).read_bytes()
    assert len(list(out.glob("model-*.safetensors"))) > 2
    one, many = stored(whole.folder / "model"), stored(out)
    assert all(np.array_equal(one[name][1], many[name][1]) for name in one)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (model / name).read_bytes()
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"


def test_rank_stabilised_scaling_divides_by_the_root(merge: Merge, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    shapes = {"model.layers.0.mlp.up_proj": (128, 64)}
    plain = merge(model, write_adapter(tmp_path / "a", shapes, rank=4, lora_alpha=2))
    rooted = merge(
        model, write_adapter(tmp_path / "b", shapes, rank=4, lora_alpha=1, use_rslora=True)
    )
    assert plain.returncode == rooted.returncode == 0
    name = "model.layers.0.mlp.up_proj.weight"
    assert np.array_equal(
        stored(plain.folder / "model")[name][1], stored(rooted.folder / "model")[name][1]
    )


# --- adapters that cannot be merged

UP = {"model.layers.0.mlp.up_proj": (128, 64)}


@pytest.mark.parametrize(
    ("shapes", "settings", "code", "words"),
    [
        ({"model.layers.9.mlp.up_proj": (128, 64)}, {}, "E341", "no model.layers.9.mlp.up_proj"),
        (
            {"model.layers.0.mlp.up_proj": (64, 64)},
            {},
            "E341",
            "[128, 64] in the base and [64, 64]",
        ),
        (UP, {"use_dora": True}, "E342", "0 magnitude vectors"),
        (UP, {"rank_pattern": {"up_proj": 3}}, "E342", "rank 8, and adapter_config.json says 3"),
        (UP, {"init_lora_weights": "pissa"}, "E340", "init_lora_weights: pissa"),
        (UP, {"bias": "all"}, "E340", "bias: all"),
        (UP, {"trainable_token_indices": [1]}, "E340", "trainable_token_indices"),
        (UP, {"peft_type": "LOHA"}, "E340", "LOHA"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    merge: Merge,
    tmp_path: Path,
    shapes: dict[str, tuple[int, int]],
    settings: dict[str, Any],
    code: str,
    words: str,
) -> None:
    model = write_tiny_model(tmp_path / "model")
    run = merge(model, write_adapter(tmp_path / "adapter", shapes, **settings))
    assert run.returncode == 1
    assert run.error["code"] == code
    assert words in run.error["message"]
    assert not list((run.folder / "model").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["lora_A.weight"], "E342"),
        (["lora_A.weight", "lora_B.weight", "lora_magnitude_vector.weight"], "E342"),
        (["lora_embedding_A"], "E342"),
        (["lora_A.weight", "lora_B.weight", "lora_B.bias"], "E341"),
        (["lora_A.weight", "lora_B.weight", "token_adapter.trainable_tokens_delta"], "E340"),
        (["lora_A.weight", "lora_B.weight", "weight"], "E340"),
    ],
)
def test_no_tensor_of_an_adapter_is_ignored(
    merge: Merge, tmp_path: Path, names: list[str], code: str
) -> None:
    model = write_tiny_model(tmp_path / "model")
    adapter = write_adapter(tmp_path / "adapter", {"model.layers.0.mlp.up_proj": (128, 64)})
    stem = "base_model.model.model.layers.0.mlp.up_proj"
    shapes = {"lora_A.weight": (8, 64), "lora_B.weight": (128, 8), "lora_B.bias": (128,)}
    shapes["lora_magnitude_vector.weight"] = (128,)
    tensors = {f"{stem}.{name}": np.zeros(shapes.get(name, (8, 8)), np.float32) for name in names}
    save_file(tensors, adapter / "adapter_model.safetensors")
    assert merge(model, adapter).error["code"] == code


def add(adapter: Path, tensors: dict[str, np.ndarray], **settings: Any) -> Path:
    """The adapter with more tensors and settings."""
    path, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    save_file({**load_file(path), **tensors}, path)
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    return adapter


def test_an_embedding_that_was_resized_alone_is_refused(merge: Merge, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    rows = {"base_model.model.lm_head.weight": np.zeros((300, 64), np.float32)}
    saved = add(write_adapter(tmp_path / "a", UP), rows, modules_to_save=["lm_head"])
    error = merge(model, saved).error
    assert error["code"] == "E343"
    assert "model.embed_tokens.weight has 260 rows and lm_head.weight 300" in error["message"]
    assert "save_embedding_layers" in error["hint"]
    narrow = {"base_model.model.lm_head.weight": np.zeros((260, 32), np.float32)}
    error = merge(model, add(write_adapter(tmp_path / "b", UP), narrow)).error
    assert (error["code"], "[260, 64] in the base and [260, 32]" in error["message"]) == (
        "E341",
        True,
    )


@pytest.mark.parametrize("later", ["whole", "pair"])
def test_two_adapters_that_contradict_each_other_are_refused(
    merge: Merge, tmp_path: Path, later: str
) -> None:
    model = write_tiny_model(tmp_path / "model")
    name = "base_model.model.model.layers.0.mlp.up_proj.weight"
    other = {"model.layers.0.mlp.down_proj": (64, 128)}
    whole = add(
        write_adapter(tmp_path / "whole", other),
        {name: np.zeros((128, 64), np.float32)},
        modules_to_save=["up_proj"],
    )
    pair = write_adapter(tmp_path / "pair", UP)
    adapters = (pair, whole) if later == "whole" else (whole, pair)
    error = merge(model, *adapters).error
    assert error["code"] == "E344"
    assert "model.layers.0.mlp.up_proj.weight" in error["message"]


def test_dora_without_a_direction_is_refused(merge: Merge, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][5] = 0
    save_file(tensors, model / "model.safetensors", METADATA)
    stem = "base_model.model.model.layers.0.mlp.up_proj"
    adapter = write_adapter(tmp_path / "adapter", UP)
    b = load_file(adapter / "adapter_model.safetensors")[f"{stem}.lora_B.weight"]
    b[5] = 0
    vectors = {
        f"{stem}.lora_magnitude_vector": np.ones(128, np.float32),
        f"{stem}.lora_B.weight": b,
    }
    error = merge(model, add(adapter, vectors, use_dora=True)).error
    assert error["code"] == "E345"
    assert "model.layers.0.mlp.up_proj.weight" in error["message"]


def test_the_tokenizer_that_an_adapter_brings_is_taken(merge: Merge, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    adapter = write_adapter(tmp_path / "adapter", UP)
    (adapter / "tokenizer.json").write_text("{}")
    out = merge(model, adapter).folder / "model"
    assert (out / "tokenizer.json").read_text() == "{}"
    same = "tokenizer_config.json"
    assert (out / same).read_bytes() == (model / same).read_bytes()


def test_names_without_their_first_part_are_found(merge: Merge, tmp_path: Path) -> None:
    """As in GPT-2's own files, whose modules Transformers knows below `transformer`."""
    model = write_tiny_model(tmp_path / "model")
    adapter = write_adapter(
        tmp_path / "adapter", {f"outer.{name}": size for name, size in UP.items()}
    )
    plain = write_adapter(tmp_path / "plain", UP)
    results = [stored(merge(model, each).folder / "model") for each in (adapter, plain)]
    name = "model.layers.0.mlp.up_proj.weight"
    assert np.array_equal(results[0][name][1], results[1][name][1])


def test_a_damaged_base_is_refused(merge: Merge, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    adapter = write_adapter(tmp_path / "adapter", shapes_of(model))
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    assert merge(model, adapter).error["code"] == "E342"


def test_the_header_carries_one_metadata_key(merge: Merge, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    run = merge(model, write_adapter(tmp_path / "adapter", shapes_of(model)))
    with ModelFolder(run.folder / "model") as merged:
        assert [shard.metadata for shard in merged.shards] == [METADATA]
