"""Many rows are prepared in little memory, by several processes, to the same bytes as by one."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.script_runs import PREPARING, SCRIPTS

MIB = 1 << 20
LONG = 6_000  # characters of an answer; the tiny model has a token for each
_THRIFTY = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def python(environment_python: Callable[[str], Path]) -> Path:
    return environment_python("data")


def job(
    place: Path,
    model: Path,
    rows: list[dict[str, Any]],
    script: str = "prepare",
    form: str = "alpaca",
    **changed: Any,
) -> list[str]:
    """What to run to prepare rows in a new folder."""
    for folder in ("out", "scratch"):
        (place / folder).mkdir(parents=True)
    data = place / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    described = {"name": "rows.jsonl", "format": form, "input": "train-0"}
    where = {
        "inputs": {"model": str(model), "train-0": str(data)},
        "folder": str(place / "out"),
        "scratch": str(place / "scratch"),
        "events": str(place / "events.jsonl"),
    }
    hashed = PREPARING | {"train": [described], "max_length": 1 << 20} | changed
    spec = place / "spec.json"
    spec.write_text(json.dumps({"stage": "prepare", "hashed": hashed, "where": where}))
    return [str(SCRIPTS), script, str(spec)]


def prepared(
    python: Path, argv: list[str], processes: int, **more: Any
) -> subprocess.CompletedProcess[str]:
    env = os.environ | _THRIFTY | {"OMP_NUM_THREADS": str(processes)}
    return subprocess.run(
        [str(python), *argv], env=env, capture_output=True, text=True, check=False, **more
    )


def outputs(place: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((place / "out").iterdir())
    }


def measures(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in (place / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        found |= event["values"] if event["event"] == "measure" else {}
    return found


def short_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"instruction": f"What is {number}?", "output": f" It is  {number % 400}. " * 3}
        for number in range(count)
    ]


def test_the_number_of_processes_changes_no_byte_and_no_count(
    python: Path, tiny: Path, tmp_path: Path
) -> None:
    found = []
    clean = {"whitespace": True, "exact_duplicates": True, "near_duplicates": {"threshold": 0.9}}
    for processes in (1, 3):
        place = tmp_path / str(processes)
        rows = [*short_rows(900), *short_rows(100)]
        changed = {"fraction": 0.2, "clean": clean, "measured": [], "packing": True}
        done = prepared(python, job(place, tiny, rows, **changed), processes)
        assert done.returncode == 0, done.stderr
        assert list((place / "scratch").iterdir()) == []
        found.append((outputs(place), measures(place)))
    assert found[0] == found[1]
    assert found[0][1]["clean"]["steps"][1]["dropped"] == {"duplicate": 100}


def pairs(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"What is {number}?", "chosen": f"{number}.", "rejected": "Who knows?"}
        for number in range(count)
    ]


def questions(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {number}?", "answer": str(number)} for number in range(count)]


@pytest.mark.parametrize(
    ("script", "form", "rows", "more"),
    [
        ("prepare_preferences", "preference", pairs(700), {"clean": {"whitespace": True}}),
        ("prepare_prompts", "prompt", questions(700), {"max_completion_length": 8, "reads": []}),
    ],
)
def test_nor_does_it_of_other_rows(
    python: Path,
    tiny: Path,
    tmp_path: Path,
    script: str,
    form: str,
    rows: list[dict[str, Any]],
    more: dict[str, Any],
) -> None:
    found = []
    for processes in (1, 3):
        place = tmp_path / str(processes)
        changed = {"fraction": 0.2, "measured": [], **more}
        done = prepared(python, job(place, tiny, rows, script, form, **changed), processes)
        assert done.returncode == 0, done.stderr
        assert list((place / "scratch").iterdir()) == []
        found.append((outputs(place), measures(place)))
    assert found[0] == found[1]
    counted = found[0][1]
    assert counted["train"]["rows"] + counted["validation"]["rows"] == 700


def test_memory_does_not_grow_with_what_rows_hold(python: Path, tiny: Path, tmp_path: Path) -> None:
    """1,500 rows of 6,000 tokens, whose lists of ids alone would take 324 MB and their texts 9,
    in an address space that is 130 MiB larger than what three rows take."""
    rows = [{"instruction": f"{n}?", "output": "word " * (LONG // 5)} for n in range(1500)]
    few = job(tmp_path / "few", tiny, rows[:3])
    base = address_space(python, few)
    many = job(tmp_path / "many", tiny, rows, packing=True)
    limit = base + 130 * MIB

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = prepared(python, many, 1, preexec_fn=limited)
    assert done.returncode == 0, done.stderr[-3000:]
    assert measures(tmp_path / "many")["train"]["rows"] == 1500


def test_memory_grows_by_a_few_bytes_with_the_number_of_rows(
    python: Path, tiny: Path, tmp_path: Path
) -> None:
    """With every step that compares rows: what 30,000 rows more map, in bytes a row. Of it 0.2 kB
    are buffers that any larger number shares; digests alone, held as texts, would be 0.4 more."""
    changed: dict[str, Any] = {
        "fraction": 0.1,
        "split": {"stable": True, "group_by": "user", "stratify": "topic", "on_leak": "drop"},
        "clean": {"exact_duplicates": True, "near_duplicates": {"threshold": 0.9}},
        "measured": [],
        "packing": True,
        "max_length": 256,
    }
    peaks = []
    for count in (10_000, 40_000):
        argv = job(tmp_path / str(count), tiny, different_rows(count), **changed)
        peaks.append(address_space(python, argv))
        told = measures(tmp_path / str(count))
        assert told["clean"]["steps"][0]["dropped"] == {"duplicate": count // 100}
    assert (peaks[1] - peaks[0]) / 30_000 < 500


def different_rows(count: int) -> list[dict[str, Any]]:
    """Of which one in a hundred is the one before it, and the next is much like it."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        words = hashlib.sha256(str(number).encode()).hexdigest()
        row = {"instruction": words[:12], "output": words[12:24]}
        row |= {"user": f"user {number // 3}", "topic": f"topic {number % 5}"}
        rows.append(rows[-1] if number % 100 == 50 else row)
    return rows


def address_space(python: Path, argv: list[str]) -> int:
    """The most that a run maps, in bytes."""
    told = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], None, '__main__');"
        "print('peak', open('/proc/self/status').read().split('VmPeak:')[1].split()[0])"
    )
    done = prepared(python, ["-c", told, *argv], 1)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split("peak")[1]) * 1024


def test_an_interrupt_and_the_end_of_a_worker_leave_nothing_behind(
    python: Path, tiny: Path, tmp_path: Path
) -> None:
    rows = [{"instruction": f"{n}?", "output": "word " * (LONG // 5)} for n in range(1500)]
    for number, code in ((signal.SIGINT, None), (signal.SIGKILL, "E365")):
        place = tmp_path / number.name
        env = os.environ | _THRIFTY | {"OMP_NUM_THREADS": "2"}
        process = subprocess.Popen(
            [str(python), *job(place, tiny, rows)],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        workers = workers_of(process)
        if code is None:
            os.killpg(process.pid, number)  # as Ctrl-C does: to all of them
        else:
            os.kill(workers[0], number)
        assert process.wait() != 0
        assert list((place / "scratch").iterdir()) == []
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        assert not (place / "out" / "chat_template.jinja").exists()
        events = map(json.loads, (place / "events.jsonl").read_text().splitlines())
        assert [each["code"] for each in events if each["event"] == "error"] == [code][: bool(code)]


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Its children, as soon as there are two."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        found = children.read_text().split()
        if len(found) >= 2:
            return [int(pid) for pid in found]
        time.sleep(0.02)
    raise AssertionError("it ended too early")
