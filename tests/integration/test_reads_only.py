"""Commands that only look at recipes touch no network and write nothing: seen by the kernel.

Every command of the registry but those that are there to change something, with every format that
it has, on a local recipe and on one of the hub. strace sees the process and its children; Python's
own compiled modules are switched off, since they are not ours.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.cli.main import COMMANDS
from runner.plan.published_models import facts_at_hand
from runner.recipe.load import load_recipe
from runner.stages import stages_of
from tests import strace
from tests.chain import ROOT
from tests.evaluated_runs import rows, write_evaluated_run
from tests.recipe_cases import RECIPES

CHANGING = {"run", "lock", "verify", "attest", "bundle", "gc"}  # what they are for
CHANGING |= {"capture", "new", "migrate"}  # write recipes
CHANGING |= {"crosscheck", "bench", "join"}  # train
CHANGING |= {"stop"}  # ends a run
CHANGING |= {"data", "webui"}  # convert and prepare rows; serves a workspace
OF_FOLDERS = {"--recipes"}  # options with which a command takes folders
READING = sorted(set(COMMANDS) - CHANGING)


@pytest.fixture(scope="module")
def traced(shared_cache: Path) -> list[str]:
    return strace.words(shared_cache)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, a local recipe with every section, and one of the hub."""
    folder = tmp_path_factory.mktemp("project")
    run = write_evaluated_run(folder, "x", rows(3, -0.1))
    (run.parent / "latest").symlink_to("1")
    for name in ("valid", "data"):
        shutil.copytree(RECIPES / name, folder / name)
    return folder


def trace(words: list[str], output: Path, folder: Path, *command: str) -> tuple[int, list[str]]:
    """Exit status of the command, and what it should not have done."""
    home = output.parent / "home"
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SPARK_RECIPES_CACHE": str(home / "cache"),
    }
    ended = subprocess.run(
        [*words, *strace.options(output), *command],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    assert output.stat().st_size > 0, "nothing was traced"
    return ended.returncode, list(strace.crimes(output))


def command_lines(command: str, recipe: str, other: str) -> Iterator[list[str]]:
    """The command with each of its formats, its positional arguments filled in by what they are."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f"runner.cli.{command}").add_arguments(parser)
    actions = [each for each in parser._actions if not isinstance(each, argparse._HelpAction)]
    words = [_argument(each, recipe, other) for each in actions if not each.option_strings]
    switches = [
        [each.option_strings[-1]] for each in actions if isinstance(each, argparse._StoreTrueAction)
    ]
    choices = [
        [each.option_strings[-1], str(choice)]
        for each in actions
        if each.option_strings
        for choice in list(each.choices or ())[-4:]
    ]
    for extra in [[], *switches, *choices]:
        named = ["valid" for _ in words] if OF_FOLDERS & set(extra) else words
        yield [command, *named, *extra]


def _argument(action: argparse.Action, recipe: str, other: str) -> str:
    if action.choices:
        return str(next(iter(action.choices)))
    return {"codes": "E102", "second": other, "run": "runs/x", "runs": "runs/x"}.get(
        action.dest, recipe
    )


@pytest.mark.parametrize("recipe", ["x.yaml", "valid/full.yaml", "valid/hub.yaml"])
@pytest.mark.parametrize("command", READING)
def test_a_command_that_reads_does_nothing_else(
    command: str, recipe: str, project: Path, traced: list[str], tmp_path: Path
) -> None:
    for number, line in enumerate(command_lines(command, recipe, "x.yaml")):
        output = tmp_path / f"trace-{number}"
        status, crimes = trace(traced, output, project, sys.executable, "-m", "runner", *line)
        refused = (
            lacks_its_stage(line, project)
            or lacks_its_judge(line)
            or lacks_its_sizes(line, project)
        )
        found = {0, 4} if command == "doctor" else {2 if refused else 0}
        assert status in found, line
        assert crimes == [], line


def lacks_its_judge(line: list[str]) -> bool:
    """`compare --offline` is about a judge's log."""
    return line[0] == "compare" and "--offline" in line and "--judge" not in line


def lacks_its_sizes(line: list[str], project: Path) -> bool:
    """`plan --recommend` counts with the sizes of a model, which are not known of every one."""
    if line[0] != "plan" or "--recommend" not in line:
        return False
    return facts_at_hand(load_recipe(project / line[1])) is None


def lacks_its_stage(line: list[str], project: Path) -> bool:
    """`--until` a stage that the recipe has not is refused, and as harmless."""
    if "--until" not in line:
        return False
    stages = stages_of(load_recipe(project / line[1]))
    return line[-1] not in (stage.NAME for stage in stages)


def test_looking_at_rows_changes_nothing(project: Path, traced: list[str], tmp_path: Path) -> None:
    """`data` is among those that change, for its other commands."""
    for number, more in enumerate([[], ["--format", "json"]]):
        line = (sys.executable, "-m", "runner", "data", "inspect", "data/rows.jsonl", *more)
        assert trace(traced, tmp_path / str(number), project, *line) == (0, [])


def test_what_is_wrong_changes_nothing_either(
    project: Path, traced: list[str], tmp_path: Path
) -> None:
    (project / "wrong.yaml").write_text("schema: 1\nnaem: x\n")
    for number, command in enumerate(("validate", "show", "plan")):
        line = (sys.executable, "-m", "runner", command, "wrong.yaml")
        assert trace(traced, tmp_path / str(number), project, *line) == (2, [])


def test_comparing_two_runs_changes_nothing(
    project: Path, traced: list[str], tmp_path: Path
) -> None:
    line = (sys.executable, "-m", "runner", "diff", "runs/x", "runs/x/1")
    assert trace(traced, tmp_path / "trace", project, *line) == (0, [])


CRIMES = {
    "writes a file": "open('made', 'w').close()",
    "opens a file to add to it": "open('x.yaml', 'a').close()",
    "makes a folder": "import os; os.mkdir('made')",
    "renames": "import os; os.rename('x.yaml', 'x.yaml')",
    "removes": "import os; os.path.exists('none') or os.system('rm -f none')",
    "changes rights": "import os; os.chmod('x.yaml', 0o644)",
    "asks another machine": "import socket; s = socket.socket(); s.settimeout(0.1); "
    "s.connect_ex(('192.0.2.1', 80)); s.close()",
    "asks another machine by IPv6": "import socket; s = socket.socket(socket.AF_INET6); "
    "s.settimeout(0.1); s.connect_ex(('2001:db8::1', 80)); s.close()",
    "sends a datagram": "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    "try: s.sendto(b'x', ('192.0.2.1', 53))\nexcept OSError: pass\ns.close()",
    "lets a child do it": "import subprocess, sys; "
    "subprocess.run([sys.executable, '-c', \"open('made', 'w').close()\"])",
}


@pytest.mark.parametrize("crime", CRIMES)
def test_the_trace_shows_it(crime: str, traced: list[str], tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    (tmp_path / "x.yaml").touch()
    line = (sys.executable, "-c", CRIMES[crime])
    status, crimes = trace(traced, tmp_path / "trace", tmp_path, *line)
    assert status == 0
    assert crimes


def test_the_loopback_and_devices_that_keep_nothing_are_no_crimes(
    traced: list[str], tmp_path: Path
) -> None:
    """Planning may ask an Ollama on this machine."""
    program = (
        "import socket; s = socket.socket(); s.connect_ex(('127.0.0.1', 9)); s.close(); "
        "open('/dev/null', 'w').close()"
    )
    assert trace(traced, tmp_path / "trace", tmp_path, sys.executable, "-c", program) == (0, [])


def test_every_command_is_one_that_reads_or_one_that_changes() -> None:
    """A new command counts as one that reads, and is traced, until it is named above."""
    assert {"validate", "show", "plan", "diff", "explain", "schema"} <= set(READING)
    assert set(READING) | CHANGING >= set(COMMANDS)
