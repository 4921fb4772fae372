"""The scripts behind the ways `cli` and `webui`: what fails in them is told; nothing is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.backends import llamafactory
from runner.crosscheck.by_cli import count_tokens
from runner.execution.context import SCRIPTS
from runner.recipe.load import load_recipe
from runner.webui.board import environment
from tests.chain import copy_checkout
from tests.chromium import chromium
from tests.tiny_chain import write_tiny_chain
from tests.tiny_model import write_tiny_model
from tests.training_runs import ScriptRun, WarmInterpreter, documents, write_tokens

RECIPE = {
    "schema": 1,
    "name": "failing",
    "model": {"path": "model", "dtype": "float32"},
    "data": {"train": [{"path": "rows.jsonl", "format": "text"}]},
    "train": {"backend": "llamafactory", "adapter": {"type": "lora", "r": 4}, "max_steps": 2},
}


@pytest.fixture(scope="module")
def read(
    environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Tokens as LLaMA Factory reads them."""
    place = tmp_path_factory.mktemp("read") / "tokens"
    program = (
        "import sys; from datasets import Dataset; "
        "row = {name: [5] for name in ('input_ids', 'labels', 'attention_mask')}; "
        "Dataset.from_list([row]).save_to_disk(sys.argv[1])"
    )
    subprocess.run([str(environment_python("llamafactory")), "-c", program, str(place)], check=True)
    return place


@pytest.fixture
def run_of(environment_python: Callable[[str], Path], tmp_path: Path) -> Callable[..., ScriptRun]:
    """A script of environment llamafactory with the spec of a training of `more` settings."""

    def make(script: str, inputs: dict[str, Path], **more: Any) -> ScriptRun:
        model = write_tiny_model(tmp_path / "model")
        (tmp_path / "rows.jsonl").write_text('{"text": "x"}\n')
        (tmp_path / "x.yaml").write_text(json.dumps(RECIPE))
        recipe = load_recipe(tmp_path / "x.yaml")
        settings = llamafactory.spec(recipe)
        settings["configuration"] |= more
        rows = [[each] for each in documents(4)]
        tokens = write_tokens(tmp_path / "train.tokens.safetensors", rows, packed=False)
        hashed = {"settings": settings, "save_steps": 50, "device": "cpu"}
        places = {"model": model, "tokens": tokens, "template": model / "chat_template.jinja"}
        return ScriptRun(
            environment_python("llamafactory"),
            script,
            {**hashed, "more": count_tokens(recipe)},
            {**places, **inputs},
            tmp_path / "run",
        )

    return make


def test_what_the_command_line_refuses_is_a_failure(
    run_of: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    run = run_of("train_by_cli", {}, quantization_bit=4, pissa_init=True)
    result = run.finish(warm_factory)
    assert result.status == 1
    assert result.error()["code"] == "E891"
    assert str(run.scratch / "configuration.yaml") in result.error()["hint"]
    assert "pissa_init" in result.log
    assert not result.files()


STEPS = json.dumps({"global_step": 1, "max_steps": 2, "log_history": []})
UNFINISHED = {"nothing": None, "half a file": "{", "a step less": STEPS}


@pytest.mark.parametrize("state", UNFINISHED.values(), ids=UNFINISHED)
def test_a_training_without_its_last_step_is_none(
    state: str | None,
    run_of: Callable[..., ScriptRun],
    read: Path,
    warm_factory: WarmInterpreter,
    tmp_path: Path,
) -> None:
    """Also when an adapter lies there: it may be that of a former training."""
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "adapter_model.safetensors").write_bytes(b"")
    if state is not None:
        (saved / "trainer_state.json").write_text(state)
    result = run_of("collect_webui", {"saved": saved, "read": read}).finish(warm_factory)
    assert result.status == 1
    assert result.error()["code"] == "E892"
    said = "1 of 2 steps" if state == STEPS else "holds no finished training"
    assert said in result.error()["message"]
    assert not result.files()


# --- the browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    return chromium(shared_cache, tmp_path_factory.mktemp("chromium"))


@pytest.fixture
def drive(
    environment_python: Callable[[str], Path], browser: Path, tmp_path: Path
) -> Callable[..., ScriptRun]:
    """The browser's script, on a Board that is started by `argv` in `board`."""

    def make(board: Path, argv: list[str], env: dict[str, str], **more: Any) -> ScriptRun:
        start = tmp_path / "start.json"
        start.write_text(json.dumps({"argv": argv, "env": env}))
        hashed = {
            "config": "tiny.yaml",
            "model_path": "models/tiny",
            "stage": "Supervised Fine-Tuning",
            "datasets": ["tiny"],
            "extra_args": {},
            "output_dir": "crosscheck",
            "sandbox": os.geteuid() != 0,
            "device": "cpu",
        }
        return ScriptRun(
            environment_python("browser"),
            "drive_webui",
            hashed | more,
            {"board": board, "start": start, "chromium": browser},
            tmp_path / "run",
        )

    return make


def test_a_board_that_ends_at_once_is_a_failure(
    drive: Callable[..., ScriptRun], tmp_path: Path
) -> None:
    result = drive(tmp_path, [sys.executable, "-c", "raise SystemExit(3)"], {}).finish_cold()
    assert result.status == 1
    assert result.error()["code"] == "E894"
    assert "does not start" in result.error()["message"]


@pytest.mark.full
def test_a_training_that_fails_in_the_board_is_a_failure(
    drive: Callable[..., ScriptRun],
    environment_python: Callable[[str], Path],
    shared_cache: Path,
    tmp_path: Path,
) -> None:
    """Start is pressed on a schedule that there is not; the page's own words are told."""
    checkout = copy_checkout(
        tmp_path / "checkout", cache=shared_cache, store=tmp_path / "store", home=tmp_path / "home"
    )
    write_tiny_chain(checkout)
    prepared = checkout.recipe("webui", "tiny.yaml", "--workspace", "board", "--prepare")
    assert prepared.returncode == 0, prepared.stderr
    board = checkout.folder / "board"
    python = environment_python("llamafactory")
    argv = [str(python), str(SCRIPTS), "webui_llamafactory"]
    env = environment(python, board, shared_cache)
    run = drive(board, argv, env, extra_args={"use_cpu": True, "lr_scheduler_type": "uphill"})
    result = run.finish_cold()
    assert result.status == 1
    assert result.error()["code"] == "E894"
    assert "ValueError" in result.error()["message"]
    assert "uphill" in result.error()["message"]
    assert "clicked.json" not in result.files()
