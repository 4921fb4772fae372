"""`recipe plan --recommend`: another method, rank or length where they suit better, and why."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runner.cli.main import main
from runner.recipe.creation.recommend import RANKS

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
QUANTIZED = "{hub: meta-llama/Llama-3.1-8B-Instruct, quantization: {load_in_4bit: true}}"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    rows = [
        {"instruction": f"{number}" * 90, "input": "", "output": "b" * 900} for number in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def recipe(
    model: str = f"{{hub: {MODEL}}}", r: int = 16, length: int = 512, more: str = "",
    adapter: str = "", rows: str = "{path: rows.jsonl, format: alpaca}",
) -> None:  # fmt: skip
    adapter = adapter or f"{{type: lora, r: {r}, lora_alpha: {2 * r}, target_modules: all-linear}}"
    Path("x.yaml").write_text(
        f"schema: 1\nname: x\nmodel: {model}\n"
        f"data: {{train: [{rows}], max_length: {length}}}\n"
        f"train: {{adapter: {adapter}, max_steps: 10, bf16: true{more}}}\n"
    )


def plan(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["plan", "x.yaml", *words]) == code
    shown = capsys.readouterr()
    return shown.err if code else shown.out


def asked(capsys: pytest.CaptureFixture[str], machine: str) -> dict[str, object]:
    shown = plan(capsys, "--recommend", "--hardware", machine, "--format", "json")
    (found,) = json.loads(shown)["recommended"]
    return dict(found)


def test_what_suits_is_told_as_what_the_recipe_has(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe()
    found = asked(capsys, "dgx-spark")
    assert found["ours"] == found["has"] == {"tuning": "lora", "rank": 16, "length": 512}
    text = plan(capsys, "--recommend", "--hardware", "dgx-spark")
    assert text.startswith("recommended on NVIDIA DGX Spark (128 GB): what the recipe has, LoRA, r")
    assert [line.split()[0] for line in text.split("\n") if line[4:5].strip()] == [
        "recommended", "method", "rank", "length"
    ]  # fmt: skip
    assert "advice" not in plan(capsys, "--hardware", "dgx-spark")


def test_rank_and_length_follow_the_data(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(r=128, length=4096)
    found = asked(capsys, "dgx-spark")
    assert found["has"] == {"tuning": "lora", "rank": RANKS[-1], "length": 4096}
    assert found["ours"] == {"tuning": "lora", "rank": 16, "length": 512}
    assert "advice" not in plan(capsys, "--hardware", "dgx-spark"), "the method is the same"
    recipe(rows="{path: rows.jsonl, format: alpaca, limit: 5}")
    less = asked(capsys, "dgx-spark")["reasons"]
    assert less != found["reasons"], "a limit is a limit of the data"


@pytest.mark.parametrize(
    ("settings", "machine", "ours"),
    [
        ({"model": QUANTIZED}, "dgx-spark", "lora"),
        ({"model": QUANTIZED}, "rtx-4090", "qlora"),
        ({"adapter": "{type: none}"}, "h200", "lora"),
        ({}, "rtx-4090", "qlora"),  # in 16 bits nothing would be to spare
    ],
)
def test_another_method_is_said_in_a_line_unasked(
    settings: dict[str, str],
    machine: str,
    ours: str,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe(**settings)  # type: ignore[arg-type]
    found = asked(capsys, machine)
    assert isinstance(found["ours"], dict)
    assert isinstance(found["has"], dict)
    assert found["ours"]["tuning"] == ours
    lines = [line for line in plan(capsys, "--hardware", machine).split("\n") if "advice" in line]
    assert len(lines) == (found["has"]["tuning"] != ours)
    assert all(
        f"why: recipe plan x.yaml --hardware {machine} --recommend" in each for each in lines
    )
    for form in ("json", "markdown"):
        assert "advice" not in plan(capsys, "--hardware", machine, "--format", form)


def test_why_4_bits_is_said_with_the_numbers_of_16(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe()
    assert "fits: about " in plan(capsys, "--hardware", "rtx-4090")
    why = " ".join(plan(capsys, "--recommend", "--hardware", "rtx-4090").split())
    assert re.search(
        r"16 bits, with rows of 512 tokens, would take 1\d\.\d of the 23\.7 GB that GeForce", why
    ) or re.search(r"would take 2\d\.\d of the 23\.7 GB that GeForce", why)
    assert "It fits, but less than a quarter of that stays free" in why
    assert "does not fit" not in why
    Path("card.json").write_text('{"title": "own", "memory": 12e9, "usable": 1, "flops": 1e13}')
    why = " ".join(plan(capsys, "--recommend", "--hardware", "card.json").split())
    assert re.search(r"would take \d\d\.\d GB, more than the 12\.0 GB that own", why)


def test_what_fits_nowhere_is_said_with_its_numbers(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(model="{hub: meta-llama/Llama-3.1-70B}")
    assert asked(capsys, "rtx-4090")["ours"] is None
    text = plan(capsys, "--recommend", "--hardware", "rtx-4090")
    assert "a smaller model" in text
    assert "Nothing fits: even qlora needs about" in text


def test_the_table_has_a_row_for_each_machine(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe()
    shown = plan(capsys, "--recommend", "--hardware", "all", "--format", "markdown")
    assert len(shown.strip().split("\n")) == 2 + 4


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"model": "{hub: someone/something}"}, "how large the model is", "recipe lock x.yaml"),
        ({"rows": "{hub: a/rows, revision: main, file: t.jsonl, format: alpaca}"}, "a/rows/t.jsonl",
         "beside the recipe"),
        ({"rows": "{path: rows.jsonl.zst, format: alpaca}"}, "not read while planning", "convert"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_an_error_when_asked_and_silent_otherwise(
    settings: dict[str, str],
    message: str,
    hint: str,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("rows.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd and more")
    recipe(**settings)  # type: ignore[arg-type]
    told = plan(capsys, "--recommend", "--hardware", "dgx-spark", code=2)
    assert "error[E955]" in told
    assert message in told
    assert hint in told
    assert "advice" not in plan(capsys)


def test_damaged_rows_are_an_error_when_asked(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe()
    with Path("rows.jsonl").open("a") as rows:
        rows.write("{broken\n")
    assert "error[E157]" in plan(capsys, "--recommend", "--hardware", "dgx-spark", code=2)
    assert "advice" not in plan(capsys, "--hardware", "dgx-spark")


def test_a_reward_model_of_another_recipe_is_not_guessed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    from tests.chain import ROOT

    shutil.copytree(ROOT / "recipes", project / "recipes")
    shutil.copy(
        project / "recipes" / "course" / "10.5-ppo.yaml", project / "recipes" / "course" / "x.yaml"
    )
    capsys.readouterr()
    assert main(["plan", "recipes/course/x.yaml", "--recommend", "--hardware", "dgx-spark"]) == 2
    assert "what suits method ppo" in capsys.readouterr().err
