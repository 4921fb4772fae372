"""bitsandbytes' 4 bits by numpy: equal bits, other bits refused, in memory that stays small."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runner.scripts.merging.four_bits import FORMAT, SCALES, Values, largest, one_zero, scaled
from runner.scripts.weights.floats import cast, f32_to_bf16, to_f32
from runner.scripts.weights.safetensors_stream import ModelFolder
from tests.lora_files import write_adapter
from tests.script_runs import ScriptRun, run_script
from tests.sparse_model import write_sparse_model
from tests.tiny_model import write_tiny_model

REFERENCE = Path(__file__).resolve().parents[1] / "bitsandbytes_reference.py"
FOUR_BITS = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
SETTINGS: dict[str, Any] = {
    "quantization": FOUR_BITS,
    "dtype": "bfloat16",
    "attn_implementation": "eager",
}
OTHERS = {
    "fp4": {"bnb_4bit_quant_type": "fp4"},
    "once": {"bnb_4bit_use_double_quant": False},
    "float32": {"bnb_4bit_compute_dtype": "float32"},
}
ENV = {"OMP_NUM_THREADS": "1"}
MIB = 1 << 20


@pytest.fixture(scope="module")
def python(environment_python: Callable[[str], Path]) -> Path:
    return environment_python("native")


def ask(python: Path, *arguments: str | Path) -> Any:
    """The reference's answer."""
    done = subprocess.run(
        [str(python), str(REFERENCE), *map(str, arguments)],
        env={**os.environ, **ENV},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_codes_scales_and_values_are_those_of_bitsandbytes(python: Path) -> None:
    found = ask(python, "numbers")
    assert found["wrong"] == []
    assert found["checked"] == 7 * 7 * 2 * 3 * 2


@pytest.fixture(scope="module")
def models(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    ask(python, "make", place)
    return place


def test_every_layer_computes_with_what_is_rebuilt(
    models: Path, python: Path, tmp_path: Path
) -> None:
    """Rows that no block begins with, and GPT-2's layers, which are stored the other way round."""
    kinds = {"nf4": {}, **OTHERS}
    settings = {
        kind: SETTINGS | {"quantization": FOUR_BITS | other} for kind, other in kinds.items()
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    found = ask(python, "layers", models, tmp_path / "settings.json")
    assert set(found) == {f"{name} {kind}" for name in ("llama", "gpt2") for kind in kinds}
    for case, said in found.items():
        assert len(said["differing"]) == (2 * 7 if case.startswith("llama") else 2 * 4)
        assert set(said["differing"].values()) == {0}, case
        assert said["repeated"], case


# --- what does not fit is not merged


def held_by_numpy(model: Path, folder: Path) -> Path:
    """What `constants` writes without double quantisation, of every matrix of `*_proj`."""
    folder.mkdir()
    scales, modules = {}, {}
    with ModelFolder(model) as weights:
        for name, spec in weights.tensors.items():
            if not name.endswith("_proj.weight"):
                continue
            stored = cast(weights.read(name), spec.dtype, "BF16")
            numbers = to_f32(stored, "BF16").reshape(-1)
            module = name.removesuffix(".weight")
            scales[module] = largest(numbers)
            _, values = Values("nf4").nearest(scaled(numbers))
            values *= np.repeat(scales[module], 64)[: len(values)]
            digest = hashlib.sha256(one_zero(f32_to_bf16(values)).tobytes()).hexdigest()
            modules[module] = {"values": digest, "transposed": False}
    save_file(scales, folder / SCALES)
    said = {"quant_type": "nf4", "dtype": "BF16", "compute_dtype": "BF16", "modules": modules}
    (folder / FORMAT).write_text(json.dumps(said))
    return folder


def shapes_of(model: Path) -> dict[str, tuple[int, ...]]:
    """Module -> shape, of every linear layer."""
    with ModelFolder(model) as weights:
        return {
            name.removesuffix(".weight"): spec.shape
            for name, spec in weights.tensors.items()
            if name.endswith("_proj.weight")
        }


@pytest.fixture
def scene(tmp_path: Path) -> dict[str, Path]:
    """Inputs of a merge of the tiny model."""
    model = write_tiny_model(tmp_path / "model")
    template = tmp_path / "template"
    template.write_text("")
    return {
        "model": model,
        "adapter": write_adapter(tmp_path / "adapter", shapes_of(model)),
        "template": template,
        "constants": held_by_numpy(model, tmp_path / "constants"),
    }


def merge(environment_python: Callable[[str], Path], scene: dict[str, Path]) -> ScriptRun:
    place = scene["model"].parent / "merged"
    return run_script(environment_python("export"), "merge", {"dtype": "bfloat16"}, scene, place)


def other_weights(scene: dict[str, Path]) -> None:
    shutil.rmtree(scene["model"])
    write_tiny_model(scene["model"], seed=8)


def without_scales(scene: dict[str, Path]) -> None:
    path = scene["constants"] / SCALES
    scales = load_file(path)
    del scales[min(scales)]
    save_file(scales, path)


def too_few_scales(scene: dict[str, Path]) -> None:
    path = scene["constants"] / SCALES
    scales = load_file(path)
    scales[min(scales)] = scales[min(scales)][1:]
    save_file(scales, path)


def cut_off(scene: dict[str, Path]) -> None:
    path = scene["constants"] / SCALES
    path.write_bytes(path.read_bytes()[:-4])


def of_another_model(scene: dict[str, Path]) -> None:
    path = scene["constants"] / FORMAT
    path.write_text(path.read_text().replace("layers.0.mlp.up_proj", "layers.9.mlp.up_proj"))


def no_json(scene: dict[str, Path]) -> None:
    (scene["constants"] / FORMAT).write_text("{")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (other_weights, "is not what the training held"),
        (without_scales, "no scales of"),
        (too_few_scales, "blocks, and scales for"),
        (cut_off, "do not fit the base"),
        (of_another_model, "it has no model.layers.9.mlp.up_proj.weight"),
        (no_json, "JSONDecodeError"),
    ],
)
def test_constants_that_do_not_fit_are_refused(
    environment_python: Callable[[str], Path],
    scene: dict[str, Path],
    damage: Callable[[dict[str, Path]], None],
    said: str,
) -> None:
    damage(scene)
    run = merge(environment_python, scene)
    assert (run.returncode, run.error["code"]) == (1, "E888")
    assert said in run.error["message"]


def test_a_model_without_linear_layers_has_no_constants(
    models: Path, python: Path, tmp_path: Path
) -> None:
    shallow = shutil.copytree(models / "llama", models / "shallow")
    tensors = {
        name: values
        for name, values in load_file(shallow / "model.safetensors").items()
        if ".layers." not in name
    }
    save_file(tensors, shallow / "model.safetensors", {"format": "pt"})
    config = json.loads((shallow / "config.json").read_text())
    (shallow / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 0}))
    run = run_script(python, "constants", SETTINGS, {"model": shallow}, tmp_path / "run", **ENV)
    assert (run.returncode, run.error["code"]) == (1, "E889")


# --- memory


_PEAK = """
import pathlib, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    status = pathlib.Path("/proc/self/status").read_text()
    print("peak", status.split("VmHWM:")[1].split()[0])
"""


def peak_of(python: Path, scene: dict[str, Path], place: Path) -> int:
    """Bytes that a merge takes at most."""
    from tests.script_runs import SCRIPTS

    place.mkdir()
    where = {
        "inputs": {name: str(path) for name, path in scene.items()},
        "folder": str(place),
        "scratch": str(place),
        "events": str(place / "events"),
    }
    spec = {"stage": "merge", "hashed": {"dtype": "bfloat16"}, "where": where}
    (place / "spec.json").write_text(json.dumps(spec))
    argv = [str(python), "-c", _PEAK, str(SCRIPTS / "__main__.py"), "merge"]
    done = subprocess.run(
        [*argv, str(place / "spec.json")],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split("peak")[-1]) << 10


def test_memory_grows_neither_with_the_depth_nor_with_a_tensor(
    environment_python: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of a tensor, its scales alone: a 32nd of it in bfloat16."""
    python, peaks = environment_python("export"), {}
    for name, layers, rows in (("one", 1, 2048), ("deep", 6, 2048), ("tall", 1, 16_384)):
        shapes = {f"layers.{layer}.up_proj.weight": (rows, 1024) for layer in range(layers)}
        model = write_sparse_model(tmp_path / name, shapes)
        modules = {weight.removesuffix(".weight"): shape for weight, shape in shapes.items()}
        scene = {
            "model": model,
            "adapter": write_adapter(model / "adapter", modules, rank=4),
            "template": model / "chat_template.jinja",
            "constants": held_by_numpy(model, tmp_path / f"{name}-constants"),
        }
        peaks[name] = peak_of(python, scene, tmp_path / f"{name}-merged")
    print({name: f"{peak // MIB} MiB" for name, peak in peaks.items()})
    assert peaks["deep"] - peaks["one"] < 6 * MIB  # five more tensors of 4 MiB
    assert peaks["tall"] - peaks["one"] < 14 * MIB  # of 32 MiB instead of 4
