"""Models and data of the hub: keys, plans, pins, and the recipe that we ship."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.execution import revisions
from runner.execution.ready import downloads
from runner.plan.keys import Surroundings, key_material, key_of
from runner.plan.plan import Action, make_plan
from runner.plan.snapshot import Snapshot
from runner.recipe.load import check_recipe, load_recipe
from runner.recipe.model import Recipe
from runner.report.printable import holds_token, quoted, without_tokens
from runner.report.progress import amount
from runner.stages import (
    fetch,
    fetch_data,
    fetch_reward,
    fetch_tasks,
    harness,
    load_stage,
    prepare,
    stages_of,
)
from runner.stages.contract import Class, FileEntry, Outputs
from runner.stages.models import hub
from tests.chain import ROOT
from tests.recipe_cases import SHIPPED

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
TOKEN = "hf_PlantedTokenThatNobodyMaySee0123456789"
NOTHING_KNOWN = Surroundings(
    environments=dict.fromkeys(("data", "native", "evaluate", "export"), "e"),
    tools={},
    platform={"name": "cpu-test"},
    files={},
)


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Recipe]:
    (tmp_path / ".git").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n" * 40)

    def build(
        model: dict[str, Any],
        *data: dict[str, Any],
        reward: dict[str, Any] | None = None,
        evaluate: dict[str, Any] | None = None,
        **more: Any,
    ) -> Recipe:
        files = [{"format": "alpaca", **each} for each in data or ({"path": "rows.jsonl"},)]
        content: dict[str, Any] = {
            "schema": 1,
            "name": "x",
            "model": model,
            "data": {"train": files, **more},
            "train": {"adapter": {"type": "lora"}, "max_steps": 1},
            **({"reward": reward} if reward else {}),
            **({"evaluate": evaluate} if evaluate else {}),
        }
        if reward:
            content["train"] = {**content["train"], "method": "ppo"}
        (tmp_path / "x.yaml").write_text(json.dumps(content))
        return load_recipe(tmp_path / "x.yaml")

    return build


def of_hub(**changes: Any) -> dict[str, Any]:
    return {"hub": "acme/tiny", "revision": COMMIT, **changes}


ROWS = {"hub": "acme/rows", "revision": COMMIT, "file": "data/train.jsonl"}


def outputs(stage: str, **digests: str) -> Outputs:
    files = {name: FileEntry(name, 1, sha, Class.PORTABLE) for name, sha in digests.items()}
    return Outputs(stage, "key", Path("/none"), files)


# --- keys


def test_the_key_of_a_repository_is_what_names_its_bytes(recipe: Callable[..., Recipe]) -> None:
    assert fetch.key_inputs(recipe(of_hub()), {}) == {
        "hub": "acme/tiny",
        "revision": COMMIT,
        "file": None,
        "dtype": "bfloat16",
        "policy": 1,
    }
    assert fetch.snapshot(recipe(of_hub())) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"hub": "acme/other"},
        {"revision": OTHER},
        {"file": "a.gguf"},
        {"dtype": "float32"},
        {"trust_remote_code": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_that_decides_bytes_is_in_the_key(
    recipe: Callable[..., Recipe], change: dict[str, Any]
) -> None:
    before, after = recipe(of_hub()), recipe(of_hub(**change))
    assert fetch.key_inputs(before, {}) != fetch.key_inputs(after, {})


def test_where_the_hub_is_decides_nothing(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_of(key_material(fetch, recipe(of_hub()), {}, NOTHING_KNOWN))  # type: ignore[arg-type]
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert key_of(key_material(fetch, recipe(of_hub()), {}, NOTHING_KNOWN)) == before  # type: ignore[arg-type]


def test_data_of_the_hub_touch_their_own_stage_alone(recipe: Callable[..., Recipe]) -> None:
    before, after = recipe(of_hub(), ROWS), recipe(of_hub(), {**ROWS, "revision": OTHER})
    assert fetch.key_inputs(before, {}) == fetch.key_inputs(after, {})
    assert fetch_data.key_inputs(before, {}) == {
        "data/train-0.jsonl": {
            "hub": "acme/rows",
            "revision": COMMIT,
            "file": "data/train.jsonl",
        }
    }
    assert fetch_data.key_inputs(before, {}) != fetch_data.key_inputs(after, {})


def test_prepare_reads_the_content_of_the_hubs_data(recipe: Callable[..., Recipe]) -> None:
    upstream = {"fetch": outputs("fetch"), "fetch_data": outputs("fetch_data", a="1")}
    one, two = recipe(of_hub(), ROWS), recipe(of_hub(), {**ROWS, "revision": OTHER})
    assert prepare.key_inputs(one, upstream) == prepare.key_inputs(two, upstream)
    other = {**upstream, "fetch_data": outputs("fetch_data", a="2")}
    assert prepare.key_inputs(one, upstream) != prepare.key_inputs(one, other)
    assert prepare.snapshot(one)["train"] == [None]


def test_recipes_without_the_hub_have_the_keys_that_they_had(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    plain = recipe({"path": "model"})
    assert [stage.NAME for stage in stages_of(plain)] == ["fetch", "prepare", "train"]
    assert fetch.key_inputs(plain, {}) == {"kind": "folder", "dtype": "bfloat16"}
    key = prepare.key_inputs(plain, {"fetch": outputs("fetch")})
    assert set(key) == {
        *("tokenizer", "train", "validation", "system", "own_template", "max_length"),
        *("too_long", "packing", "fraction", "seed"),
    }
    from runner.backends import native

    assert "trust_remote_code" not in native.spec(plain)
    assert native.spec(recipe(of_hub(trust_remote_code=True)))["trust_remote_code"] is True


def test_a_file_has_one_name_however_it_is_written(recipe: Callable[..., Recipe]) -> None:
    plain = fetch_data.key_inputs(recipe(of_hub(), ROWS), {})
    dotted = fetch_data.key_inputs(recipe(of_hub(), {**ROWS, "file": "./data//train.jsonl"}), {})
    assert plain == dotted


# --- plans and pins


def test_a_plan_of_a_branch_is_pending_and_says_why(recipe: Callable[..., Recipe]) -> None:
    branch = recipe(of_hub(revision="v2"), {**ROWS, "revision": None})
    steps = make_plan(branch, stages_of(branch, "prepare"), Snapshot(NOTHING_KNOWN))
    assert [(step.stage, step.action, step.key) for step in steps] == [
        (name, Action.PENDING, "") for name in ("fetch", "fetch_data", "prepare")
    ]
    assert steps[0].reason == "acme/tiny is not pinned: a run asks the hub for its v2"
    assert steps[1].reason == "acme/rows is not pinned: a run asks the hub for its main branch"


def test_nothing_is_asked_for_a_pinned_recipe(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "_ask", lambda *_: pytest.fail("asked"))
    pinned = recipe(of_hub(), ROWS, {"path": "rows.jsonl"})
    assert revisions.pin_revisions(pinned, tmp_path, print) is pinned


def test_a_pinned_branch_is_a_recipe_that_names_the_commit(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def ask(what: Any, say: Any) -> list[str]:
        asked.extend(what)
        return [OTHER, COMMIT]

    monkeypatch.setattr(revisions, "_ask", ask)
    held_out = {"files": [{**ROWS, "file": "test.jsonl", "revision": "v1", "format": "alpaca"}]}
    branch = recipe(of_hub(revision=None), {**ROWS, "revision": "v1"}, validation=held_out)
    said: list[str] = []
    done = revisions.pin_revisions(branch, tmp_path, said.append)
    assert asked == [("acme/tiny", None, "model"), ("acme/rows", "v1", "dataset")], "each once"
    assert said == [
        f"acme/tiny: the main branch is commit {OTHER}",
        f"acme/rows: v1 is commit {COMMIT}",
    ]
    held_out["files"][0]["revision"] = COMMIT
    written = recipe(of_hub(revision=OTHER), ROWS, validation=held_out)
    assert done == written
    assert done.resolved() == written.resolved()
    assert branch.model.revision is None, "the recipe itself is left as it was"


def test_a_reward_model_of_the_hub_is_pinned_like_a_model(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[revisions.Asked] = []

    def ask(them: list[revisions.Asked], say: Callable[[str], None]) -> list[str]:
        asked.extend(them)
        return [OTHER]

    monkeypatch.setattr(revisions, "_ask", ask)
    branch = recipe(of_hub(), reward={"hub": "acme/scorer", "revision": "v2"})
    steps = make_plan(branch, stages_of(branch, "fetch_reward"), Snapshot(NOTHING_KNOWN))
    assert steps[-1].stage == "fetch_reward"
    assert steps[-1].reason == "acme/scorer is not pinned: a run asks the hub for its v2"
    done = revisions.pin_revisions(branch, tmp_path, lambda _: None)
    assert asked == [("acme/scorer", "v2", "model")]
    written = recipe(of_hub(), reward={"hub": "acme/scorer", "revision": OTHER})
    assert done == written
    assert done.resolved() == written.resolved()
    assert revisions.pinned_as(branch, written.resolved()) == written, "as a lock has it"


def test_a_reward_model_of_the_hub_is_named_by_its_commit(recipe: Callable[..., Recipe]) -> None:
    scored = recipe(of_hub(), reward={"hub": "acme/scorer", "revision": COMMIT})
    facts = {"hub": "acme/scorer", "revision": COMMIT, "policy": 1, "dtype": "bfloat16"}
    assert fetch_reward.key_inputs(scored, {}) == facts
    assert fetch_reward.snapshot(scored) == {}
    assert fetch_reward.unresolved(scored) == ""
    wanted = list(downloads(scored, [load_stage("fetch_reward")]))
    assert wanted == [f"the reward model acme/scorer at {COMMIT}"]


ASKED = {"path": "t.yaml", "hub": "acme/asked", "data": "all/test.parquet", "fewshot": "few.jsonl"}
TASK = "task: t\noutput_type: generate_until\ndoc_to_text: a\ndoc_to_target: b\n"


def asking(recipe: Callable[..., Recipe], folder: Path, revision: str | None) -> Recipe:
    """A recipe with one task, whose rows are on the hub."""
    (folder / "t.yaml").write_text(TASK)
    task = ASKED | ({"revision": revision} if revision else {})
    return recipe(of_hub(), evaluate={"samples": 0, "harness": {"tasks": [task]}})


def test_rows_of_a_task_are_pinned_like_data_and_in_a_lock(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[revisions.Asked] = []

    def ask(them: list[revisions.Asked], say: Callable[[str], None]) -> list[str]:
        asked.extend(them)
        return [OTHER]

    monkeypatch.setattr(revisions, "_ask", ask)
    branch = asking(recipe, tmp_path, None)
    assert fetch_tasks.unresolved(branch).startswith("acme/asked is not pinned")
    done = revisions.pin_revisions(branch, tmp_path, lambda _: None)
    assert asked == [("acme/asked", None, "dataset")], "once for both files"
    written = asking(recipe, tmp_path, OTHER)
    assert done == written
    assert done.resolved() == written.resolved()
    assert revisions.pinned_as(branch, written.resolved()) == written
    assert fetch_tasks.key_inputs(written, {}) == {
        "tasks/data-0.parquet": {
            "hub": "acme/asked", "revision": OTHER, "file": "all/test.parquet"
        },
        "tasks/fewshot-0.jsonl": {"hub": "acme/asked", "revision": OTHER, "file": "few.jsonl"},
    }  # fmt: skip
    assert list(downloads(written, [load_stage("fetch_tasks")])) == [
        f"the data set file acme/asked/all/test.parquet at {OTHER}",
        f"the data set file acme/asked/few.jsonl at {OTHER}",
    ]


class Recording:
    """A context that starts nothing: what scripts would have been started with."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.calls: list[tuple[str, Mapping[str, Path], str | None]] = []

    def run_script(
        self,
        name: str,
        spec: Mapping[str, Any],
        *,
        folder: Path,
        inputs: Mapping[str, Path],
        environment: str | None = None,
    ) -> dict[str, Any]:
        self.calls.append((name, inputs, environment))
        return {}


def test_the_harness_is_handed_rows_of_the_hub_and_parquet_as_json_lines(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    asked = asking(recipe, tmp_path, COMMIT)
    tasks = tmp_path / "fetched" / "tasks"
    tasks.mkdir(parents=True)
    (tasks / "data-0.parquet").write_bytes(b"PAR1")
    (tasks / "fewshot-0.jsonl").write_bytes(b"{}")
    inputs = {name: outputs(name) for name in ("fetch", "train")}
    inputs["prepare"] = outputs("prepare", **{"chat_template.jinja": "1"})
    rows = outputs("fetch_tasks", **{"tasks/data-0.parquet": "1", "tasks/fewshot-0.jsonl": "2"})
    inputs["fetch_tasks"] = replace(rows, folder=tasks.parent)
    context = Recording(tmp_path / "scratch")
    harness.run(asked, inputs, tmp_path, context)  # type: ignore[arg-type]
    (made_plain, packed, environment), (name, given, _) = context.calls
    assert (made_plain, environment) == ("plain_rows", "parquet")
    assert packed == {"data-0": tasks / "data-0.parquet"}
    assert name == "harness"
    assert given["data-0"] == context.scratch / "plain" / "data-0.jsonl"
    assert given["fewshot-0"] == tasks / "fewshot-0.jsonl"
    assert harness.borrowed(asked) == ("parquet",)


@pytest.mark.parametrize("revision", ["main", "abc1234", COMMIT.upper(), COMMIT + "0", None])
def test_what_is_no_commit_is_asked_for(
    recipe: Callable[..., Recipe], revision: str | None
) -> None:
    assert hub.unpinned(recipe(of_hub(revision=revision)).model)


# --- tokens and bytes in words


def test_a_token_is_recognised_and_masked_in_place() -> None:
    text = f'a: "{TOKEN}"  # and api_org_{"x" * 34}'
    masked = without_tokens(text)
    assert len(masked) == len(text)
    assert masked == f'a: "hf_{"*" * (len(TOKEN) - 3)}"  # and api_org_{"*" * 34}'
    assert not holds_token("hf_hub_download is a function, and hf_short is none")
    assert "Planted" not in quoted("x" * 30 + " " + TOKEN, 60), "cut off in the middle"


@pytest.mark.parametrize(
    ("step", "total", "words"),
    [
        (500, 2000, "0.5/2.0 kB"),
        (1_234_567, 30_000_000, "1.2/30.0 MB"),
        (0, 16_060_000_000, "0.0/16.1 GB"),
    ],
)
def test_a_download_is_shown_in_bytes(step: int, total: int, words: str) -> None:
    assert amount({"step": step, "total": total, "unit": "bytes"}) == words
    assert amount({"step": step, "total": total}) == f"{step}/{total}"


# --- what is shipped


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_a_shipped_recipe_is_valid_and_listed(path: Path) -> None:
    recipe, found = check_recipe(path)
    assert recipe is not None, found
    known = {"W206"} | ({"W268"} if recipe.train.backend == "unsloth" else set())
    assert {diagnostic.code for diagnostic in found} <= known
    assert path.relative_to(ROOT).as_posix() in (ROOT / "README.md").read_text()


def test_the_course_recipe_goes_all_the_way() -> None:
    recipe = load_recipe(ROOT / "recipes" / "course" / "10.2-8b-lora.yaml")
    assert [stage.NAME for stage in stages_of(recipe)] == [
        *("fetch", "prepare", "train", "evaluate", "merge", "gguf", "ollama", "benchmark")
    ]
    assert recipe.train.adapter.target_modules == ("q_proj", "k_proj", "v_proj", "o_proj")


def test_every_column_of_a_tasks_rows_is_read_and_texts_of_what_is_measured_by(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """A task compares numbers too; what rows must not hold are texts."""
    asked: list[Mapping[str, Any]] = []
    row = {"instruction": "What?", "output": "That."}
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 40)
    context: Any = SimpleNamespace(
        scratch=tmp_path, run_script=lambda name, spec, **_: asked.append(spec)
    )
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "fewshot-0.jsonl").write_text("{}")
    for place in ("q.parquet", "tasks/data-0.parquet"):
        shutil.copy(ROOT / "tests" / "recipes" / "data" / "quiz.parquet", tmp_path / place)
    stages = ("fetch", "train", "prepare", "fetch_tasks")
    inputs: Any = dict.fromkeys(stages, SimpleNamespace(folder=tmp_path, path=tmp_path.joinpath))
    measuring = asking(recipe, tmp_path, COMMIT)
    harness.run(measuring, inputs, tmp_path, context)
    (file,) = asked[0]["files"].values()
    assert file["columns"] is None

    asked.clear()
    clean = {"decontaminate": {"files": [{"path": "q.parquet"}]}}
    prepare.run(recipe(of_hub(), clean=clean), inputs, tmp_path, context)
    (file,) = asked[0]["files"].values()
    assert file["columns"] == "texts"
