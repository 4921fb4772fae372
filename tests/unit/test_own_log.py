"""The log of a run in the background goes on after the checksums: it is none of what they prove."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.execution.checksums import NAME, read_checksums, write_checksums
from runner.runs import background
from runner.store.digest import file_sha256
from runner.verify.files import verify_files
from runner.verify.run import open_run
from tests.bundles import SmallRun, small_run

LOG, STAGE = "logs/recipe.log", "logs/train-01-train.log"


@pytest.fixture
def run(tmp_path: Path) -> SmallRun:
    made = small_run(tmp_path)
    for name in (LOG, STAGE):
        (made.folder / name).parent.mkdir(exist_ok=True)
        (made.folder / name).write_text("[1/9] fetch\n")
    return made


def changed(run: SmallRun) -> list[Path]:
    found = verify_files(open_run(run.folder), run.store)
    return [each.path.relative_to(run.folder) for each in found if each.problem]


def finish(run: SmallRun) -> None:
    write_checksums(run.folder, (run.folder / "manifest.json").read_bytes(), {})


def test_what_a_run_says_after_its_end_changes_nothing(run: SmallRun) -> None:
    finish(run)
    assert LOG not in dict(read_checksums(run.folder))
    for name in (LOG, STAGE):
        with (run.folder / name).open("a") as log:
            log.write("the results are in runs/x\n")
    assert changed(run) == [Path(STAGE)]


def test_a_run_that_listed_its_log_before_verifies(run: SmallRun) -> None:
    finish(run)
    digest = file_sha256(run.folder / LOG)
    with (run.folder / NAME).open("a") as sums:
        sums.write(f"{digest}  {LOG}\n")
    with (run.folder / LOG).open("a") as log:
        log.write("the results are in runs/x\n")
    assert changed(run) == []


def test_it_is_the_log_that_the_background_writes() -> None:
    assert f"logs/{background.LOG}" == LOG
