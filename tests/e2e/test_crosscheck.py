"""One tiny recipe, trained by our script, by LLaMA Factory in a script and on the command line, and
by a real browser in the real LLaMA Board: the same adapter, byte for byte."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chain import Checkout, copy_checkout
from tests.chromium import chromium

WAYS = ["native", "llamafactory", "cli", "webui"]
STEPS = 40  # long enough for the browser to see some of them
WEIGHTS = "adapter/adapter_model.safetensors"
PICTURES = ["1-form.png", "2-command.png", "3-training.png", "4-finished.png"]


@pytest.fixture(scope="module")
def checkout(
    tmp_path_factory: pytest.TempPathFactory, make_tiny: Callable[[Path], Checkout]
) -> Checkout:
    return make_tiny(tmp_path_factory.mktemp("crosscheck"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> str:
    """A PATH on which Chromium is."""
    program = chromium(shared_cache, tmp_path_factory.mktemp("chromium") / "bin")
    return f"{program.parent}:{os.environ['PATH']}"


def crosscheck(checkout: Checkout, path: str, *words: str) -> dict[str, Any]:
    result = checkout.recipe("crosscheck", *words, "--format", "json", PATH=path)
    assert result.returncode == 0, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def found(checkout: Checkout, path: str) -> dict[str, Any]:
    steps = f"train.max_steps={STEPS}"
    words = ("tiny.yaml", "--set", steps, "--with", ",".join(WAYS), "-o", "report")
    return crosscheck(checkout, path, *words)


def test_all_ways_give_the_same_adapter(found: dict[str, Any]) -> None:
    assert [way["name"] for way in found["ways"]] == WAYS
    weights = [Path(way["run"], WEIGHTS).read_bytes() for way in found["ways"]]
    assert weights[1:] == weights[:1] * 3
    assert found["equal"]
    assert [each["equal"] for each in found["comparisons"]] == [True] * 3
    assert len({way["weights"][WEIGHTS] for way in found["ways"]}) == 1


def test_every_step_of_every_way_is_told(found: dict[str, Any]) -> None:
    for way in found["ways"]:
        assert [point["step"] for point in way["trace"]] == list(range(1, STEPS + 1))
        assert way["seconds"] > 0
        assert way["training_seconds"] > 0
        assert way["tokens_per_second"] > 0
        assert way["peak_memory"] > 100e6  # an interpreter with torch in it
    norms = [[point["grad_norm"] for point in way["trace"]] for way in found["ways"]]
    assert norms[1:] == norms[:1] * 3
    assert [way["loss_decimals"] for way in found["ways"]] == [None, None, 4, 4]


def test_the_browser_saw_the_whole_training(found: dict[str, Any]) -> None:
    way = found["ways"][-1]
    assert [Path(each).name for each in way["screenshots"]] == PICTURES
    assert all(Path(each).read_bytes()[:4] == b"\x89PNG" for each in way["screenshots"])
    clicked = json.loads(Path(way["run"], "clicked.json").read_text())
    seen = clicked["progress"]
    assert seen, "the browser looks twice a second"
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {STEPS}
    assert f"--max_steps {STEPS}" in clicked["command"]
    assert "--model_name_or_path models/tiny" in clicked["command"]
    assert {"Model path", "Learning rate", "Extra arguments", "LoRA rank"} <= {*clicked["labels"]}


def test_the_reports_lie_in_one_folder(found: dict[str, Any], checkout: Checkout) -> None:
    report = checkout.folder / "report"
    assert json.loads((report / "crosscheck.json").read_text()) == found
    page = (report / "crosscheck.html").read_text()
    lines = re.findall(r'<polyline [^>]*points="([^"]+)"', page)
    assert len(lines) == 4
    assert lines[0] == lines[1]
    assert len(lines[0].split()) == STEPS
    written = (report / "crosscheck.md").read_text()
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", written)
    assert [Path(each).name for each in shown] == ["loss.svg", *PICTURES]
    assert all((report / each).is_file() for each in shown)


def test_the_own_defaults_are_those_of_the_installed_programs(
    found: dict[str, Any], environment_python: Callable[[str], Path]
) -> None:
    """Read in another way: from the text of LLaMA Board's form, and of TRL's settings."""
    own = {row["setting"]: row["own"] for row in found["defaults"]}

    def text(role: str, module: str) -> str:
        python = environment_python(role)
        return next(python.parent.parent.glob(f"lib/*/site-packages/{module}")).read_text()

    form = text("llamafactory", "llamafactory/webui/components/train.py")
    rate = re.search(r'learning_rate = gr\.Textbox\(value="(.+?)"\)', form)
    steps = re.search(r"gradient_accumulation_steps = gr\.Slider\(.*value=(\d+)", form)
    assert rate is not None
    assert steps is not None
    assert own["train.learning_rate"]["board"] == float(rate[1])
    assert own["train.gradient_accumulation_steps"]["board"] == int(steps[1])
    length = re.search(
        r"cutoff_len: int = field\(\s*default=(\d+)",
        text("llamafactory", "llamafactory/hparams/data_args.py"),
    )
    assert length is not None
    assert own["data.max_length"]["llamafactory"] == int(length[1])
    rate = re.search(
        r"learning_rate: float = field\(\s*default=([\d.e-]+)",
        text("native", "trl/trainer/sft_config.py"),
    )
    assert rate is not None
    assert own["train.learning_rate"]["trl"] == float(rate[1])


def test_what_is_stored_is_not_trained_again(
    found: dict[str, Any], checkout: Checkout, path: str
) -> None:
    words = ("tiny.yaml", "--set", f"train.max_steps={STEPS}", "--with", ",".join(WAYS))
    again = crosscheck(checkout, path, *words)
    assert [way["reused"] for way in again["ways"]] == [True] * 4
    figures = ("seconds", "training_seconds", "tokens_per_second", "peak_memory", "weights")
    for name in figures:
        assert [way[name] for way in again["ways"]] == [way[name] for way in found["ways"]]
    reports = checkout.folder / "runs" / "tiny" / "crosscheck"
    assert (next(reports.iterdir()) / "crosscheck.html").is_file()


def test_pairs_are_trained_alike_by_every_way(checkout: Checkout, path: str) -> None:
    rows = checkout.folder / "pairs.jsonl"
    made = [
        {"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "No."} for n in range(9)
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in made))
    data = "data.train=[{path: pairs.jsonl, format: preference}]"
    found = crosscheck(
        checkout,
        path,
        "tiny.yaml",
        *("--set", "train.method=dpo", "--set", data, "--set", "train.max_steps=2"),
        *("--set", "train.adapter.lora_dropout=0.0"),
        *("--with", "native,cli,webui"),
    )
    assert found["equal"]
    assert [len(way["trace"]) for way in found["ways"]] == [2, 2, 2]
    beta = next(row for row in found["defaults"] if row["setting"] == "train.beta")
    assert (beta["recipe"], beta["own"]["trl"], beta["own"]["llamafactory"]) == (0.1, 0.1, 0.1)


def test_a_run_says_what_an_own_template_changes(checkout: Checkout) -> None:
    changes = ("--backend", "llamafactory", "--set", "train.template=chatml")
    words = ("run", "tiny.yaml", *changes, "--set", "train.max_steps=2", "--until", "train")
    result = checkout.recipe(*words)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("own template"))
    assert re.search(r"chatml: (\d+) of \1 rows", lines[at])
    assert "rows.jsonl:" in lines[at + 1]
    assert [line.split()[0] for line in lines[at + 2 : at + 8 : 3]] == ["shared", "own"]
    latest = checkout.folder / "runs" / "tiny" / "latest"
    told = json.loads((latest / "template" / "difference.json").read_text())
    assert told["different"] == told["rows"] > 0


@pytest.mark.full
def test_smollm2_by_a_script_and_by_the_web_ui(
    tmp_path: Path, shared_cache: Path, store: Path, path: str
) -> None:
    checkout = copy_checkout(
        tmp_path / "checkout", cache=shared_cache, store=store, home=tmp_path / "home"
    )
    ways = "native,llamafactory,webui"
    found = crosscheck(
        checkout, path, "recipes/quickstart.yaml", "--with", ways, "-o", str(tmp_path / "report")
    )
    assert found["equal"]
    assert all(way["loss_last_step"] < way["loss_first_step"] for way in found["ways"])
    assert (
        len(json.loads(Path(found["ways"][-1]["run"], "clicked.json").read_text())["progress"]) > 2
    )
