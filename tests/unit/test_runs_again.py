"""The command that goes on with a run, as `stop`, `status` and the first machine print it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.cli import run as run_command
from runner.cli.main import main, parse
from runner.execution.machines import meeting
from runner.runs.again import command_of, named, words_of

TYPED = (
    "recipe run x.yaml --set 'name=ten b' --set 'gguf.quantize=[Q8_0]' --set train.backend=unsloth "
    "--shrink --until train --rendezvous 10.0.0.1:29400 --no-preflight"
)


def test_what_is_typed_again_decides_the_same_run() -> None:
    words = shlex.split(TYPED)
    args = parse(words[1:])
    assert words_of(args) == words
    assert parse(words_of(args)[1:]) == args
    assert words_of(parse(["run", "x.yaml", "-d", "--nodes", "2", "--backend", "native"])) == [
        *("recipe", "run", "x.yaml", "--set", "train.nodes=2", "--set", "train.backend=native"),
    ]


def test_a_machine_that_joined_joins_again() -> None:
    words = shlex.split("recipe join x.yaml --set train.nodes=2 --shrink 10.0.0.1:29400 --locked")
    args = parse(words[1:])
    assert words_of(args) == words
    assert parse(words_of(args)[1:]) == args


def written(folder: Path, **record: Any) -> Path:
    run = folder / "runs" / "x" / "20270101-000000"
    (run / "logs").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"state": "interrupted", **record}))
    return run


def test_status_prints_the_whole_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = written(tmp_path, command=shlex.split(TYPED), recipe_file="x.yaml")
    assert main(["status", str(run)]) == 0
    assert f"next: {TYPED}\n" in capsys.readouterr().out


def test_of_an_older_run_the_command_is_made_of_what_it_recorded() -> None:
    record = {
        "recipe_file": "a b.yaml",
        "set": {"train.max_steps": 30, "name": "ten-b"},
        "shrink": {"/name": "ten-b-shrink"},
        "until": "train",
    }
    words = shlex.split(command_of(record))
    args = parse(words[1:])
    assert (args.recipes, args.set) == ([Path("a b.yaml")], ["train.max_steps=30", 'name="ten-b"'])
    assert (args.shrink, args.until) == (True, "train")


@pytest.mark.parametrize("command", [None, [], "rm -rf /", {"a": 1}, 7])
def test_a_damaged_record_names_no_command_of_its_own(command: object) -> None:
    assert command_of({"command": command, "set": [1]}) == "recipe run x.yaml"


def test_a_record_reaches_no_terminal_raw() -> None:
    assert "\x1b" not in command_of({"command": ["recipe", "run", "\x1b[2Jx.yaml"]})


def test_the_first_machine_says_how_its_twin_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def first(address: object, machines: int, how: str, *more: object) -> None:
        told.append(how)

    monkeypatch.setattr(meeting, "First", first)
    args = parse(["run", "x.yaml", "--shrink", "--nodes", "2", "--rendezvous", "10.0.0.1:29400"])
    recipe: Any = SimpleNamespace(train=SimpleNamespace(nodes=2))
    progress: Any = SimpleNamespace(say=None, poll=None)
    run_command._machines(args, recipe, progress)
    assert told == ["recipe join x.yaml --set train.nodes=2 --shrink 10.0.0.1:29400"]


def test_what_is_got_beforehand_is_the_same_part_of_the_same_twin() -> None:
    args = parse(["run", "x.yaml", "--shrink", "--until", "prepare", "--set", "name=a b"])
    assert named(args) == "x.yaml --set 'name=a b' --shrink"
    assert run_command._get_command(args) == (
        "recipe run x.yaml --set 'name=a b' --shrink --until prepare --get"
    )
