"""Recipes whose model and data are on the hub, through the real command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from tests.chain import ROOT
from tests.gguf_files import write_gguf_of_model
from tests.hub_server import HubServer
from tests.tiny_model import write_tiny_model

TOKEN = "hf_PlantedTokenThatNobodyMaySee0123456789"
ROWS = "".join(
    json.dumps({"instruction": f"What is {n}?", "output": f"A number: {n}."}) + "\n"
    for n in range(40)
).encode()

QUIZ = ROOT / "tests" / "recipes" / "data" / "quiz.parquet"  # What is 1 + 1?


@dataclass(frozen=True)
class Project:
    """A folder with a recipe, a home and a store of its own."""

    folder: Path
    env: dict[str, str]

    def write(self, **parts: Any) -> None:
        """The recipe x.yaml. `model`, `train_data` and what else is given replace its sections."""
        (self.folder / "rows.jsonl").write_bytes(ROWS)
        train_data = parts.pop("train_data", {"path": "rows.jsonl", "format": "alpaca"})
        recipe = {
            "schema": 1,
            "name": "x",
            "data": {"train": [train_data]},
            "train": {"adapter": {"type": "lora", "r": 2}, "max_steps": 1},
            **parts,
        }
        (self.folder / "x.yaml").write_text(json.dumps(recipe, indent=1))

    def recipe(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(arguments),
            cwd=self.folder,
            env=self.env | env,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command(arguments),
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **env: str) -> dict[str, str]:
        """`recipe run x.yaml --until prepare` must succeed; stage -> what happened to it."""
        done = self.recipe("run", "x.yaml", "--until", "prepare", **env)
        assert done.returncode == 0, done.stderr
        if "up to date" in done.stdout:
            return {}
        return {stage["name"]: stage["action"] for stage in self.record()["stages"]}

    def plan(self) -> dict[str, tuple[str, str]]:
        """Stage -> action and reason."""
        done = self.recipe("plan", "x.yaml", "--until", "prepare", "--format", "json")
        assert done.returncode == 0, done.stderr
        stages = json.loads(done.stdout)["stages"]
        return {each["stage"]: (each["action"], each["reason"]) for each in stages}

    def record(self) -> dict[str, Any]:
        """run.json of the newest run."""
        newest = sorted((self.folder / "runs" / "x").glob("2*"))[-1]
        loaded: dict[str, Any] = json.loads((newest / "run.json").read_text())
        return loaded

    def stage(self, name: str) -> dict[str, Any]:
        """What run.json says about one stage."""
        (found,) = [stage for stage in self.record()["stages"] if stage["name"] == name]
        return dict(found)

    def stored(self, stage: str, pattern: str) -> list[Path]:
        return sorted((self.folder / "store" / stage).glob(f"*/{pattern}"))

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "runner", *arguments]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.tokens |= {TOKEN}
        yield server


@pytest.fixture
def project(tmp_path: Path, shared_cache: Path, hub: HubServer) -> Project:
    folder = tmp_path / "project"
    (folder / ".git").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    # environments are shared; locks, logs and caches are this test's own
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "environments").symlink_to(shared_cache / "environments")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG"))}
    env |= {
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "SPARK_RECIPES_CACHE": str(tmp_path / "cache"),
        "SPARK_RECIPES_STORE": str(folder / "store"),
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": hub.url,
    }
    return Project(folder, env)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def pinned(hub: HubServer, tiny: Path, **extra: Any) -> dict[str, Any]:
    commit = hub.commit("acme/tiny", files_of(tiny))
    return {"hub": "acme/tiny", "revision": commit, "dtype": "float32", **extra}


def everything_written(folder: Path) -> bytes:
    """All names and contents below the folder; the shared environments are behind a link."""
    parts = []
    for path in folder.rglob("*"):
        parts.append(str(path).encode())
        if path.is_file():
            parts.append(path.read_bytes())
    return b"\n".join(parts)


# --- the whole way


def test_a_pinned_model_is_fetched_once_and_then_needs_no_hub(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    project.write(model=pinned(hub, tiny))
    assert project.plan()["fetch"] == ("run", "no stored result")
    assert hub.requests == [], "a plan asks nobody"

    assert project.run() == {"fetch": "run", "prepare": "run"}
    (stored,) = project.stored("fetch", "model/model.safetensors")
    for name, weight in load_file(tiny / "model.safetensors").items():
        assert np.array_equal(load_file(stored)[name], weight), name
    assert (
        project.stage("fetch")["measures"]["commit"]
        == hub.repos["model", "acme/tiny"].branches["main"]
    )
    events = (project.folder / "runs" / "x" / "latest" / "events.jsonl").read_text()
    assert '"unit":"bytes"' in events

    hub.stop()
    asked = len(hub.requests)
    assert project.run() == {}, "up to date"
    assert {action for action, _ in project.plan().values()} == {"reuse"}
    (project.folder / "x.yaml").write_text(
        (project.folder / "x.yaml").read_text().replace('"data": {', '"data": {"max_length": 100,')
    )
    assert project.run() == {"fetch": "reuse", "prepare": "run"}
    assert len(hub.requests) == asked


def test_the_same_files_from_a_folder_give_the_same_model(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    project.write(model=pinned(hub, tiny))
    project.run()
    project.write(model={"path": str(tiny), "dtype": "float32"})
    assert project.run() == {"fetch": "run", "prepare": "reuse"}
    first, second = project.stored("fetch", "model")
    assert files_of(first) == files_of(second)


def test_a_gguf_of_the_hub(project: Project, hub: HubServer, tiny: Path, tmp_path: Path) -> None:
    model_folder = tmp_path / "with-a-merge"
    shutil.copytree(tiny, model_folder)
    tokenizer = json.loads((tiny / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["\u0120\u0120"] = tokenizer["model"]["vocab"].pop("<|unused|>")
    tokenizer["model"]["merges"] = [["\u0120", "\u0120"]]  # a GGUF has one at least
    (model_folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    gguf = write_gguf_of_model(model_folder, tmp_path / "tiny.gguf").read_bytes()
    commit = hub.commit("acme/tiny-gguf", {"quants/tiny.F32.gguf": gguf, "other.gguf": b"x"})
    model = {"hub": "acme/tiny-gguf", "revision": commit, "file": "./quants/tiny.F32.gguf"}
    project.write(model=model | {"dtype": "float32"})
    done = project.recipe("run", "x.yaml", "--until", "fetch")
    assert done.returncode == 0, done.stderr
    (stored,) = project.stored("fetch", "model/model.safetensors")
    original = load_file(tiny / "model.safetensors")["model.embed_tokens.weight"]
    assert np.array_equal(load_file(stored)["model.embed_tokens.weight"], original)
    assert hub.asked("other.gguf") == []


def test_data_of_the_hub(project: Project, hub: HubServer, tiny: Path) -> None:
    commit = hub.commit("acme/rows", {"data/train.jsonl": ROWS}, kind="dataset")
    entry = {"hub": "acme/rows", "revision": commit, "file": "data/train.jsonl"}
    model = pinned(hub, tiny)
    project.write(model=model, train_data=entry | {"format": "alpaca"})
    assert project.run() == {"fetch": "run", "fetch_data": "run", "prepare": "run"}
    (stored,) = project.stored("fetch_data", "data/train-0.jsonl")
    assert stored.read_bytes() == ROWS
    measures = project.stage("fetch_data")["measures"]
    assert measures["commits"] == {"acme/rows/data/train.jsonl": commit}
    from_hub = project.stored("prepare", "train.tokens.safetensors")[0].read_bytes()

    hub.stop()
    assert project.run() == {}
    # another setting of prepare needs the hub no more than another model does
    project.write(
        model=model,
        train_data=entry | {"format": "alpaca"},
        data={"train": [entry | {"format": "alpaca"}], "max_length": 100},
    )
    assert project.run() == {"fetch": "reuse", "fetch_data": "reuse", "prepare": "run"}
    # and the same rows beside the recipe are the same tokens
    project.write(model=model)
    assert project.run() == {"fetch": "reuse", "prepare": "run"}
    for path in project.stored("prepare", "train.tokens.safetensors"):
        assert path.read_bytes() == from_hub


def test_parquet_of_the_hub(
    project: Project, hub: HubServer, tiny: Path, environment_python: Callable[[str], Path]
) -> None:
    environment_python("parquet")
    commit = hub.commit("acme/quiz", {"main/test.parquet": QUIZ.read_bytes()}, kind="dataset")
    entry = {"hub": "acme/quiz", "revision": commit, "file": "main/test.parquet"}
    columns = {"instruction": "question", "output": "answer"}
    project.write(
        model=pinned(hub, tiny), train_data=entry | {"format": "alpaca", "columns": columns}
    )
    assert project.run() == {"fetch": "run", "fetch_data": "run", "prepare": "run"}
    measures = project.stage("prepare")["measures"]
    assert measures["train"]["rows"] + measures["validation"]["rows"] == 40


def test_a_benchmark_of_the_hub_is_kept_out_of_the_training(
    project: Project, hub: HubServer, tiny: Path, environment_python: Callable[[str], Path]
) -> None:
    environment_python("parquet")
    commit = hub.commit("acme/quiz", {"main/test.parquet": QUIZ.read_bytes()}, kind="dataset")
    entry = {"hub": "acme/quiz", "file": "main/test.parquet"}
    more = [{"instruction": f"Say it: what is {n} + {n}?", "output": "Well."} for n in (1, 2, 99)]
    (project.folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    data = {
        "train": [{"path": name, "format": "alpaca"} for name in ("rows.jsonl", "more.jsonl")],
        "clean": {"decontaminate": {"files": [entry]}},
    }
    model = pinned(hub, tiny)
    project.write(model=model, data=data)
    assert project.run() == {"fetch": "run", "fetch_data": "run", "prepare": "run"}
    (step,) = project.stage("prepare")["measures"]["clean"]["steps"]  # its pictures do not matter
    assert step["dropped"] == {"holds what is measured by": 2}
    assert "acme/quiz/main/test.parquet" in step["examples"][0]["why"]
    # its branch was asked for, and a lock names the commit
    measured = project.record()["resolved"]["data"]["clean"]["decontaminate"]["files"]
    assert [file["revision"] for file in measured] == [commit]
    assert project.recipe("lock", "x.yaml").returncode == 0
    assert commit in (project.folder / "x.lock.yaml").read_text()
    hub.stop()
    data["clean"] = {"decontaminate": {"files": [entry | {"revision": commit}]}}
    project.write(model=model, data=data)
    assert project.run() == {}


def test_a_bad_row_of_the_hub_is_named(project: Project, hub: HubServer, tiny: Path) -> None:
    commit = hub.commit("acme/rows", {"t.jsonl": b"{}\n"}, kind="dataset")
    entry = {"hub": "acme/rows", "revision": commit, "file": "t.jsonl", "format": "alpaca"}
    project.write(model=pinned(hub, tiny), train_data=entry)
    done = project.recipe("run", "x.yaml", "--until", "prepare")
    assert done.returncode == 1
    assert "acme/rows/t.jsonl" in done.stderr


# --- branches


def test_a_branch_is_asked_for_by_every_run_and_by_no_plan(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    model = pinned(hub, tiny)
    first = model["revision"]
    project.write(model={**model, "revision": "main"})
    assert project.plan() == {
        "fetch": ("pending", "acme/tiny is not pinned: a run asks the hub for its main"),
        "prepare": ("pending", "depends on the bytes that fetch will give"),
    }
    assert hub.requests == []
    assert project.run() == {"fetch": "run", "prepare": "run"}
    assert project.stage("fetch")["measures"]["commit"] == first
    assert project.record()["resolved"]["model"]["revision"] == first
    assert project.run() == {}, "the branch is where it was"

    project.write(model={**model, "revision": first})
    assert project.run() == {}, "to pin what was taken changes nothing"

    files = files_of(tiny)
    files["chat_template.jinja"] = files["chat_template.jinja"] + b"{# moved #}"
    second = hub.commit("acme/tiny", files)
    project.write(model={key: model[key] for key in ("hub", "dtype")})
    assert project.run() == {"fetch": "run", "prepare": "run"}
    assert project.stage("fetch")["measures"]["commit"] == second

    hub.stop()
    done = project.recipe("run", "x.yaml", "--until", "prepare")
    assert done.returncode == 1
    assert "error[E319]" in done.stderr
    assert f"pin model.revision: {second}" in done.stderr


def test_a_mirror_that_names_no_commit(
    project: Project, hub: HubServer, tiny: Path, tmp_path: Path
) -> None:
    """And a question that failed leaves nothing outside of the cache."""
    project.write(model={**pinned(hub, tiny), "revision": "main"})
    hub.names_commits = False
    (tmp_path / "temporary").mkdir()
    done = project.recipe("run", "x.yaml", TMPDIR=str(tmp_path / "temporary"))
    assert list((tmp_path / "temporary").iterdir()) == []
    assert done.returncode == 1
    assert "error[E319]" in done.stderr
    assert "names no commit of acme/tiny" in done.stderr


def test_a_commit_that_changes_no_file_that_is_taken_makes_nothing_else_run(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    project.write(model=pinned(hub, tiny))
    project.run()
    hub.commit("acme/tiny", {**files_of(tiny), "README.md": b"# New"})
    project.write(model={"hub": "acme/tiny", "dtype": "float32"})
    assert project.run() == {"fetch": "run", "prepare": "reuse"}


def test_a_branch_of_a_data_set(project: Project, hub: HubServer, tiny: Path) -> None:
    entry = {"hub": "acme/rows", "file": "t.jsonl", "format": "alpaca"}
    first = hub.commit("acme/rows", {"t.jsonl": ROWS}, kind="dataset")
    project.write(model=pinned(hub, tiny), train_data=entry)
    assert project.plan()["fetch_data"][0] == "pending"
    project.run()
    assert project.record()["resolved"]["data"]["train"][0]["revision"] == first
    second = hub.commit("acme/rows", {"t.jsonl": ROWS + ROWS}, kind="dataset")
    assert project.run() == {"fetch": "reuse", "fetch_data": "run", "prepare": "run"}
    assert project.record()["resolved"]["data"]["train"][0]["revision"] == second


def test_a_mirror_is_no_part_of_the_key(project: Project, hub: HubServer, tiny: Path) -> None:
    project.write(model=pinned(hub, tiny))
    project.run()
    assert project.run(HF_ENDPOINT="http://127.0.0.1:9") == {}


# --- interrupted


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_ended_goes_on_with_the_bytes_that_are_there(
    project: Project, hub: HubServer, tiny: Path, end: signal.Signals
) -> None:
    weights = load_file(tiny / "model.safetensors")
    weights["model.embed_tokens.weight"] = np.zeros((8192, 64), np.float32)  # 2 MiB
    files = files_of(tiny)
    scratch = project.folder / "weights.safetensors"
    save_file(weights, scratch)
    files["model.safetensors"] = scratch.read_bytes()
    commit = hub.commit("acme/tiny", files)
    project.write(model={"hub": "acme/tiny", "revision": commit, "dtype": "float32"})
    hub.slow["model.safetensors"] = 0.05
    running = project.start("run", "x.yaml", "--until", "fetch")
    try:
        part = wait_for_part(project, 200_000)
        running.send_signal(end)
        running.communicate(timeout=60)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == (130 if end == signal.SIGINT else -signal.SIGKILL)
    wait_until_it_stops_growing(part)
    size = part.stat().st_size
    assert 200_000 <= size < len(files["model.safetensors"])
    assert project.plan()["fetch"] == ("resume", "an interrupted try left a checkpoint")

    hub.slow.clear()
    hub.requests.clear()
    done = project.recipe("run", "x.yaml", "--until", "fetch")
    assert done.returncode == 0, done.stderr
    (asked,) = hub.asked("model.safetensors", "cdn")
    assert asked.headers["range"] == f"bytes={size}-"
    assert not list((project.folder / "store" / ".staging" / "fetch").glob("*")), "and tidies up"


def wait_for_part(project: Project, size: int) -> Path:
    """The partial file once it has that many bytes."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in (project.folder / "store" / ".staging").rglob("model.safetensors.part"):
            if path.stat().st_size >= size:
                return path
        time.sleep(0.05)
    raise AssertionError("nothing was downloaded")


def wait_until_it_stops_growing(path: Path) -> None:
    """After SIGKILL of the runner its supervisor ends the child a moment later."""
    before = -1
    while (size := path.stat().st_size) != before:
        before = size
        time.sleep(0.5)


# --- the token


def test_the_doctor_asks_whether_the_model_is_given(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    project.write(model={**pinned(hub, tiny), "revision": "main"})
    hub.repos["model", "acme/tiny"].gated = True
    refused = project.recipe("doctor", "x.yaml", HF_TOKEN=TOKEN)
    assert refused.returncode == 4
    assert "problem  hub: " in refused.stdout
    assert f"accept the licence at {hub.url}/acme/tiny" in refused.stdout
    hub.licensed.add(TOKEN)
    given = project.recipe("doctor", "x.yaml", HF_TOKEN=TOKEN)
    assert "ok       hub: acme/tiny is given to you" in given.stdout
    assert TOKEN not in refused.stdout + refused.stderr + given.stdout + given.stderr


def test_a_planted_token_opens_the_gate_and_is_found_nowhere(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    project.write(model={**pinned(hub, tiny), "revision": "main"})
    hub.repos["model", "acme/tiny"].gated = True

    refused = project.recipe("run", "x.yaml", "--until", "prepare", HF_TOKEN=TOKEN)
    assert refused.returncode == 1
    assert "error[E316]" in refused.stderr
    assert f"accept the licence at {hub.url}/acme/tiny" in refused.stderr

    hub.licensed.add(TOKEN)
    hub.fail("config.json", 503)
    hub.cuts["model.safetensors"] = [1000]
    done = project.recipe("run", "x.yaml", "--until", "prepare", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    hub.fail("/api/models", 500, times=100)
    failed = project.recipe("run", "x.yaml", "--until", "prepare", HF_TOKEN=TOKEN)
    assert failed.returncode == 1

    assert TOKEN in {each.token for each in hub.requests}, "it was used"
    said = "".join(each.stdout + each.stderr for each in (refused, done, failed))
    assert TOKEN not in said
    written = everything_written(project.folder.parent)
    assert b"acme/tiny" in written, "the search finds things"
    assert TOKEN.encode() not in written


@pytest.mark.parametrize(
    "place", ["HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME", "home", "HUGGING_FACE_HUB_TOKEN"]
)
def test_the_token_is_found_in_the_usual_places(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    from runner.system.hub import network_env

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HOME", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "HF_TOKEN" not in network_env()
    files = {
        "HF_HOME": "token",
        "XDG_CACHE_HOME": "huggingface/token",
        "HF_TOKEN_PATH": "",
        "home": ".cache/huggingface/token",
    }
    if place == "HUGGING_FACE_HUB_TOKEN":
        monkeypatch.setenv(place, TOKEN)
    else:
        base = tmp_path if place == "home" else tmp_path / "other"
        file = base / files[place]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TOKEN + "\n")
        if place != "home":
            monkeypatch.setenv(place, str(base))
    assert network_env()["HF_TOKEN"] == TOKEN


def test_the_token_file_is_used_by_a_run(project: Project, hub: HubServer, tiny: Path) -> None:
    folder = Path(project.env["HOME"]) / ".cache" / "huggingface"
    folder.mkdir(parents=True)
    (folder / "token").write_text(TOKEN + "\n")
    project.write(model=pinned(hub, tiny))
    hub.repos["model", "acme/tiny"].gated = True
    hub.licensed.add(TOKEN)
    assert project.run()["fetch"] == "run"


def test_a_broken_token_is_refused_without_being_shown(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    project.write(model=pinned(hub, tiny))
    done = project.recipe("run", "x.yaml", "--until", "fetch", HF_TOKEN="hf_geheim mit Lücke")
    assert done.returncode == 1
    assert "error[E316]: HF_TOKEN does not hold a token" in done.stderr
    assert "geheim" not in done.stdout + done.stderr
    assert hub.requests == []


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_token_in_a_recipe_is_refused_without_being_shown(project: Project, form: str) -> None:
    project.write(model={"hub": TOKEN, "revision": TOKEN, TOKEN: 1}, description="x" * 30 + TOKEN)
    done = project.recipe("validate", "x.yaml", "--format", form)
    assert done.returncode == 2
    assert "E216" in done.stdout
    assert "PlantedToken" not in done.stdout + done.stderr
    done = project.recipe("run", "x.yaml")
    assert done.returncode == 2
    assert "PlantedToken" not in done.stdout + done.stderr


# --- offline, space, pickles


def test_offline_mode_is_said(project: Project, hub: HubServer, tiny: Path) -> None:
    project.write(model=pinned(hub, tiny))
    done = project.recipe("run", "x.yaml", "--until", "fetch", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "error[E319]" in done.stderr
    assert "HF_HUB_OFFLINE" in done.stderr
    assert hub.requests == []
    assert project.run()["fetch"] == "run"
    assert project.run(HF_HUB_OFFLINE="1") == {}


def test_no_space_is_exit_code_4(project: Project, hub: HubServer, tiny: Path) -> None:
    project.write(model={**pinned(hub, tiny), "dtype": "float16"})
    project.run()  # Python writes its caches of compiled modules, which a limit would cut off
    project.write(model=pinned(hub, tiny))
    limited = ["bash", "-c", f"ulimit -f 40; exec {sys.executable} -m runner run x.yaml"]
    done = subprocess.run(
        limited, cwd=project.folder, env=project.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done.stderr
    assert "error[E410]" in done.stderr
    assert "set SPARK_RECIPES_STORE to a folder on a larger disk; then run" in done.stderr
    assert "goes on where it stopped" in done.stderr
    hub.requests.clear()
    assert project.run()["fetch"] == "resume"
    (asked,) = hub.asked("model.safetensors", "cdn")
    assert asked.headers["range"] == f"bytes={40 * 1024}-"


# --- code of the model


def with_code(tiny: Path, **auto_map: str) -> dict[str, bytes]:
    files = files_of(tiny)
    config = json.loads(files["config.json"])
    config |= {"model_type": "own_tiny", "architectures": ["OwnForCausalLM"]}
    config["auto_map"] = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        **auto_map,
    }
    files["config.json"] = json.dumps(config).encode()
    files["configuration_own.py"] = (
        b"from transformers import LlamaConfig\n"
        b"class OwnConfig(LlamaConfig):\n"
        b'    model_type = "own_tiny"\n'
    )
    files["modeling_own.py"] = (
        b"from transformers import LlamaForCausalLM\n"
        b"from .configuration_own import OwnConfig\n"
        b"class OwnForCausalLM(LlamaForCausalLM):\n"
        b"    config_class = OwnConfig\n"
    )
    return files


def test_code_is_not_run_unless_the_recipe_trusts_it(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    commit = hub.commit("acme/own", with_code(tiny))
    project.write(model={"hub": "acme/own", "revision": commit})
    done = project.recipe("run", "x.yaml", "--until", "prepare")
    assert done.returncode == 1
    assert "error[E313]" in done.stderr
    assert "trust_remote_code" in done.stderr
    assert hub.asked(".py") == []


def test_code_of_another_repository_is_never_run(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    commit = hub.commit("acme/own", with_code(tiny, AutoModel="evil/repo--modeling.Model"))
    project.write(model={"hub": "acme/own", "revision": commit, "trust_remote_code": True})
    done = project.recipe("run", "x.yaml", "--until", "prepare")
    assert done.returncode == 1
    assert "error[E313]" in done.stderr
    assert "evil/repo--modeling.Model" in done.stderr


def test_code_of_its_own_beside_code_that_transformers_has_is_left_alone(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    files = files_of(tiny)
    config = json.loads(files["config.json"]) | {"auto_map": {"AutoModel": "modeling_x.X"}}
    files |= {"config.json": json.dumps(config).encode(), "modeling_x.py": b"raise SystemExit(1)"}
    project.write(model={"hub": "acme/x", "revision": hub.commit("acme/x", files)})
    assert project.run() == {"fetch": "run", "prepare": "run"}
    assert hub.asked(".py") == []
    (stored,) = project.stored("fetch", "model/config.json")
    assert "auto_map" not in json.loads(stored.read_text())


def test_trusted_code_is_used_by_every_stage_that_loads_the_model(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    commit = hub.commit("acme/own", with_code(tiny))
    project.write(
        model={
            "hub": "acme/own",
            "revision": commit,
            "dtype": "float32",
            "trust_remote_code": True,
        },
        evaluate={"samples": 1, "max_new_tokens": 2},
        merge={},
    )
    done = project.recipe("run", "x.yaml", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    latest = project.folder / "runs" / "x" / "latest"
    assert (latest / "merged" / "model" / "modeling_own.py").is_file()
    assert "auto_map" in json.loads((latest / "merged" / "model" / "config.json").read_text())
    assert (latest / "adapter" / "adapter_model.safetensors").is_file()
    assert (latest / "evaluation" / "answers.jsonl").is_file()


def test_a_lock_pins_the_branch_and_then_runs_without_asking(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    commit = pinned(hub, tiny)["revision"]
    project.write(model={"hub": "acme/tiny", "dtype": "float32"})
    done = project.recipe("lock", "x.yaml")
    assert done.returncode == 0, done.stderr
    lock = project.folder / "x.lock.yaml"
    assert commit in lock.read_text()
    assert project.recipe("lock", "x.yaml", "--check").returncode == 0
    files = files_of(tiny)
    hub.commit("acme/tiny", {**files, "README.md": b"moved"})
    assert project.recipe("lock", "x.yaml", "--check").returncode == 5
    hub.stop()
    asked = len(hub.requests)
    done = project.recipe("run", "x.lock.yaml", "--until", "prepare")
    assert done.returncode == 0, done.stderr
    assert project.stage("fetch")["action"] == "reuse"
    assert len(hub.requests) == asked


# --- a model that scores

BY_SCORES: dict[str, Any] = {
    "data": {"train": [{"path": "rows.jsonl", "format": "alpaca"}], "max_length": 256},
    "train": {"method": "ppo", "adapter": {"type": "lora", "r": 2}, "max_steps": 1},
}


def test_a_reward_model_of_the_hub_is_fetched_once_and_then_needs_no_hub(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    """Its weights and its head as they are there, its code not; and the hub is not asked again."""
    weights = load_file(tiny / "model.safetensors") | {"score.weight": np.ones((1, 64), np.float32)}
    files = files_of(tiny) | {"model.safetensors": save(weights), "modeling.py": b"evil"}
    commit = hub.commit("acme/scorer", files)
    project.write(
        model={"path": str(tiny), "dtype": "float32"},
        reward={"hub": "acme/scorer", "revision": "main"},
        **BY_SCORES,
    )
    assert project.plan()["fetch_reward"][0] == "pending"
    assert project.run() == {"fetch": "run", "fetch_reward": "run", "prepare": "run"}
    assert project.stage("fetch_reward")["measures"]["commit"] == commit
    assert project.record()["resolved"]["reward"] == {"hub": "acme/scorer", "revision": commit}
    (stored,) = project.stored("fetch_reward", "model")
    assert np.array_equal(load_file(stored / "model.safetensors")["score.weight"], np.ones((1, 64)))
    assert not list(stored.glob("*.py"))

    locked = project.recipe("lock", "x.yaml")
    assert locked.returncode == 0, locked.stderr
    hub.stop()
    done = project.recipe("run", "x.lock.yaml", "--until", "prepare")
    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stdout


def test_a_reward_model_that_is_not_there_is_said_before_anything_is_trained(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    project.write(
        model={"path": str(tiny), "dtype": "float32"},
        reward={"hub": "acme/scorer", "revision": "1" * 40},
        **BY_SCORES,
    )
    done = project.recipe("run", "x.yaml", "--until", "prepare")
    assert done.returncode == 1, done.stderr
    assert "error[E317]: there is no model acme/scorer" in done.stderr
    offline = project.recipe("run", "x.yaml", "--until", "prepare", "--offline")
    assert "the reward model acme/scorer at " + "1" * 40 in offline.stderr


# --- tasks of the harness


def test_rows_of_a_task_are_fetched_at_their_commit_and_nothing_else_again(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    rows = {"all/test.jsonl": b'{"a": "x", "b": "y"}\n', "all/train.parquet": b"PAR1"}
    commit = hub.commit("acme/asked", rows, kind="dataset")
    task = "task: t\noutput_type: generate_until\ndoc_to_text: a\ndoc_to_target: b\n"
    (project.folder / "t.yaml").write_text(task)
    asked = {"path": "t.yaml", "hub": "acme/asked", "data": "all/test.jsonl"}
    base = {"model": {"path": str(tiny), "dtype": "float32"}}
    project.write(**base)
    assert project.run() == {"fetch": "run", "prepare": "run"}
    evaluate = {"samples": 1, "harness": {"tasks": [asked]}}
    project.write(**base, evaluate=evaluate)
    assert project.plan()["fetch_tasks"][0] == "pending", "a branch"
    assert project.run() == {"fetch": "reuse", "fetch_tasks": "run", "prepare": "reuse"}
    resolved = project.record()["resolved"]["evaluate"]["harness"]["tasks"]
    assert resolved[0]["revision"] == commit
    asked |= {"revision": commit, "fewshot": "all/train.parquet"}
    project.write(**base, evaluate=evaluate)
    assert project.run() == {"fetch": "reuse", "fetch_tasks": "run", "prepare": "reuse"}
    found = {path.name: path.read_bytes() for path in project.stored("fetch_tasks", "tasks/f*")}
    assert found == {"fewshot-0.parquet": b"PAR1"}
    assert project.stage("fetch_tasks")["measures"]["commits"] == {
        "acme/asked/all/test.jsonl": commit,
        "acme/asked/all/train.parquet": commit,
    }
    hub.stop()
    assert project.run() == {}, "up to date"


ARC_CARD = b"""---
configs:
- {config_name: ARC-Challenge, data_files: [{split: test, path: hard/test*}]}
- config_name: ARC-Easy
  data_files: [{split: test, path: easy/test*}, {split: train, path: easy/train*}]
---
"""


def test_tasks_by_name_have_the_rows_of_their_data_set(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    """A tag of two tasks at a branch, then one pinned, with examples; and nothing is trained."""
    rows = {"README.md": ARC_CARD, "hard/test-0.jsonl": b"h", "easy/train-0.jsonl": b"t"}
    rows |= {"easy/test-1.jsonl": b"2", "easy/test-0.jsonl": b"1"}
    commit = hub.commit("allenai/ai2_arc", rows, kind="dataset")
    harness: dict[str, Any] = {"tasks": [{"name": "ai2_arc"}]}
    evaluate = {"samples": 1, "harness": harness}
    model = {"path": str(tiny), "dtype": "float32"}
    project.write(model=model, evaluate=evaluate)
    assert project.plan()["fetch_tasks"][0] == "pending", "a branch"
    assert project.run() == {"fetch": "run", "fetch_tasks": "run", "prepare": "run"}
    resolved = project.record()["resolved"]["evaluate"]["harness"]["tasks"]
    assert (resolved[0]["name"], resolved[0]["revision"]) == ("ai2_arc", commit)
    found = {path.name: path.read_bytes() for path in project.stored("fetch_tasks", "tasks/*")}
    easy = {"rows-1-00000.jsonl": b"1", "rows-1-00001.jsonl": b"2"}
    assert found == {"rows-0-00000.jsonl": b"h", **easy}
    assert not hub.asked("train-0"), "without examples nobody reads their rows"
    locked = project.recipe("lock", "x.yaml")
    assert locked.returncode == 0, locked.stderr
    assert f"revision: {commit}" in (project.folder / "x.lock.yaml").read_text()
    harness |= {"tasks": [{"name": "arc_easy", "revision": commit}], "num_fewshot": 1}
    project.write(model=model, evaluate=evaluate)
    assert project.run() == {"fetch": "reuse", "fetch_tasks": "run", "prepare": "reuse"}
    assert project.stage("fetch_tasks")["measures"]["rows"] == {
        "allenai/ai2_arc (ARC-Easy, test)": commit,
        "allenai/ai2_arc (ARC-Easy, train)": commit,
    }
    hub.stop()
    assert project.run() == {}, "up to date"


def test_a_data_set_that_is_a_script_is_never_run(
    project: Project, hub: HubServer, tiny: Path
) -> None:
    commit = hub.commit("openai/gsm8k", {"gsm8k.py": b"exit(1)"}, kind="dataset")
    tasks = [{"name": "gsm8k", "revision": commit}]
    evaluate = {"samples": 1, "harness": {"tasks": tasks}}
    project.write(model={"path": str(tiny), "dtype": "float32"}, evaluate=evaluate)
    done = project.recipe("run", "x.yaml", "--until", "prepare")
    assert done.returncode == 1
    assert "[E317]" in done.stderr
    assert not hub.asked("resolve"), "not even fetched"


WRITE_PARQUET = """
import json, sys, pyarrow, pyarrow.parquet
pyarrow.parquet.write_table(pyarrow.table(json.loads(sys.argv[2])), sys.argv[1])
"""
WORDS = {"a": ["How many?", "Why?", "Who?"], "b": ["x", "y", "z"], "n": [1, 2, 3]}
YES_OR_NO = {"question": ["is it"] * 4, "passage": list("pqrs"), "idx": [0, 1, 2, 3]}
YES_OR_NO["label"] = [0, 1, 0, 1]


def test_prompts_a_scorer_and_tasks_of_the_hub_make_a_whole_run(
    project: Project,
    hub: HubServer,
    tiny: Path,
    tmp_path: Path,
    environment_python: Callable[[str], Path],
) -> None:
    """ppo on prompts alone, scored by a model of the hub, and asked Parquet that lies there."""
    weights = load_file(tiny / "model.safetensors") | {"score.weight": np.ones((1, 64), np.float32)}
    scorer = hub.commit("acme/scorer", files_of(tiny) | {"model.safetensors": save(weights)})

    def parquet(columns: Any) -> bytes:
        python, file = environment_python("parquet"), tmp_path / "made.parquet"
        argv = [str(python), "-c", WRITE_PARQUET, str(file), json.dumps(columns)]
        subprocess.run(argv, check=True)
        return file.read_bytes()

    asked = hub.commit("acme/asked", {"test.parquet": parquet(WORDS)}, kind="dataset")
    own = {"boolq/validation-0.parquet": parquet(YES_OR_NO)}
    boolq = hub.commit("aps/super_glue", own, kind="dataset")
    task = "task: t\noutput_type: generate_until\ndoc_to_text: a\ndoc_to_target: b\n"
    (project.folder / "t.yaml").write_text(task + "generation_kwargs: {max_gen_toks: 4}\n")
    prompts = [json.dumps({"prompt": f"Q{number}?"}) + "\n" for number in range(24)]
    (project.folder / "prompts.jsonl").write_text("".join(prompts))
    tasks = [{"name": "boolq", "revision": boolq}]
    tasks += [{"path": "t.yaml", "hub": "acme/asked", "revision": asked, "data": "test.parquet"}]
    project.write(
        model={"path": str(tiny), "dtype": "float32"},
        reward={"hub": "acme/scorer", "revision": scorer},
        data={
            "train": [{"path": "prompts.jsonl", "format": "prompt"}],
            "max_length": 128,
            "validation": {"fraction": 0.3},
        },
        train={
            "method": "ppo",
            "adapter": {"type": "lora", "r": 2},
            "max_steps": 2,
            "response_length": 6,
            "per_device_train_batch_size": 4,
        },
        evaluate={"samples": 1, "max_new_tokens": 6, "harness": {"tasks": tasks}},
    )
    done = project.recipe("run", "x.yaml")
    assert done.returncode == 0, done.stderr
    assert project.stage("evaluate")["measures"]["reward_prompts"] == 7
    measured = project.stage("harness")["measures"]["tasks"]
    counts = {name: each["count"] for name, each in measured.items()}
    assert counts == {"boolq/acc": 4, "t/exact_match": 3}
    hub.stop()
    verified = project.recipe("verify", "runs/x/latest")
    assert verified.returncode == 0, verified.stderr
    attested = project.recipe("attest", "runs/x/latest")
    assert attested.returncode == 0, attested.stderr
    of_boolq = "aps/super_glue (boolq, validation) 0"
    made = {"acme/scorer": scorer, "acme/asked/test.parquet": asked, of_boolq: boolq}
    for name, commit in made.items():
        assert f'"name": "{name}"' in attested.stdout
        assert commit in attested.stdout
