"""The course's results: controls have nothing to learn, and the page says what was recorded."""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from runner.recipe.load import load_recipe
from runner.recipe.methods import METHODS as OF_THE_RUNNER
from tests import method_results
from tests.chain import ROOT, Checkout
from tests.method_curves import curves
from tests.method_results import (
    BEGIN,
    END,
    EXCHANGED,
    HELD_OUT,
    METHODS,
    PAGE,
    PICTURE,
    SEED,
    Method,
    curve_points,
    deal_answers,
    deal_labels,
    divided,
    exchange_sides,
    loss_change,
    measured,
    picture,
    read_record,
    read_rows,
    results_of,
    shuffle_words,
    sources,
    with_tables,
    write_control,
)

PAIRS = [{"prompt": f"Q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(40)]


def each_method() -> Any:
    return pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


# --- controls


def test_half_of_the_pairs_are_exchanged_and_none_is_lost() -> None:
    made = exchange_sides(PAIRS, random.Random(1))
    exchanged = [new["chosen"] == old["rejected"] for new, old in zip(made, PAIRS, strict=True)]
    assert sum(exchanged) == 20
    assert [{*new.values()} for new in made] == [{*old.values()} for old in PAIRS]
    assert made == exchange_sides(PAIRS, random.Random(1))
    assert made != exchange_sides(PAIRS, random.Random(2))


def test_as_many_labels_are_dealt_as_there_were_and_about_half_are_wrong() -> None:
    rows = [{"prompt": f"Q{n}", "completion": "x", "label": n % 2 == 0} for n in range(200)]
    made = deal_labels(rows, random.Random(1))
    assert sum(row["label"] for row in made) == 100
    assert [row["prompt"] for row in made] == [row["prompt"] for row in rows]
    changed = sum(new["label"] != old["label"] for new, old in zip(made, rows, strict=True))
    assert 70 < changed < 130


def test_every_right_answer_is_dealt_to_some_question_and_few_to_their_own() -> None:
    rows = [{"prompt": f"Q{n}", "answer": n} for n in range(60)]
    made = deal_answers(rows, random.Random(1))
    assert [row["prompt"] for row in made] == [row["prompt"] for row in rows]
    assert sorted(row["answer"] for row in made) == list(range(60))
    assert sum(new == old for new, old in zip(made, rows, strict=True)) < 5


def test_a_shuffled_text_has_the_same_words() -> None:
    row = {"text": "Batch. The rows that are looked at together in one step."}
    (made,) = shuffle_words([row], random.Random(1))
    assert made != row
    assert Counter(made["text"].split()) == Counter(row["text"].split())


def copy_sources(method: Method, project: Path) -> None:
    for name in sources(method):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes((ROOT / name).read_bytes())
    (project / ".git").mkdir()


@pytest.mark.parametrize("name", [name for name, each in METHODS.items() if not each.scorer])
def test_a_control_differs_from_its_recipe_in_its_training_rows_alone(
    name: str, tmp_path: Path
) -> None:
    method = METHODS[name]
    copy_sources(method, tmp_path)
    recipe, control = (
        load_recipe(tmp_path / file) for file in (method.file, write_control(method, tmp_path))
    )
    assert (recipe.seed, recipe.data.validation.fraction) == (SEED, method.fraction)
    assert recipe.name == method.name
    assert (control.train, control.evaluate, control.model) == (
        recipe.train,
        recipe.evaluate,
        recipe.model,
    )
    train, held = divided(read_rows(ROOT / "recipes/data" / method.data), method.fraction)
    files = [
        control.resolve(each.path) for each in (*control.data.train, *control.data.validation.files)
    ]
    learnt, asked = (read_rows(Path(file)) for file in files)
    assert asked == held
    assert len(learnt) == len(train)
    assert learnt != train


def test_the_control_of_ppo_learns_from_a_reward_model_that_says_nothing(tmp_path: Path) -> None:
    method = METHODS["ppo"]
    copy_sources(method, tmp_path)
    recipe, control = (
        load_recipe(tmp_path / file) for file in (method.file, write_control(method, tmp_path))
    )
    assert (control.name, control.data, control.train) == ("ppo-control", recipe.data, recipe.train)
    assert (recipe.scorer and recipe.scorer.name) == "reward"
    assert (control.scorer and control.scorer.name) == "reward-control"
    assert control.scorer
    assert control.scorer.seed != recipe.scorer.seed  # what a random head likes is not shared
    rows = [read_rows(Path(control.scorer.resolve(each.path)))
            for each in control.scorer.data.train]  # fmt: skip
    train, _ = divided(read_rows(ROOT / "recipes/data" / METHODS["reward"].data))
    assert rows == [exchange_sides(train, random.Random(EXCHANGED))]


# --- what a run says


def write_run(folder: Path, measures: dict[str, Any], trace: list[dict[str, Any]]) -> Path:
    (folder / "evaluation").mkdir(parents=True)
    stages = [{"name": "evaluate", "measures": measures}]
    (folder / "run.json").write_text(json.dumps({"stages": stages, "platform": "cpu-of-the-test"}))
    (folder / "trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in trace))
    return folder


def test_a_run_is_read_with_its_interval_and_its_curve(tmp_path: Path) -> None:
    measures = {
        "pairs": 35,
        "validation_rows": 70,
        "preference_margin_change": 9.05449,
        "preference_margin_change_low": 7.87,
        "preference_margin_change_high": 10.3,
    }
    trace = [{"step": 1, "rewards/margins": 0.0}, {"step": 2, "rewards/margins": 0.123456}]
    found = measured(METHODS["dpo"], write_run(tmp_path / "run", measures, trace))
    assert found == {
        "value": 9.0545,
        "low": 7.87,
        "high": 10.3,
        "held_out": 35,
        "curve": [[1, 0.0], [2, 0.1235]],
    }


def test_a_step_without_both_labels_has_no_point(tmp_path: Path) -> None:
    name = "preference_margin_change"
    measures = {name: 1.0, f"{name}_low": 0.5, f"{name}_high": 1.5, "validation_rows": 74}
    trace = [{"step": 1, "rewards/margins": None}, {"step": 2}, {"step": 3, "rewards/margins": 0.5}]
    found = measured(METHODS["kto"], write_run(tmp_path / "run", measures, trace))
    assert found["curve"] == [[3, 0.5]]
    assert found["held_out"] == 74


def test_the_change_of_the_loss_is_of_a_token(tmp_path: Path) -> None:
    lines = [{"schema": 1}] + [
        {"kind": "row", "tokens": n, "base": {"loss": 3.0 * n}, "tuned": {"loss": 2.5 * n}}
        for n in (5, 10, 20)
    ]
    lines.append({"kind": "neutral", "tokens": 9, "base": {"loss": 1.0}, "tuned": {"loss": 9.0}})
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert loss_change(path) == {
        "loss_change": -0.5,
        "loss_change_low": -0.5,
        "loss_change_high": -0.5,
    }


def test_points_of_a_curve_are_means_of_as_many_steps() -> None:
    points = curve_points([[step, float(step)] for step in range(1, 13)])
    assert points[0] == (1, 2, 1.5)
    assert points[-1] == (11, 12, 11.5)
    assert len(points) == 6


@dataclass(frozen=True)
class Scripted(Checkout):
    """Runs nothing: each run of a recipe leaves `values[its name]` and these held-out bytes."""

    values: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, bytes] = field(default_factory=dict)

    def recipe(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        name = load_recipe(self.folder / arguments[1]).name
        if name not in self.values:
            return subprocess.CompletedProcess(arguments, 1, "E522 not a number", "")
        run = self.folder / "runs" / name / "latest"
        measure = METHODS["dpo"].measure
        measures = {"pairs": 35, "validation_rows": 70} | {
            f"{measure}{end}": self.values[name] + more
            for end, more in (("", 0), ("_low", -1), ("_high", 1))
        }
        write_run(run, measures, [{"step": 1, "rewards/margins": 0.5}])
        (run / HELD_OUT).parent.mkdir()
        (run / HELD_OUT).write_bytes(self.held_out.get(name, b"the same"))
        return subprocess.CompletedProcess(arguments, 0, "", "")


def scripted(folder: Path, **more: Any) -> Scripted:
    copy_sources(METHODS["dpo"], folder)
    return Scripted(folder, {}, folder, **more)


def test_recipe_and_control_are_both_run(tmp_path: Path) -> None:
    found = results_of(METHODS["dpo"], scripted(tmp_path, values={"dpo": 9.0, "dpo-control": 0.0}))
    assert (found["recipe"]["value"], found["control"]["value"]) == (9.0, 0.0)
    assert found["platform"] == "cpu-of-the-test"
    assert found["sources"] == sources(METHODS["dpo"])


def test_a_control_with_a_reward_model_of_its_own_is_judged_by_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its own says would be a measure of something else."""
    asked = []

    def judge(run: Path, by: Path, _: Checkout) -> dict[str, Any]:
        asked.append((run.parent.name, by.parent.name))
        name = METHODS["dpo"].measure
        return {name: 0.25, f"{name}_low": -1.0, f"{name}_high": 1.5, "validation_rows": 35}

    monkeypatch.setattr(method_results, "judged", judge)
    monkeypatch.setattr(method_results, "write_control", lambda *_: "dpo-control.yaml")
    checkout = scripted(tmp_path, values={"dpo": 9.0, "dpo-control": 7.0})
    (tmp_path / "dpo-control.yaml").write_text(
        json.dumps({"extends": METHODS["dpo"].file, "name": "dpo-control"})
    )
    found = results_of(replace(METHODS["dpo"], scorer="reward"), checkout)
    assert asked == [("dpo-control", "dpo")]
    assert (found["recipe"]["value"], found["control"]["value"]) == (9.0, 0.25)


def test_a_run_that_fails_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"dpo-control\.yaml ended with 1:\nE522"):
        results_of(METHODS["dpo"], scripted(tmp_path, values={"dpo": 9.0}))


def test_other_held_out_rows_are_no_control(tmp_path: Path) -> None:
    values = {"dpo": 9.0, "dpo-control": 0.0}
    other = scripted(tmp_path, values=values, held_out={"dpo-control": b"others"})
    with pytest.raises(RuntimeError, match="measured on other rows"):
        results_of(METHODS["dpo"], other)


# --- the record, the page, the picture


def test_the_record_has_every_method_of_the_table() -> None:
    assert list(read_record()) == list(METHODS)
    assert {recipe_method(method) for method in METHODS.values()} >= {
        "dpo",
        "orpo",
        "simpo",
        "kto",
        "reward",
        "pretrain",
        "grpo",
        "ppo",
    }


def recipe_method(method: Method) -> str:
    found = load_recipe(ROOT / method.file).train.method
    assert found in OF_THE_RUNNER
    return found


@each_method()
def test_the_record_is_of_the_recipe_and_data_that_are_here(method: Method) -> None:
    assert read_record()[method.name]["sources"] == sources(method), (
        f"changed since it was measured: python -m tests.method_results {method.name}"
    )


def test_a_changed_recipe_is_noticed(tmp_path: Path) -> None:
    method = METHODS["dpo"]
    copy_sources(method, tmp_path)
    assert sources(method, tmp_path) == sources(method)
    with (tmp_path / method.file).open("a") as file:
        file.write("# more\n")
    assert sources(method, tmp_path) != sources(method)


def test_the_page_has_the_numbers_of_the_record() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page, read_record()) == page, "python -m tests.method_results --page"
    assert PICTURE.read_text(encoding="utf-8") == picture(read_record())


def test_another_number_gives_another_page() -> None:
    page, record = PAGE.read_text(encoding="utf-8"), read_record()
    record["dpo"]["recipe"]["value"] += 1
    assert with_tables(page, record) != page


def test_what_is_by_hand_stays() -> None:
    made = with_tables(f"above\n{BEGIN}\nold\n{END}\nbelow\n", read_record())
    assert made.startswith(f"above\n{BEGIN}\n\n| recipe |")
    assert made.endswith(f"|\n\n{END}\nbelow\n")
    with pytest.raises(ValueError, match="is not in list"):
        with_tables("a page without a place for tables\n", read_record())


@each_method()
def test_recipe_and_control_are_apart_in_the_record(method: Method) -> None:
    """Also of a record that was edited by hand."""
    found = read_record()[method.name]
    low, high = (found["recipe"][end] for end in ("low", "high"))
    assert not low <= method.neutral <= high
    assert high < found["control"]["low"] or found["control"]["high"] < low


def test_a_picture_has_two_lines_a_panel_and_both_lie_inside() -> None:
    drawn = curves(
        [("a < b", [(1, 0.0), (24, 5.0)], [(1, -1.0), (24, 0.0)]), ("c", [(1, 1)], [(1, 1)])]
    )
    lines = re.findall(r'<polyline [^>]*points="([^"]*)"', drawn)
    assert len(lines) == 4
    assert "a &lt; b" in drawn
    for x, y in (point.split(",") for line in lines for point in line.split()):
        assert 0 <= float(x) <= 300
        assert 0 <= float(y) <= 200


def test_the_record_is_written_in_the_order_of_the_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method_results, "RECORD", tmp_path / "new" / "results.json")
    found: dict[str, Any] = {"kto": {"value": 2.0}, "dpo": {"value": 1.0}}
    method_results.write_record(found)
    assert list(read_record()) == ["dpo", "kto"]
    assert read_record() == found
