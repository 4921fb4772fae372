"""What this machine cannot do is said before the hub is asked, and instead of its silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main, parse
from runner.errors import StageFailed
from runner.execution import revisions
from runner.execution.published_twin import planned_twin, suggest
from runner.plan.published_models import FOLDER
from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe
from runner.recipe.schema import load_schema
from runner.recipe.shrink import shrink_recipe
from runner.recipe.validate import findings
from runner.runs.reading import jobs_of
from runner.stages import fetch
from runner.system import hardware

RECIPE = {
    "schema": 1,
    "name": "x",
    "model": {"hub": "acme/tiny"},
    "data": {"train": [{"path": "rows.jsonl", "format": "alpaca"}]},
    "train": {"adapter": {"type": "lora"}, "max_steps": 1, "bf16": True},
}
DATA: dict[str, Any] = {"train": [{"path": "rows.jsonl", "format": "alpaca"}]}
HUB_FILE = {"hub": "acme/rows", "file": "rows.jsonl", "format": "alpaca"}
LLAMA = "meta-llama/Llama-3.1-70B-Instruct"
SILENT = StageFailed("the hub cannot be reached", code="E319")


class Hub:
    """One that never answers, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, *question: Any) -> Any:
        self.asked += 1
        raise SILENT


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    (tmp_path / ".git").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    (tmp_path / "x.yaml").write_text(json.dumps(RECIPE))
    monkeypatch.chdir(tmp_path)
    made = Hub()
    monkeypatch.setattr(revisions, "ask_hub", made)
    monkeypatch.setattr(hardware, "gpus", lambda *_: ())
    return made


UNSLOTH = ("--backend", "unsloth")
CASES = [
    (("run", "x.yaml", *UNSLOTH), "E960", 4, 0),
    (("bench", "train", "x.yaml", *UNSLOTH), "E960", 4, 0),
    (("run", "x.yaml", "--nodes", "2"), "E952", 2, 0),
    (("run", "x.yaml", "--nodes", "2", "--until", "prepare"), "E319", 1, 1),
    (("run", "x.yaml", *UNSLOTH, "--get"), "E319", 1, 1),
    (("run", "x.yaml", "--nodes", "2", "--rendezvous", "127.0.0.1:1"), "E319", 1, 1),
    (("run", "x.yaml"), "E319", 1, 1),
]


@pytest.mark.parametrize(("words", "code", "status", "asked"), CASES)
def test_the_hub_is_asked_where_its_answer_matters(
    hub: Hub,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: str,
    status: int,
    asked: int,
) -> None:
    assert main(words) == status
    assert f"error[{code}]" in capsys.readouterr().err
    assert hub.asked == asked


def test_of_what_may_be_stored_the_hub_is_asked_and_its_silence_explained(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "x" / "20270101-000000"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    (run.parent / "latest").symlink_to(run.name)
    assert main(["run", "x.yaml", "--nodes", "2"]) == 2
    assert "error[E952]" in capsys.readouterr().err
    assert hub.asked == 1


# --- what the machine lacks


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, nobody: None) -> None:
    """A machine of 24 GB without a GPU, whose user has no token."""
    monkeypatch.setattr(hardware, "memory", lambda *_: hardware.Memory(24 * 10**9, 20 * 10**9))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("words", "code", "status", "asked"),
    [
        (("run", "x.yaml"), "E940", 4, 0),
        (("run", "pinned.yaml"), "E940", 4, 0),
        (("bench", "train", "x.yaml"), "E940", 4, 0),
        (("run", "x.yaml", "--no-preflight"), "E319", 1, 1),
        (("run", "both.yaml"), "E940", 4, 0),
    ],
)
def test_a_model_that_no_memory_here_can_hold_is_not_asked_for(
    hub: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: str,
    status: int,
    asked: int,
) -> None:
    pinned = {"hub": LLAMA, "revision": "a" * 40}
    small = {**RECIPE, "name": "both", "evaluate": {}, "compare": {"recipes": ["x.yaml"]}}
    evaluated = {"data": {**DATA, "validation": {"fraction": 0.5}}, "evaluate": {}}
    for name, more in (("x", {"model": {"hub": LLAMA}}), ("pinned", {"model": pinned})):
        content = {**RECIPE, **evaluated, **more, "name": name}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(content))
    (tmp_path / "both.yaml").write_text(json.dumps({**small, **evaluated}))
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * 4)
    assert main(words) == status
    said = capsys.readouterr().err
    assert f"error[{code}]" in said
    assert hub.asked == asked
    whose = "x " if "both.yaml" in words else ""
    for lack in ("W250", "W251", "W252"):
        assert f"warning: {whose}lacks[{lack}]" in said


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("words", [("--until", "prepare"), ("--get",), ("--shrink",)])
def test_memory_is_asked_for_only_where_the_model_is_trained(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    (tmp_path / "x.yaml").write_text(
        json.dumps({**RECIPE, "model": {"hub": LLAMA}, "data": {"train": [{**HUB_FILE}]}})
    )
    assert main(["run", "x.yaml", *words]) == 1
    said = capsys.readouterr().err
    assert "error[E319]" in said
    assert "W252" not in said
    assert hub.asked >= 1


@pytest.mark.usefixtures("small")
def test_of_what_was_run_before_nothing_is_said_to_lack(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known(tmp_path)
    run = tmp_path / "runs" / "x" / "20270101-000000"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    (run.parent / "latest").symlink_to(run.name)
    assert main(["run", "x.yaml"]) == 4
    said = capsys.readouterr().err
    assert "error[E940]" in said
    assert "lacks[" not in said
    assert hub.asked == 1


# --- a twin without the hub


def known(folder: Path, **model: Any) -> None:
    """The recipe on a model whose published sizes are known."""
    content = {**RECIPE, "model": {"hub": LLAMA, **model}}
    (folder / "x.yaml").write_text(json.dumps(content))


def twin_of(*words: str) -> Recipe:
    return jobs_of(parse(["run", "x.yaml", "--shrink", *words]))[0].recipe


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone without a token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize(
    ("token", "asked", "why"), [("", 0, "there is no token"), ("hf_x", 1, "cannot be reached")]
)
def test_a_twin_of_a_known_model_needs_no_hub(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str,
    asked: int,
    why: str,
) -> None:
    known(tmp_path)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    twin = twin_of()
    said = capsys.readouterr().err
    assert (hub.asked, why in said, "with a tokenizer of its own" in said) == (asked, True, True)
    place = tmp_path / "cache" / "published" / "llama-3.1-70b"
    assert (twin.model.hub, twin.model.revision, twin.model.path) == (None, None, str(place))
    assert (place / "config.json").read_bytes() == (FOLDER / "llama-3.1-70b.json").read_bytes()
    assert twin.shrink is not None
    found = {at: value for at, value in twin.shrink.items() if at.startswith("/model")}
    assert found == {"/model/hub": None, "/model/revision": None, "/model/path": str(place)}
    assert twin.resolved()["model"]["path"] == str(place)
    assert list(fetch.snapshot(twin)) == ["config.json"]
    assert findings(twin.resolved(), load_schema()) == []


@pytest.mark.usefixtures("nobody")
def test_a_plan_of_such_a_twin_is_of_what_the_run_makes(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known(tmp_path)
    assert main(["plan", "x.yaml"]) == 0
    assert "W251" in capsys.readouterr().out
    assert main(["plan", "x.yaml", "--shrink"]) == 0
    assert "W251" not in capsys.readouterr().out
    assert not (tmp_path / "cache" / "published").exists()
    twin = twin_of()
    assert planned_twin(load_recipe(Path("x.yaml"))) == twin
    config = tmp_path / "cache" / "published" / "llama-3.1-70b" / "config.json"
    config.write_text("{}")
    assert planned_twin(load_recipe(Path("x.yaml"))).model.hub == LLAMA
    assert config.read_text() == "{}"


@pytest.mark.usefixtures("nobody")
def test_a_twin_of_the_hub_records_no_other_model(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr(revisions, "ask_hub", lambda *_: {"commits": ["a" * 40]})
    twin = twin_of()
    assert (twin.model.hub, twin.model.revision) == (LLAMA, "a" * 40)
    assert not [at for at in twin.shrink or {} if at.startswith("/model")]


@pytest.mark.usefixtures("nobody")
def test_a_model_that_nobody_has_published_here_needs_the_hub(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "x.yaml", "--shrink"]) == 1
    assert "error[E319]" in capsys.readouterr().err


@pytest.mark.usefixtures("nobody")
def test_what_the_hub_refuses_later_has_a_way_around_it(hub: Hub, tmp_path: Path) -> None:
    known(tmp_path, revision="a" * 40)
    error = StageFailed("the model is gated", hint="accept the licence", code="E316")
    real = load_recipe(tmp_path / "x.yaml")
    suggest(error, real)
    assert error.hint == "accept the licence"
    suggest(error, shrink_recipe(real))
    *_, path = error.hint.split(" --set ")
    twin = twin_of("--set=model.hub=null", "--set=model.revision=null", f"--set={path}")
    assert twin.model.path == path.removeprefix("model.path=")
    assert hub.asked == 0
