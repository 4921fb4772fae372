"""`recipe compare`: what is side by side, what is said of it, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.compare.candidates import candidates
from runner.compare.result import as_data
from runner.report.compare_html import as_html
from runner.report.compare_text import price_lines, value_rows
from runner.scripts.evaluation.examples import FILE, Example, Group, content_id, write_examples
from runner.stages.contract import Class, FileEntry, Outputs
from runner.verify.run import open_run
from tests.evaluated_runs import questions, relist, rows, write_evaluated_run
from tests.finished_runs import change_record, write_finished_run
from tests.html_page import Loaded

ROOT = Path(__file__).parents[2]


def compared(*runs: Path) -> dict[str, Any]:
    return as_data(candidates([open_run(run) for run in runs]))


def difference(data: dict[str, Any], second: str, first: str, measure: str) -> dict[str, Any]:
    """One line of the comparison of two models."""
    for found in data["comparisons"]:
        if (found["first"], found["second"]) == (first, second):
            for line in found["differences"]:
                if line["measure"] == measure:
                    return dict(line)
    raise AssertionError(f"no {measure} of {second} minus {first}")


def write(tmp_path: Path, name: str, *examples: list[Example], **more: Any) -> Path:
    return write_evaluated_run(
        tmp_path / name, name, [e for each in examples for e in each], **more
    )


def test_base_and_every_run_are_side_by_side(tmp_path: Path) -> None:
    sft, dpo = (
        write(tmp_path, "sft", rows(60, -0.5)),
        write(tmp_path, "dpo", rows(60, -0.9, seed=2)),
    )
    data = compared(sft, dpo)
    assert [model["name"] for model in data["models"]] == ["base", "sft", "dpo"]
    pairs = [(found["first"], found["second"]) for found in data["comparisons"]]
    assert pairs == [("base", "sft"), ("base", "dpo"), ("sft", "dpo")]
    for second, first, change in (("sft", "base", -0.5), ("dpo", "base", -0.9)):
        found = difference(data, second, first, "loss")
        assert found["estimate"]["value"] == pytest.approx(change, abs=0.05)
        assert found["verdict"] == "better"
        assert found["perplexity_ratio"]["high"] < 1
    found = difference(data, "dpo", "sft", "loss")
    assert found["estimate"]["low"] < -0.4 < found["estimate"]["high"]
    assert not data["notes"]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (rows(9, -0.5), [], ["second"]),
        (rows(9, -0.5), questions([(True, True)]), ["second"]),
        (questions([(True, True)]), questions([(True, False)]), []),
        (questions([(True, True)]), [], ["second"]),
        (rows(9, -0.5), rows(9, -0.6), []),
    ],
)
def test_a_run_that_held_out_no_rows_is_named(
    tmp_path: Path, first: list[Example], second: list[Example], said: list[str]
) -> None:
    data = compared(write(tmp_path, "first", first), write(tmp_path, "second", second))
    notes = [note["message"] for note in data["notes"] if note["code"] == "W269"]
    assert [note.split(" held out no rows: ")[0] for note in notes] == said


def test_a_paired_interval_is_narrower_than_the_spread_of_the_rows(tmp_path: Path) -> None:
    data = compared(write(tmp_path, "sft", rows(60, -0.1, spread=0.02)))
    tuned = next(model for model in data["models"] if model["name"] == "sft")["values"]["loss"]
    change = difference(data, "sft", "base", "loss")["estimate"]
    assert change["high"] < 0
    assert change["high"] - change["low"] < 0.2 * (tuned["high"] - tuned["low"])


def test_a_run_with_itself_differs_by_nothing(tmp_path: Path) -> None:
    run = write(tmp_path, "sft", rows(40, -0.5), questions([(False, True)] * 40))
    data = compared(run, run)
    names = [model["name"] for model in data["models"] if model["side"] == "tuned"]
    for line in data["comparisons"][-1]["differences"]:
        found = line["estimate"]
        assert (found["value"], found["low"], found["high"]) == (0, 0, 0)
        assert line["verdict"] == "equal on every example"
        assert line["most"] == []
    assert names == ["sft/1 (1)", "sft/1 (2)"]


def test_exchanged_runs_give_the_mirrored_comparison(tmp_path: Path) -> None:
    one = write(tmp_path, "one", rows(50, -0.3), questions([(False, True), (True, False)] * 20))
    two = write(tmp_path, "two", rows(50, 0.2, seed=2), questions([(False, False)] * 40))
    there, back = compared(one, two), compared(two, one)
    for measure in ("loss", "questions_hit"):
        forth = difference(there, "two", "one", measure)["estimate"]
        again = difference(back, "one", "two", measure)["estimate"]
        assert again["value"] == -forth["value"]
        assert (again["low"], again["high"]) == (-forth["high"], -forth["low"])


def test_the_order_of_the_rows_in_the_file_changes_nothing(tmp_path: Path) -> None:
    made = rows(40, -0.3)
    one, two = write(tmp_path, "a", made), write(tmp_path, "b", made[::-1])
    assert (one / "evaluation" / FILE).read_bytes() == (two / "evaluation" / FILE).read_bytes()


def test_only_common_rows_are_compared_and_the_digests_say_so(tmp_path: Path) -> None:
    one = write(tmp_path, "one", rows(40, -0.3))
    two = write(tmp_path, "two", rows(40, -0.3, first=5))
    data = compared(one, two)
    found = difference(data, "two", "one", "loss")
    assert found["estimate"]["count"] == 35
    assert (found["first_only"], found["second_only"]) == (5, 5)
    (held,) = data["comparisons"][-1]["held"]
    assert (held["same"], held["common"]) == (False, 35)
    assert held["first"]["digest"] != held["second"]["digest"]
    assert [note["code"] for note in data["notes"]] == ["W921"]


def test_nothing_in_common_is_said_and_not_compared(tmp_path: Path) -> None:
    one = write(tmp_path, "one", rows(40, -0.3))
    two = write(tmp_path, "two", rows(40, -0.3, first=100))
    found = difference(compared(one, two), "two", "one", "loss")
    assert found["estimate"] is None
    assert "nothing in common" in found["verdict"]


@pytest.mark.parametrize(
    ("count", "verdict"), [(29, "too few examples: 29"), (1, "one example: nothing can be said")]
)
def test_too_few_examples_are_never_called_better(
    count: int, verdict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path, "sft", rows(count, -2.0))
    assert difference(compared(run), "sft", "base", "loss")["verdict"] == verdict
    assert main(["compare", str(run)]) == 0
    assert verdict in " ".join(capsys.readouterr().out.split())


def test_no_difference_is_printed_without_its_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path, "sft", rows(1, -2.0))
    assert main(["compare", str(run)]) == 0
    table = capsys.readouterr().out.split("sft minus base")[1]
    line = next(line for line in table.splitlines() if "held-out loss" in line)
    assert [cell.strip() for cell in line.split("│")[2:4]] == ["-", "-"]


def test_a_width_of_nothing_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(write(tmp_path, "sft", questions([(False, True)] * 60)))]) == 0
    assert "all alike: up to 5% of others may not be" in " ".join(
        capsys.readouterr().out.replace("│", " ").split()
    )


def test_answers_of_other_lengths_are_not_compared(tmp_path: Path) -> None:
    pairs = [(False, True)] * 40
    one = write(tmp_path, "one", questions(pairs))
    two = write(tmp_path, "two", questions(pairs), max_new_tokens=8)
    found = difference(compared(one, two), "two", "one", "questions_hit")
    assert found["verdict"] == "answers of at most 64 and 8 tokens"


def test_the_distance_from_another_base_is_not_compared(tmp_path: Path) -> None:
    def neutral(kl: float) -> list[Example]:
        return [
            Example("neutral", content_id(n), {}, {"base": {"kl": 0.0}, "tuned": {"kl": kl + n}}, 9)
            for n in range(40)
        ]

    one, two = (write(tmp_path, name, neutral(kl)) for name, kl in (("one", 0.1), ("two", 0.2)))
    record = json.loads((two / "run.json").read_text())
    record["resolved"]["model"]["dtype"] = "bfloat16"
    change_record(two, resolved=record["resolved"])
    data = compared(one, two)
    assert [model["name"] for model in data["models"]][::2] == ["base of one", "base of two"]
    assert difference(data, "two", "one", "neutral_kl")["verdict"] == "their bases differ"
    assert difference(data, "two", "base of two", "neutral_kl")["verdict"] == (
        "how far it has moved: never below 0"
    )
    same_base = compared(one, write(tmp_path, "three", neutral(0.3)))
    assert difference(same_base, "three", "one", "neutral_kl")["verdict"] == "worse"


def test_the_examples_that_differ_most_come_first(tmp_path: Path) -> None:
    made = rows(40, 0.0, spread=0.01)
    results = {name: dict(values) for name, values in made[7].results.items()}
    results["tuned"]["loss"] += 100.0
    changed = [*made[:7], Example("row", made[7].id, made[7].shown, results, made[7].tokens)]
    run = write(tmp_path, "sft", [*changed, *made[8:]])
    most = difference(compared(run), "sft", "base", "loss")["most"]
    assert most[0]["prompt"] == "Row 7?"
    assert len(most) == 5


@pytest.mark.parametrize("what", ["dtype", "template"])
def test_a_base_that_is_asked_otherwise_is_another_base(what: str, tmp_path: Path) -> None:
    one, two = (write(tmp_path, name, rows(40, -0.5)) for name in ("one", "two"))
    assert len(compared(one, two)["models"]) == 3
    if what == "dtype":
        record = json.loads((two / "run.json").read_text())
        record["resolved"]["model"]["dtype"] = "bfloat16"
        change_record(two, resolved=record["resolved"])
    else:
        manifest = json.loads((two / "manifest.json").read_text())
        entry = {"class": "portable", "size": 1, "sha256": "0" * 64}
        manifest["stages"]["prepare"]["chat_template.jinja"] = entry
        (two / "manifest.json").write_text(json.dumps(manifest))
    data = compared(one, two)
    assert [model["name"] for model in data["models"]] == [
        "base of one", "one", "base of two", "two"
    ]  # fmt: skip
    pairs = [(found["first"], found["second"]) for found in data["comparisons"]]
    assert pairs == [
        ("base of one", "one"), ("base of one", "two"), ("base of two", "two"), ("one", "two")
    ]  # fmt: skip


def test_other_platforms_are_told(tmp_path: Path) -> None:
    one, two = (write(tmp_path, name, rows(40, -0.5)) for name in ("one", "two"))
    change_record(two, platform={"name": "cuda-test"})
    (note,) = compared(one, two)["notes"]
    assert note["code"] == "W922"
    assert "cuda-test" in note["message"]


def test_a_model_without_a_base_is_compared_with_another(tmp_path: Path) -> None:
    """A reward model."""

    def scores(change: float) -> list[Example]:
        return [
            Example("pair-reward", content_id(n), {}, {"tuned": {"margin": n % 7 - 3 + change}})
            for n in range(40)
        ]

    runs = []
    for name, change in (("one", 0.0), ("two", 1.0)):
        run = write(tmp_path, name, scores(change))
        record = json.loads((run / "run.json").read_text())
        next(s for s in record["stages"] if s["name"] == "evaluate")["measures"] = {}
        change_record(run, stages=record["stages"])
        runs.append(run)
    data = compared(*runs)
    assert [model["name"] for model in data["models"]] == ["one", "two"]
    found = difference(data, "two", "one", "preference_margin_reward")
    assert (found["estimate"]["value"], found["verdict"]) == (1, "better")
    assert compared(runs[0])["comparisons"] == []


# --- values that do not compare, side by side


def pairs(kind: str, first: float, *, count: int = 3) -> list[Example]:
    """Held-out pairs; the base's margins begin at `first`, the tuned model's are greater by 1."""
    return [
        Example(
            kind,
            content_id([kind, n]),
            {},
            {
                side: {"margin": first + n + more, "preferred": first + n + more > 0}
                for side, more in (("base", 0.0), ("tuned", 1.0))
            },
        )
        for n in range(count)
    ]


def test_sums_and_means_of_log_probabilities_are_never_pooled(tmp_path: Path) -> None:
    data = compared(
        write(tmp_path, "dpo", pairs("pair-sum", -1.0)),
        write(tmp_path, "ipo", pairs("pair-mean", 5.0)),
    )
    assert [model["name"] for model in data["models"]] == ["base", "dpo", "ipo"]
    base = data["models"][0]["values"]
    sums, means = base["preference_margin"], base["preference_margin_mean"]
    assert (sums["value"], sums["count"]) == (0.0, 3)
    assert (means["value"], means["count"]) == (6.0, 3)
    assert base["preference_accuracy"]["value"] == pytest.approx(1 / 3)
    assert base["preference_accuracy_mean"]["value"] == 1
    rows = {row[0]: row[1:] for row in value_rows(data)}
    assert rows["margin of the better answer, nats"][2] == "-"
    assert rows["margin of the better answer, nats a token"][1] == "-"
    assert difference(data, "ipo", "dpo", "preference_margin")["verdict"] == "not measured of ipo"


def test_values_of_other_rows_are_marked_in_their_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sft, dpo = write(tmp_path, "sft", rows(40, -0.5)), write(tmp_path, "dpo", rows(9, 1, first=50))
    record = json.loads((dpo / "run.json").read_text())
    record["resolved"]["model"]["dtype"] = "bfloat16"
    change_record(dpo, resolved=record["resolved"])
    data = compared(sft, dpo)
    for row in value_rows(data)[:2]:  # the loss, and its perplexity
        assert [cell[-6:] for cell in row[1:]] == ["rows A", "rows A", "rows B", "rows B"]
    assert main(["compare", str(sft), str(dpo)]) == 0
    assert "values of one line with different letters are of" in capsys.readouterr().out
    assert "rows B" in as_html(data)
    assert "with different letters" in as_html(data)


def test_rows_that_are_not_shared_have_a_hint_that_pairs_can_follow(tmp_path: Path) -> None:
    runs = (write(tmp_path, name, rows(9, 0.1, first=n)) for n, name in ((0, "sft"), (3, "dpo")))
    (note,) = compared(*runs)["notes"]
    assert note["code"] == "W921"
    page = (ROOT / "docs" / "evaluation.md").read_text()
    (name,) = re.findall(r"docs/(\w+)\.md", note["hint"])
    assert name == "evaluation"
    assert "--to messages --lossy" in page


def test_no_training_is_said_to_take_0_seconds() -> None:
    price = {"measure": "f1", "seconds": 0.2, "low": 0.0001, "high": 2.2}
    (line,) = price_lines({"measures": [{"name": "f1", "title": "F1"}]}, {"prices": [price]})
    assert line.strip() == "0.01 of F1: less than 1 s of training [less than 1 s, 2 s]"


def test_values_of_the_same_rows_have_no_mark(tmp_path: Path) -> None:
    data = compared(*(write(tmp_path, name, rows(40, -0.5)) for name in ("one", "two")))
    assert not any("rows" in cell for row in value_rows(data) for cell in row[1:])
    assert "with different letters" not in as_html(data)


# --- a run that started from another one


def started_from(run: Path, name: str, result: str) -> None:
    """Let the run's base be what a run of recipe `name` gave."""
    record = json.loads((run / "run.json").read_text())
    record["resolved"]["model"] = {"recipe": f"{name}.yaml", "dtype": "bfloat16"}
    change_record(
        run, resolved=record["resolved"], base={"recipe": name, "result": result, "stages": []}
    )


def gave(run: Path) -> str:
    """The digest of a run's merged model, as the run of a recipe that starts from it has it."""
    entries = json.loads((run / "manifest.json").read_text())["stages"]["merge"]
    files = {
        path: FileEntry(path, each["size"], each["sha256"], Class.PORTABLE)
        for path, each in entries.items()
    }
    return Outputs("merge", "", run, files).digest("model/*")


def test_the_base_of_a_run_may_be_the_model_of_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sft = write(tmp_path, "sft", questions([(False, True)] * 40))
    dpo = write(tmp_path, "dpo", rows(40, -0.9), questions([(True, True)] * 40))
    started_from(dpo, "sft", gave(sft))
    data = compared(sft, dpo)
    head = "sft, the base of dpo"
    assert [model["name"] for model in data["models"]] == ["base of sft", "sft", head, "dpo"]
    found = difference(data, "dpo", "sft", "loss")
    assert found["estimate"] == difference(data, "dpo", head, "loss")["estimate"]
    assert found["verdict"] == "better"
    assert difference(data, "dpo", "sft", "questions_hit")["estimate"]["count"] == 40
    assert [each["through"] for each in data["comparisons"]] == [[], [], [], [head]]
    back = difference(compared(dpo, sft), "sft", "dpo", "loss")["estimate"]
    assert back["value"] == -found["estimate"]["value"]
    assert main(["compare", str(sft), str(dpo)]) == 0
    said = capsys.readouterr().out
    assert f"what was not measured in the one's own run is of: {head}" in said
    assert f"is of: {head}." in as_html(data)


@pytest.mark.parametrize("why", ["other bytes", "no word of it", "not from a recipe"])
def test_another_model_is_not_taken_for_the_base(why: str, tmp_path: Path) -> None:
    sft, dpo = (
        write(tmp_path, "sft", questions([(False, True)] * 40)),
        write(tmp_path, "dpo", rows(40, -0.9)),
    )
    started_from(dpo, "sft", "0" * 64 if why == "other bytes" else gave(sft))
    record = json.loads((dpo / "run.json").read_text())
    if why == "no word of it":
        change_record(dpo, base=None)
    if why == "not from a recipe":  # the reward model of it is: `base` names that one
        record["resolved"]["model"] = {"path": "base", "dtype": "bfloat16"}
        change_record(dpo, resolved=record["resolved"])
    data = compared(sft, dpo)
    assert [model["name"] for model in data["models"]][2] == "base of dpo"
    assert difference(data, "dpo", "sft", "loss")["verdict"] == ("of sft only the mean was kept")


# --- runs that kept no examples


def test_questions_of_an_older_run_are_compared_all_the_same(tmp_path: Path) -> None:
    made = []
    for name, right in (("one", "yes"), ("two", "no")):
        run = write_finished_run(tmp_path / name)
        change_record(run, recipe=name)
        lines = [
            {"question": f"Q{n}?", "expect": ["YES"], "base": "hm", "tuned": f"{right} {n}"}
            for n in range(40)
        ]
        lines.append({"question": "A held-out prompt", "base": "x", "tuned": "y"})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run / "evaluation" / "answers.jsonl").write_text(text)
        relist(run, "answers.jsonl")
        made.append(run)
    data = compared(*made)
    found = difference(data, "two", "one", "questions_hit")
    assert (found["estimate"]["value"], found["estimate"]["count"]) == (-1, 40)
    assert found["verdict"] == "worse"
    loss = difference(data, "one", "base", "loss")
    assert (loss["estimate"], loss["why"]) == (None, "of one only the mean was kept")
    assert [note["code"] for note in data["notes"]] == ["W920"]
    values = data["models"][1]["values"]["loss"]
    assert (values["value"], values["low"]) == (2.5, None)


def test_a_mean_is_not_compared_with_single_examples(tmp_path: Path) -> None:
    one, two = write(tmp_path, "one", rows(40, -0.5)), write_finished_run(tmp_path / "two")
    change_record(two, recipe="two")
    (two / "evaluation" / "answers.jsonl").write_text("")
    relist(two, "answers.jsonl")
    found = difference(compared(one, two), "two", "one", "loss")
    assert (found["estimate"], found["verdict"]) == (None, "of two only the mean was kept")


# --- what cannot be compared


def refused(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["compare", str(run)]) == 2
    return capsys.readouterr().err


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "E701" in refused(tmp_path, capsys)
    assert "E701" in refused(tmp_path / "nowhere", capsys)


def test_a_run_that_has_not_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path, "sft", rows(3, 0.1))
    (run / "manifest.json").unlink()
    assert "it has begun and not ended" in refused(run, capsys)


def test_a_run_that_ended_before_its_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path, "sft", rows(3, 0.1))
    record = json.loads((run / "run.json").read_text())
    manifest = json.loads((run / "manifest.json").read_text())
    for name in ("evaluate", "merge"):
        del manifest["stages"][name]
    (run / "manifest.json").write_text(json.dumps(manifest))
    stages = [each for each in record["stages"] if each["name"] in manifest["stages"]]
    change_record(run, stages=stages, until="train")
    said = refused(run, capsys)
    assert "E920" in said
    assert "it ended after train" in said
    assert "next: run its recipe without --until: recipe run " in said
    assert "add " not in said
    for name, broken in (("0", ""), ("2", "{")):  # older and evaluated, newer and damaged
        shutil.copytree(write(tmp_path / name, "sft", rows(3, 0.1)), run.parent / name)
        if broken:
            (run.parent / name / "run.json").write_text(broken)
    (run.parent / "latest").symlink_to(run.name)
    said = refused(run.parent, capsys)
    assert f"next: name the run that was evaluated: {run.parent / '0'}; or run its" in said
    change_record(run, resolved={**record["resolved"], "evaluate": None}, until=None)
    assert '; or add "evaluate: {metrics: true}" to its recipe' in refused(run, capsys)


def test_a_run_of_another_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path, "sft", rows(3, 0.1))
    change_record(run, schema=2)
    assert "E922" in refused(run, capsys)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"schema": 1', '"schema": 2', "its schema is 2"),
        ('"max_new_tokens": 64', '"max_new_tokens": "64"', "does not say max_new_tokens"),
        ('"kind": "row"', '"kind": "cow"', "line 2 is no example"),
        ('"tokens": ', '"tokens": -', "line 2 is no example"),
        ('{"loss": ', '{"loss": NaN, "x": ', "line 2 holds NaN"),
        ('{"loss": ', '{"loss": 1e999, "x": ', "loss is no number"),
        ('{"loss": ', '{"loss": [], "x": ', "loss is neither text nor number"),
        ('"kind"', "'kind'", "line 2 is no JSON"),
    ],
)
def test_damaged_examples_are_refused(
    old: str, new: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path, "sft", rows(3, 0.1))
    path = run / "evaluation" / FILE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    said = refused(run, capsys)
    assert "it is not what the run wrote" in said  # whatever it says now
    relist(run, FILE)
    said = refused(run, capsys)
    assert "E921" in said
    assert why in said


def test_a_file_in_the_place_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path, "sft", rows(3, 0.1))
    (tmp_path / "page").touch()
    assert main(["compare", str(run), "-o", str(tmp_path / "page")]) == 2
    assert "E923" in capsys.readouterr().err


# --- reports


def test_the_page_loads_nothing_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sft = write(tmp_path, "sft", rows(40, -0.5), questions([(False, True), (True, False)] * 20))
    dpo = write(tmp_path, "dpo", rows(20, -0.9))
    folder = tmp_path / "new" / "page"
    words = ["compare", str(sft), str(dpo), "-o", str(folder), "--format", "json"]
    assert main(words) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == json.loads((folder / "compare.json").read_text())
    assert data == compared(sft, dpo)
    page = (folder / "compare.html").read_text()
    assert page == as_html(data)
    seen = Loaded()
    seen.feed(page)
    assert (seen.loads, seen.runs) == ([], [])
    assert "&lt;script&gt;no" in page
    assert page.count("<circle") == sum(
        line["estimate"] is not None and line["estimate"]["low"] is not None
        for found in data["comparisons"]
        for line in found["differences"]
    )
    for word in ("dpo minus sft", "NOT the same", "too few examples: 20", "W921"):
        assert word in page


def test_a_terminal_shows_values_differences_and_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path, "sft", rows(40, -0.5), questions([(True, False)] * 40))
    assert main(["compare", str(run)]) == 0
    said = capsys.readouterr().out
    for word in ("perplexity", "sft minus base", "better", "worse", "most different in", "Row "):
        assert word in said
    assert "the same 40 (sha256 " in said


def tasks(name: str, scores: list[tuple[float, float]]) -> list[Example]:
    """Rows of a task, with the score of base and tuned model."""
    return [
        Example(
            "task",
            content_id([name, number]),
            {"task": name, "prompt": f"{name} {number}", "expected": "up"},
            {
                side: {"answer": "up" if score else "<i>down</i>", "acc": score}
                for side, score in zip(("base", "tuned"), pair, strict=True)
            },
        )
        for number, pair in enumerate(scores)
    ]


def with_tasks(run: Path, examples: list[Example], groups: Sequence[Group] = ()) -> Path:
    """The run, with results of tasks of lm-evaluation-harness."""
    (run / "harness").mkdir()
    write_examples(run / "harness" / FILE, 0, examples, groups)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["harness"] = {}
    (run / "manifest.json").write_text(json.dumps(manifest))
    relist(run, FILE, "harness")
    record = json.loads((run / "run.json").read_text())
    stages = [*record["stages"], {**record["stages"][0], "name": "harness", "measures": {}}]
    change_record(run, stages=stages)
    return run


def test_tasks_are_compared_one_by_one_whatever_the_length_of_other_answers(
    tmp_path: Path,
) -> None:
    sft = write(tmp_path, "sft", rows(3, -0.5), max_new_tokens=64)
    dpo = write(tmp_path, "dpo", rows(3, -0.5), max_new_tokens=32)
    capitals = [(0.0, 1.0)] * 30 + [(1.0, 1.0)] * 10
    with_tasks(sft, [*tasks("capitals", capitals), *tasks("sums", [(0.0, 0.0)] * 5)])
    with_tasks(dpo, tasks("capitals", [(0.0, 0.0)] * 30 + [(1.0, 1.0)] * 10))
    data = compared(sft, dpo)
    found = difference(data, "sft", "base", "capitals/acc")
    assert (found["estimate"]["value"], found["verdict"]) == (0.75, "better")
    assert found["most"][0]["second_answer"] == "up"
    worse = difference(data, "dpo", "sft", "capitals/acc")
    assert (worse["estimate"]["value"], worse["verdict"]) == (-0.75, "worse")
    few = difference(data, "sft", "base", "sums/acc")
    assert few["verdict"] == "too few examples: 5"
    lacking = difference(data, "dpo", "sft", "sums/acc")
    assert (lacking["estimate"], lacking["verdict"]) == (None, "not measured of dpo")
    assert {"name": "sums/acc", "title": "sums: acc", "better": 1} in data["measures"]
    assert "<i>" not in as_html(data)


EACH_THE_SAME = Group("both", ("capitals", "sums"), (("acc", None, False),))
BY_ROWS = Group("all", ("capitals", "sums"), (("acc", ("none",), True),))
WON, LOST = (0.0, 1.0), (1.0, 0.0)


def test_a_group_is_the_mean_of_its_tasks_or_of_all_their_rows(tmp_path: Path) -> None:
    run = write(tmp_path, "sft", rows(3, -0.5))
    examples = [*tasks("capitals", [WON] * 30), *tasks("sums", [LOST] * 10)]
    data = compared(with_tasks(run, examples, [EACH_THE_SAME, BY_ROWS]))
    (tuned,) = [model for model in data["models"] if model["side"] == "tuned"]
    assert tuned["values"]["group:both/acc"]["value"] == pytest.approx(0.5)
    assert tuned["values"]["group:all/acc"]["value"] == pytest.approx(0.75)
    same = difference(data, "sft", "base", "group:both/acc")
    assert same["estimate"]["value"] == pytest.approx(0.0)
    assert same["verdict"] == "no difference shown"
    by_rows = difference(data, "sft", "base", "group:all/acc")
    assert (by_rows["estimate"]["value"], by_rows["verdict"]) == (pytest.approx(0.5), "better")
    titles = {each["name"]: each["title"] for each in data["measures"]}
    assert titles["group:all/acc"] == "all, the group: acc"
    assert "all, the group: acc" in as_html(data)


def test_a_group_of_two_runs_is_that_of_the_rows_of_both(tmp_path: Path) -> None:
    """One asked fewer rows of a task: each task still counts the same."""
    sft = write(tmp_path, "sft", rows(3, -0.5))
    dpo = write(tmp_path, "dpo", rows(3, -0.5))
    whole = [*tasks("capitals", [WON] * 30), *tasks("sums", [LOST] * 10)]
    part = [*tasks("capitals", [LOST] * 30), *tasks("sums", [LOST] * 5)]
    with_tasks(sft, whole, [EACH_THE_SAME])
    with_tasks(dpo, part, [EACH_THE_SAME])
    found = difference(compared(sft, dpo), "dpo", "sft", "group:both/acc")
    assert found["estimate"]["value"] == pytest.approx(-0.5)
    assert (found["estimate"]["count"], found["first_only"]) == (35, 5)


@pytest.mark.parametrize(
    ("examples", "groups", "why"),
    [
        (tasks("capitals", [WON] * 30), [], "not measured of dpo"),
        (tasks("capitals", [WON] * 30), [EACH_THE_SAME], "some of its tasks have no rows"),
        (tasks("others", [WON] * 30), [EACH_THE_SAME], "not measured of dpo"),
    ],
    ids=["its tasks were named one by one", "a task was not asked", "none was asked"],
)
def test_half_a_group_is_not_compared_with_a_whole_one(
    tmp_path: Path, examples: list[Example], groups: list[Group], why: str
) -> None:
    sft = write(tmp_path, "sft", rows(3, -0.5))
    dpo = write(tmp_path, "dpo", rows(3, -0.5))
    with_tasks(sft, [*tasks("capitals", [WON] * 30), *tasks("sums", [LOST] * 10)], [EACH_THE_SAME])
    with_tasks(dpo, examples, groups)
    data = compared(sft, dpo)
    found = difference(data, "dpo", "sft", "group:both/acc")
    assert found["estimate"] is None
    assert found["verdict"].startswith(why)
    names = {each["name"] for each in data["measures"]}
    assert {name for model in data["models"] for name in model["values"]} <= names


@pytest.mark.parametrize("groups", ["x", [7], [{"group": "x"}], [{"group": "x", "metrics": [[]]}]])
def test_damaged_groups_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], groups: Any
) -> None:
    run = with_tasks(write(tmp_path, "sft", rows(3, -0.5)), tasks("capitals", [WON]))
    place = run / "harness" / FILE
    head = {"schema": 1, "max_new_tokens": 0, "groups": groups}
    place.write_text(json.dumps(head) + "\n")
    relist(run, FILE, "harness")
    assert main(["compare", str(run)]) == 2
    assert "error[E921]" in capsys.readouterr().err


def test_damaged_results_of_tasks_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = with_tasks(write(tmp_path, "sft", rows(3, -0.5)), tasks("capitals", [(0.0, 1.0)]))
    (run / "harness" / FILE).write_text("{}\n")
    assert main(["compare", str(run)]) == 2
    err = capsys.readouterr().err
    assert "error[E921]" in err
    assert f"harness/{FILE}" in err


@pytest.mark.parametrize("page", ["runner/cli/compare.py", "docs/evaluation.md"])
def test_the_runs_of_help_and_docs_are_of_recipes_that_are_here(page: str) -> None:
    named = set(re.findall(r"runs/([a-z0-9-]+)", (ROOT / page).read_text()))
    here = {
        name
        for path in (ROOT / "recipes").rglob("*.yaml")
        for name in re.findall(r"^name: (\S+)$", path.read_text(), re.MULTILINE)
    }
    assert named >= {"quickstart", "sft-then-dpo"}
    assert named <= here
