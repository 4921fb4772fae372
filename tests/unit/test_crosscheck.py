"""What two trainings have in common: a planted difference is found, and named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runner.cli import crosscheck as command
from runner.cli.main import main
from runner.crosscheck import own_defaults, trained
from runner.crosscheck.compare import compare, first_step_difference, tokens_sha256
from runner.crosscheck.own_defaults import Row, rows
from runner.crosscheck.result import as_data
from runner.crosscheck.trained import WAYS, Trained
from runner.recipe.load import load_recipe
from runner.recipe.methods import METHODS
from runner.report.crosscheck_html import as_html
from runner.report.crosscheck_markdown import as_markdown
from runner.store.digest import file_sha256
from runner.verify.run import Run
from tests.html_page import Loaded
from tests.small_recipe import write_recipe
from tests.training_runs import documents, write_tokens

WEIGHTS = "adapter/adapter_model.safetensors"
Make = Callable[..., Trained]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A finished training of way `name`; `change` may edit its folder before it is hashed."""

    def finished(
        name: str, change: Callable[[Path], None] = lambda folder: None, **measures: Any
    ) -> Trained:
        folder = tmp_path / "ways" / name
        (folder / "adapter").mkdir(parents=True)
        (folder / "prepared").mkdir()
        tensors = {"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 3), np.float32)}
        save_file(tensors, folder / WEIGHTS)
        write_tokens(
            folder / "prepared" / "train.tokens.safetensors",
            [[each] for each in documents(4)],
            packed=False,
        )
        lines = [
            {"step": n, "loss": 3.00004 - n / 8, "grad_norm": 1.5 * n, "learning_rate": 1e-3 / n}
            for n in range(1, 5)
        ]
        (folder / "trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        change(folder)
        record: Mapping[str, Any] = {"platform": {"name": "cpu"}, "environments": {name: "0"}}
        manifest = {"train": {WEIGHTS: {"sha256": file_sha256(folder / WEIGHTS)}}}
        trace = [json.loads(line) for line in (folder / "trace.jsonl").read_text().splitlines()]
        return Trained(WAYS[name], Run(folder, record, manifest), trace, measures, 9.5, False)

    return finished


def set_in_trace(step: int, **values: Any) -> Callable[[Path], None]:
    """From `step` on."""

    def change(folder: Path) -> None:
        path = folder / "trace.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        changed = [line | values if line["step"] >= step else line for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in changed))

    return change


def flip_one_weight(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["b"][1, 2] = np.nextafter(np.float32(1), np.float32(2))
    save_file(tensors, folder / WEIGHTS)


def test_equal_trainings_are_equal(make: Make) -> None:
    found = compare(make("native"), make("llamafactory"))
    assert found.equal
    assert (found.why, found.weights, found.loss_decimals) == ("", "", None)


def test_losses_are_compared_with_the_decimals_that_both_have(make: Make) -> None:
    rounded = [round(3.00004 - n / 8, 4) for n in range(1, 5)]

    def round_losses(folder: Path) -> None:
        for step, loss in enumerate(rounded, 1):
            set_in_trace(step, loss=loss)(folder)

    native = make("native")
    assert compare(native, make("cli", round_losses, loss_decimals=4)).equal
    exact = compare(native, make("llamafactory", round_losses))
    assert exact.loss is not None
    assert exact.loss.step == 1


@pytest.mark.parametrize(
    ("change", "part", "step", "why"),
    [
        (set_in_trace(1, loss=9.0), "loss", 1, "the first loss differs on equal tokens"),
        (set_in_trace(1, grad_norm=9.0), "grad_norm", 1, "precision or another backward"),
        (set_in_trace(3, loss=9.0), "loss", 3, "equal up to step 2"),
        (set_in_trace(2, learning_rate=9.0), "learning_rate", 2, "schedule or warm-up"),
    ],
)
def test_the_first_step_that_differs_is_named(
    change: Callable[[Path], None], part: str, step: int, why: str, make: Make
) -> None:
    found = compare(make("native"), make("cli", change))
    assert not found.equal
    assert getattr(found, part).step == step
    assert why in found.why


def test_a_flipped_bit_is_found_where_it_was_planted(make: Make) -> None:
    found = compare(make("native"), make("webui", flip_one_weight))
    assert not found.equal
    assert found.weights.startswith(f"{WEIGHTS}: ")
    assert "b" in found.weights.split(": ", 1)[1]
    assert found.why == "every step is equal as far as it is logged, and the last update is not"


def test_other_tokens_are_the_first_reason(make: Make) -> None:
    found = compare(make("native"), make("cli", set_in_trace(1, loss=9.0), tokens_sha256="0" * 64))
    assert not found.tokens_equal
    assert "other tokens" in found.why


def test_a_shorter_training_is_a_difference(make: Make) -> None:
    native = make("native")
    found = first_step_difference(native.trace, native.trace[:2], "loss", None)
    assert found is not None
    assert (found.name, found.step, found.first, found.second) == ("steps", 3, 4, 2)


def test_the_digest_of_tokens_sees_ids_and_labels(tmp_path: Path) -> None:
    def digest(tokens: list[int], mask: list[int]) -> str:
        path = tmp_path / "tokens.safetensors"
        return tokens_sha256(write_tokens(path, [[(tokens, mask)]], packed=False))

    usual = digest([5, 6, 7, 8], [0, 0, 1, 1])
    assert digest([5, 6, 7, 8], [0, 0, 1, 1]) == usual
    assert digest([5, 6, 7, 9], [0, 0, 1, 1]) != usual
    assert digest([5, 6, 7, 8], [0, 1, 1, 1]) != usual


# --- own defaults


def read(**more: Any) -> dict[str, Any]:
    """What the scripts would say, with every setting at one value but for `more`."""
    names = {name for setting in own_defaults.SETTINGS for name in (setting.trl, setting.factory)}
    same = dict.fromkeys(names - {""}, None)
    of_methods = {f"trl-{method}": same | more for method in METHODS}
    return {**of_methods, "peft": {}, "llamafactory": dict(same), "board": {}}


def test_where_the_recipe_is_silent_is_told(tmp_path: Path) -> None:
    write_recipe(tmp_path / "x.yaml")
    recipe = load_recipe(tmp_path / "x.yaml", overrides=["train.learning_rate=0.5"])
    defaults = read(learning_rate=2e-5, optim="adamw_torch")
    found = {row.pointer: row for row in rows(recipe, defaults, ["trl", "llamafactory"])}
    assert found["/train/learning_rate"].given
    assert found["/train/learning_rate"].own["trl"] == 2e-5
    assert found["/train/learning_rate"].differs
    assert not found["/train/optim"].given
    assert found["/train/optim"].recipe == recipe.train.optim
    assert "trl" not in found["/model/attn_implementation"].own  # it has no such setting


def test_a_method_has_its_own_settings_and_no_others(tmp_path: Path) -> None:
    write_recipe(tmp_path / "x.yaml")
    recipe = load_recipe(tmp_path / "x.yaml")
    pointers = {row.pointer for row in rows(recipe, read(), ["trl"])}
    assert not pointers & {"/train/beta", "/train/simpo_gamma"}
    train = dataclasses.replace(recipe.train, method="dpo", beta=0.2)
    defaults = read(beta=0.1) | {"trl-sft": read(beta=9)["trl-sft"]}
    found = {
        row.pointer: row
        for row in rows(dataclasses.replace(recipe, train=train), defaults, ["trl"])
    }
    assert found["/train/beta"].own == {"trl": 0.1}
    assert "/train/simpo_gamma" not in found


def test_the_board_has_llamafactorys_default_where_its_form_says_nothing(tmp_path: Path) -> None:
    write_recipe(tmp_path / "x.yaml")
    recipe = load_recipe(tmp_path / "x.yaml")
    defaults = read()
    defaults["llamafactory"] |= {"seed": 42, "bf16": False, "disable_gradient_checkpointing": False}
    defaults["board"] = {"bf16": True}
    found = {row.pointer: row.own["board"] for row in rows(recipe, defaults, ["board"])}
    assert found["/seed"] == 42
    assert found["/train/bf16"] is True
    assert found["/train/gradient_checkpointing"] is True  # what it has is the opposite


def test_every_setting_is_one_of_a_recipe(tmp_path: Path) -> None:
    write_recipe(tmp_path / "x.yaml")
    recipe = load_recipe(tmp_path / "x.yaml")
    for setting in own_defaults.SETTINGS:
        part: Any = recipe
        for name in setting.pointer.strip("/").split("/"):
            part = getattr(part, name)


# --- reports and command


def data_of(make: Make, tmp_path: Path, change: Any = lambda folder: None) -> dict[str, Any]:
    write_recipe(tmp_path / "x.yaml")
    recipe = load_recipe(tmp_path / "x.yaml")
    both = [make("native"), make("webui", change, loss_decimals=4)]
    row = Row("/train/optim", "<b>", False, {"trl": "a|b"})
    return as_data(recipe, both, [compare(*both)], [row], ["trl", "board"])


def test_the_page_loads_nothing_and_runs_nothing(make: Make, tmp_path: Path) -> None:
    def with_picture(folder: Path) -> None:
        (folder / "screenshots").mkdir()
        (folder / "screenshots" / "1-form.png").write_bytes(b"\x89PNG")

    data = data_of(make, tmp_path, with_picture)
    page = as_html(data)
    seen = Loaded()
    seen.feed(page)
    assert seen.runs == []
    assert [each.split(",")[0] for each in seen.loads] == ["data:image/png;base64"]
    assert page.count("<polyline") == 2
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    written = as_markdown(data, {"1-form.png": "p/1-form.png", "loss.svg": "p/loss.svg"})
    assert "![LLaMA Board: form](p/1-form.png)" in written
    assert "a\\|b" in written


@pytest.mark.parametrize(("plant", "status"), [(False, 0), (True, 7)])
def test_the_exit_status_says_whether_all_is_equal(
    plant: bool,
    status: int,
    make: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change = flip_one_weight if plant else lambda folder: None
    write_recipe(tmp_path / "x.yaml")

    def trains(recipe: Any, way: Any, place: Path, say: Any) -> Trained:
        return make(way.name, change if way.name == "llamafactory" else lambda folder: None)

    monkeypatch.setattr(trained, "train", trains)
    monkeypatch.setattr(own_defaults, "read_defaults", lambda columns, cache, say: read())
    report = tmp_path / "report"
    words = ["crosscheck", str(tmp_path / "x.yaml"), "--format", "json", "-o", str(report)]
    assert main(words) == status
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((report / "crosscheck.json").read_text())
    assert (printed["schema"], printed["equal"]) == (1, not plant)
    assert {"crosscheck.html", "crosscheck.md", "pictures"} <= {p.name for p in report.iterdir()}


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        ("native,llamafactry", "did you mean llamafactory?"),
        ("native", "--with native,llamafactory"),
        ("native,native", "--with native,llamafactory"),
        (",", "--with native,llamafactory"),
    ],
)
def test_other_than_two_ways_are_refused(
    ways: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(tmp_path / "x.yaml")
    assert main(["crosscheck", str(tmp_path / "x.yaml"), "--with", ways]) == 2
    printed = capsys.readouterr().err
    assert "error[E890]" in printed
    assert said in printed


def test_without_a_browser_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(tmp_path / "x.yaml")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["crosscheck", str(tmp_path / "x.yaml"), "--with", "native,webui"]) == 4
    printed = capsys.readouterr().err
    assert "error[E893]" in printed
    assert "sudo apt-get install chromium" in printed
    assert not (tmp_path / "runs").exists()


def test_what_the_form_has_no_place_for_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recipe(tmp_path / "x.yaml")
    (tmp_path / "chromium").write_text("#!/bin/sh\n")
    (tmp_path / "chromium").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["crosscheck", str(tmp_path / "x.yaml"), "--with", "native,webui"]
    assert main([*words, "--set", "train.adapter.r=2000"]) == 2
    assert "error[E884]" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_usual_ways_are_two() -> None:
    assert [way.name for way in command._ways(command.USUAL)] == ["native", "llamafactory"]
