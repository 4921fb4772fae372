"""Models read tensor by tensor are those that Transformers reads, in less memory."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loading import SETTINGS, measure
from benchmarks.merge import write_model
from runner.plan.job import Job
from runner.plan.memory import PROCESS_BYTES, loading_memory
from runner.plan.shapes import shapes_of
from runner.recipe.model import Quantization
from runner.scripts.weights.safetensors_stream import TensorSpec, open_shards
from tests.chain import ROOT
from tests.integration.test_memory_estimate import JOB
from tests.tiny_model import write_tiny_model

FOUR_BITS = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
CASES: dict[str, dict[str, Any]] = {
    "converted": {"dtype": "bfloat16"},
    "nf4": {"dtype": "bfloat16", "quantization": FOUR_BITS},
    "fp4, single": {
        "dtype": "float32",
        "quantization": FOUR_BITS
        | {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False},
    },
}
FAMILIES = ("AutoModelForCausalLM", "AutoModelForSequenceClassification")

# Both ways to load in one process; what differs is told by name.
COMPARE = """
import json, sys, torch, transformers
from pathlib import Path
from runner.scripts.training import base_model, four_bits

def held(model):
    found = {}
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        found[name] = (value.dtype, value.requires_grad, value.detach().clone())
        state = getattr(value, "quant_state", None)
        if state is not None:
            packed = state.as_dict(packed=True)
            found |= {f"{name}.{part}": (each.dtype, False, each) for part, each in packed.items()}
    return found

def differences(ours, theirs):
    a, b = held(ours), held(theirs)
    found = sorted(a.keys() ^ b.keys())
    for name in a.keys() & b.keys():
        same = a[name][:2] == b[name][:2] and torch.equal(a[name][2], b[name][2])
        found += [] if same else [name]
    for what in ("name_or_path", "dtype", "training", "device"):
        found += [] if getattr(ours, what) == getattr(theirs, what) else [what]
    for what in ("config", "generation_config"):
        texts = [getattr(each, what, None) for each in (ours, theirs)]
        texts = [text and text.to_json_string() for text in texts]
        found += [] if texts[0] == texts[1] else [what]
    return found

def tied(model):
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight

answers = {}
for label, case in json.load(sys.stdin).items():
    family, folder = getattr(transformers, case["family"]), Path(case["folder"])
    settings = {"attn_implementation": "sdpa"} | case["settings"]
    cpu = torch.device("cpu")
    loading = {"dtype": getattr(torch, settings["dtype"]), "attn_implementation": "sdpa"}
    torch.manual_seed(1)
    by_tensor = base_model.reads_by_tensor(folder, settings, cpu)
    ours = base_model.read_model(folder, settings, cpu, family)
    drawn = torch.rand(1).item()
    torch.manual_seed(1)
    theirs = family.from_pretrained(folder, **loading, **four_bits.loading(settings, cpu))
    answers[label] = {
        "by tensor": by_tensor,
        "different": differences(ours, theirs) + ([] if torch.rand(1).item() == drawn else ["rng"]),
        "tied": [tied(ours), tied(theirs)],
        "opener": transformers.modeling_utils.safe_open.__module__.split(".")[0],
    }
print(json.dumps(answers))
"""


def child(python: Path, code: str, given: Any) -> Any:
    done = subprocess.run(
        [str(python), "-W", "ignore", "-c", code],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"said": done.stderr}


def split(source: Path, folder: Path) -> Path:
    """The same model in three shards, without tied embeddings."""
    from safetensors.numpy import load_file

    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"][::-1].copy()
    folder.mkdir()
    specs = [TensorSpec(name, "F32", value.shape) for name, value in weights.items()]
    with open_shards(folder, specs, max_bytes=150_000) as writer:
        for name, value in weights.items():
            writer.write(name, value)
    assert len(list(folder.glob("*.safetensors"))) > 2
    config = json.loads((source / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))  # and no generation_config.json
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    tied = write_tiny_model(place / "tied")
    own_code = write_tiny_model(place / "own-code")
    config = json.loads((own_code / "config.json").read_text())
    (own_code / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.Y"}}))
    return {"tied": tied, "shards": split(tied, place / "shards"), "own code": own_code}


@pytest.fixture(scope="module")
def compared(models: dict[str, Path], environment_python: Callable[[str], Path]) -> dict[str, Any]:
    def case(name: str, family: str, **settings: Any) -> dict[str, Any]:
        return {"folder": str(models[name]), "family": family, "settings": settings}

    asked = {
        f"{name} {label} {family}": case(name, family, **settings)
        for name in ("tied", "shards")
        for label, settings in CASES.items()
        for family in FAMILIES
    }
    asked["as stored"] = case("tied", FAMILIES[0], dtype="float32")
    asked["own code"] = case("own code", FAMILIES[0], dtype="bfloat16")
    found: dict[str, Any] = child(environment_python("native"), COMPARE, asked)
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("label", CASES)
@pytest.mark.parametrize("name", ["tied", "shards"])
def test_every_number_is_the_one_that_transformers_reads(
    name: str, label: str, family: str, compared: dict[str, Any]
) -> None:
    """Weights, buffers, the state of 4-bit values, ties, and what a missing head is drawn from."""
    found = compared[f"{name} {label} {family}"]
    assert found["by tensor"]
    assert found["different"] == []
    assert found["tied"] == [name == "tied" and family == FAMILIES[0]] * 2
    assert found["opener"] != "runner"  # what was replaced is in its place again


@pytest.mark.parametrize("label", ["as stored", "own code"])
def test_where_it_gains_nothing_or_is_not_known_transformers_loads(
    label: str, compared: dict[str, Any]
) -> None:
    assert not compared[label]["by tensor"]
    assert compared[label]["different"] == []


def test_a_model_that_is_not_known_is_told(compared: dict[str, Any]) -> None:
    words = "loaded by Transformers alone, in more memory: it brings its own code"
    assert {line for line in compared["said"].splitlines() if "alone" in line} == {words}


# --- memory


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers of 61 million weights each, in bfloat16, hardly any beside them.

    What loading holds beside the model (one tensor in each thread that reads, what the allocator
    has not given back) does not grow with the layers: with one it is a quarter of the model.
    """
    return write_model(tmp_path_factory.mktemp("large") / "model", 3, 512)


def planned(folder: Path, job: Job) -> int:
    """Bytes that loading adds to the process."""
    shapes = shapes_of(json.loads((folder / "config.json").read_text()))
    return loading_memory(shapes, job, "cpu").total - PROCESS_BYTES["cpu"]


@pytest.fixture(scope="module")
def both_ways(
    large: Path, environment_python: Callable[[str], Path]
) -> Callable[[str], list[dict[str, Any]]]:
    environment_python("native")
    return lambda title: [
        measure(way, large, SETTINGS[title]) for way in ("ours", "from_pretrained")
    ]


def test_a_model_in_another_dtype_takes_its_own_size_and_not_that_of_its_files_too(
    large: Path, both_ways: Callable[[str], list[dict[str, Any]]]
) -> None:
    ours, theirs = both_ways("float32")
    assert ours["at the peak"] < 1.25 * ours["model"] < 1.4 * ours["model"] < theirs["at the peak"]
    assert ours["at the peak"] == pytest.approx(planned(large, JOB), rel=0.25)


def test_a_model_in_4_bits_leaves_nothing_of_its_files_behind(
    large: Path, both_ways: Callable[[str], list[dict[str, Any]]]
) -> None:
    """Its peak is that of quantising the largest weight, whatever the depth."""
    ours, theirs = both_ways("NF4")
    files = sum(path.stat().st_size for path in large.glob("*.safetensors"))
    assert theirs["after"] - ours["after"] > 0.7 * files
    job = replace(JOB, dtype="bfloat16", quantization=Quantization(**FOUR_BITS))
    assert ours["own"] == pytest.approx(planned(large, job), rel=0.25)
