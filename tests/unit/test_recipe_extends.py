"""A recipe that extends another: what comes out, where it comes from, and what is refused."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.cli.validate import check_paths
from runner.lock.pins import cheap_pins, stale_entries
from runner.plan.changes import changes
from runner.recipe.flow import flow
from runner.recipe.load import check_file, check_recipe, load_recipe
from runner.recipe.model import DataFile, Recipe
from runner.recipe.paths import moved_path
from runner.recipe.source import MAX_BYTES, read_source
from runner.report.diagnostic import Diagnostic
from tests.recipe_cases import EXTENDING, RECIPES, canonical, copy_recipes
from tests.unit.test_recipe_schema import ORACLE, mutations

BASE = """\
schema: 1
abstract: true
model: {path: ../model, dtype: float32}
data:
  train:
    - {path: ../rows.jsonl, format: alpaca}
train:
  adapter: {type: lora, r: 8}
  max_steps: 4
merge: {}
"""
CHILD = """\
extends: shared/base.yaml
name: child
train:
  adapter: {r: 16}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """child.yaml upon shared/base.yaml, with what they name, as the current folder."""
    folder = tmp_path / "project"
    for name in (".git", "model", "shared"):
        (folder / name).mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    (folder / "shared" / "base.yaml").write_text(BASE)
    (folder / "child.yaml").write_text(CHILD)
    monkeypatch.chdir(folder)
    return folder


def said(diagnostics: list[Diagnostic]) -> list[tuple[str, str, int]]:
    return [(each.code, each.file, each.line) for each in diagnostics]


def places(recipe: Recipe, *pointers: str) -> list[tuple[str, int]]:
    found = [recipe.source.place(pointer) for pointer in pointers]
    return [(file.name, span.line) for file, span in found]


# --- values


@pytest.fixture(scope="module")
def extending(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipes(tmp_path_factory.mktemp("project")) / "valid" / "extends"


def test_mappings_are_merged_through_all_bases(extending: Path) -> None:
    recipe = load_recipe(extending / "grandchild.yaml")
    adapter = recipe.train.adapter
    assert (adapter.type, adapter.r, adapter.lora_alpha) == ("lora", 32, 32)
    assert (recipe.train.max_steps, recipe.data.max_length) == (20, 256)
    assert [path.name for path in recipe.source.bases] == ["wide.yaml", "team.yaml"]
    pointers = ["name", "adapter/lora_alpha", "adapter/r", "adapter/type"]
    pointers = ["/name", *(f"/train/{pointer}" for pointer in pointers[1:])]
    assert places(recipe, *pointers) == [
        ("grandchild.yaml", 2), ("grandchild.yaml", 4), ("wide.yaml", 5), ("team.yaml", 11)
    ]  # fmt: skip


def test_a_list_is_replaced(extending: Path) -> None:
    recipe = load_recipe(extending / "another-list.yaml")
    assert recipe.data.train == (
        DataFile("../../data/chats.json", None, None, None, "messages", None, None, 1.0, None),
    )
    assert recipe.gguf is not None
    assert recipe.gguf.quantize == ("Q8_0",)
    assert places(recipe, "/gguf/quantize/0") == [("another-list.yaml", 9)]


def test_another_source_takes_away_what_went_with_the_old_one(extending: Path) -> None:
    model = load_recipe(extending / "another-source.yaml").model
    assert (model.path, model.hub, model.dtype) == (None, "acme/tiny", "float32")


def test_another_adapter_takes_away_the_settings_of_the_old_one(extending: Path) -> None:
    recipe = load_recipe(extending / "another-adapter.yaml")
    assert (recipe.train.adapter.type, recipe.merge) == ("none", None)


def test_passes_take_the_place_of_steps(extending: Path) -> None:
    train = load_recipe(extending / "passes-for-steps.yaml").train
    assert (train.max_steps, train.num_train_epochs) == (None, 2.0)


def test_null_takes_away(extending: Path) -> None:
    recipe = load_recipe(extending / "taken-away.yaml")
    assert (recipe.gguf, recipe.data.system, recipe.data.max_length) == (None, None, 512)
    assert recipe.origin("/data/max_length") is None
    assert places(recipe, "/data/system") == [("taken-away.yaml", 4)]  # where null is a value


def test_another_repository_does_not_inherit_a_revision_or_trust(project: Path) -> None:
    commit = "a1" * 20
    hub = (
        f"{{hub: acme/a, revision: {commit}, trust_remote_code: true, attn_implementation: eager}}"
    )
    (project / "shared" / "base.yaml").write_text(
        BASE.replace("{path: ../model, dtype: float32}", hub)
    )
    model = load_recipe(project / "child.yaml").model
    assert (model.revision, model.trust_remote_code) == (commit, True)
    (project / "child.yaml").write_text(CHILD + "model: {hub: acme/b}\n")
    model = load_recipe(project / "child.yaml").model
    assert (model.hub, model.revision, model.trust_remote_code) == ("acme/b", None, False)
    assert model.attn_implementation == "eager"
    (project / "child.yaml").write_text(CHILD + "model: {hub: acme/a}\n")
    assert load_recipe(project / "child.yaml").model.revision == commit


def test_an_open_mapping_is_merged_and_null_takes_an_entry_away(project: Path) -> None:
    adapter = "{type: lora, r: 8, rank_pattern: {q_proj: 4, v_proj: 2}}"
    (project / "shared" / "base.yaml").write_text(BASE.replace("{type: lora, r: 8}", adapter))
    (project / "child.yaml").write_text(
        "extends: shared/base.yaml\nname: child\n"
        "train: {adapter: {rank_pattern: {q_proj: null, k_proj: 1}}}\n"
    )
    recipe = load_recipe(project / "child.yaml")
    assert recipe.train.adapter.rank_pattern == {"v_proj": 2, "k_proj": 1}


def test_the_resolved_recipe_says_nothing_of_files(project: Path) -> None:
    recipe = load_recipe(project / "child.yaml")
    assert not {"extends", "abstract"} & set(recipe.resolved())
    (project / "flat.yaml").write_text(json.dumps(recipe.resolved()))
    flat = load_recipe(project / "flat.yaml")
    assert canonical(flat.resolved()) == canonical(recipe.resolved())
    assert flat == recipe


# --- paths


def test_a_path_starts_at_the_file_that_names_it(project: Path) -> None:
    recipe = load_recipe(project / "child.yaml")
    assert (recipe.model.path, recipe.data.train[0].path) == ("model", "rows.jsonl")
    assert recipe.resolve("rows.jsonl").is_file()
    deep = project / "of" / "others"
    deep.mkdir(parents=True)
    (deep / "x.yaml").write_text("extends: ../../shared/base.yaml\nname: x\n")
    assert load_recipe(deep / "x.yaml").model.path == "../../model"


def test_a_path_of_a_linked_base_starts_at_the_real_file(project: Path) -> None:
    (project / "deep" / "er").mkdir(parents=True)
    (project / "deep" / "er" / "base.yaml").symlink_to("../../shared/base.yaml")
    (project / "child.yaml").write_text(CHILD.replace("shared", "deep/er"))
    assert load_recipe(project / "child.yaml").model.path == "model"


@pytest.mark.parametrize(
    ("text", "file", "moved"),
    [
        ("a.jsonl", "/p/base.yaml", "a.jsonl"),
        ("a.jsonl", "/p/shared/base.yaml", "shared/a.jsonl"),
        ("../a.jsonl", "/p/shared/base.yaml", "a.jsonl"),
        ("../../a.jsonl", "/p/shared/base.yaml", "../a.jsonl"),
        ("./a.jsonl", "/q/base.yaml", "../q/a.jsonl"),
        ("link/../a.jsonl", "/p/s/base.yaml", "s/link/../a.jsonl"),
        ("..", "/p/s/base.yaml", "."),
    ],
)
def test_a_path_is_written_as_its_recipe_would(text: str, file: str, moved: str) -> None:
    assert moved_path(text, Path(file), Path("/p")) == moved


def test_a_base_behind_a_link_out_of_the_project_is_refused(project: Path) -> None:
    (project.parent / "outside.yaml").write_text(BASE)
    (project / "shared" / "base.yaml").unlink()
    (project / "shared" / "base.yaml").symlink_to(project.parent / "outside.yaml")
    _, diagnostics = check_recipe(Path("child.yaml"))
    assert said(diagnostics) == [("E208", "child.yaml", 1)]
    assert "outside" not in diagnostics[0].message


def test_a_base_is_bounded_as_a_recipe_is(project: Path) -> None:
    base = project / "shared" / "base.yaml"
    base.write_text(BASE + "#" * MAX_BYTES)
    assert said(check_recipe(Path("child.yaml"))[1]) == [("E112", "shared/base.yaml", 0)]
    base.unlink()
    os.mkfifo(base)  # opening one would wait for its writer
    assert said(check_recipe(Path("child.yaml"))[1]) == [("E210", "child.yaml", 1)]


def test_large_files_are_merged_in_a_moment(project: Path) -> None:
    entries = "".join(f"      m{number}: 1\n" for number in range(8000))
    patterns = f"train:\n  adapter:\n    rank_pattern:\n{entries}"
    (project / "shared" / "base.yaml").write_text(BASE.partition("train:\n  adapter")[0] + patterns)
    (project / "child.yaml").write_text(f"extends: shared/base.yaml\nname: child\n{patterns}")
    started = time.process_time()
    assert "E103" in {code for code, _, _ in said(check_recipe(project / "child.yaml")[1])}
    assert time.process_time() - started < 10  # it would take hours if it grew with the square


# --- what is the same, whichever file says it


def test_stages_do_not_ask_which_file_said_a_value(project: Path) -> None:
    recipe = load_recipe(project / "child.yaml")
    alone = (
        BASE.replace("abstract: true\n", "name: child\n")
        .replace("../", "")
        .replace("r: 8", "r: 16")
    )
    (project / "alone.yaml").write_text(alone)
    found = changes(load_recipe(project / "alone.yaml"), recipe)
    assert not found.any
    assert found.values == ()
    assert set(found.same) == {"fetch", "prepare", "train", "merge"}


def test_an_edited_base_makes_a_lock_stale_and_the_value_is_named(project: Path) -> None:
    locked = cheap_pins(load_recipe(project / "child.yaml"))
    base = project / "shared" / "base.yaml"
    base.write_text("# another comment\n" + BASE)
    assert stale_entries(locked, cheap_pins(load_recipe(project / "child.yaml"))) == []
    base.write_text(BASE.replace("max_steps: 4", "max_steps: 5"))
    assert stale_entries(locked, cheap_pins(load_recipe(project / "child.yaml"))) == [
        "recipe.train.max_steps: 4 → 5"
    ]
    (project / "rows.jsonl").write_text('{"instruction": "c", "output": "d"}\n')
    entries = stale_entries(locked, cheap_pins(load_recipe(project / "child.yaml")))
    assert [entry.partition(":")[0] for entry in entries] == [
        "recipe.train.max_steps", "files.rows.jsonl"
    ]  # fmt: skip


def test_a_lock_reads_no_base(project: Path) -> None:
    """It may come from a stranger's bundle."""
    resolved = load_recipe(project / "child.yaml").resolved() | {"extends": "shared/base.yaml"}
    (project / "x.lock.yaml").write_text(json.dumps({"lock": 1, "recipe": resolved}))
    _, diagnostics = check_recipe(project / "x.lock.yaml")
    assert [each.code for each in diagnostics] == ["E102"]


# --- validate


def test_what_is_wrong_in_a_base_is_said_once(project: Path) -> None:
    base = project / "shared" / "base.yaml"
    base.write_text(BASE.replace("max_steps: 4", "max_steps: 0"))
    (project / "other.yaml").write_text(CHILD.replace("child", "other"))
    wrong = [("E105", "shared/base.yaml", 9)]
    assert said(check_paths([Path("child.yaml")])[1]) == wrong
    assert said(check_paths([Path("child.yaml"), Path("other.yaml")])[1]) == wrong
    for paths in (["."], ["child.yaml", "shared"], ["shared", "child.yaml"]):
        files, diagnostics, _ = check_paths([Path(path) for path in paths])
        assert files > 1
        assert said(diagnostics) == wrong
    absolute = check_paths([project / "child.yaml", base])[1]
    assert said(absolute) == [("E105", str(base), 9)]


def test_what_a_base_says_wrongly_of_one_recipe_alone_is_said(project: Path) -> None:
    (project / "child.yaml").write_text(CHILD.replace("{r: 16}", "{type: none}"))
    assert ("E201", "shared/base.yaml", 10) in said(check_paths([Path()])[1])


def test_what_a_recipe_makes_wrong_in_its_base_names_the_recipe(project: Path) -> None:
    (project / "child.yaml").write_text(
        "extends: shared/base.yaml\nname: child\ntrain: {method: dpo}\n"
    )
    found = next(each for each in check_paths([Path()])[1] if each.code == "E246")
    assert (found.file, found.line) == ("shared/base.yaml", 6)
    assert found.hint.endswith("(found in child.yaml, which extends it)")


def test_an_abstract_file_without_a_method_is_not_held_to_one(project: Path) -> None:
    """Its rows are those of the recipes that extend it, and so is a setting of their method."""
    base = project / "shared" / "base.yaml"
    base.write_text(
        BASE.replace("format: alpaca", "format: preference").replace(
            "train:\n  ad", "train:\n  beta: 0.2\n  ad"
        )
    )
    (project / "rows.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    (project / "child.yaml").write_text(
        "extends: shared/base.yaml\nname: child\ntrain: {method: dpo}\n"
    )
    assert check_paths([Path()])[1] == []
    base.write_text(base.read_text().replace("train:\n  beta", "train:\n  method: sft\n  beta"))
    assert {each.code for each in check_file(base).diagnostics} == {"E245", "E246"}


def test_an_abstract_file_is_valid_and_cannot_be_used(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = Path("shared/base.yaml")
    assert check_file(base).diagnostics == []
    assert main(["validate", "shared"]) == 0
    for command in ("show", "plan", "lock", "run"):
        assert main([command, str(base)]) == 2
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("error[E127]") == 4


def test_an_abstract_file_is_checked_as_far_as_it_goes(project: Path) -> None:
    text = "abstract: true\nmerge: {}\ngguf: {quantize: [Q8_0]}\nollama: {name: a b}\n"
    (project / "half.yaml").write_text(text)
    assert said(check_file(Path("half.yaml")).diagnostics) == [("E206", "half.yaml", 4)]
    (project / "half.yaml").write_text("abstract: true\ngguf: {quantize: [Q8_0]}\n")
    assert check_file(Path("half.yaml")).diagnostics == []  # the rest may bring the merge


def test_a_file_that_extends_is_found_in_a_folder(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "part.yaml").write_text("abstract: true\nseed: 1\n")
    (project / "flow.yaml").write_text(
        '{"extends": "shared/base.yaml", "name": "flow", "schema": 1}'
    )
    (project / "other.yaml").write_text("extends: eslint:recommended\n")
    assert main(["validate", "."]) == 0
    assert capsys.readouterr().out == "4 recipes checked: all valid\n"


# --- show


def test_show_tells_the_file_and_line_of_every_value(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "--resolved", "child.yaml"]) == 0
    out = capsys.readouterr().out
    lines = {line.partition("#")[0].strip(): line.partition("# ")[2] for line in out.splitlines()}
    assert lines["r: 16"] == "child.yaml:4"
    assert lines["max_steps: 4"] == "shared/base.yaml:9"
    rows = "- {path: rows.jsonl, format: alpaca, weight: null, repeat: 1.0, limit: null}"
    assert lines[rows] == "shared/base.yaml:6"
    assert lines["seed: 42"] == "default"
    (project / "shown.yaml").write_text(out)
    assert load_recipe(project / "shown.yaml") == load_recipe(project / "child.yaml")
    assert main(["show", "--resolved", "--format", "json", "child.yaml"]) == 0
    origin = json.loads(capsys.readouterr().out)["origin"]
    assert origin["/train/adapter/r"] == {
        "given": True, "file": "child.yaml", "line": 4, "column": 16
    }  # fmt: skip
    assert origin["/model/dtype"] == {
        "given": True, "file": "shared/base.yaml", "line": 3, "column": 32
    }  # fmt: skip
    assert origin["/seed"] == {"given": False}


# --- editor and tool


@pytest.mark.parametrize("name", ["child", "another-source", "another-adapter"])
def test_what_an_editor_marks_in_a_recipe_that_extends_the_tool_reports(
    name: str, extending: Path
) -> None:
    """The editor sees one file; the tool may find more, in the base or for want of a key."""
    data = read_source(RECIPES / "valid" / "extends" / f"{name}.yaml").data
    assert EXTENDING
    target = extending / "mutated.yaml"
    marked = 0
    for mutated in mutations(data):
        if ORACLE.is_valid(mutated):
            continue
        marked += 1
        target.write_text(json.dumps(mutated))
        recipe, _ = check_recipe(target)
        assert recipe is None, mutated
    target.unlink()
    assert marked > 50


def test_every_kind_of_value_is_left_in_its_file(extending: Path) -> None:
    """No value of a merged recipe is without a place, and none has the wrong line."""
    for path in extending.glob("*.yaml"):
        source = load_recipe(path).source
        for pointer, value in _leaves(source.data, ""):
            file, span = source.place(pointer)
            line = file.read_text().split("\n")[span.line - 1]
            wanted = (
                pointer.rpartition("/")[2] if isinstance(value, float) else flow(value).strip('"')
            )
            assert wanted in line, (path, pointer)


def _leaves(value: Any, pointer: str) -> list[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in items:
        child = f"{pointer}/{key}"
        found += _leaves(item, child) if isinstance(item, dict | list) else [(child, item)]
    return found
