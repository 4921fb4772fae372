"""Two processes read their parts of a base: the same numbers, in half of the memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.merge import write_model
from runner.system import determinism
from tests.chain import ROOT
from tests.tiny_model import write_tiny_model
from tests.together import free_port
from tests.training_runs import WarmInterpreter

LORA: dict[str, Any] = {
    "settings": {
        "dtype": "bfloat16",
        "adapter": {"type": "lora", "r": 3, "lora_alpha": 6, "lora_dropout": 0.0},
    },
    "modules": {"target_modules": ["q_proj", "down_proj", "embed_tokens"]},
}
FULL: dict[str, Any] = {
    "settings": {"dtype": "bfloat16", "adapter": {"type": "none"}},
    "modules": {},
}
START = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
runpy.run_module("tests.parted_models", run_name="__main__", alter_sys=True)
"""
WHOLE = "every process loads the whole model: "


def change(
    source: Path, folder: Path, config: dict[str, Any], **weights: np.ndarray | None
) -> Path:
    """A model folder with other values in its config, and other weights; None leaves one out."""
    tensors = load_file(source / "model.safetensors") | weights
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    kept = {name: each for name, each in tensors.items() if each is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    told = json.loads((source / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def uneven(source: Path, folder: Path, width: int) -> Path:
    """An odd vocabulary without a tie, and `width` rows between."""
    random = np.random.default_rng(5)

    def drawn(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.05).astype(np.float32)

    weights = {"model.embed_tokens.weight": drawn(261, 64), "lm_head.weight": drawn(261, 64)}
    for layer in range(2):
        stem = f"model.layers.{layer}.mlp"
        weights |= {
            f"{stem}.gate_proj.weight": drawn(width, 64),
            f"{stem}.up_proj.weight": drawn(width, 64),
            f"{stem}.down_proj.weight": drawn(64, width),
        }
    sizes = {"vocab_size": 261, "intermediate_size": width, "tie_word_embeddings": False}
    return change(source, folder, sizes, **weights)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    place = tmp_path_factory.mktemp("models")
    tied = write_tiny_model(place / "tied")
    odd = uneven(tied, place / "odd", 127)
    embedding = load_file(tied / "model.safetensors")["model.embed_tokens.weight"]
    folders = {
        "tied": tied,
        "odd rows": odd,
        "fewer rows than processes": uneven(tied, place / "one", 1),
        "own code": change(tied, place / "own", {"auto_map": {"AutoModel": "x.Y"}}),
        "both of a tie": change(tied, place / "both", {}, **{"lm_head.weight": embedding}),
        "not really tied": change(tied, place / "not", {}, **{"lm_head.weight": -embedding}),
        "buffer": change(tied, place / "buffer", {}, offsets=np.arange(5, dtype=np.float32)),
        "one is missing": change(tied, place / "missing", {}, **{"model.norm.weight": None}),
        "and more": change(tied, place / "more", {}, **{"model.more": embedding}),
    }
    found = {
        f"{name}, {label}": {"kind": "compared", "folder": str(folder)} | learning
        for name, folder in folders.items()
        for label, learning in (("lora", LORA), ("every weight", FULL))
    }
    for label in ("lora", "every weight"):
        found[f"buffer, {label}"]["family"] = "buffer"
    for label, folder, more in (
        ("one file", tied, {}),
        ("many files", odd, {"max_shard_size": "60KB"}),
    ):
        (place / label).mkdir()
        told = {"kind": "written", "folder": str(folder), "place": str(place / label)}
        found[label] = told | more | FULL
    # bfloat16 files, three layers of 61 million weights that are held in float32
    large = write_model(place / "large", 3, 512)
    settings = LORA["settings"] | {"dtype": "float32"}
    modules = {"target_modules": ["q_proj"]}
    found["memory"] = {"kind": "memory", "folder": str(large), "place": str(place)}
    found["memory"] |= {"settings": settings, "modules": modules}
    return found


@pytest.fixture(scope="module")
def pair(
    warm: WarmInterpreter, environment_python: Callable[[str], Path]
) -> Iterator[list[WarmInterpreter]]:
    second = WarmInterpreter(environment_python("native"))
    yield [warm, second]
    second.close()


@pytest.fixture(scope="module")
def answers(
    jobs: dict[str, dict[str, Any]],
    pair: list[WarmInterpreter],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    """What each of two processes found, by job."""
    place = tmp_path_factory.mktemp("answers")
    (place / "jobs.json").write_text(json.dumps(jobs))
    (place / "start.py").write_text(START)
    argv = [str(place / name) for name in ("start.py", "jobs.json", "out.json")]
    env = {"PATH": os.environ["PATH"], **determinism.script_env(1)}
    env |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    forks = [
        each.fork(argv, ROOT, env | {"RANK": str(n), "LOCAL_RANK": str(n)}, place / f"log-{n}")
        for n, each in enumerate(pair)
    ]
    status = [fork.wait() for fork in forks]
    assert status == [0, 0], "".join((place / f"log-{n}").read_text()[-3000:] for n in (0, 1))
    found: list[dict[str, Any]] = json.loads((place / "out.json").read_text())
    return found


BY_PARTS = ("tied", "odd rows", "fewer rows than processes", "buffer", "one is missing", "and more")
WHOLE_ONES = {
    "own code": "it brings its own code",
    "both of a tie": "the files' lm_head.weight is no weight of the model as it is",
    "not really tied": "the files' lm_head.weight is no weight of the model as it is",
}


@pytest.mark.parametrize("learning", ["lora", "every weight"])
@pytest.mark.parametrize("name", [*BY_PARTS, *WHOLE_ONES])
def test_every_process_holds_what_it_would_have_cut_from_the_whole(
    name: str, learning: str, answers: list[dict[str, Any]]
) -> None:
    """Weights, adapters, buffers, ties, what learns; and what the model computes with them."""
    for found in (each[f"{name}, {learning}"] for each in answers):
        assert found["different"] == []
        assert found["same logits"]
        assert found["different after use"] == []
        assert found["tied"][0] == found["tied"][1]
        reason = WHOLE_ONES.get(name)
        assert found["said"] == ([f"{WHOLE}{reason}"] if reason else [])


def test_rows_that_do_not_come_out_even_are_read_to_the_last(answers: list[dict[str, Any]]) -> None:
    first, second = (found["odd rows, every weight"]["rows"] for found in answers)
    assert {131, 64} <= set(first)
    assert {130, 63} <= set(second)
    assert 0 in answers[1]["fewer rows than processes, every weight"]["rows"]


def test_ties_stay(answers: list[dict[str, Any]]) -> None:
    assert answers[0]["tied, every weight"]["tied"] == [True, True]
    assert answers[0]["odd rows, every weight"]["tied"] == [False, False]
    assert answers[0]["not really tied, every weight"]["tied"] == [False, False]


@pytest.mark.parametrize(("label", "files"), [("one file", 1), ("many files", 5)])
def test_a_model_is_written_a_weight_at_a_time_in_the_files_of_transformers(
    label: str, files: int, answers: list[dict[str, Any]]
) -> None:
    found = answers[0][label]
    assert found["different"] == []
    written = [name for name in found["names"] if name.endswith(".safetensors")]
    assert len(written) == files if files == 1 else len(written) >= files


def test_no_process_ever_holds_the_whole_model(answers: list[dict[str, Any]]) -> None:
    """A process that loads all of it before it is cut holds all of it: so it was once."""
    for found in (each["memory"] for each in answers):
        assert found["in parts"] < 0.75 * found["size"]
        assert found["whole first"] > 0.95 * found["size"]
        assert found["writing"] < 0.5 * found["size"]  # three times the largest weight is 0.27
