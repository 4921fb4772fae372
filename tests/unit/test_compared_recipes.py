"""Recipes that a recipe is compared with: read, pinned, planned, and set side by side on a page.

What is wrong with them is in tests/recipes/invalid/chains; tests/integration trains two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.attest.inputs import recipe_of
from runner.cli import run as run_command
from runner.cli.main import main
from runner.compare.page import compared as comparison
from runner.execution.checksums import MADE_LATER, files_below
from runner.execution.compared import entries_of, make_page, run_that_has
from runner.execution.revisions import pinned_as
from runner.lock.of_run import moved
from runner.lock.pins import cheap_pins
from runner.plan.chain import plan_compared, stages_to_compare
from runner.plan.changes import changes
from runner.plan.plan import Action, Step
from runner.recipe.base_recipe import resolved_findings
from runner.recipe.compared_recipes import alone
from runner.recipe.flow import block
from runner.recipe.load import check_recipe, load_recipe
from runner.recipe.model import build
from runner.recipe.shrink import shrink_recipe, shrunken_as
from runner.recipe.source import Source
from runner.report import summary as summaries
from runner.stages import stages_of
from runner.store.roots import read_roots
from runner.store.store import Store
from tests.evaluated_runs import rows, write_evaluated_run
from tests.finished_runs import change_record

SMALL = """\
schema: 1
name: small
model: {path: ../model, dtype: float32}
data:
  train: [{path: ../rows.jsonl, format: alpaca}]
  validation: {fraction: 0.5}
train: {adapter: {type: lora}, max_steps: 4}
evaluate: {metrics: true}
merge: {}
"""
LARGE = (
    SMALL.replace("name: small", "name: large").replace("../", "").replace("steps: 4", "steps: 8")
    + "compare: {recipes: [more/small.yaml]}\n"
)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """large.yaml, which is compared with more/small.yaml."""
    for folder in (".git", "model", "more"):
        (tmp_path / folder).mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    lines = [json.dumps({"instruction": f"q {n}", "output": "a"}) for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "more" / "small.yaml").write_text(SMALL)
    (tmp_path / "large.yaml").write_text(LARGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    return tmp_path


# --- read


def test_the_resolved_recipe_holds_the_other_with_paths_as_seen_from_it(project: Path) -> None:
    recipe = load_recipe(Path("large.yaml"))
    (small,) = recipe.compared
    assert (small.name, small.source.path) == ("small", Path("more/small.yaml"))
    inner = recipe.resolved()["compare"]["recipes"][0]
    assert inner["data"]["train"][0]["path"] == "rows.jsonl"
    (project / "all.yaml").write_text(json.dumps(recipe.resolved()))
    (project / "more" / "small.yaml").unlink()
    again = load_recipe(Path("all.yaml"))
    assert again == recipe
    assert again.compared[0].resolve(str(again.compared[0].data.train[0].path)).is_file()
    assert build(recipe.resolved(), Source(path=Path("all.yaml"))) == recipe


def test_a_recipe_that_extends_takes_the_section_over(project: Path) -> None:
    (project / "more" / "child.yaml").write_text("extends: ../large.yaml\nname: child\n")
    child = load_recipe(Path("more/child.yaml"))
    assert [each.name for each in child.compared] == ["small"]
    assert child.resolved()["compare"]["recipes"][0]["model"]["path"] == "../model"
    (project / "more" / "plain.yaml").write_text(
        "extends: ../large.yaml\nname: plain\ncompare: null\n"
    )
    plain = load_recipe(Path("more/plain.yaml"))
    assert (plain.compare, plain.compared) == (None, ())


def test_an_error_says_by_which_recipes_its_file_is_named(project: Path) -> None:
    (project / "more" / "base.yaml").write_text(SMALL.replace("steps: 4", "step: 4"))
    text = SMALL.replace("path: ../model", "recipe: base.yaml")
    (project / "more" / "small.yaml").write_text(text)
    _, found = check_recipe(Path("large.yaml"))
    hints = {each.file: each.hint for each in found}
    chain = "(named by more/small.yaml:3, that one named by large.yaml:10)"
    assert list(hints) == ["more/base.yaml"]
    assert hints["more/base.yaml"].endswith(chain)
    (project / "more" / "base.yaml").write_text("[")
    _, found = check_recipe(Path("large.yaml"))
    assert [each.file for each in found] == ["more/base.yaml"]
    assert found[0].hint.endswith(chain)


def test_what_the_other_is_compared_with_is_not_followed(project: Path) -> None:
    (project / "more" / "small.yaml").write_text(SMALL + "compare: {recipes: [../large.yaml]}\n")
    for name, other in (("large.yaml", "small"), ("more/small.yaml", "large")):
        recipe = load_recipe(Path(name))
        assert [each.name for each in recipe.compared] == [other]
        assert "compare" not in recipe.resolved()["compare"]["recipes"][0]
        assert recipe.compared[0].compare is None


def test_a_record_with_a_comparison_in_a_comparison_is_refused() -> None:
    resolved = load_recipe(Path("large.yaml")).resolved()
    assert resolved_findings(resolved) == []
    resolved["compare"]["recipes"][0]["compare"] = {"recipes": [resolved]}
    (finding,) = resolved_findings(resolved)
    assert finding.pointer == "/compare/recipes/0/compare"
    resolved["compare"]["recipes"][0] = "more/small.yaml"
    (finding,) = resolved_findings(resolved)
    assert "must stand" in finding.message


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("fraction: 0.5", "fraction: 0.25", "data.validation.fraction differs"),
        ("fraction: 0.5", "fraction: 0.5, stable: true", "data.validation.stable and seed differ"),
        ("rows.jsonl", "rows-2.jsonl", "data.train differs"),
        ("rows.jsonl, format: alpaca", "talks.jsonl, format: messages", "data.train differs"),
        ("format: alpaca", "format: alpaca, limit: 6", "data.train differs"),
        ("format: alpaca", "format: alpaca, columns: {output: said}", "data.train differs"),
        ("metrics: true", "metrics: true, samples: 3", "evaluate.samples differs"),
        ("data:\n", "data:\n  system: Be brief.\n", "data.system differs"),
        ("name: small", "name: small\nseed: 9", "seed differs"),
        ("max_steps: 4", "max_steps: 40", ""),
        ("{type: lora}", "{type: lora, r: 64}", ""),
    ],
)
def test_rows_that_cannot_be_paired_are_warned_of_by_what_differs(
    old: str, new: str, differs: str, project: Path
) -> None:
    (project / "rows-2.jsonl").write_text((project / "rows.jsonl").read_text())
    said = {"role": "assistant", "content": "a"}
    turns = [[{"role": "user", "content": f"q {n}"}, said] for n in range(8)]
    (project / "talks.jsonl").write_text(
        "".join(json.dumps({"messages": each}) + "\n" for each in turns)
    )
    lines = [json.dumps({"instruction": f"q {n}", "output": "a", "said": "b"}) for n in range(8)]
    (project / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (project / "more" / "small.yaml").write_text(SMALL.replace(old, new))
    _, found = check_recipe(Path("large.yaml"))
    assert [each.code for each in found] == (["W264"] if differs else [])
    assert all(each.message.endswith(f": {differs}") for each in found)


def test_of_pairs_and_conversations_nothing_is_claimed(project: Path) -> None:
    pairs = [{"prompt": f"q {n}", "chosen": "a", "rejected": "b"} for n in range(8)]
    (project / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in pairs))
    (project / "more" / "small.yaml").write_text(
        SMALL.replace("rows.jsonl, format: alpaca", "pairs.jsonl, format: preference").replace(
            "train: {adapter", "train: {method: dpo, adapter"
        )
    )
    assert check_recipe(Path("large.yaml"))[1] == []


def test_show_names_the_file_and_resolved_has_every_value(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "large.yaml"]) == 0
    assert "more/small.yaml" in capsys.readouterr().out
    assert main(["show", "--resolved", "large.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "# more/small.yaml:7" in shown
    (project / "shown.yaml").write_text(shown)
    assert load_recipe(Path("shown.yaml")) == load_recipe(Path("large.yaml"))


# --- shrunken, pinned, left out


def test_a_shrunken_recipe_is_compared_with_the_shrunken_other() -> None:
    twin = shrink_recipe(load_recipe(Path("large.yaml"), overrides=["train.max_steps=80"]))
    assert [each.name for each in twin.compared] == ["small-shrink"]
    assert twin.resolved()["compare"]["recipes"][0]["name"] == "small-shrink"
    assert twin.shrink is not None
    assert twin.shrink["/compare/recipes/0/name"] == "small-shrink"
    again = shrunken_as(build(twin.resolved(), twin.source), twin.shrink)
    assert again == twin
    assert again.compared[0].shrink == twin.compared[0].shrink


def test_the_lock_of_a_recipe_pins_the_other_one_too(project: Path) -> None:
    text = LARGE.replace("rows.jsonl", "own.jsonl")
    (project / "own.jsonl").write_text((project / "rows.jsonl").read_text())
    (project / "large.yaml").write_text(text)
    pins = cheap_pins(load_recipe(Path("large.yaml")))
    assert set(pins["files"]) == {"rows.jsonl", "own.jsonl", "model/config.json"}
    assert pins["recipe"]["compare"]["recipes"][0]["train"]["max_steps"] == 4
    (project / "more" / "small.yaml").write_text(SMALL.replace("steps: 4", "steps: 5"))
    assert cheap_pins(load_recipe(Path("large.yaml"))) != pins


def test_what_a_run_keeps_of_itself_is_without_the_other(project: Path) -> None:
    recipe = load_recipe(Path("large.yaml"))
    (project / "plain.yaml").write_text(LARGE[: LARGE.index("compare:")])
    plain = load_recipe(Path("plain.yaml"))
    assert alone(recipe) == plain
    assert alone(recipe).resolved() == plain.resolved()
    folder = project / "runs" / "large" / "1"
    assert moved(alone(recipe), folder) == moved(plain, folder)
    assert recipe_of(recipe.resolved()) == plain


def test_commits_are_pinned_in_the_other_too(project: Path) -> None:
    (project / "more" / "small.yaml").write_text(SMALL.replace("path: ../model", "hub: acme/tiny"))
    recipe = load_recipe(Path("large.yaml"))
    locked = recipe.resolved()
    locked["compare"]["recipes"][0]["model"]["revision"] = "a" * 40
    pinned = pinned_as(recipe, locked)
    assert pinned.resolved() == locked
    assert pinned.compared[0].model.revision == "a" * 40


def test_a_change_of_the_other_touches_no_stage(project: Path) -> None:
    before = load_recipe(Path("large.yaml"))
    (project / "more" / "small.yaml").write_text(SMALL.replace("steps: 4", "steps: 5"))
    found = changes(before, load_recipe(Path("large.yaml")))
    assert (found.touched, found.perhaps) == ((), ())
    assert len(found.values) == 1
    assert found.values[0].startswith("compare.recipes.0.train.max_steps: 4 ")


# --- planned


def test_the_plan_has_the_other_up_to_its_evaluation(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = load_recipe(Path("large.yaml"))
    ((link,),) = plan_compared(large, stages_of(large), Store(project / "store"))
    assert [step.stage for step in link.steps] == ["fetch", "prepare", "train", "evaluate"]
    assert main(["plan", "large.yaml", "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["recipe"], plan["compared"][0]["recipe"]) == ("large", "small")
    assert main(["plan", "large.yaml"]) == 0
    text = capsys.readouterr().out
    assert text.index("small, by more/small.yaml\n") < text.index("large, by large.yaml\n")
    assert main(["plan", "large.yaml", "--until", "train"]) == 0
    assert "small" not in capsys.readouterr().out


def test_tasks_belong_to_what_is_measured(project: Path) -> None:
    (project / "x.task").write_text(
        "task: x\noutput_type: generate_until\ndoc_to_text: a\ndoc_to_target: b\n"
    )
    task = f"{{path: {project / 'x.task'}, data: {project / 'rows.jsonl'}}}"
    recipe = load_recipe(Path("more/small.yaml"))
    assert [each.NAME for each in stages_to_compare(recipe)][-1] == "evaluate"
    relative = task.replace(f"{project}/", "../")
    (project / "more" / "small.yaml").write_text(
        SMALL.replace("metrics: true", f"metrics: true, harness: {{tasks: [{relative}]}}")
    )
    recipe = load_recipe(Path("more/small.yaml"))
    assert [each.NAME for each in stages_to_compare(recipe)][-1] == "harness"


# --- runs and the page


def run_of(project: Path, name: str, change: float) -> Path:
    return write_evaluated_run(project / "of" / name, name, rows(40, change))


def test_the_page_is_what_recipe_compare_writes_and_keeps_what_it_is_of(project: Path) -> None:
    small, large = run_of(project, "small", -0.1), run_of(project, "large", -0.5)
    change_record(small, base={"stages": [{"name": "merge", "key": "b" * 64}]})
    store, listed = Store(project / "store"), files_below(large)
    data, made = make_page(large, [small], store)
    assert made
    assert main(["compare", str(small), str(large), "-o", "compared"]) == 0
    for name in MADE_LATER:
        assert (large / name).read_bytes() == (project / "compared" / name).read_bytes()
    assert data == comparison([small, large])
    assert files_below(large) == listed
    (root,) = read_roots(store)
    assert root.folder == large
    assert root.entries == {("merge", "b" * 64), *entries_of(small), *entries_of(large)}


def test_the_page_is_made_again_only_where_it_is_not_of_these_runs(project: Path) -> None:
    small, large = run_of(project, "small", -0.1), run_of(project, "large", -0.5)
    store = Store(project / "store")
    first, _ = make_page(large, [small], store)
    assert make_page(large, [small], store) == (first, False)
    (large / "compare.html").unlink()
    assert make_page(large, [small], store) == (first, True)
    for damaged in ("{", "[]", '{"models": [{"run": 7}]}', "[" * 100_000):
        (large / "compare.json").write_text(damaged)
        assert make_page(large, [small], store) == (first, True)
    other = run_of(project, "other", -0.2)
    again, made = make_page(large, [other], store)
    assert made
    assert {model["name"] for model in again["models"]} >= {"other", "large"}


def test_a_run_that_went_further_will_do_and_one_of_other_results_will_not(project: Path) -> None:
    runs = project / "runs" / "small"

    def finished(name: str, **stages: str) -> Path:
        folder = runs / name
        folder.mkdir(parents=True)
        listed = [{"name": stage, "key": key} for stage, key in stages.items()]
        (folder / "run.json").write_text(json.dumps({"stages": listed}))
        (folder / "manifest.json").write_text("{}")
        return folder

    steps = [Step(name, Action.REUSE, "", key) for name, key in (("train", "a"), ("evaluate", "b"))]
    assert run_that_has(steps, runs) is None
    further = finished("20270101-000000", train="a", evaluate="b", merge="c")
    finished("20270102-000000", train="other", evaluate="b")
    finished("20270103-000000", train="a")
    (finished("20270104-000000", train="a", evaluate="b") / "manifest.json").unlink()
    (runs / "20270105-000000").mkdir()
    (runs / "20270105-000000" / "manifest.json").write_text("{}")
    (runs / "20270105-000000" / "run.json").write_text("[]")
    assert run_that_has(steps, runs) == further
    newer = finished("20270106-000000", train="a", evaluate="b")
    assert run_that_has(steps, runs) == newer
    (runs / "latest").symlink_to(further.name)
    assert run_that_has(steps, runs) == further


@pytest.fixture
def ran(project: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Recipes that were run, and until where; their runs were made before."""
    found: list[tuple[str, str | None]] = []

    def execute(args: Any, link: Any, store: Any, lock: Any, start: Any, until: Any = None) -> Path:
        found.append((link.recipe.name, until))
        return run_of(project, link.recipe.name, -0.1)

    monkeypatch.setattr(run_command, "execute_chain", execute)
    monkeypatch.setattr(summaries, "summary", lambda folder: {"run": str(folder), "stages": []})
    monkeypatch.setattr(summaries, "render_summary", lambda result, stream: print("summary"))
    return found


def test_the_others_are_run_first_and_the_page_is_told(
    project: Path, ran: list[tuple[str, str | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "large.yaml", "--format", "json"]) == 0
    assert ran == [("small", "evaluate"), ("large", None)]
    told = capsys.readouterr()
    page = json.loads(told.out)["compare"]
    assert page["made"]
    assert Path(page["page"]).name == "compare.html"
    assert {"small", "large"} <= set(page["models"])
    assert "first the recipe small, which large is compared with" in told.err


def test_the_summary_has_the_main_lines(
    ran: list[tuple[str, str | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "large.yaml"]) == 0
    told = capsys.readouterr().out
    assert "compared          large minus small\n" in told
    assert "held-out loss" in told.split("compared  ")[1]
    assert told.rstrip().endswith("/compare.html")


def test_a_compared_run_without_held_out_rows_is_warned_of(
    project: Path,
    ran: list[tuple[str, str | None]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def empty(project: Path, name: str, change: float) -> Path:
        count = 40 if name == "large" else 0
        return write_evaluated_run(project / "of" / name, name, rows(count, change))

    monkeypatch.setattr("tests.unit.test_compared_recipes.run_of", empty)
    assert main(["run", "large.yaml"]) == 0
    assert "warning: W269: small held out no rows" in capsys.readouterr().err
    (page,) = (project / "of" / "large").rglob("compare.html")
    assert "W269: small held out no rows" in page.read_text()


def test_without_an_evaluation_there_is_no_page_and_it_is_said(
    ran: list[tuple[str, str | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "large.yaml", "--until", "train", "--format", "json"]) == 0
    assert ran == [("large", None)]
    told = capsys.readouterr()
    assert "compare" not in json.loads(told.out)
    assert "no page: --until train ends before the evaluation\n" in told.err


def test_machines_that_join_one_recipe_are_not_waited_for_by_another(
    project: Path, ran: list[tuple[str, str | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "more" / "small.yaml").write_text(SMALL.replace("steps: 4", "steps: 4, nodes: 2"))
    assert main(["run", "large.yaml", "--rendezvous", "127.0.0.1:29400"]) == 2
    assert "error[E952]: the recipe small, which large is compared" in capsys.readouterr().err
    assert ran == []


def test_a_page_that_cannot_be_made_does_not_hide_that_the_run_is_done(
    project: Path,
    ran: list[tuple[str, str | None]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(project: Path, name: str, change: float) -> Path:
        folder = write_evaluated_run(project / "of" / name, name, rows(40, change))
        (folder / "evaluation" / "examples.jsonl").write_text("{")
        return folder

    monkeypatch.setattr("tests.unit.test_compared_recipes.run_of", broken)
    assert main(["run", "large.yaml"]) == 2
    told = capsys.readouterr().err
    assert "error[E921]" in told
    assert f"the run itself is done: {project / 'of' / 'large'}" in told


def test_a_lock_has_the_other_recipe_a_line_a_value_and_reads_back(project: Path) -> None:
    recipe = load_recipe(Path("large.yaml"))
    text = "\n".join(block(recipe.resolved())) + "\n"
    assert "\n    - schema: 1\n      name: small\n" in text
    assert max(map(len, text.splitlines())) < 200
    (project / "again.yaml").write_text(text)
    assert load_recipe(Path("again.yaml")).resolved() == recipe.resolved()
