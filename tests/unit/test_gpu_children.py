"""Cases in processes of their own: whatever ends one, the next is measured."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import children, evidence, gpu_tests
from benchmarks.gpu.cases import CASES, SEVENTY
from benchmarks.gpu.child import missing
from benchmarks.gpu.children import DONE, FAILED, NOT_RUN, Outcome
from benchmarks.gpu.interpreter import Chosen
from tests.gpu.conftest import row_of

GB = 10**9
LONG = 60.0
STACK = {
    "device": {
        "name": "NVIDIA H200",
        "capability": "9.0",
        "memory": 150 * GB,
        "unified": False,
        "cuda": "13.0",
    },
    "python": "3.12.3",
    "libraries": {"torch": "2.11.0", "bitsandbytes": None},
}
CHOSEN = Chosen(Path(sys.executable), False, STACK)


def ran(code: str, tmp_path: Path, seconds: float = LONG) -> Outcome:
    answer = tmp_path / "answer.json"
    argv = [sys.executable, "-I", "-S", "-c", code, str(answer)]
    return children.run(argv, dict(os.environ), answer, seconds)


def telling(told: Any) -> str:
    return f"import sys; open(sys.argv[1], 'w').write({json.dumps(told)!r})"


def test_a_child_that_tells_is_done(tmp_path: Path) -> None:
    assert ran(telling({DONE: {"a": 1}}), tmp_path) == Outcome(DONE, answer={"a": 1})


def test_a_missing_library_is_no_failure(tmp_path: Path) -> None:
    found = ran(telling({NOT_RUN: "bitsandbytes is not installed"}), tmp_path)
    assert found == Outcome(NOT_RUN, "bitsandbytes is not installed")


def test_too_little_memory_is_told_in_the_products_words(tmp_path: Path) -> None:
    told = telling({FAILED: "E509: the GPU has too little memory"})
    assert ran(told, tmp_path) == Outcome(FAILED, "E509: the GPU has too little memory")


def test_a_crash_has_its_last_words(tmp_path: Path) -> None:
    found = ran("raise RuntimeError('CUDA error: an illegal address')", tmp_path)
    words = "RuntimeError: CUDA error: an illegal address"
    assert found == Outcome(FAILED, f"ended with status 1 and no answer: {words}")


def test_the_kernels_kill_is_named(tmp_path: Path) -> None:
    found = ran("import os; os.kill(os.getpid(), 9)", tmp_path)
    assert found == Outcome(FAILED, "ended by SIGKILL")


def test_half_an_answer_is_none(tmp_path: Path) -> None:
    found = ran("import sys; open(sys.argv[1], 'w').write('{\"done\": {')", tmp_path)
    assert found == Outcome(FAILED, "ended with status 0 and no answer")


def test_what_takes_too_long_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    # a grandchild that holds the pipe open for as long as it lives
    code = (
        "import subprocess, sys, time\n"
        f"held = open({str(pipe)!r}, 'w')\n"
        "held.write('x'); held.flush()\n"
        "sleep = [sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)']\n"
        "subprocess.Popen(sleep, pass_fds=[held.fileno()])\n"
        "time.sleep(600)"
    )
    found = ran(code, tmp_path, seconds=1)
    assert found == Outcome(FAILED, "took longer than 1 s")
    os.set_blocking(reader, True)
    said = b"".join(iter(lambda: os.read(reader, 10), b""))  # ends when nobody holds it
    os.close(reader)
    assert said in (b"x", b"")  # b"": the machine was too slow for the first words


# --- rows


def never(argv: Sequence[str], env: dict[str, str], answer: Path, seconds: float) -> Outcome:
    raise AssertionError(argv)


class Fake:
    """Gives outcomes in turn, and keeps what it was asked."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes, self.asked = list(outcomes), []

    def __call__(
        self, argv: Sequence[str], env: dict[str, str], answer: Path, seconds: float
    ) -> Outcome:
        self.asked.append((list(argv), env, seconds))
        return self.outcomes.pop(0)


def done(peak: int) -> Outcome:
    tokens = {"non_pad": 1000, "padded": 1000, "supervised": 900}
    step = {"event": "progress", "stage": "train", "tokens": tokens, "time": 1.0}
    found = {"in_use": peak, "tensors": peak - GB, "reserved": peak - GB // 2}
    phases = {"load": found, "train": found}
    events = [{**step, "tokens_per_second": 900.0} for _ in range(6)]
    return Outcome(DONE, answer={"device": "cuda", "phases": phases, "events": events})


def test_a_case_that_cannot_fit_is_never_started() -> None:
    small = Chosen(CHOSEN.python, False, {**STACK, "device": {**STACK["device"], "memory": GB}})
    row = evidence.row_of(SEVENTY, small, evidence.Clock.of(LONG), never)
    assert row["state"] == NOT_RUN
    assert row["reason"].endswith("the device has 1.0 GB")


def test_no_case_is_begun_when_the_time_is_up() -> None:
    row = evidence.row_of(CASES[0], CHOSEN, evidence.Clock.of(0), never)
    assert (row["state"], row["reason"]) == (NOT_RUN, "the time for all cases was up")


def test_a_child_is_told_its_case_and_has_no_home_of_the_users() -> None:
    run = Fake(done(50 * GB))
    evidence.row_of(CASES[0], CHOSEN, evidence.Clock.of(10_000), run)
    argv, env, seconds = run.asked[0]
    assert json.loads(argv[-2])["model"] == CASES[0].model
    assert seconds == CASES[0].seconds
    assert env["HOME"] == str(Path(argv[-1]).parent) != os.environ.get("HOME")
    assert env["CUBLAS_WORKSPACE_CONFIG"]  # as the product's scripts are started
    assert not Path(env["HOME"]).exists()  # gone with the case


def test_one_that_fails_does_not_end_the_others() -> None:
    outcomes = [Outcome(FAILED, "ended by SIGKILL"), done(50 * GB), Outcome(NOT_RUN, "no trl")]
    run = Fake(*outcomes, Outcome(FAILED, "no report"))
    said: list[str] = []
    cases = [CASES[0], SEVENTY, CASES[1]]
    found = evidence.measure(
        CHOSEN, "580.95", evidence.Clock.of(10_000), cases, say=said.append, run=run
    )
    states = {row["name"]: row["state"] for row in found["cases"]}
    assert states == {CASES[0].name: FAILED, SEVENTY.name: DONE, CASES[1].name: NOT_RUN}
    large = next(row for row in found["cases"] if row["name"] == SEVENTY.name)
    assert large["as_expected"]
    assert large["speed"]["tokens_per_second"] == 900.0
    assert found["stack"]["driver"] == "580.95"
    assert not found["locked"]
    assert found["tests"] == [gpu_tests.row("tests/gpu, the others", FAILED, "no report")]
    assert any("50.00 GB of" in line for line in said)


def test_what_is_not_installed_is_named() -> None:
    assert missing(("json", "no_such_library", "no_other")) == (
        "no_such_library, no_other is not installed"
    )
    assert missing(("json",)) == ""


def test_only_what_needs_4_or_8_bits_needs_bitsandbytes() -> None:
    needing = {case.method for case in CASES if "bitsandbytes" in case.needs}
    assert needing == {"qlora", "full-8bit"}


# --- the tests' report


def test_the_lines_of_a_report_are_rows_by_name() -> None:
    rows = [gpu_tests.row("b", FAILED, "assert 1 == 2"), gpu_tests.row("a", "passed")]
    report = "".join(json.dumps(row) + "\n" for row in rows)
    ended = "ended with status 1 and no answer: 1 failed, 1 passed"
    assert gpu_tests.rows_of(report, ended) == rows[::-1]


def test_tests_that_were_cut_off_are_a_row_beside_those_that_were_not() -> None:
    report = json.dumps(gpu_tests.row("z", "passed")) + "\n"
    found = gpu_tests.rows_of(report, "took longer than 180 s")
    assert [row["name"] for row in found] == ["z", "tests/gpu, the others"]
    assert found[1]["reason"] == "took longer than 180 s"


def test_no_test_at_all_is_a_failure() -> None:
    assert gpu_tests.rows_of("", "ended with status 4 and no answer: ERROR")[0]["state"] == FAILED


def test_the_tests_need_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tests, "find_spec", lambda name: None if name == "pytest" else name)
    rows = gpu_tests.outcomes(CHOSEN.python, LONG, never)
    assert rows == [{"name": "tests/gpu", "state": NOT_RUN, "reason": "pytest is not installed"}]


def test_the_tests_are_told_the_interpreter(tmp_path: Path) -> None:
    run = Fake(Outcome(FAILED, "took longer than 60 s"))
    rows = gpu_tests.outcomes(CHOSEN.python, LONG, run)
    assert rows[0]["reason"] == "took longer than 60 s"
    assert run.asked[0][1]["EVIDENCE_PYTHON"] == str(CHOSEN.python)


@pytest.mark.parametrize(
    ("outcome", "when", "words", "state", "reason"),
    [
        ("passed", "call", None, "passed", ""),
        ("failed", "call", "E   assert 1 == 2\nE    +  where\nfile.py:3", FAILED, "assert 1 == 2"),
        ("failed", "setup", "no GPU here", FAILED, "no GPU here"),
        ("failed", "call", "", FAILED, ""),
        (
            "skipped",
            "setup",
            ("f", 1, "Skipped: trl is not installed"),
            NOT_RUN,
            "trl is not installed",
        ),
    ],
)
def test_a_test_of_pytest_becomes_a_row(
    outcome: Any, when: Any, words: Any, state: str, reason: str
) -> None:
    name = "tests/gpu/test_training.py::test_a"
    report = pytest.TestReport(name, ("f", 1, "test_a"), {}, outcome, words, when)
    assert row_of(report) == gpu_tests.row("test_training.py::test_a", state, reason)


def test_what_comes_before_and_behind_a_test_is_no_row() -> None:
    for when in ("setup", "teardown"):
        report = pytest.TestReport("tests/gpu/a.py::b", ("f", 1, "b"), {}, "passed", None, when)
        assert row_of(report) is None
