"""Safetensors to GGUF by the real converter and back: the same tensors, ids and logits."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.errors import StageFailed
from runner.execution.context import SCRIPTS
from runner.scripts.weights.safetensors_stream import SINGLE, ModelFolder, TensorSpec, open_shards
from runner.stages import gguf as stage
from runner.stages.export import conversion
from runner.system.llama_server import tokenizer
from tests import shrunken
from tests.integration.conftest import ContextFor
from tests.integration.test_fetch import HARD
from tests.script_runs import ScriptRun, run_script
from tests.training_runs import WarmInterpreter

TRY = Path(__file__).resolve().parents[1] / "try_models.py"
LONG = {
    "type": "longrope",
    "short_factor": [1.0 + n / 100 for n in range(48)],
    "long_factor": [1.0 + n for n in range(48)],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LINEAR = {"rope_type": "linear", "factor": 8.0}
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}


@dataclass(frozen=True)
class Case:
    """A public config with changes, how it is stored, and which GGUF architecture it becomes."""

    public: str
    architecture: str
    changes: dict[str, Any]
    sharded: bool = False
    outtype: str = "f16"


CASES = {
    "llama-3.1-8b": Case("llama-3.1-8b", "llama", {}),
    "llama-3.1-8b-sharded": Case("llama-3.1-8b", "llama", TIED, sharded=True, outtype="f32"),
    "llama-3.2-3b": Case("llama-3.2-3b", "llama", {}),
    "llama-biases": Case("llama-3.1-8b", "llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral-7b-v0.3": Case("mistral-7b-v0.3", "llama", {}, sharded=True),
    "qwen2.5-0.5b": Case("qwen2.5-0.5b", "qwen2", {}),
    "qwen2.5-7b": Case("qwen2.5-7b", "qwen2", {}, sharded=True),
    "qwen3-0.6b": Case("qwen3-0.6b", "qwen3", {}, sharded=True),
    "qwen3-8b-yarn": Case(
        "qwen3-8b", "qwen3", {"max_position_embeddings": 131072, "rope_scaling": YARN}
    ),
    "gemma-2-2b": Case("gemma-2-2b", "gemma2", {}, sharded=True),
    "gemma-3-1b": Case("gemma-3-1b", "gemma3", {}),
    "gemma-3-scaled": Case("gemma-3-1b", "gemma3", {"rope_scaling": LINEAR}, outtype="f32"),
    "phi-3-mini-4k": Case("phi-3-mini-4k", "phi3", {}),
    "phi-3-mini-128k": Case(
        "phi-3-mini-4k", "phi3", {"max_position_embeddings": 131072, "rope_scaling": LONG}
    ),
    "phi-4": Case("phi-4", "phi3", {}, sharded=True),
}


@dataclass(frozen=True)
class Trip:
    """The original folder, the GGUF file, and what `fetch` made of it."""

    case: Case
    original: Path
    gguf: Path
    back: ScriptRun

    @property
    def folder(self) -> Path:
        return self.back.folder / "model"


@pytest.fixture(scope="module")
def trips(
    warm: WarmInterpreter,
    warm_export: WarmInterpreter,
    environment_python: Callable[[str], Path],
    llama_cpp: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Trip]:
    made = {}
    for name, case in CASES.items():
        place = tmp_path_factory.mktemp(name)
        source = shrunken.write_source(case.public, place / "source", **case.changes)
        run = shrunken.shrink(warm, environment_python("native"), source, place / "shrink")
        assert run.status == 0, (name, run.log)
        original = run.folder / "model"
        if case.sharded:
            into_shards(original)
        path = convert(warm_export, llama_cpp, original, place / "model.gguf", case.outtype)
        hashed = {"kind": "gguf", "file": path.name, "dtype": "float32"}
        python = environment_python("data")
        made[name] = Trip(
            case,
            original,
            path,
            run_script(python, "fetch", hashed, {"source": place}, place / "b"),
        )
    return made


def into_shards(folder: Path) -> None:
    """The same model in several files, as larger ones come."""
    with ModelFolder(folder) as model:
        tensors = {name: model.read(name) for name in model.tensors}
        specs = [TensorSpec(spec.name, spec.dtype, spec.shape) for spec in model.tensors.values()]
    (folder / SINGLE).unlink()
    with open_shards(folder, specs, max_bytes=1_000_000) as writer:
        for name, values in tensors.items():
            writer.write(name, values)
    assert len(list(folder.glob("model-*.safetensors"))) > 1


def convert(
    warm_export: WarmInterpreter, llama_cpp: Path, model: Path, target: Path, outtype: str
) -> Path:
    """As the gguf stage does it."""
    program = [str(SCRIPTS), "convert_gguf", str(llama_cpp / "convert_hf_to_gguf.py"), str(model)]
    name = conversion.name_in_file("t", model)
    what = ["--outfile", str(target), "--outtype", outtype, "--model-name", name]
    log = target.with_suffix(".log")
    env = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "HOME": str(target.parent)}
    status = warm_export.fork([*program, *what], target.parent, env, log).wait()
    assert status == 0, log.read_text()
    return target


def tensors(folder: Path) -> dict[str, np.ndarray]:
    with ModelFolder(folder) as model:
        return {name: model.read(name) for name in model.tensors}


@pytest.mark.parametrize("name", CASES)
def test_the_tensors_come_back_as_they_were(trips: dict[str, Trip], name: str) -> None:
    trip = trips[name]
    assert trip.back.returncode == 0, trip.back.log
    before, after = tensors(trip.original), tensors(trip.folder)
    assert before.keys() == after.keys()
    for tensor, values in before.items():
        if values.ndim == 2 and trip.case.outtype == "f16":
            values = values.astype(np.float16).astype(np.float32)
        if trip.case.architecture.startswith("gemma") and tensor.endswith("norm.weight"):
            # 1 + w is what the file holds: half a step of the float32 numbers at 1 is lost
            assert np.abs(after[tensor] - values).max() <= 2**-24, tensor
        else:
            assert np.array_equal(after[tensor], values), tensor


@pytest.fixture(scope="module")
def compared(
    trips: dict[str, Trip],
    environment_python: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    asked = {
        "published": {},
        "folders": {},
        "pairs": {name: [str(trip.original), str(trip.folder)] for name, trip in trips.items()},
        "texts": HARD,
    }
    file = tmp_path_factory.mktemp("asked") / "asked.json"
    file.write_text(json.dumps(asked))
    result = subprocess.run(
        [str(environment_python("native")), str(TRY), str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)["pairs"]
    return answer


@pytest.mark.parametrize("name", CASES)
def test_transformers_computes_the_same_from_what_came_back(
    compared: dict[str, Any], name: str
) -> None:
    """Config and weights: another window, rope, scale or soft cap would show in the logits."""
    seen = compared[name]
    assert seen["difference"] < 1e-4 + 4e-3 * (CASES[name].outtype == "f16")
    assert seen["spread"] > 0.1


@pytest.mark.parametrize("name", CASES)
def test_the_tokenizer_gives_llama_cpps_ids(
    trips: dict[str, Trip], compared: dict[str, Any], llama_cpp: Path, tmp_path: Path, name: str
) -> None:
    with tokenizer(llama_cpp, trips[name].gguf, tmp_path / "server.log") as served:
        expected = [served.ids(text) for text in HARD]
    assert compared[name]["ids"][1] == expected
    assert compared[name]["ids"][0] == expected, "the original tokenizer"


@pytest.mark.parametrize("name", CASES)
def test_template_and_ends_come_back(trips: dict[str, Trip], name: str) -> None:
    trip = trips[name]
    for file in ("chat_template.jinja", "generation_config.json"):
        before, after = ((folder / file).read_text() for folder in (trip.original, trip.folder))
        if file.endswith(".json"):
            ends = [json.loads(text)["eos_token_id"] for text in (before, after)]
            one, other = ([end] if isinstance(end, int) else end for end in ends)
            assert one == other
        else:
            assert before == after


def test_pieces_go_to_gguf_again(
    trips: dict[str, Trip], warm_export: WarmInterpreter, llama_cpp: Path, tmp_path: Path
) -> None:
    """What came back is a model like any other: the converter takes it, and nothing changes."""
    for name in ("gemma-2-2b", "mistral-7b-v0.3", "phi-3-mini-4k"):
        trip = trips[name]
        again = convert(warm_export, llama_cpp, trip.folder, tmp_path / f"{name}.gguf", "f16")
        with tokenizer(llama_cpp, again, tmp_path / f"{name}.log") as served:
            ids = [served.ids(text) for text in HARD]
        with tokenizer(llama_cpp, trip.gguf, tmp_path / f"{name}.2.log") as served:
            assert ids == [served.ids(text) for text in HARD]


def test_rope_frequencies_that_no_scaling_gives_are_an_error(
    trips: dict[str, Trip], environment_python: Callable[[str], Path], tmp_path: Path
) -> None:
    content = trips["llama-3.1-8b"].gguf.read_bytes()
    factor = np.array([8.0, 8.0], np.float32).tobytes()
    assert content.count(factor) >= 1
    (tmp_path / "t.gguf").write_bytes(
        content.replace(factor, np.array([8.0, 5.0], np.float32).tobytes(), 1)
    )
    run = run_script(
        environment_python("data"),
        "fetch",
        {"kind": "gguf", "file": "t.gguf", "dtype": "float32"},
        {"source": tmp_path},
        tmp_path / "run",
    )
    assert run.error["code"] == "E314"
    assert "no Llama 3 scaling" in run.error["message"]


def test_a_split_that_llama_cpp_does_not_know_is_an_error(
    trips: dict[str, Trip], context_for: ContextFor, llama_cpp: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in trips["qwen3-0.6b"].original.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    about = json.loads((model / "tokenizer.json").read_text())
    about["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-m]+|[^a-m]+"
    (model / "tokenizer.json").write_text(json.dumps(about))
    from tests.integration.test_gguf import recipe

    with pytest.raises(StageFailed, match="no tokenizer of llama") as caught:
        conversion.convert(recipe("Q8_0"), model, llama_cpp, context_for(stage))
    assert caught.value.code == "E332"
