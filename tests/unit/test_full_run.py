"""What `make test-full` leaves behind says what was tested, and nothing that changes by itself."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests import full_run
from tests.full_run import RECORDS, RESULTS, ROOT, counts, sources_digest, tracked, written


def make_sources(root: Path) -> list[str]:
    (root / "tests").mkdir(parents=True)
    (root / "b.py").write_bytes(b"b\n")
    (root / "a").mkdir()
    (root / "a" / "c.txt").write_bytes(b"")
    (root / "link").symlink_to("b.py")
    return ["b.py", "a/c.txt", "link"]


def test_the_digest_is_that_of_names_and_contents(tmp_path: Path) -> None:
    names = make_sources(tmp_path)
    known = "a944f32535e6a1bf"
    assert sources_digest(tmp_path, names)[:16] == known
    assert sources_digest(tmp_path, reversed(names))[:16] == known
    (tmp_path / RESULTS).write_text("{}")
    assert sources_digest(tmp_path, [*names, *RECORDS])[:16] == known


def test_every_change_changes_the_digest(tmp_path: Path) -> None:
    names = make_sources(tmp_path)
    seen = {sources_digest(tmp_path, names)}
    (tmp_path / "b.py").write_bytes(b"b")
    seen.add(sources_digest(tmp_path, names))
    (tmp_path / "link").unlink()
    seen.add(sources_digest(tmp_path, names))
    seen.add(sources_digest(tmp_path, names[:2]))
    (tmp_path / "link").symlink_to("a")
    seen.add(sources_digest(tmp_path, names))
    assert len(seen) == 5


def test_the_digest_covers_what_git_tracks() -> None:
    names = tracked(ROOT)
    assert {"Makefile", "pyproject.toml", "tests/full_run.py"} <= {*names}
    assert len(sources_digest(ROOT, names)) == 64


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("==== 3 passed in 1.20s ====", {"passed": 3}),
        ("1 failed, 2 passed, 1 warning in 0.10s", {"failed": 1, "passed": 2, "warnings": 1}),
        (
            "= 10 passed, 2 deselected, 1 error in 61.02s (0:01:01) =",
            {"passed": 10, "deselected": 2, "errors": 1},
        ),
        ("", {}),
    ],
)
def test_the_closing_line_is_read(line: str, found: dict[str, int]) -> None:
    assert counts(line) == found


def test_a_run_writes_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project of two tests: the long one runs, twice, and the record is the same."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = full\naddopts = -m 'not full'\n")
    test = "import pytest\n\ndef test_a(): pass\n\n@pytest.mark.full\ndef test_b(): pass\n"
    (tmp_path / "tests" / "test_it.py").write_text(test)
    (tmp_path / ".gitignore").write_text("__pycache__/\n.pytest_cache/\n")
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setattr(full_run, "ROOT", tmp_path)
    records = []
    for _ in range(2):
        assert full_run.main(["tests", "-p", "no:cacheprovider"]) == 0
        records.append((tmp_path / RESULTS).read_text())
    assert records[0] == records[1]
    assert json.loads(records[0])["counts"] == {"passed": 1, "deselected": 1}
    assert json.loads(records[0])["selection"] == ["tests"]
    (tmp_path / "tests" / "test_it.py").write_text(test.replace("pass", "assert False"))
    assert full_run.main(["tests"]) == 1
    assert json.loads((tmp_path / RESULTS).read_text())["counts"] == {"failed": 1, "deselected": 1}


def test_the_committed_record_is_one_of_a_good_run() -> None:
    text = (ROOT / RESULTS).read_text(encoding="utf-8")
    record = json.loads(text)
    assert text == written(record)
    assert set(record) == {"sources", "python", "selection", "counts"}
    assert re.fullmatch(r"[0-9a-f]{64}", record["sources"])
    assert re.fullmatch(r"3\.\d+\.\d+", record["python"])
    assert all(isinstance(each, str) for each in record["selection"])
    assert record["counts"]["passed"] > 0
    assert not {"failed", "errors", "skipped"} & set(record["counts"])


def test_long_tests_are_left_out_unless_asked_for(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("addopts")[-2:] == ["-m", "not full"]
    assert any(line.startswith("full:") for line in pytestconfig.getini("markers"))
    help_of_make = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True)
    assert b"make test-full" in help_of_make.stdout
