"""Continued pre-training: both backends to the same bytes, and what sets it apart from `sft`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.crosscheck.compare import tokens_sha256
from runner.recipe.load import load_recipe
from tests.tiny_model import write_tiny_model
from tests.training_runs import (
    Document,
    ScriptRun,
    WarmInterpreter,
    assert_alike,
    changed_recipe,
    documents,
    done,
    tokens_by_step,
    trace,
    training_of,
    write_tokens,
)

END = 2  # the tiny model's end of text, which also is its padding
ADAPTER = "adapter/adapter_model.safetensors"
BASE: dict[str, Any] = {
    "schema": 1,
    "name": "texts",
    "seed": 42,
    "model": {"path": "model", "dtype": "float32"},
    "data": {"train": [{"path": "rows.jsonl", "format": "text"}], "max_length": 256},
    "train": {
        "method": "pretrain",
        "adapter": {"type": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.05},
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1,
        "weight_decay": 0.01,
    },
}
# name -> what differs from BASE, by section
MATRIX: dict[str, dict[str, Any]] = {
    "dropout": {},
    "epochs": {"train": {"max_steps": None, "num_train_epochs": 1}},
    "bf16 autocast": {"train": {"bf16": True, "max_steps": 2}},
    "bfloat16 weights": {"model": {"dtype": "bfloat16"}},
    "4 bits": {
        "model": {"dtype": "bfloat16", "quantization": {"load_in_4bit": True}},
        "train": {"bf16": True, "max_steps": 2},
    },
    "every weight": {"train": {"adapter": {"type": "none"}, "learning_rate": 1e-4}},
}
PACKED = {"data": {"packing": True}}


def texts(count: int, *, seed: int = 1) -> list[Document]:
    """Random texts as `prepare` writes them: trained on from the first token to the end of text."""
    made = [[*tokens, END] for tokens, _ in documents(count, seed=seed)]
    return [(tokens, [1] * len(tokens)) for tokens in made]


ROWS = [[text] for text in texts(9)]
PACKS = [texts(3, seed=seed) for seed in range(9)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def training(
    environment_python: Callable[[str], Path],
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., ScriptRun]:
    """A training of BASE with changes by a backend, from a recipe's file on."""

    def make(
        backend: str,
        changes: dict[str, Any],
        *,
        save_steps: int = 1000,
        script: str | None = None,
        rows: list[list[Document]] | None = None,
    ) -> ScriptRun:
        place = tmp_path_factory.mktemp(backend)
        recipe = load_recipe(write_recipe(place, model, backend, changes))
        packed = recipe.data.packing
        usual = PACKS if packed else ROWS
        tokens = write_tokens(
            place / "train.tokens.safetensors", usual if rows is None else rows, packed=packed
        )
        return training_of(
            recipe,
            environment_python,
            {"model": model, "tokens": tokens},
            place / "run",
            save_steps=save_steps,
            script=script,
        )

    return make


def write_recipe(place: Path, model: Path, backend: str, changes: dict[str, Any]) -> Path:
    sections = changed_recipe(BASE, model, backend, changes)
    (place / "rows.jsonl").write_text('{"text": "x"}\n')  # the tokens are made by the tests
    (place / "texts.yaml").write_text(yaml.safe_dump(sections))
    return place / "texts.yaml"


# --- equal bytes


@pytest.mark.parametrize("case", MATRIX)
def test_both_backends_give_the_same_weights_step_by_step(
    case: str,
    training: Callable[..., ScriptRun],
    warm: WarmInterpreter,
    warm_factory: WarmInterpreter,
) -> None:
    ours = done(training("native", MATRIX[case]).finish(warm))
    theirs = done(training("llamafactory", MATRIX[case]).finish(warm_factory))
    assert_alike(ours, theirs, MATRIX[case])
    for step in tokens_by_step(ours):  # the end of text as well, though it is the padding
        assert step["supervised"] == step["non_pad"]


def test_the_command_line_of_llamafactory_gives_the_same_weights(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    script = done(training("llamafactory", {}).finish(warm_factory))
    run = training("llamafactory", {}, script="train_by_cli")
    result = done(run.finish(warm_factory))
    assert yaml.safe_load((run.scratch / "configuration.yaml").read_text())["stage"] == "pt"
    assert result.files()[ADAPTER] == script.files()[ADAPTER]
    assert [step["loss"] for step in trace(result)] == [
        round(step["loss"], 4) for step in trace(script)
    ]
    assert result.measures()["tokens_sha256"] == tokens_sha256(
        run.folder.parents[1] / "train.tokens.safetensors"
    )


def test_the_web_ui_is_given_what_a_training_is_given(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    train = training("llamafactory", {})
    done(train.finish(warm_factory))
    shown = training("llamafactory", {}, script="webui_inputs")
    done(shown.finish(warm_factory))
    for name in ("model/tokenizer_config.json", "tokens/data-00000-of-00001.arrow"):
        ours, theirs = (run.scratch / "workspace" / name for run in (shown, train))
        assert ours.read_bytes() == theirs.read_bytes()


# --- resume


@pytest.mark.parametrize(
    ("backend", "case"),
    [("native", {}), ("native", PACKED), ("llamafactory", {})],
    ids=["native", "native, packs", "llamafactory"],
)
def test_a_killed_training_goes_on_to_the_same_bytes(
    backend: str, case: dict[str, Any], training: Callable[..., ScriptRun], request: Any
) -> None:
    interpreter = request.getfixturevalue("warm" if backend == "native" else "warm_factory")
    whole = done(training(backend, case).finish(interpreter))
    run = training(backend, case, save_steps=1)
    process = run.start(interpreter)
    run.wait_for_step(process, 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = done(run.finish(interpreter))
    assert resumed.measures()["steps_trained_now"] <= 3
    assert resumed.files() == whole.files()


# --- what is computed


@pytest.mark.parametrize("case", [{}, PACKED], ids=["rows", "packs"])
def test_it_is_sft_on_texts_but_for_what_the_loss_is_divided_by(
    case: dict[str, Any], training: Callable[..., ScriptRun], warm: WarmInterpreter
) -> None:
    """One number a row: its first token, which nothing predicts, counts in the mean."""
    plain = {"adapter": {"type": "lora", "r": 4, "lora_alpha": 8}, "max_grad_norm": 1e9}
    one_step = {**plain, "max_steps": 1, "warmup_steps": 0}
    pre = done(training("native", {**case, "train": one_step}).finish(warm))
    sft = done(training("native", {**case, "train": {**one_step, "method": "sft"}}).finish(warm))
    (counted,), (predicted,) = tokens_by_step(pre), tokens_by_step(sft)
    rows = 2 * 2  # of the step
    assert counted["supervised"] == predicted["supervised"] + rows
    part = predicted["supervised"] / counted["supervised"]
    for name in ("loss", "grad_norm"):
        expected = trace(sft)[0][name] * part
        assert trace(pre)[0][name] == pytest.approx(expected, rel=1e-5), name
    assert pre.files()[ADAPTER] != sft.files()[ADAPTER]


def test_documents_of_a_pack_do_not_predict_each_other(
    training: Callable[..., ScriptRun], warm: WarmInterpreter
) -> None:
    result = done(training("native", {**PACKED, "train": {"max_steps": 1}}).finish(warm))
    (step,) = tokens_by_step(result)
    assert step["supervised"] == step["non_pad"] - 4 * 2  # of four packs of three


# --- what is refused


def test_rows_with_every_token_leave_llamafactory_none_to_pad_with(
    training: Callable[..., ScriptRun], warm: WarmInterpreter, warm_factory: WarmInterpreter
) -> None:
    every = list(range(260))
    rows: list[list[Document]] = [[(every[:130], [1] * 130)], [(every[130:], [1] * 130)]]
    result = training("llamafactory", {}, rows=rows).finish(warm_factory)
    assert result.status == 1, result.log
    assert not result.files()
    assert result.error()["code"] == "E527"
    assert "none is left to pad with" in result.error()["message"]
    done(training("native", {}, rows=rows).finish(warm))  # as the hint says
