"""`recipe completion`: what bash, zsh and fish themselves offer behind a line."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from runner.cli import main
from runner.completion.interface import NOTHING, commands
from runner.completion.shells import SHELLS, script
from runner.report.explanations import explained
from runner.stages import ORDER
from tests.shells import Offers, Zsh, bash, fish

MAX_SECONDS = 0.1  # a Tab: below it nobody waits


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recipes, locks, a bundle, other files and finished runs."""
    folder = tmp_path_factory.mktemp("project")
    run = folder / "runs" / "quick" / "20260101-120000"
    for path in (
        folder / "recipes" / "a.yaml",
        folder / "recipes" / "a.lock.yaml",
        folder / "recipes" / "b c.yml",
        folder / "recipes" / "notes.txt",
        folder / "recipes" / ".hidden.yaml",
        folder / "recipes" / "course" / "10.1.yaml",
        folder / "x.yaml",
        folder / "model.tar",
        folder / "key.pem",
        run / "run.json",
        run / "adapter" / "config.json",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (run.parent / "latest").symlink_to(run.name)
    return folder


@pytest.fixture(scope="module", params=sorted(SHELLS))
def offers(
    request: pytest.FixtureRequest,
    project: Path,
    shared_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Offers]:
    file = tmp_path_factory.mktemp("scripts") / f"recipe.{request.param}"
    file.write_text(script(request.param), encoding="utf-8")
    shell = {"bash": bash, "fish": fish, "zsh": Zsh}[request.param](file, project, shared_cache)
    yield shell
    if isinstance(shell, Zsh):
        shell.close()


def names(offered: list[str]) -> set[str]:
    """The last part of each: some shells tell whole paths and whole options, others do not."""
    assert len(offered) == len(set(offered))
    return {re.sub(r"^--\w+=|.*/(?=.)|/$|\\", "", word) for word in offered}


RECIPES = {"a.yaml", "b c.yml", "course"}
CASES = {
    "recipe ": set(main.COMMANDS),
    "recipe va": {"validate"},
    "recipe rec": {"recipes"},
    "recipe recipes/": {*RECIPES, "a.lock.yaml"},
    "recipe run recipes/": {*RECIPES, "a.lock.yaml"},
    "recipe run m": {"model.tar"},
    "recipe plan m": set[str](),
    "recipe plan recipes/": RECIPES,
    "recipe plan recipes/c": {"course"},
    "recipe plan recipes/course/": {"10.1.yaml"},
    "recipe plan recipes/.": {".hidden.yaml"},
    "recipe plan ": {"x.yaml", "recipes", "runs"},
    "recipe plan recipes/a.yaml ": {"x.yaml", "recipes", "runs"},
    "recipe doctor recipes/a.yaml ": set[str](),
    "recipe run x.yaml recipes/": {*RECIPES, "a.lock.yaml"},
    "recipe validate recipes/a.yaml x": {"x.yaml"},
    "recipe run --until ": set(ORDER),
    "recipe run --until t": {"train"},
    "recipe run --until=t": {"train"},
    "recipe run --until train x": {"x.yaml"},
    "recipe run x.yaml --lo": {"--locked"},
    "recipe run --locked x.yaml --locke": set[str](),
    "recipe x.yaml --unt": {"--until"},
    "recipe x.yaml --until pr": {"prepare"},
    "recipe run x.yaml --set train.learning": {"train.learning_rate="},
    "recipe plan --set gguf.imatrix.": {"gguf.imatrix.data=", "gguf.imatrix.chunks="},
    "recipe new --model sm": {"smollm2"},
    "recipe new --model rec": {"recipes"},
    "recipe new --from recipes/n": {"notes.txt"},
    "recipe new --as t": {"trl"},
    "recipe new --workspace rec": {"recipes"},
    "recipe run --into r": {"recipes", "runs"},
    "recipe validate --format s": {"sarif"},
    "recipe verify --level e": {"export"},
    "recipe verify ": {"quick", "recipes", "runs", "model.tar"},
    "recipe attest ": {"quick"},
    "recipe attest runs/": {"quick"},
    "recipe attest runs/quick/": {"20260101-120000", "latest"},
    "recipe attest runs/quick/latest/": set[str](),
    "recipe attest --key k": {"key.pem"},
    "recipe diff runs/q": {"quick"},
    "recipe diff recipes/a.yaml recipes/a": {"a.yaml", "a.lock.yaml"},
    "recipe diff a b ": set[str](),
    "recipe explain E10": {code for code in explained() if code.startswith("E10")},
    "recipe explain E102 W20": {code for code in explained() if code.startswith("W20")},
    "recipe completion ": set(SHELLS),
    "recipe data ": {"inspect", "convert", "prepare", "synthesize"},
    "recipe data synthesize recipes/n": {"notes.txt"},
    "recipe data inspect recipes/n": {"notes.txt"},
    "recipe data inspect --ro": {"--rows"},
    "recipe data convert x --to sh": {"sharegpt"},
    "recipe schema ": set[str](),
    "recipe --v": {"--version"},
    "recipe no-such-command ": set[str](),
}


@pytest.mark.parametrize("line", sorted(CASES))
def test_tab_offers_what_fits(line: str, offers: Offers) -> None:
    assert names(offers(line)) == CASES[line]


def test_nobody_waits_for_it(offers: Offers) -> None:
    """Of bash and fish this is the start of the shell, too."""
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        offers("recipe run recipes/")
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < MAX_SECONDS, seconds


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_a_new_command_is_completed_without_a_change(
    shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("recipe", type=Path)
        parser.add_argument("--colour", choices=("red", "green"), help="which colour")
        parser.add_argument("--set", action="append", metavar="KEY=VALUE")

    module = ModuleType("runner.cli.paint")
    vars(module).update(add_arguments=add_arguments)
    monkeypatch.setitem(sys.modules, "runner.cli.paint", module)
    monkeypatch.setitem(main.COMMANDS, "paint", "paint it")
    text = script(shell)
    for expected in ("paint", "--colour", "red", "--set+", "paint 0"):
        assert expected in text


def test_every_value_of_a_command_line_is_known_or_a_file() -> None:
    """A new place whose name tells nothing is given a kind in runner/completion/interface.py; only
    the writer knows the address that `join` takes."""
    unknown = [
        (command.word.text, index)
        for command in commands()
        for index, takes in enumerate(command.places)
        if takes.kinds == NOTHING
    ]
    assert unknown == [("join", 1)]
