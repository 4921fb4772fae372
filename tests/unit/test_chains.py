"""A recipe that starts from what another one gives: read, planned, pinned and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.errors import RecipeInvalid
from runner.execution.revisions import pinned_as
from runner.lock.of_run import moved
from runner.lock.pins import cheap_pins
from runner.plan.chain import bases_of, needed_of_base, plan_chain, stages_of_base
from runner.plan.changes import changes
from runner.plan.keys import key_material
from runner.plan.plan import Action
from runner.plan.snapshot import read_surroundings
from runner.recipe.base_recipe import MAX_RECIPES, resolved_findings
from runner.recipe.load import check_recipe, load_recipe
from runner.recipe.model import Recipe, build
from runner.recipe.model_facts import known_facts
from runner.recipe.shrink import shrink_recipe, shrunken_as
from runner.recipe.source import Source
from runner.stages import stages_of
from runner.stages.contract import Class, FileEntry, Outputs
from runner.stages.models.base_result import BASE
from runner.store.store import Store

SFT = """\
schema: 1
name: sft
model: {path: ../model, dtype: float32}
data:
  train: [{path: ../rows.jsonl, format: alpaca}]
  validation: {fraction: 0.5}
  chat_template: own.jinja
train: {adapter: {type: lora}, max_steps: 4}
evaluate: {loss: false, samples: 2}
merge: {}
"""
DPO = """\
schema: 1
name: dpo
model: {recipe: bases/sft.yaml, dtype: float32, attn_implementation: eager}
data: {train: [{path: pairs.jsonl, format: preference}]}
train: {method: dpo, adapter: {type: lora}, max_steps: 8}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in (".git", "model", "bases"):
        (tmp_path / folder).mkdir()
    config = {"max_position_embeddings": 640, "model_type": "llama"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    rows = {
        "rows": {"instruction": "q", "output": "a"},
        "pairs": {"prompt": "q", "chosen": "a", "rejected": "b"},
    }
    for name, row in rows.items():
        lines = [json.dumps({key: f"{value} {n}" for key, value in row.items()}) for n in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "bases" / "own.jinja").write_text("{{ messages }} of sft")
    (tmp_path / "bases" / "sft.yaml").write_text(SFT)
    (tmp_path / "dpo.yaml").write_text(DPO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result(content: str) -> Outputs:
    entry = FileEntry("model/model.safetensors", 1, content * 64, Class.PORTABLE)
    return Outputs("merge", "0" * 64, Path("/store/merge"), {entry.path: entry})


def fetch_material(recipe: Recipe, upstream: Mapping[str, Outputs]) -> dict[str, Any]:
    (stage,) = stages_of(recipe, "fetch")
    return key_material(stage, recipe, upstream, read_surroundings(recipe, [stage]))


# --- read


def test_paths_of_the_base_recipe_start_at_its_own_file(project: Path) -> None:
    recipe = load_recipe(project / "dpo.yaml")
    assert recipe.base is not None
    assert recipe.base.source.path == project / "bases" / "sft.yaml"
    assert recipe.base.data.train[0].path == "../rows.jsonl"
    inner = recipe.resolved()["model"]["recipe"]
    assert inner["data"]["train"][0]["path"] == "rows.jsonl"
    assert inner["model"]["path"] == "model"
    assert inner["data"]["chat_template"] == "bases/own.jinja"


def test_what_is_said_beside_the_recipe_counts(project: Path) -> None:
    model = load_recipe(project / "dpo.yaml").model
    assert (model.dtype, model.attn_implementation) == ("float32", "eager")
    assert (model.path, model.hub, model.wheel, model.file) == (None, None, None, None)


def test_the_resolved_recipe_holds_the_whole_chain(project: Path) -> None:
    recipe = load_recipe(project / "dpo.yaml")
    file = project / "all.yaml"
    file.write_text(json.dumps(recipe.resolved()))
    (project / "bases" / "sft.yaml").unlink()
    again = load_recipe(file)
    assert again == recipe
    assert again.resolved() == recipe.resolved()
    assert again.base is not None
    assert again.base.folder == project
    assert build(recipe.resolved(), Source(path=file)) == recipe


def test_a_run_far_away_finds_the_files_of_the_whole_chain(project: Path) -> None:
    away = project / "runs" / "dpo" / "1"
    away.mkdir(parents=True)
    resolved = moved(load_recipe(project / "dpo.yaml"), away)
    again = build(resolved, Source(path=away / "recipe.lock.yaml", data=resolved))
    assert again.base is not None
    for recipe in (again, again.base):
        assert all(recipe.resolve(str(file.path)).is_file() for _, file in recipe.data_files())
    assert again.base.resolve(str(again.base.model.path)).is_dir()


def test_both_recipes_may_extend_others(project: Path) -> None:
    (project / "bases" / "team.yaml").write_text(
        "abstract: true\nschema: 1\nmodel: {recipe: sft.yaml, dtype: float32}\n"
        "data: {train: [{path: ../pairs.jsonl, format: preference}]}\n"
    )
    (project / "sft.yaml").write_text("extends: bases/sft.yaml\nname: longer\n")
    (project / "child.yaml").write_text(
        "extends: bases/team.yaml\nname: child\n"
        "train: {method: dpo, adapter: {type: lora}, max_steps: 8}\n"
    )
    recipe = load_recipe(project / "child.yaml")  # the base recipe is named in the file it extends
    assert recipe.base is not None
    assert recipe.base.name == "sft"
    assert recipe.resolved()["data"]["train"][0]["path"] == "pairs.jsonl"
    assert recipe.resolved()["model"]["recipe"]["model"]["path"] == "model"
    child = load_recipe(project / "child.yaml", overrides=["model.recipe=sft.yaml"])
    assert child.base is not None
    assert child.base.name == "longer"


def test_an_option_is_of_the_outer_recipe_alone(project: Path) -> None:
    recipe = load_recipe(project / "dpo.yaml", overrides=["train.max_steps=3", "seed=7"])
    assert recipe.base is not None
    assert (recipe.train.max_steps, recipe.seed) == (3, 7)
    assert (recipe.base.train.max_steps, recipe.base.seed) == (4, 42)
    _, found = check_recipe(project / "dpo.yaml", ["model.recipe.train.max_steps=3"])
    assert [each.code for each in found] == ["E129"]


def test_a_mistake_in_what_a_resolved_recipe_holds_is_told_at_its_line(project: Path) -> None:
    resolved = load_recipe(project / "dpo.yaml").resolved()
    resolved["model"]["recipe"]["train"]["max_steps"] = "four"
    text = json.dumps(resolved, indent=1)
    (project / "all.yaml").write_text(text)
    recipe, (found,) = check_recipe(project / "all.yaml")
    assert recipe is None
    line = next(number for number, line in enumerate(text.splitlines(), 1) if '"four"' in line)
    assert (found.code, found.line) == ("E104", line)
    (finding,) = resolved_findings(resolved)
    assert finding.pointer == "/model/recipe/train/max_steps"
    resolved["model"]["recipe"] = "sft.yaml"
    (finding,) = resolved_findings(resolved)
    assert "must stand" in finding.message


def test_a_record_whose_base_recipe_leaves_defaults_out_is_read(project: Path) -> None:
    """As a stranger's may: valid by the schema is enough."""
    recipe = load_recipe(project / "dpo.yaml")
    resolved = recipe.resolved()
    for key in ("seed", "description"):
        del resolved["model"]["recipe"][key]
    del resolved["model"]["recipe"]["data"]["validation"]
    assert resolved_findings(resolved) == []
    again = build(resolved, Source(path=project / "x.yaml", data=resolved))
    assert again.base is not None
    assert again.base.seed == 42
    assert [file.name for _, file in again.base.data_files()] == ["rows.jsonl"]


def chain_of(project: Path, length: int) -> Path:
    """`length` recipes, each starting from the one before; the file of the last."""
    before, text = "bases/sft.yaml", SFT.replace("../", "").replace("own.jinja", "bases/own.jinja")
    for number in range(length):
        again = text.replace("{path: model, ", f"{{recipe: {before}, ").replace(
            "sft\n", f"r{number}\n"
        )
        before = f"r{number}.yaml"
        (project / before).write_text(again.replace("evaluate: {loss: false, samples: 2}\n", ""))
    return project / before


def test_recipes_start_one_from_the_other(project: Path) -> None:
    recipe = load_recipe(chain_of(project, 2))
    assert [base.name for base in bases_of(recipe)] == ["sft", "r0"]
    assert recipe.resolved()["model"]["recipe"]["model"]["recipe"]["name"] == "sft"
    load_recipe(chain_of(project, MAX_RECIPES - 1))
    with pytest.raises(RecipeInvalid) as caught:
        load_recipe(chain_of(project, MAX_RECIPES))
    (found,) = caught.value.diagnostics
    assert (found.code, Path(found.file).name) == ("E258", "r0.yaml")


# --- the model's facts


def test_facts_are_those_of_the_first_model_and_the_template_is_the_last_one_trained_with(
    project: Path,
) -> None:
    facts = known_facts(load_recipe(project / "dpo.yaml"))
    assert facts is not None
    assert facts.context == 640
    assert facts.chat_template == "{{ messages }} of sft"
    _, found = check_recipe(project / "dpo.yaml", ["data.max_length=1024"])
    assert [each.code for each in found] == ["E243"]


def test_another_template_is_warned_of_and_the_same_is_not(project: Path) -> None:
    (project / "other.jinja").write_text("{{ messages }} of nobody")
    for name, codes in (("other.jinja", ["W259"]), ("bases/own.jinja", [])):
        _, found = check_recipe(project / "dpo.yaml", [f"data.chat_template={name}"])
        assert [each.code for each in found] == codes


# --- planned


def test_the_plan_has_the_base_recipe_up_to_its_model(project: Path, tmp_path: Path) -> None:
    recipe = load_recipe(project / "dpo.yaml")
    base, last = plan_chain(recipe, stages_of(recipe), Store(tmp_path / "store"))
    assert [step.stage for step in base.steps] == ["fetch", "prepare", "train", "evaluate", "merge"]
    assert [step.action for step in base.steps] == [Action.RUN, *[Action.PENDING] * 4]
    assert [step.stage for step in last.steps] == ["fetch", "prepare", "train"]
    assert {step.action for step in last.steps} == {Action.PENDING}
    assert last.steps[0].reason == "depends on the bytes that the recipe sft will give"
    assert (base.runs, last.runs) == (project / "runs" / "sft", project / "runs" / "dpo")


def test_what_is_derived_again_is_what_the_model_depends_on(project: Path) -> None:
    recipe = load_recipe(project / "bases" / "sft.yaml")
    assert [each.NAME for each in needed_of_base(recipe)] == ["fetch", "prepare", "train", "merge"]
    whole = load_recipe(
        project / "bases" / "sft.yaml", overrides=["train.adapter={type: none}", "merge=null"]
    )
    assert [each.NAME for each in stages_of_base(whole)] == ["fetch", "prepare", "train"]


def test_the_key_has_the_content_of_the_result_and_not_the_way_to_it(project: Path) -> None:
    """So two base recipes whose trainings give the same bytes share all that is made of them."""
    recipe = load_recipe(project / "dpo.yaml")
    (project / "bases" / "sft.yaml").write_text(SFT.replace("name: sft", "name: other"))
    other = load_recipe(project / "dpo.yaml")
    assert other != recipe
    assert fetch_material(recipe, {BASE: result("a")}) == fetch_material(other, {BASE: result("a")})
    assert fetch_material(recipe, {BASE: result("a")}) != fetch_material(
        recipe, {BASE: result("b")}
    )


def test_the_json_of_a_plan_has_the_bases(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_STORE", str(project / "store"))
    assert main(["plan", "dpo.yaml", "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["recipe"], [base["recipe"] for base in plan["bases"]]) == ("dpo", ["sft"])
    assert plan["bases"][0]["stages"][0]["key"] is not None
    assert main(["plan", "dpo.yaml"]) == 0
    text = capsys.readouterr().out
    assert text.index("sft, by bases/sft.yaml\n") < text.index("dpo, by dpo.yaml\n")


def test_show_names_the_file_and_resolved_every_value_of_both(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "dpo.yaml"]) == 0
    assert "recipe: bases/sft.yaml" in capsys.readouterr().out
    assert main(["show", "--resolved", "dpo.yaml"]) == 0
    shown = capsys.readouterr().out
    assert "# bases/sft.yaml:7" in shown
    (project / "shown.yaml").write_text(shown)
    assert load_recipe(project / "shown.yaml") == load_recipe(project / "dpo.yaml")


# --- shrunken, pinned, compared


def test_a_shrunken_chain_shrinks_both(project: Path) -> None:
    twin = shrink_recipe(load_recipe(project / "dpo.yaml", overrides=["train.max_steps=80"]))
    assert twin.base is not None
    assert (twin.name, twin.base.name) == ("dpo-shrink", "sft-shrink")
    assert twin.resolved()["model"]["recipe"]["name"] == "sft-shrink"
    assert twin.shrink is not None
    assert twin.shrink["/model/recipe/name"] == "sft-shrink"
    again = shrunken_as(build(twin.resolved(), twin.source), twin.shrink)  # as a run's record does
    assert again == twin
    assert again.base is not None
    assert again.base.shrink == twin.base.shrink


def test_a_lock_pins_files_stages_and_values_of_the_whole_chain(project: Path) -> None:
    before = cheap_pins(load_recipe(project / "dpo.yaml"))
    assert {"rows.jsonl", "pairs.jsonl", "model/config.json", "bases/own.jinja"} == set(
        before["files"]
    )
    assert "merge" in before["stages"]  # which the outer recipe has not
    (project / "bases" / "sft.yaml").write_text(SFT.replace("max_steps: 4", "max_steps: 5"))
    after = cheap_pins(load_recipe(project / "dpo.yaml"))
    assert before != after
    inner = after["recipe"]["model"]["recipe"]
    assert inner["train"]["max_steps"] == 5


def test_the_environments_of_both_backends_are_pinned(project: Path) -> None:
    recipe = load_recipe(project / "dpo.yaml", overrides=["train.backend=llamafactory"])
    assert {"native", "llamafactory"} <= set(cheap_pins(recipe)["environments"])


def test_commits_are_pinned_in_both_recipes(project: Path) -> None:
    text = SFT.replace("path: ../model", "hub: acme/tiny")
    (project / "bases" / "sft.yaml").write_text(text)
    recipe = load_recipe(project / "dpo.yaml")
    locked = recipe.resolved()
    locked["model"]["recipe"]["model"]["revision"] = "a" * 40
    pinned = pinned_as(recipe, locked)
    assert pinned.resolved() == locked
    assert pinned.base is not None
    assert pinned.base.model.revision == "a" * 40
    assert pinned.model.recipe == locked["model"]["recipe"]


def test_a_change_of_the_base_recipe_reaches_everything(project: Path) -> None:
    before = load_recipe(project / "dpo.yaml")
    for old, new, touched in (
        ("max_steps: 4", "max_steps: 5", ("fetch",)),
        ("loss: false", "loss: true", ()),
    ):
        (project / "bases" / "sft.yaml").write_text(SFT.replace(old, new))
        found = changes(before, load_recipe(project / "dpo.yaml"))
        assert found.touched == touched
        assert found.perhaps == (("prepare", "train") if touched else ())
        assert found.values[0].startswith("model.recipe.")
    (project / "bases" / "sft.yaml").write_text(SFT.replace("rows.jsonl", "rows-2.jsonl"))
    (project / "rows-2.jsonl").write_bytes((project / "rows.jsonl").read_bytes() * 2)
    assert changes(before, load_recipe(project / "dpo.yaml")).touched == ("fetch",)
