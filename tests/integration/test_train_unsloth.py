"""The script of backend `unsloth` in its locked environment.

Its GPU kernels are not tested here. Where Unsloth finds no GPU it has a way of its own on the
processor; the script refuses that, and these tests let it, to see all of it but the kernels work.
"""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.backends import unsloth
from runner.recipe.load import load_recipe
from tests.chain import ROOT
from tests.tiny_model import write_tiny_model
from tests.training_runs import Finished, ScriptRun, documents, trace, write_tokens

# All specs in one interpreter.
ON_THE_PROCESSOR = """
import sys
from runner.scripts import train_unsloth
train_unsloth.require_cuda = lambda: None
train_unsloth.ENVIRONMENT = {"UNSLOTH_DISABLE_STATISTICS": "1"}
for spec in sys.argv[1:]:
    sys.argv = [sys.argv[0], spec]
    train_unsloth.main(train_unsloth.told_of_gpu)
"""
ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def training(
    environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[ScriptRun, Path]]:
    folder = tmp_path_factory.mktemp("unsloth")
    model = write_tiny_model(folder / "model")
    tokens = write_tokens(
        folder / "train.tokens.safetensors", [[each] for each in documents(9)], packed=False
    )
    (folder / "rows.jsonl").write_text('{"text": "x"}\n')

    def make(seed: int, save_steps: int = 2) -> tuple[ScriptRun, Path]:
        recipe = {
            "schema": 1,
            "name": "tiny",
            "seed": seed,
            "model": {"path": "model", "dtype": "bfloat16"},
            "data": {"train": [{"path": "rows.jsonl", "format": "text"}], "max_length": 256},
            "train": {
                "backend": "unsloth",
                "adapter": {"type": "lora", "r": 4, "target_modules": "all-attention"},
                "max_steps": 4,
                "per_device_train_batch_size": 2,
                "learning_rate": 1e-3,
                "optim": "adamw_8bit",
                "bf16": True,
            },
        }
        (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
        place = tmp_path_factory.mktemp("training")
        run = ScriptRun(
            environment_python("unsloth"),
            "train_unsloth",
            {"settings": unsloth.spec(load_recipe(folder / "tiny.yaml")), "save_steps": save_steps},
            {"model": model, "tokens": tokens, "template": model / "chat_template.jinja"},
            place,
        )
        return run, place / "spec.json"

    return make


@pytest.fixture(scope="module")
def trained(
    training: Callable[..., tuple[ScriptRun, Path]], environment_python: Callable[[str], Path]
) -> list[Finished]:
    """Of seed 1, of seed 1 again, of seed 2."""
    made = [training(seed) for seed in (1, 1, 2)]
    said = subprocess.run(
        [str(environment_python("unsloth")), "-c", ON_THE_PROCESSOR, *(str(s) for _, s in made)],
        env={**made[0][0].environment(), "PYTHONPATH": str(ROOT)},
        cwd=made[0][0].scratch,
        capture_output=True,
        text=True,
        check=False,
    )
    (made[0][1].parent / "log").write_text(said.stdout + said.stderr)
    assert said.returncode == 0, said.stderr[-3000:]
    for run, spec in made[1:]:
        (spec.parent / "log").touch()
        assert run.folder.is_dir()
    return [run.result(0) for run, _ in made]


def test_it_reports_every_step_and_leaves_what_other_backends_leave(
    trained: list[Finished],
) -> None:
    first = trained[0]
    assert sorted(first.files()) == ["adapter/adapter_config.json", ADAPTER, "trace.jsonl"]
    steps = [event for event in first.events if event["event"] == "progress"]
    assert [event["step"] for event in steps] == [1, 2, 3, 4]
    assert all(event["tokens"]["supervised"] > 0 for event in steps)
    assert [line["step"] for line in trace(first)] == [1, 2, 3, 4]
    assert first.measures()["peak_memory"] > 0
    assert first.measures()["canary"]["text_bits"] > 0  # the base was looked at
    config = json.loads(first.files()["adapter/adapter_config.json"])
    ends = {name.rsplit(".", 1)[-1] for name in config["target_modules"]}
    assert (config["r"], ends) == (4, {"q_proj", "k_proj", "v_proj", "o_proj"})
    assert config["base_model_name_or_path"] is None


def test_the_recipe_s_seed_decides_and_no_default(trained: list[Finished]) -> None:
    first, again, other = (run.files()[ADAPTER] for run in trained)
    assert first == again
    assert first != other


def test_checkpoints_are_complete(trained: list[Finished]) -> None:
    kept = sorted((trained[0].folder.parent / "scratch" / "checkpoints").glob("checkpoint-*"))
    assert [path.name for path in kept] == ["checkpoint-2", "checkpoint-4"]
    assert all((path / "COMPLETE.json").is_file() for path in kept)


def test_without_a_gpu_the_script_refuses(
    training: Callable[..., tuple[ScriptRun, Path]],
) -> None:
    run, _ = training(1)
    result = run.finish_cold(CUDA_VISIBLE_DEVICES="")
    assert (result.status, result.error()["code"]) == (1, "E961")
    assert not result.files()


# --- Unsloth's own signatures, read and not imported: its GPU code needs a GPU


def arguments(python: Path, file: str, owner: str, name: str) -> dict[str, Any]:
    """Name -> literal default of a method in the installed Unsloth."""
    (found,) = python.parent.parent.glob(f"lib/python3.*/site-packages/unsloth/{file}")
    classes = [
        node
        for node in ast.walk(ast.parse(found.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name == owner
    ]
    (method,) = [
        node for node in classes[0].body if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    names = [each.arg for each in method.args.args]
    defaults = method.args.defaults
    return {
        each: value.value if isinstance(value, ast.Constant) else None
        for each, value in zip(names[-len(defaults) :], defaults, strict=True)
    }


def test_unsloth_takes_what_it_is_told_and_has_the_defaults_that_are_overruled(
    environment_python: Callable[[str], Path],
) -> None:
    python = environment_python("unsloth")
    told = unsloth.spec(load_recipe(ROOT / "recipes" / "course" / "10.2-8b-unsloth.yaml"))
    load = arguments(python, "models/loader.py", "FastLanguageModel", "from_pretrained")
    adapter = arguments(python, "models/llama.py", "FastLlamaModel", "get_peft_model")
    assert {*told["load"], "model_name"} <= set(load)
    assert set(told["adapter"]) <= {*adapter, "model"}
    assert (load["random_state"], adapter["random_state"]) == (3407, 3407)
    assert (load["load_in_4bit"], load["use_gradient_checkpointing"]) == (True, "unsloth")
