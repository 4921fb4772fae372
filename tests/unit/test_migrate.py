"""`recipe migrate`, and old recipes in every other command, with versions that only tests know."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from runner.cli.main import main
from runner.recipe import migrate as migrating
from runner.recipe import versions
from runner.recipe.edit import Document
from runner.recipe.in_folders import recipes_below
from runner.recipe.load import check_recipe, load_recipe
from runner.recipe.schema import RECIPE, load_schema
from runner.recipe.source import parse_source, read_source
from runner.recipe.validate import findings
from tests.chain import ROOT
from tests.recipe_cases import VALID, WHOLE, copy_recipes
from tests.recipe_versions import FUTURE, FUTURE_2, PAST, data_to_2, data_to_3

NEEDED = re.compile(r"# Spark Recipes [\d.]+ or newer")


@pytest.fixture
def future(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "VERSIONS", FUTURE)


@pytest.fixture
def past(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "VERSIONS", PAST)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    recipes = copy_recipes(tmp_path)
    monkeypatch.chdir(recipes)
    return recipes


def yaml_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.yaml") if path.is_file()]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- the registry


def test_the_versions_count_up_and_the_last_is_the_schema_that_we_read() -> None:
    numbers = [version.number for version in versions.VERSIONS]
    assert numbers == list(range(1, len(numbers) + 1))
    assert f"recipe-{numbers[-1]}" == RECIPE
    for version in versions.VERSIONS:
        for schema in (version.resolved(), version.schema({}), version.schema({"extends": "x"})):
            assert schema["properties"]["schema"]["const"] == version.number
        assert (version.edit is None) == (version.number == 1)


# --- what is written


@pytest.mark.parametrize("path", [*WHOLE, *VALID], ids=lambda path: path.stem)
def test_a_recipe_goes_from_1_over_2_to_3(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data by the oracle; comments, and every line that no step touches, as they were."""
    before = read_source(path)
    at_once, by_steps = tmp_path / "at-once.yaml", tmp_path / "by-steps.yaml"
    for copied in (at_once, by_steps):
        shutil.copy(path, copied)
    monkeypatch.setattr(versions, "VERSIONS", FUTURE_2)
    assert main(["migrate", str(by_steps)]) == 0
    second = read_source(by_steps)
    assert second.data == data_to_2(before.data)
    assert findings(second.data, FUTURE[1].schema(second.data)) == []
    monkeypatch.setattr(versions, "VERSIONS", FUTURE)
    assert main(["migrate", str(by_steps), str(at_once)]) == 0
    third = read_source(at_once)
    assert third.data == data_to_3(data_to_2(before.data))
    assert findings(third.data, FUTURE[2].schema(third.data)) == []
    assert by_steps.read_bytes() == at_once.read_bytes()

    def comments(text: str) -> list[str]:
        found = Document(parse_source(text.encode(), path)).comments()
        return sorted(each for each in found if not NEEDED.fullmatch(each))

    renumbered = before.text.replace("recipe-1.json", "recipe-3.json")
    assert comments(third.text) == comments(renumbered)
    old_lines = {line.strip() for line in renumbered.split("\n")}
    new_lines = {line.strip() for line in third.text.split("\n")}
    assert len(old_lines - new_lines) <= 16  # those of the keys that changed


def test_a_migrated_recipe_reads_as_a_person_would_have_written_it(
    tmp_path: Path, future: None
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        """\
# yaml-language-server: $schema=../schemas/recipe-1.json
# Run it:  recipe run x.yaml

schema: 1
name: x
model: {path: "models/tiny"}

data:
  train:
  - {path: a.jsonl,   format: alpaca}   # list at the margin, and odd spaces

  validation: {fraction: 0.25}          # a quarter
  # Who answers:
  system: |                             # spoken
    You are # not a comment.

    Be brief.
  max_length: 512

train:
  adapter: {type: lora, r: 8, lora_dropout: 0.05}  # small
  max_steps: 40
  learning_rate: 2.0e-4   # the paper's
benchmark:
  # often enough
  runs: 3
"""
    )
    assert main(["migrate", str(path)]) == 0
    assert (
        path.read_text()
        == """\
# yaml-language-server: $schema=../schemas/recipe-3.json
# Run it:  recipe run x.yaml

schema: 3  # Spark Recipes 1.2 or newer
name: x
model: {path: "models/tiny"}

data:
  train:
  - {path: a.jsonl,   format: alpaca}   # list at the margin, and odd spaces

  validation: {percent: 25.0}           # a quarter
  max_length: 512

train:
  adapter: {type: lora, rank: 8}                      # small
  max_steps: 40
  peak_learning_rate: 2.0e-4  # the paper's
  lora_dropout: 0.05
benchmark:
  # often enough
  - runs: 3
chat:
  # Who answers:
  system: |                             # spoken
    You are # not a comment.

    Be brief.
seed: 42
"""
    )


def test_a_recipe_of_the_newest_version_is_not_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in yaml_files(folder)}
    code, out, err = run(capsys, "migrate", "valid")
    assert (code, err) == (0, "")
    assert out == f"{len(list(recipes_below(Path('valid'))))} recipes are of the newest schema, 1\n"
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before


def test_links_rights_and_line_ends_stay(folder: Path, future: None) -> None:
    real = folder / "real.yaml"
    text = (folder / "valid" / "minimal.yaml").read_bytes().replace(b"\n", b"\r\n")
    real.write_bytes(b"\xef\xbb\xbf" + text)
    real.chmod(0o640)
    link = folder / "link.yaml"
    link.symlink_to("real.yaml")
    assert main(["migrate", "link.yaml"]) == 0
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    written = real.read_bytes()
    assert written.startswith(b"\xef\xbb\xbf# The least")
    assert written.count(b"\n") == written.count(b"\r\n") > 10
    assert b"schema: 3  # Spark Recipes 1.2 or newer\r\n" in written
    assert [path.name for path in folder.iterdir() if "partial" in path.name] == []


def test_a_write_that_fails_leaves_the_old_file(
    folder: Path, future: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "valid" / "minimal.yaml"
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run(capsys, "migrate", "valid/minimal.yaml")
    assert (code, path.read_bytes()) == (4, before)
    assert "E410" in err
    assert [each.name for each in path.parent.iterdir() if "partial" in each.name] == []


# --- what is only shown


def test_check_shows_the_difference_and_ends_with_2(
    folder: Path, future: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "valid" / "minimal.yaml").read_bytes()
    code, out, err = run(capsys, "migrate", "--check", "valid/minimal.yaml")
    assert code == 2
    assert out.startswith("--- valid/minimal.yaml\n+++ valid/minimal.yaml (migrated)\n")
    assert "-schema: 1\n+schema: 3  # Spark Recipes 1.2 or newer\n" in out
    assert "valid/minimal.yaml:2:9: error[E151]: the recipe is of schema 1; the newest is 3" in err
    assert "recipe migrate valid/minimal.yaml" in err
    assert (folder / "valid" / "minimal.yaml").read_bytes() == before
    shown = run(capsys, "migrate", "--diff", "valid/minimal.yaml")
    assert shown == (0, out, "")


def test_check_of_the_newest_is_silent_about_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "migrate", "--check", "valid/full.yaml") == (
        0, "1 recipe is of the newest schema, 1\n", ""
    )  # fmt: skip


def test_stdout_prints_what_would_be_written(
    folder: Path, future: None, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = folder / "valid" / "unicode.yaml"
    before = path.read_bytes()
    assert main(["migrate", "--stdout", "valid/unicode.yaml"]) == 0
    printed = capfdbinary.readouterr().out
    assert path.read_bytes() == before
    assert main(["migrate", "valid/unicode.yaml"]) == 0
    assert path.read_bytes() == printed
    assert main(["migrate", "--stdout", "valid"]) == 2


# --- what is refused


def test_a_wrong_recipe_is_told_with_its_places_and_left_alone(
    folder: Path, future: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in yaml_files(folder)}
    code, out, err = run(
        capsys, "migrate", "invalid/schema/unknown-key.yaml", "invalid/reading/duplicate-key.yaml",
        "valid/minimal.yaml",
    )  # fmt: skip
    assert code == 2
    assert "unknown-key.yaml:14:3: error[E102]" in err
    assert "duplicate-key.yaml" in err
    assert "E118" in err
    assert out == "valid/minimal.yaml: schema 1 -> 3\n"
    changed = [path.name for path in before if path.read_bytes() != before[path]]
    assert changed == ["minimal.yaml"]


def test_every_invalid_recipe_is_either_migrated_or_told(folder: Path, future: None) -> None:
    """Never a crash: what is wrong only across fields is migrated like any other."""
    counts = {True: 0, False: 0}
    for path in sorted(folder.glob("invalid/*/*.yaml")):
        found = migrating.migrate(path)
        nothing_to_change = b"\nextends:" in found.before and b"\nschema:" not in found.before
        assert found.changes or found.found or nothing_to_change, path
        assert not (found.changes and found.found), path
        counts[found.changes] += 1
    assert min(counts.values()) > 40


def test_a_lock_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = folder / "x.lock.yaml"
    lock.write_text("lock: 1\nrecipe:\n  schema: 1\n")
    code, _, err = run(capsys, "migrate", "x.lock.yaml")
    assert code == 2
    assert "x.lock.yaml:1:1: error[E150]: a lock is not migrated" in err
    assert "recipe lock" in err


@pytest.mark.parametrize(
    ("comment", "hint"),
    [
        ("# Spark Recipes 1.4 or newer", "update to Spark Recipes 1.4 or newer"),
        ("", "update to a newer Spark Recipes"),
    ],
)
def test_a_newer_recipe_says_which_spark_recipes_it_needs(
    comment: str, hint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "x.yaml").write_text(f"schema: 7  {comment}\nname: x\n")
    for command in (["migrate"], ["validate"], ["show"]):
        code, out, err = run(capsys, *command, "x.yaml")
        assert code == 2
        assert re.search(
            r"x\.yaml:1:9: error\[E122\]: the recipe is of schema 7; Spark Recipes \S+ knows up to "
            r"1\n", out + err,
        )  # fmt: skip
        assert f"hint: {hint}\n" in out + err


def test_what_we_write_is_what_an_older_tool_reads(
    folder: Path, future: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["migrate", "valid/minimal.yaml"]) == 0
    monkeypatch.setattr(versions, "VERSIONS", FUTURE[:1])
    _, (found,) = check_recipe(folder / "valid" / "minimal.yaml")
    assert (found.code, found.hint) == ("E122", "update to Spark Recipes 1.2 or newer")


def test_an_entry_that_cannot_be_edited_is_told(
    folder: Path, future: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "valid" / "minimal.yaml"
    path.write_text(path.read_text().replace("data:\n", "data:\n  ? system\n  : Hello.\n"))
    before = path.read_bytes()
    code, _, err = run(capsys, "migrate", "valid/minimal.yaml")
    assert (code, path.read_bytes()) == (2, before)
    assert "minimal.yaml:8:5: error[E152]: this cannot be migrated as it is written" in err


# --- old recipes in the other commands

OLD = """\
# old
schema: 1
name: old
model:
  path: ../data/model
  context: 256
data:
  files:
    - {path: ../data/rows.jsonl, format: alpaca}
train:
  adapter: {type: lora}
  max_steps: 10
  lr: 0.2   # per mille
merge: {}
gguf: {quantize: [Q8_0]}
ollama:
  name: old
  temperature: 0.5
"""


def test_an_old_recipe_is_read_as_the_newest_with_a_warning(
    folder: Path, past: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "valid" / "old.yaml"
    path.write_text(OLD)
    recipe = load_recipe(path)
    assert recipe.schema == 3
    assert recipe.train.learning_rate == pytest.approx(2e-4)
    assert recipe.data.max_length == 256
    assert recipe.ollama is not None
    assert recipe.ollama.parameters == {"temperature": 0.5}
    code, out, _ = run(capsys, "validate", "valid/old.yaml")
    assert code == 0
    assert (
        "valid/old.yaml:2:9: warning[W150]: the recipe is of schema 1, and was read as 3\n"
        "   2 | schema: 1\n"
        "     |         ^\n"
        "  hint: rewrite it: recipe migrate valid/old.yaml\n"
    ) in re.sub(r"^ +(?=\d+ \|)", "   ", out, flags=re.MULTILINE).replace("      |", "     |")
    code, out, err = run(capsys, "show", "--resolved", "valid/old.yaml")
    assert code == 0
    assert "W150" in err
    lines = {line.partition("#")[0].strip(): line.partition("# ")[2] for line in out.splitlines()}
    assert lines["learning_rate: 0.0002"] == "line 13"
    assert lines["max_length: 256"] == "line 6"


def test_it_is_the_same_recipe_once_it_is_migrated(folder: Path, past: None) -> None:
    path = folder / "valid" / "old.yaml"
    path.write_text(OLD)
    before = load_recipe(path).resolved()
    assert main(["migrate", "valid/old.yaml"]) == 0
    assert load_recipe(path).resolved() == before
    assert check_recipe(path)[1] == []
    assert "  learning_rate: 0.0002  # per mille\n" in path.read_text()


def test_errors_in_an_old_recipe_are_told_in_its_words_and_at_its_places(
    folder: Path, past: None
) -> None:
    path = folder / "valid" / "old.yaml"
    path.write_text(OLD.replace("lr: 0.2", "lrr: 0.2").replace("context: 256", "context: 0"))
    recipe, found = check_recipe(path)
    assert recipe is None
    assert [(each.code, each.line, each.column, each.hint) for each in found] == [
        ("E105", 6, 12, ""),
        ("E102", 13, 3, 'did you mean "lr"?'),
    ]


def test_errors_across_fields_point_into_the_old_file(folder: Path, past: None) -> None:
    path = folder / "valid" / "old.yaml"
    path.write_text(
        OLD.replace("merge: {}\n", "").replace("rows.jsonl", "gone.jsonl").replace("0.2 ", "90.0 ")
    )
    _, found = check_recipe(path)
    assert [(each.code, each.line, each.column) for each in found] == [
        ("W150", 2, 9),
        ("E209", 9, 14),
        ("W202", 13, 7),
        ("E202", 14, 1),
    ]


def test_the_recipe_in_an_old_lock_is_read_too(folder: Path, past: None) -> None:
    path = folder / "valid" / "old.lock.yaml"
    inner = "".join(f"  {line}\n" for line in OLD.rstrip("\n").split("\n"))
    path.write_text(f"lock: 1\nrecipe:\n{inner}")
    recipe, found = check_recipe(path)
    assert recipe is not None
    assert recipe.train.learning_rate == pytest.approx(2e-4)
    assert [(each.code, each.line) for each in found] == [("W150", 4)]
    assert found[0].hint.startswith("write the lock anew")


BASE = """\
schema: 1
abstract: true
model: {path: ../data/model}
data:
  files: [{path: ../data/rows.jsonl, format: alpaca}]
train: {adapter: {type: lora}, max_steps: 10}
"""
CHILD = """\
extends: base.yaml
name: child
train: {lr: 90}
"""


def test_bases_are_brought_to_the_newest_each_by_its_own_version(folder: Path, past: None) -> None:
    """A part that says no version has that of its base; each is edited before they are merged."""
    base, child = folder / "valid" / "base.yaml", folder / "valid" / "child.yaml"
    base.write_text(BASE)
    child.write_text(CHILD)
    recipe, found = check_recipe(child)
    assert recipe is not None
    assert recipe.train.learning_rate == pytest.approx(0.09)
    assert [(each.code, Path(each.file).name, each.line) for each in found] == [
        ("W150", "base.yaml", 1),
        ("W150", "child.yaml", 1),
        ("W202", "child.yaml", 3),
    ]
    before = recipe.resolved()
    assert main(["migrate", str(child), str(base)]) == 0
    assert child.read_text() == CHILD.replace("lr: 90", "learning_rate: 0.09")
    assert "schema: 3  # Spark Recipes 0.3 or newer\nabstract: true\n" in base.read_text()
    assert load_recipe(child).resolved() == before
    assert [each.code for each in check_recipe(child)[1]] == ["W202"]


def test_a_base_that_says_no_version_has_that_of_what_extends_it(
    folder: Path, past: None, capsys: pytest.CaptureFixture[str]
) -> None:
    base, child = folder / "valid" / "base.yaml", folder / "valid" / "child.yaml"
    base.write_text(BASE.replace("schema: 1\n", ""))
    child.write_text(f"schema: 1\n{CHILD}")
    recipe, _ = check_recipe(child)
    assert recipe is not None
    assert recipe.train.learning_rate == pytest.approx(0.09)
    code, _, err = run(capsys, "migrate", str(base))
    assert code == 2
    assert 'error[E103]: the recipe lacks the key "schema"' in err


def test_a_newer_base_is_an_error_in_the_base(folder: Path) -> None:
    (folder / "valid" / "base.yaml").write_text(BASE.replace("schema: 1", "schema: 4"))
    child = folder / "valid" / "child.yaml"
    child.write_text(CHILD)
    assert ("E122", "base.yaml") in {
        (each.code, Path(each.file).name) for each in check_recipe(child)[1]
    }


def test_the_shipped_schema_is_the_one_of_its_version() -> None:
    assert versions.newest().resolved() == load_schema()


def test_validating_the_newest_version_imports_no_editing(folder: Path) -> None:
    import subprocess
    import sys

    program = (
        "import sys; from runner.cli.main import main; main(['validate', 'valid']);"
        "print('runner.recipe.edit' in sys.modules, 'difflib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.endswith("False False\n")
