"""Which method for which model: the course's table 10.1, row by row, and what new and plan say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.cli.main import main
from runner.report import method_page
from runner.report.method_page import AMOUNTS, MODELS, SPARK, TABLE, asked, largest, least, share
from tests.chain import ROOT

GB = 10**9
PAGE = ROOT / "docs" / "course" / "10.1-methods.md"
COURSE = (ROOT / "tests" / "course-10.1.json").read_text(encoding="utf-8")
ORDER = list(MODELS)


# --- the course's rows


@pytest.mark.parametrize("row", json.loads(COURSE), ids=lambda row: row["method"])
def test_a_row_of_the_course_is_what_is_recommended(row: dict[str, object]) -> None:
    """Its way of training fits its size on a Spark, and so many of the numbers learn."""
    model, tuning = str(row["model"]), str(row["tuning"])
    made = asked(model, tuning)
    assert made.fits
    assert made.memory.total <= SPARK.usable
    low, high = row["percent"]  # type: ignore[misc]
    assert low <= share(model, made) <= high
    quantised = made.sections["model"].get("quantization", {})
    assert quantised.get("load_in_4bit", False) is (tuning == "qlora")
    assert (made.sections["train"]["adapter"]["type"] == "none") is (tuning == "full")
    held = made.sections["train"].get("optim") == "adamw_8bit"
    assert held is (tuning == "full"), "an adapter's states are small"


@pytest.mark.parametrize("row", json.loads(COURSE), ids=lambda row: row["method"])
def test_the_size_that_a_row_ends_with_is_ours_or_smaller(row: dict[str, object]) -> None:
    found = largest(str(row["tuning"]))
    assert found == row["ours_ends_with"]
    assert ORDER.index(found) >= ORDER.index(str(row["model"])), "the course's own size fits"
    beyond = ORDER[ORDER.index(found) + 1]
    assert not asked(beyond, str(row["tuning"])).fits


def test_the_memory_is_as_the_course_orders_it() -> None:
    """Very high, low, very low, for one model; an evaluation's prompts take the same of each."""
    full, lora, qlora = (least("Llama 3.1 8B", tuning) for tuning in ("full", "lora", "qlora"))
    assert full > 4 * lora
    assert lora > 1.9 * qlora


@pytest.mark.parametrize(
    ("model", "amount", "tuning"),
    [
        ("Llama 3.1 8B", "5 G tokens", "full"),
        ("Llama 3.1 8B", "0.1 M tokens", "lora"),
        ("Llama 3.1 70B", "50 M tokens", "qlora"),
        ("Phi-4 14B", "5 G tokens", "lora"),  # the course: full fine-tuning ends with 8B
    ],
)
def test_unasked_the_method_is_that_of_the_row(model: str, amount: str, tuning: str) -> None:
    assert asked(model, None, AMOUNTS[amount]).tuning == tuning


def test_what_the_page_says_where_we_differ_is_so() -> None:
    assert {row.tuning: row.model for row in TABLE} == {
        row["tuning"]: row["model"] for row in json.loads(COURSE)
    }
    assert least("a 32B", "lora") <= 0.75 * SPARK.usable  # with a quarter to spare
    most = asked("Llama 3.1 8B", "lora", AMOUNTS["5 G tokens"])
    assert most.sections["train"]["adapter"]["r"] == 128
    assert 3.5 <= share("Llama 3.1 8B", most) <= 4.5
    assert least("Llama 3.1 70B", "qlora") <= 0.5 * SPARK.usable
    assert not asked("a 405B", "qlora").fits
    items = {item.name: item.bytes for item in asked("Llama 3.1 8B", "full").memory.items}
    assert items["weights"] == items["gradients"], "two states would take as much again"


def test_the_page_is_current() -> None:
    said = f"python -m runner.report.method_page > {PAGE.relative_to(ROOT)}"
    assert PAGE.read_text(encoding="utf-8") == method_page.page(), said


# --- the same answer by both commands


@pytest.mark.parametrize("tuning", ["full", "lora", "qlora"])
@pytest.mark.parametrize("machine", ["dgx-spark", "h100-80", "rtx-4090"])
def test_plan_says_of_a_new_recipe_what_new_said(
    tuning: str,
    machine: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    row = {"instruction": "a" * 900, "input": "", "output": "b" * 900}
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 200)
    words = ["--model", "meta-llama/Llama-3.1-8B-Instruct", "--data", "rows.jsonl"]
    assert main(["new", "x.yaml", *words, "--machine", machine, "--tuning", tuning]) == 0
    said = Path("x.yaml").read_text()
    capsys.readouterr()
    assert main(["plan", "x.yaml", "--hardware", machine, "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["machines"]
    assert found["fits"] is ("DOES NOT FIT" not in said)
    peak = found["phases"][found["peak"]]["total"] / GB
    assert f"about {peak:.1f} GB at the peak ({found['peak']})" in said.replace("\n# ", " ")
