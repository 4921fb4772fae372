"""Tests that share a costly fixture run on one worker."""

from __future__ import annotations

from tests.chain import ROOT
from tests.conftest import TOGETHER, worker_scope


def test_files_stay_whole_and_unit_tests_spread() -> None:
    assert (
        worker_scope("tests/integration/test_merge.py::a[x::y]")
        == "tests/integration/test_merge.py"
    )
    assert worker_scope("tests/unit/test_plan.py::a") != worker_scope("tests/unit/test_plan.py::b")


def test_the_quickstart_is_run_once() -> None:
    scopes = {worker_scope(f"tests/e2e/{name}.py::a") for name in ("test_docs", "test_quickstart")}
    assert len(scopes) == 1


def test_the_named_files_exist() -> None:
    assert [file for file in TOGETHER if not (ROOT / file).is_file()] == []
