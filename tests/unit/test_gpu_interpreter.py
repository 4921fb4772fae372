"""Which interpreter measures, with fakes for interpreters."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as entry
from benchmarks.gpu import interpreter, page, results
from benchmarks.gpu.interpreter import NoGpu, choose, probed

DEVICE = {"name": "NVIDIA GB10", "capability": "12.1", "memory": 128, "unified": True, "cuda": "13"}
SEES = {"device": DEVICE, "python": "3.12.3", "libraries": {"torch": "2.11.0"}}
BLIND = {"device": None, "python": "3.11.7", "libraries": {"torch": "2.13.0"}}


def fake(path: Path, told: object) -> Path:
    """A program that answers the probe so, whatever it is asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!/bin/sh\ncat <<'EOF'\n{told if isinstance(told, str) else json.dumps(told)}\nEOF\n"
    )
    path.chmod(0o755)
    return path


def never() -> Path | None:
    raise AssertionError("asked for the locked environment")


def test_the_named_one_comes_first(tmp_path: Path) -> None:
    said: list[str] = []
    python = fake(tmp_path / "own", SEES)
    chosen = choose(str(python), never, "", said.append)
    assert (chosen.python, chosen.locked) == (python, False)
    assert chosen.stack["device"] == DEVICE
    assert "not the locked environment" in said[-1]


def test_the_locked_one_comes_before_what_is_installed(tmp_path: Path) -> None:
    said: list[str] = []
    locked, installed = fake(tmp_path / "locked", SEES), fake(tmp_path / "bin/python3", SEES)
    chosen = choose("", lambda: locked, str(installed.parent), said.append)
    assert (chosen.python, chosen.locked) == (locked, True)
    assert said == ["measured with the locked environment `native`"]


@pytest.mark.parametrize("locked", [None, BLIND], ids=["cannot be made", "sees no GPU"])
def test_else_what_is_installed_and_it_is_said(tmp_path: Path, locked: object) -> None:
    said: list[str] = []
    own = None if locked is None else fake(tmp_path / "locked", locked)
    fake(tmp_path / "a/python3", BLIND)
    second = fake(tmp_path / "b/python", SEES)
    chosen = choose("", lambda: own, f"{tmp_path}/a::{tmp_path}/none:{tmp_path}/b", said.append)
    assert (chosen.python, chosen.locked) == (second, False)
    assert said[-1] == (
        f"measured with {second}, which is installed here: not the locked environment"
    )
    assert ("the torch of the locked environment `native` sees no GPU" in said) == (own is not None)


def test_a_named_one_without_a_gpu_is_said_and_the_others_are_asked(tmp_path: Path) -> None:
    said: list[str] = []
    named, locked = fake(tmp_path / "named", BLIND), fake(tmp_path / "locked", SEES)
    assert choose(str(named), lambda: locked, "", said.append).python == locked
    assert said[0] == f"EVIDENCE_PYTHON: the torch of {named} sees no GPU"


def test_nobody_sees_a_gpu(tmp_path: Path) -> None:
    fake(tmp_path / "bin/python3", BLIND)
    with pytest.raises(NoGpu):
        choose("", lambda: None, f"{tmp_path}/bin", print)


@pytest.mark.parametrize("told", ["", "no json", "[1]", '{"device": null}', "{}"])
def test_what_does_not_answer_sees_no_gpu(tmp_path: Path, told: str) -> None:
    assert probed(fake(tmp_path / "python", told)) is None
    assert probed(tmp_path / "missing") is None


def test_warnings_before_the_answer_do_no_harm(tmp_path: Path) -> None:
    found = probed(fake(tmp_path / "python", f"A warning\n{json.dumps(SEES)}"))
    assert found is not None
    assert found["python"] == "3.12.3"


def test_an_interpreter_without_torch_sees_no_gpu() -> None:
    """The real probe, in the interpreter of these tests."""
    assert probed(Path(sys.executable)) is None


def test_without_a_gpu_one_sentence_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(interpreter, "locked_environment", lambda *_: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("EVIDENCE_PYTHON", raising=False)
    for module, name in ((results, "write"), (page, "write")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("written"))
    assert entry.main([]) == 4
    words = capsys.readouterr().err
    assert words == f"{entry.NO_GPU}\n"
