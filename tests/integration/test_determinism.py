"""What makes a training repeatable is set before it counts, holds to the end, and in one place."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.system import determinism
from tests.integration.test_train_native import ADAPTER, LORA, ROWS, SETTINGS
from tests.script_runs import SCRIPTS
from tests.tiny_model import write_tiny_model
from tests.training_runs import Finished, ScriptRun, WarmInterpreter, write_tokens

MODEL = """
import torch
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        {loaded}
    def forward(self, *args, **kwargs):
        {computed}
        return super().forward(*args, **kwargs)
"""
CONFIG = """
from transformers import LlamaConfig
class OwnConfig(LlamaConfig):
    model_type = "own_tiny"
"""

Train = Callable[..., Finished]


def with_code(folder: Path, *, loaded: str = "pass", computed: str = "pass") -> Path:
    """The tiny model, as code of its own that does more: when it is loaded, when it computes."""
    write_tiny_model(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own_tiny", "architectures": ["OwnForCausalLM"]}
    config["auto_map"] = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_own.py").write_text(CONFIG)
    (folder / "modeling_own.py").write_text(MODEL.format(loaded=loaded, computed=computed))
    return folder


@pytest.fixture
def train(
    warm: WarmInterpreter, environment_python: Callable[[str], Path], tmp_path: Path
) -> Train:
    """Train a model whose code does more; keywords replace settings."""
    number = 0

    def run(*, loaded: str = "pass", computed: str = "pass", **changed: Any) -> Finished:
        nonlocal number
        number += 1
        place = tmp_path / str(number)
        place.mkdir()
        model = with_code(place / "model", loaded=loaded, computed=computed)
        settings = SETTINGS | {"max_steps": 2, "adapter": LORA, "trust_remote_code": True} | changed
        inputs = {
            "model": model,
            "tokens": write_tokens(place / "train.tokens.safetensors", ROWS, packed=False),
            "template": model / "chat_template.jinja",
        }
        hashed = {"settings": settings, "save_steps": 1000}
        python = environment_python("native")
        return ScriptRun(python, "train_native", hashed, inputs, place / "run").finish(warm)

    return run


def adapter_of(finished: Finished) -> bytes:
    assert finished.status == 0, finished.log
    return finished.files()[ADAPTER]


def test_the_adapter_is_drawn_from_the_seed_whatever_was_drawn_before(train: Train) -> None:
    plain = adapter_of(train())
    assert adapter_of(train(loaded="torch.rand(99)")) == plain
    assert adapter_of(train(seed=43)) != plain
    # the control: what is drawn while it computes does change dropout, and so the adapter
    assert adapter_of(train(computed="torch.rand(99)")) != plain


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("torch.use_deterministic_algorithms(False)", "deterministic algorithms"),
        ("torch.use_deterministic_algorithms(True, warn_only=True)", "deterministic algorithms"),
        ("torch.set_num_threads(1)", "the number of threads"),
        ("torch.backends.cuda.matmul.allow_tf32 = True", "products in full float32"),
        ("torch.backends.cudnn.benchmark = True", "one algorithm of cuDNN"),
    ],
)
def test_a_training_during_which_determinism_was_turned_off_has_no_result(
    train: Train, code: str, what: str
) -> None:
    finished = train(computed=code)
    assert finished.status == 1
    assert finished.error()["code"] == "E870"
    assert what in finished.error()["message"]
    assert not (finished.folder / "adapter").exists()


def test_an_evaluation_during_which_determinism_was_turned_off_has_no_result(
    warm: WarmInterpreter,
    environment_python: Callable[[str], Path],
    train: Train,
    tmp_path: Path,
) -> None:
    trained = train()
    settings = {
        "loss": True,
        "samples": 0,
        "max_new_tokens": 1,
        "questions": None,
        "system": None,
        "dtype": "float32",
        "attn_implementation": "sdpa",
        "trained": "adapter",
        "trust_remote_code": True,
    }
    model = with_code(tmp_path / "model", computed="torch.use_deterministic_algorithms(False)")
    (tmp_path / "prompts.jsonl").touch()
    inputs = {
        "model": model,
        "trained": trained.folder / "adapter",
        "tokens": write_tokens(tmp_path / "rows.safetensors", ROWS, packed=False),
        "prompts": tmp_path / "prompts.jsonl",
        "template": model / "chat_template.jinja",
    }
    python = environment_python("evaluate")
    finished = ScriptRun(python, "evaluate", settings, inputs, tmp_path / "evaluate").finish(warm)
    assert finished.status == 1, finished.log
    assert finished.error()["code"] == "E870"
    assert list(finished.files()) == []


def test_an_operation_that_is_not_deterministic_is_refused_and_not_warned_of(
    environment_python: Callable[[str], Path], tmp_path: Path
) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS.parents[1])!r})\n"
        "from runner.scripts.training.torch_setup import set_up_torch\n"
        "import torch; set_up_torch()\n"
        "torch.zeros(4).put_(torch.tensor([1]), torch.ones(1), accumulate=False)\n"
    )
    result = subprocess.run(
        [environment_python("native"), "-c", program],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)} | determinism.script_env(2),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "does not have a deterministic implementation" in result.stderr
