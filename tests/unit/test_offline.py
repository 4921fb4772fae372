"""`--offline`: nothing asks a network, and what is missing is said before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.cli.main import main
from runner.errors import MachineCannot
from runner.system import downloads, hub, offline, tool_builds, uv


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test forbids is forgotten at its end."""
    monkeypatch.setitem(offline._state, "forbidden", False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with an empty cache, and proxies that nobody answers at."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "SPARK_RECIPES_PREBUILT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPARK_RECIPES_STORE", str(tmp_path / "cache" / "store"))
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "rows.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n')
    return folder


def write(project: Path, model: dict, data: dict | None = None) -> None:
    recipe = {
        "schema": 1,
        "name": "x",
        "model": {"dtype": "float32", **model},
        "data": {"train": [data or {"path": "rows.jsonl", "format": "alpaca"}]},
        "train": {"adapter": {"type": "lora", "r": 2}, "max_steps": 1},
    }
    (project / "x.yaml").write_text(json.dumps(recipe))


def test_everything_that_is_missing_is_named_at_once(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = "a" * 40
    data = {"hub": "acme/rows", "revision": commit, "file": "r.jsonl", "format": "alpaca"}
    write(project, {"hub": "acme/model", "revision": commit}, data)
    assert main(["run", "x.yaml", "--offline"]) == 4
    said = capsys.readouterr().err
    assert "error[E829]: --offline, and this is not on this machine:" in said
    assert f"the base model acme/model at {commit}" in said
    assert f"the data set file acme/rows/r.jsonl at {commit}" in said
    assert "the environment data (" in said
    assert "the environment native (" in said
    assert "next: while the network is up: recipe run x.yaml --get" in said
    assert not (project / "runs").exists()


def test_a_branch_cannot_be_asked_for(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(project, {"hub": "acme/model", "revision": "main"})
    assert main(["run", "x.yaml", "--offline"]) == 4
    said = capsys.readouterr().err
    assert "error[E829]" in said
    assert "which commit is meant by acme/model at main" in said
    assert not (project / "runs").exists()


def test_an_ollama_elsewhere_is_the_network(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.execution import ready
    from runner.stages import load_stage

    monkeypatch.setenv("OLLAMA_HOST", "gpu.example.org:11434")
    assert list(ready._servers([load_stage("train")])) == []
    (words,) = ready._servers([load_stage("ollama")])
    assert "gpu.example.org" in words
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    assert list(ready._servers([load_stage("ollama")])) == []


def test_whoever_would_use_the_network_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert "UV_OFFLINE" not in uv.uv_env(tmp_path)
    assert hub.network_env()
    offline.forbid()
    assert uv.uv_env(tmp_path)["UV_OFFLINE"] == "1"
    assert offline.go_settings() == {"GOPROXY": "off"}
    monkeypatch.setattr(downloads.urllib.request, "urlopen", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(MachineCannot, match=r"x\.tar\.gz") as caught:
        downloads._download("https://example.org/x", tmp_path / "x.tar.gz", "0" * 64)
    assert caught.value.code == "E829"
    with pytest.raises(MachineCannot) as caught:
        hub.network_env()
    assert caught.value.code == "E829"


def test_go_is_told(tmp_path: Path) -> None:
    from runner.system.tools import read_lock

    (tmp_path / "work").mkdir()
    pins = read_lock()["tools"]["ollama"]
    job = tool_builds.Job("ollama", pins, tmp_path / "work", tmp_path, print, 0)
    offline.forbid()
    assert tool_builds._go_env(job, tmp_path, tmp_path)["GOPROXY"] == "off"


def test_a_pinned_wheel_that_is_in_no_cache(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said by the stage that needs it, the first of all."""
    from runner.errors import StageFailed
    from runner.stages import fetch

    offline.forbid()
    failed = StageFailed("uv exited with status 1", log=str(project / "no.log"))
    found = fetch._why_no_wheel("acme-model==1", failed, project)
    assert found.code == "E829"
    assert "the wheel acme-model==1" in found.message
