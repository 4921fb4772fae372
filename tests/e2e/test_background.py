"""A run that outlives its terminal: started with -d, looked at, stopped, and gone on with."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.chain import Checkout
from tests.e2e.test_bad_luck import leftovers, manifest, training_processes, wait_for
from tests.tiny_chain import set_steps

LONG = 3000  # steps: longer than the test looks at it


def started(checkout: Checkout) -> Path:
    """A training in the background that has come to its third step."""
    result = checkout.recipe("run", "tiny.yaml", "-d", "--format", "json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["state"] == "running"
    run = Path(told["run"])
    wait_for(lambda: (at_work(checkout, run) or {}).get("step", 0) >= 3, "the third step")
    return run


def at_work(checkout: Checkout, run: Path) -> dict[str, Any] | None:
    result = checkout.recipe("status", str(run), "--format", "json")
    assert result.returncode == 0, result.stderr
    told: dict[str, Any] = json.loads(result.stdout)
    found: dict[str, Any] | None = told["at_work"]
    return found if found and found["stage"] == "train" else None


def state_of(checkout: Checkout, run: Path) -> str:
    told = json.loads(checkout.recipe("status", str(run), "--format", "json").stdout)
    return str(told["state"])


def test_a_stopped_training_has_its_step_and_goes_on_to_the_same_bytes(
    tiny: Checkout, tmp_path: Path
) -> None:
    set_steps(tiny, 200)
    whole = tiny.recipe("run", "tiny.yaml", SPARK_RECIPES_STORE=str(tmp_path / "other-store"))
    assert whole.returncode == 0, whole.stderr
    expected = manifest(tiny)

    run = started(tiny)
    listed = json.loads(tiny.recipe("ls", "--running", "--format", "json").stdout)["runs"]
    assert [each["run"] for each in listed] == [str(run)]
    assert "tiny/" in tiny.recipe("ls").stdout
    stopped = tiny.recipe("stop")  # the one that goes on
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.startswith("interrupted: stopped behind step ")
    assert "go on: recipe run tiny.yaml" in stopped.stdout
    step = int(stopped.stdout.split("behind step ")[1].split()[0])
    assert state_of(tiny, run) == "interrupted"
    assert not training_processes(tiny)

    again = tiny.recipe("run", "tiny.yaml", "--format", "json")
    assert again.returncode == 0, again.stderr
    (train,) = (s for s in json.loads(again.stdout)["stages"] if s["name"] == "train")
    assert train["action"] == "resume"
    assert train["measures"]["steps_trained_now"] == 200 - step
    assert manifest(tiny) == expected
    assert leftovers(tiny) == []
    logs = tiny.recipe("logs", str(run))
    assert "==> recipe.log <==" in logs.stdout
    assert "train" in logs.stdout
    nothing = tiny.recipe("stop", str(run))
    assert (nothing.returncode, "error[E930]" in nothing.stderr) == (2, True)


def test_its_terminal_may_go_and_now_means_now(tiny: Checkout) -> None:
    set_steps(tiny, LONG)
    run = started(tiny)
    record = json.loads((run / "run.json").read_text())
    pid = record["process"]["pid"]
    assert os.getsid(pid) == pid, "a session of its own: no hang-up reaches it"
    following = tiny.start("logs", "-f", str(run))
    ended = tiny.recipe("stop", str(run), "--now")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("interrupted")
    said, _ = following.communicate(timeout=60)
    assert following.returncode == 0, "it ends with the run"
    assert "train" in said
    assert not training_processes(tiny)


def test_a_killed_run_is_lost_and_said_to_be(tiny: Checkout) -> None:
    set_steps(tiny, LONG)
    run = started(tiny)
    os.kill(json.loads((run / "run.json").read_text())["process"]["pid"], signal.SIGKILL)
    wait_for(lambda: state_of(tiny, run) == "lost", "the run to be gone")
    wait_for(lambda: not training_processes(tiny), "the training to be gone")
    assert "lost" in tiny.recipe("ls").stdout


@pytest.mark.parametrize("changes", [{"SPARK_RECIPES_IMAGE": "spark-recipes"}])
def test_a_container_is_told_what_to_do_instead(tiny: Checkout, changes: dict[str, str]) -> None:
    result = tiny.recipe("run", "tiny.yaml", "-d", **changes)
    assert result.returncode == 2
    assert "error[E932]" in result.stderr
    assert "docker compose run -d recipe run tiny.yaml" in result.stderr


def test_what_is_wrong_is_said_at_the_terminal(tiny: Checkout) -> None:
    (tiny.folder / "wrong.yaml").write_text("schema: 1\nname: x\n")
    result = tiny.recipe("run", "wrong.yaml", "-d")
    assert result.returncode == 2
    assert "wrong.yaml" in result.stderr
