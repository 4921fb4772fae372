"""`recipe validate` and `recipe show`, through the command line's own entry."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runner.cli.main import main
from runner.recipe.load import load_recipe
from tests.chain import ROOT
from tests.recipe_cases import (
    BASES,
    EXTENDING,
    INVALID,
    VALID,
    canonical,
    copy_recipes,
    expectations,
)

IN_VALID = len(VALID) + len(EXTENDING) + sum("valid" in each.parts[-4:-2] for each in BASES)

WRONG_ELSEWHERE = [
    path for path in INVALID if all(each.file != path.name for each in expectations(path))
]


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """tests/recipes in a project of its own, as the current folder."""
    folder = copy_recipes(tmp_path)
    monkeypatch.chdir(folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- validate


def test_valid_recipes_end_with_0(recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "validate", "valid")
    assert (code, err) == (0, "")
    *notes, last = out.splitlines()
    assert last == f"{IN_VALID} recipes checked: all valid"
    assert all(": note: not checked: " in note for note in notes)


def test_all_errors_of_all_files_are_told_at_once_and_sorted(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(
        capsys, "validate", "--format", "json",
        "invalid/schema/unknown-value.yaml", "invalid/cross/missing-files.yaml",
    )  # fmt: skip
    report = json.loads(out)
    assert code == 2
    assert err == ""
    assert report["files"] == 2
    assert [(Path(d["file"]).stem, d["line"]) for d in report["diagnostics"]] == [
        ("missing-files", 8), ("missing-files", 11), ("missing-files", 13), ("missing-files", 18),
        ("unknown-value", 15), ("unknown-value", 16),
    ]  # fmt: skip


def test_hooks_name_all_yaml_files_and_recipes_are_checked(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy("valid/minimal.yaml", "x.lock.yaml")
    Path("compose.yaml").write_text("services: {}\n")
    others = ["compose.yaml", "x.lock.yaml"]
    code, out, _ = run(capsys, "validate", "--only-recipes", "valid/minimal.yaml", *others)
    assert (code, out) == (0, "1 recipe checked: all valid\n")
    assert run(capsys, "validate", "--only-recipes", *others)[0] == 0
    assert run(capsys, "validate", "--only-recipes", "invalid/schema/wrong-case.yaml")[0] == 2
    assert run(capsys, "validate", *others)[0] == 2


def test_warnings_end_with_0_unless_they_are_errors(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "validate", "invalid/warnings/few-held-out-rows.yaml")
    assert code == 0
    assert "warning[W204]" in out
    code, out, _ = run(capsys, "validate", "--strict", "invalid/warnings/few-held-out-rows.yaml")
    assert code == 2
    assert "error[W204]" in out


@pytest.mark.parametrize(
    ("evaluate", "fraction", "warned"),
    [
        ("{}", 0.3, False),  # one of the two is held out, and nobody asked for eight samples
        ("{}", 0.001, False),  # one is, whatever the fraction
        ("{samples: 1}", 0.3, False),
        ("{samples: 2}", 0.3, True),
    ],
)
def test_only_samples_that_somebody_wrote_are_missed(
    evaluate: str, fraction: float, warned: bool, recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.dumps({"instruction": each, "output": "b"}) for each in ("one", "two")]
    (recipes / "two.jsonl").write_text("\n".join(rows) + "\n")
    held_out = f"{{fraction: {fraction}}}"
    (recipes / "two.yaml").write_text(
        "schema: 1\nname: two\nmodel: {path: data/model}\n"
        f"data: {{train: [{{path: two.jsonl, format: alpaca}}], validation: {held_out}}}\n"
        f"train: {{adapter: {{type: lora}}, max_steps: 1}}\nevaluate: {evaluate}\n"
    )
    _, out, _ = run(capsys, "validate", "two.yaml")
    assert ("W204" in out) == warned
    assert "E" not in re.findall(r"\[([EW])\d+\]", out)


def test_a_folder_is_searched_for_what_is_a_recipe(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recipes / "team"
    (folder / "deep" / ".hidden").mkdir(parents=True)
    for name in ("a.yaml", "deep/b.yml", ".c.yaml", "deep/.hidden/d.yaml", "a.lock.yaml", "e.txt"):
        shutil.copy(recipes / "valid" / "minimal.yaml", folder / name)
    (folder / "compose.yaml").write_text("services: {}\nmodel: none\n")
    (folder / "misspelled.yaml").write_text("shema: 1\nname: x\nmodel: {}\ndata: {}\n")
    (folder / "flow.yaml").write_text('# first\n{"name": "x", "schema": 1}\n')
    (folder / "gone.yaml").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.yaml")
    code, out, _ = run(capsys, "validate", "--format", "json", "team")
    report = json.loads(out)
    assert code == 2
    assert report["files"] == 5
    wrong = {Path(d["file"]).name for d in report["diagnostics"]}
    # a.yaml is valid here; b.yml names its data relative to another folder
    assert wrong == {"b.yml", "misspelled.yaml", "flow.yaml", "gone.yaml"}


BESIDE = {
    "s.yaml": "synthesis: 1\nkind: paraphrase\ncont: 3\nendpoint: {ollama: m}\n"
    "rows: [{path: a.jsonl, format: prompt-completion}]\n",
    "j.yaml": "judge: 1\nendpoint: {ollama: m}\nlimt: 3\n",
    "workflow.yaml": "judge: somebody\nsynthesis: of sound\n",
}


@pytest.mark.parametrize("asked", [["."], ["s.yaml", "j.yaml"], ["--only-recipes", *BESIDE]])
def test_syntheses_and_judges_are_checked_by_their_own_rules(
    asked: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in BESIDE.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "a.jsonl").write_text('{"prompt": "Q", "completion": "A"}\n')
    code, out, _ = run(capsys, "validate", *asked)
    assert code == 2
    assert "s.yaml:3:1: error[E102]" in out
    assert "j.yaml:3:1: error[E102]" in out
    assert out.endswith("2 recipes checked: 2 errors\n")
    for name, slip in (("s.yaml", "cont"), ("j.yaml", "limt")):
        right = BESIDE[name].replace(slip, {"cont": "count", "limt": "limit"}[slip])
        (tmp_path / name).write_text(right)
    assert run(capsys, "validate", *asked)[:2] == (0, "2 recipes checked: all valid\n")


def test_a_named_file_is_checked_whatever_it_is_called(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(recipes / "valid" / "minimal.yaml", recipes / "valid" / "x.lock.yaml")
    assert run(capsys, "validate", "valid/x.lock.yaml")[:2] == (0, "1 recipe checked: all valid\n")


def test_a_file_that_is_named_twice_is_checked_once(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "validate", "valid/minimal.yaml", "valid", "valid")
    assert out.splitlines()[-1] == f"{IN_VALID} recipes checked: all valid"


def test_a_folder_without_a_recipe_is_an_error(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "validate", "data")
    assert code == 2
    assert out.startswith("data: error[E123]: no recipe in this folder\n")


def test_a_file_that_is_not_there_is_an_error(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "validate", "none.yaml")
    assert code == 2
    assert out.startswith("none.yaml: error[E101]: cannot read the file: No such file")


def test_every_invalid_file_makes_the_command_fail_or_warn(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "validate", "--strict", "--format", "json", "invalid")
    report = json.loads(out)
    assert code == 2
    named = {Path(d["file"]).name for d in report["diagnostics"]} - {"bad-questions.jsonl"}
    # Six look like no recipe at all, one is abstract and sound; others are wrong in another file.
    skipped = {path.name for path in INVALID} - named
    no_recipes = {"a-list.yaml", "a-text.yaml", "empty.yaml", "null.yaml"}
    no_recipes |= {"settings-of-axolotl.yaml", "settings-of-llamafactory.yaml"}
    assert skipped - {path.name for path in WRONG_ELSEWHERE} == no_recipes | {"abstract.yaml"}
    bases = sum(path.parts[-4] == "invalid" for path in BASES)
    no_bases = 3  # a list, a lock, and a folder
    assert report["files"] == len(INVALID) - len(no_recipes) + bases - no_bases


def test_the_cold_start_imports_nothing_heavy(recipes: Path) -> None:
    """The cold start is measured in benchmarks; this is why it is short."""
    program = (
        "import sys; from runner.cli.main import main; code = main(sys.argv[1:]);"
        "print(sorted(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "validate", "valid"],
        cwd=recipes,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    modules = done.stderr
    assert "'yaml'" in modules
    for heavy in ("jsonschema", "rich", "numpy", "ollama", "httpx", "asyncio", "huggingface_hub"):
        assert f"'{heavy}'" not in modules, heavy


# --- show


@pytest.mark.parametrize("name", [path.name for path in VALID])
def test_the_shown_recipe_is_itself_a_recipe(
    name: str, recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ([], ["--resolved"]):
        code, out, err = run(capsys, "show", *options, f"valid/{name}")
        assert (code, err) == (0, "")
        (recipes / "valid" / "shown.yaml").write_text(out, encoding="utf-8")
        shown = load_recipe(recipes / "valid" / "shown.yaml").resolved()
        assert canonical(shown) == canonical(load_recipe(recipes / "valid" / name).resolved())


def test_show_says_which_line_a_value_comes_from(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "show", "--resolved", "valid/minimal.yaml")
    lines = {line.partition("#")[0].strip(): line.partition("# ")[2] for line in out.splitlines()}
    assert lines["max_steps: 1"] == "line 13"
    rows = "- {path: ../data/rows.jsonl, format: alpaca, weight: null, repeat: 1.0, limit: null}"
    assert lines[rows] == "line 8"
    assert lines["learning_rate: 0.0002"] == "default"
    assert lines["fraction: 0.1"] == "default"
    _, out, _ = run(capsys, "show", "valid/minimal.yaml")
    assert "default" not in out
    assert "learning_rate" not in out
    assert "max_steps: 1" in out


def test_show_as_json_has_the_origin_of_every_value(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "show", "--resolved", "--format", "json", "valid/full.yaml")
    report = json.loads(out)
    recipe = load_recipe(recipes / "valid" / "full.yaml")
    assert report["version"] == 1
    assert report["recipe"] == recipe.resolved()
    assert report["origin"]["/train/adapter/r"] == {
        "given": True, "file": "valid/full.yaml", "line": 40, "column": 8
    }  # fmt: skip
    _, out, _ = run(capsys, "show", "--resolved", "--format", "json", "valid/minimal.yaml")
    assert json.loads(out)["origin"]["/train/bf16"] == {"given": False}
    _, out, _ = run(capsys, "show", "--format", "json", "valid/minimal.yaml")
    assert "/train/bf16" not in json.loads(out)["origin"]


def test_a_wrong_recipe_is_reported_instead(
    recipes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "show", "invalid/schema/unknown-key.yaml")
    assert code == 2
    assert "error[E102]" in out


def test_warnings_go_beside_the_result(recipes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "show", "invalid/warnings/rank-and-scale.yaml")
    assert code == 0
    assert "W203" in err
    assert "W203" not in out
