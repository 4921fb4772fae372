"""What goes wrong on a desk: kills, Ctrl-C, two at once, a full disk, no network, no compiler."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chain import Checkout
from tests.tiny_chain import set_steps


def manifest(checkout: Checkout) -> bytes:
    return (checkout.folder / "runs" / "tiny" / "latest" / "manifest.json").read_bytes()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def training_step(checkout: Checkout, step: int) -> bool:
    """Has any run's training come to `step`?"""
    for path in (checkout.folder / "runs").glob("tiny/*/events.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["stage"] == "train" and event["event"] == "progress" and event["step"] >= step:
                return True
    return False


def training_processes(checkout: Checkout) -> list[int]:
    """Processes whose command line names this checkout's store or runs and the training script."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "train_native" in words and str(checkout.folder) in words and "supervisor" not in words:
            found.append(int(folder.name))
    return found


def leftovers(checkout: Checkout) -> list[str]:
    """Half-written things: staging outputs and temporary files that no one will ever finish."""
    checkout.recipe("gc")
    store = Path(checkout.env["SPARK_RECIPES_STORE"])
    staged = [str(path) for path in (store / ".staging").glob("*/*")]
    temporary = [str(p) for p in checkout.folder.glob("runs/**/.*") if p.name != ".gitignore"]
    return staged + temporary


def test_the_tiny_chain_gives_the_same_manifest_twice(tiny: Checkout, tmp_path: Path) -> None:
    first = tiny.recipe("run", "tiny.yaml")
    assert first.returncode == 0, first.stderr
    before = manifest(tiny)
    again = tiny.recipe("run", "tiny.yaml", SPARK_RECIPES_STORE=str(tmp_path / "other-store"))
    assert again.returncode == 0, again.stderr
    assert manifest(tiny) == before


def test_a_run_killed_while_training_resumes_to_the_same_manifest(
    tiny: Checkout, tmp_path: Path
) -> None:
    set_steps(tiny, 40)
    plain = tiny.recipe("run", "tiny.yaml", SPARK_RECIPES_STORE=str(tmp_path / "undisturbed"))
    assert plain.returncode == 0, plain.stderr
    expected = manifest(tiny)
    shutil.rmtree(tiny.folder / "runs")

    runner = tiny.start("run", "tiny.yaml")
    wait_for(lambda: training_step(tiny, 12), "step 12")
    runner.kill()
    runner.communicate()
    wait_for(lambda: not training_processes(tiny), "the end of the training", 30)
    plan = json.loads(tiny.recipe("plan", "tiny.yaml", "--format", "json").stdout)
    assert {s["stage"]: s["action"] for s in plan["stages"]}["train"] == "resume"

    again = tiny.recipe("run", "tiny.yaml")
    assert again.returncode == 0, again.stderr
    assert manifest(tiny) == expected
    assert leftovers(tiny) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_everything_and_says_how_to_go_on(
    tiny: Checkout, number: int, code: int
) -> None:
    set_steps(tiny, 4000)
    runner = tiny.start("run", "tiny.yaml")
    wait_for(lambda: training_step(tiny, 3), "step 3")
    runner.send_signal(number)
    _, words = runner.communicate(timeout=60)
    assert runner.returncode == code
    assert "run the same command again" in words
    assert training_processes(tiny) == []
    assert not (tiny.folder / "runs" / "tiny" / "latest").exists()


@pytest.mark.parametrize("stage", ["fetch", "prepare", "evaluate", "merge"])
def test_ctrl_c_in_any_stage_loses_nothing(tiny: Checkout, stage: str) -> None:
    runner = tiny.start("run", "tiny.yaml")

    def started() -> bool:
        events = [p.read_text() for p in (tiny.folder / "runs").glob("tiny/*/events.jsonl")]
        return any(re.search(rf'"stage":"{stage}".*"state":"start"', text) for text in events)

    wait_for(started, f"the start of {stage}")
    runner.send_signal(signal.SIGINT)
    runner.communicate(timeout=60)
    assert runner.returncode in (130, 0)
    again = tiny.recipe("run", "tiny.yaml")
    assert again.returncode == 0, again.stderr
    assert leftovers(tiny) == []


def test_a_killed_training_script_is_a_failed_stage_that_can_go_on(tiny: Checkout) -> None:
    set_steps(tiny, 40)
    runner = tiny.start("run", "tiny.yaml")
    wait_for(lambda: training_step(tiny, 6), "step 6")
    for pid in training_processes(tiny):
        os.kill(pid, signal.SIGKILL)
    _, words = runner.communicate(timeout=60)
    assert runner.returncode == 1
    assert "SIGKILL" in words
    assert "next:" in words
    again = tiny.recipe("run", "tiny.yaml")
    assert again.returncode == 0, again.stderr


def test_two_runs_of_one_recipe_share_the_work(tiny: Checkout) -> None:
    runners = [tiny.start("run", "tiny.yaml") for _ in range(2)]
    words = [runner.communicate(timeout=300)[1] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0], words
    records = [json.loads(p.read_text()) for p in (tiny.folder / "runs").glob("tiny/2*/run.json")]
    trained = [s["action"] for r in records for s in r["stages"] if s["name"] == "train"]
    assert sorted(trained) in (["reuse", "run"], ["run"])


def test_a_second_run_told_not_to_wait_exits_6(tiny: Checkout) -> None:
    set_steps(tiny, 4000)
    runner = tiny.start("run", "tiny.yaml")
    wait_for(lambda: training_step(tiny, 1), "step 1")
    second = tiny.recipe("run", "tiny.yaml", "--no-wait")
    runner.terminate()
    runner.communicate(timeout=60)
    assert second.returncode == 6
    assert str(runner.pid) in second.stderr


def test_a_file_that_cannot_grow_is_said_and_leaves_nothing_half(tiny: Checkout) -> None:
    limited = f"ulimit -f 200; exec {sys.executable} -m runner run tiny.yaml"  # blocks of 1024
    full = subprocess.run(
        ["bash", "-c", limited],
        cwd=tiny.folder,
        env=tiny.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode in (1, 4), full.stderr
    assert "size limit" in full.stderr, full.stderr
    assert "Traceback" not in full.stderr
    store = Path(tiny.env["SPARK_RECIPES_STORE"])
    assert list(store.glob("[a-z]*/*/.stage.json")) == []
    again = tiny.recipe("run", "tiny.yaml")
    assert again.returncode == 0, again.stderr


def test_no_network_at_the_first_set_up_is_said_in_words(tiny: Checkout, tmp_path: Path) -> None:
    env = {
        "SPARK_RECIPES_CACHE": str(tmp_path / "empty-cache"),
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "UV_HTTP_TIMEOUT": "3",
        "UV_HTTP_RETRIES": "0",
    }
    result = tiny.recipe("run", "tiny.yaml", **env)
    assert result.returncode == 4, result.stderr
    assert "network" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_folder_for_runs_that_cannot_be_written_is_said(tiny: Checkout) -> None:
    (tiny.folder / "runs").write_text("a file where the folder should be")
    result = tiny.recipe("run", "tiny.yaml")
    assert result.returncode == 4
    assert "runs" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_malformed_row_names_file_and_line(tiny: Checkout) -> None:
    rows = (tiny.folder / "rows.jsonl").read_text().splitlines()
    rows[6] = '{"instruction": "x", "output": }'
    (tiny.folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    result = tiny.recipe("run", "tiny.yaml")
    assert result.returncode == 1
    assert "rows.jsonl:7" in result.stderr


def test_a_row_that_is_too_long_names_file_and_line(tiny: Checkout) -> None:
    with (tiny.folder / "rows.jsonl").open("a") as file:
        file.write(json.dumps({"instruction": "x" * 400, "input": "", "output": "y"}) + "\n")
    result = tiny.recipe("run", "tiny.yaml")
    assert result.returncode == 1
    assert "rows.jsonl:41" in result.stderr


def test_empty_data_is_said(tiny: Checkout) -> None:
    (tiny.folder / "rows.jsonl").write_text("")
    result = tiny.recipe("run", "tiny.yaml")
    assert result.returncode in (1, 2)
    assert "rows.jsonl" in result.stderr
    assert "Traceback" not in result.stderr
