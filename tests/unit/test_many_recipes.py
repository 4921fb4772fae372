"""`recipe validate` over as many recipes as a large team has: time grows with them, memory not."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.cli.validate import check_paths
from tests.chain import ROOT
from tests.many_recipes import is_wrong, write_recipes

MANY, SOME = 2000, 500
GROWTH = 24 << 20  # bytes that four times as many recipes may take more
SLACK = 1.6  # on straight-line growth of processor time

_PROGRAM = """
import json, pathlib, resource, sys
from runner.cli.main import main
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss: it survives exec, and so begins at the size of pytest.
peak = pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
seconds, memory = used.ru_utime + used.ru_stime, int(peak) * 1024
facts = {"status": status, "seconds": seconds, "memory": memory}
print(json.dumps(facts), file=sys.stderr)
"""


@dataclass(frozen=True)
class Cost:
    status: int
    seconds: float  # of processor time
    memory: int  # bytes, at its peak
    said: str


def cost(folder: Path, *arguments: str) -> Cost:
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "validate", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return Cost(**json.loads(ended.stderr.splitlines()[-1]), said=ended.stdout)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    made = {count: tmp_path_factory.mktemp(f"many-{count}") for count in (1, SOME, MANY)}
    for count, folder in made.items():
        write_recipes(folder, count)
    return made


def test_every_wrong_one_is_found_and_no_other(folders: dict[int, Path]) -> None:
    files, found, _ = check_paths([folders[MANY] / "many"])
    assert files == MANY
    wrong = {int(Path(each.file).stem) for each in found if each.severity == "error"}
    assert wrong == {number for number in range(MANY) if is_wrong(number)}
    assert len({each.code for each in found if each.severity == "error"}) >= 5


@pytest.mark.parametrize("report", ["text", "sarif"])
def test_time_grows_with_the_recipes_and_memory_does_not(
    report: str, folders: dict[int, Path]
) -> None:
    one, some, many = (cost(folders[n], "many", "--format", report) for n in (1, SOME, MANY))
    assert (one.status, some.status, many.status) == (0, 2, 2)
    assert many.memory - some.memory < GROWTH
    each = (some.seconds - one.seconds) / (SOME - 1)
    assert many.seconds - one.seconds < SLACK * each * (MANY - 1)
    assert resource.getpagesize() < many.memory < 200 << 20


def test_the_same_recipes_are_made_every_time(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_recipes(tmp_path / "a", 30)]
    again = [path.read_bytes() for path in write_recipes(tmp_path / "b", 30)]
    assert first == again
    assert len(set(first)) == 30
