"""Rows in chunks, on disk and in worker processes are the rows that they would be at once."""

from __future__ import annotations

import errno
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.scripts.data.chunks import workers as crews
from runner.scripts.data.chunks.spool import Files, waiting_files
from runner.scripts.data.chunks.stored import StoredRows
from runner.scripts.data.chunks.workers import chunked, worker_count, workers
from runner.scripts.data.cleaning.duplicates import jaccard, shingles_of
from runner.scripts.data.cleaning.pipeline import Cleaning
from runner.scripts.data.conversation import Conversation, Traits, message
from runner.scripts.data.dividing.division import divide
from runner.scripts.data.dividing.facts import Gathered, facts_of
from runner.scripts.data.files.rows import Place
from runner.scripts.spec import ScriptError

SEED = 42


def talk(question: str, answer: str, line: int, source: int = 0) -> Conversation:
    turns = (message("user", question), message("assistant", answer))
    traits = Traits(source, f"group {line % 3}", f"stratum {line % 2}")
    return Conversation(turns, place=Place(f"{source}.jsonl", line), traits=traits)


def stored(rows: list[Conversation], files: Files, settings: dict[str, Any], size: int) -> Any:
    """The rows as they are when they were read, `size` at a time."""
    spool = files.spool("rows")
    for row in rows:
        spool.append(pickle.dumps(row))
    pieces = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
    gathered = Gathered(files, "rows")
    for each in pieces:
        gathered.add(facts_of(each, Conversation.digest, settings))
    return StoredRows(spool, gathered.whole())


# --- workers


def _squared(number: int) -> int:
    return number * number


def _killed(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _refused(number: int) -> int:
    if number == 3:
        raise ScriptError("row 3 is bad", code="E322")
    return number


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_come_in_the_order_of_the_chunks(count: int) -> None:
    with workers(count) as crew:
        assert list(crew.each(_squared, range(40))) == [number**2 for number in range(40)]
        assert list(crew.each(_squared, [])) == []
        assert list(crew.each(_squared, [7])) == [49]


def test_chunks_are_taken_only_as_they_are_needed() -> None:
    asked = []

    def numbers() -> Iterator[int]:
        for number in range(1000):
            asked.append(number)
            yield number

    with workers(2) as crew:
        results = crew.each(_squared, numbers())
        assert [next(results) for _ in range(3)] == [0, 1, 4]
        assert len(asked) <= 3 + 2 * crews.AHEAD + 2


def test_a_worker_that_is_killed_is_told_of_and_leaves_no_other_behind() -> None:
    with pytest.raises(ScriptError) as caught, workers(2) as crew:
        list(crew.each(_killed, range(100)))
    assert caught.value.code == "E365"
    with pytest.raises(ChildProcessError):  # nobody is left to wait for
        os.waitpid(-1, os.WNOHANG)


def test_what_a_worker_says_is_wrong_is_said() -> None:
    with pytest.raises(ScriptError, match="row 3 is bad") as caught, workers(2) as crew:
        list(crew.each(_refused, range(100)))
    assert caught.value.code == "E322"


def test_an_interrupt_ends_the_workers() -> None:
    with pytest.raises(KeyboardInterrupt), workers(2) as crew:  # noqa: PT012
        results = crew.each(_squared, range(1000))
        next(results)
        raise KeyboardInterrupt
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_there_are_as_many_workers_as_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert worker_count() == 8
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert worker_count() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert worker_count() == 8


@given(st.lists(st.integers(0, 9)), st.integers(1, 5), st.integers(1, 12))
def test_chunks_hold_all_in_their_order_and_not_too_much(
    sizes: list[int], count: int, size: int
) -> None:
    made = list(chunked(sizes, count, size, lambda each: each))
    assert [each for chunk in made for each in chunk] == sizes
    assert all(len(chunk) <= count for chunk in made)
    assert all(sum(chunk) <= size or len(chunk) == 1 for chunk in made)


# --- files


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    with waiting_files(tmp_path) as made:
        yield made


def test_a_column_and_a_spool_give_back_what_was_put_in(files: Files) -> None:
    column = files.column("column", np.int32)
    column.extend(np.arange(5))
    column.extend(np.empty(0, np.int32))
    column.extend(np.arange(5, 9))
    assert column.read(2, 7).tolist() == [2, 3, 4, 5, 6]
    assert column.read(4, 4).tolist() == []
    spool = files.spool("spool")
    for each in ("a", "", {"b": 1}):
        spool.append(pickle.dumps(each))
    assert spool.part([2, 0]).rows() == [{"b": 1}, "a"]
    assert spool.part([1]).rows() == [""]


def test_a_full_disk_is_told_of_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "of-an-earlier-try").touch()
    with pytest.raises(ScriptError) as caught, waiting_files(tmp_path) as files:  # noqa: PT012
        assert list(files.folder.iterdir()) == []
        files.spool("part").append(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.code == "E366"
    assert list(tmp_path.iterdir()) == []


def test_another_error_of_a_file_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), waiting_files(tmp_path):
        raise PermissionError
    assert list(tmp_path.iterdir()) == []


# --- what is done to rows


_WORDS = ("river", "house", "answer", "model", "water", "a", "b")
_TEXT = st.lists(st.sampled_from(_WORDS), min_size=1, max_size=5).map(" ".join)
_ROWS = st.lists(st.tuples(_TEXT, _TEXT, st.integers(0, 1)), min_size=1, max_size=20).map(
    lambda each: [talk(q, a, line, source) for line, (q, a, source) in enumerate(each, 1)]
)
_SETTINGS = st.sampled_from(
    [
        {},
        {"split": {"stable": True, "group_by": "user"}},
        {"split": {"stratify": "topic", "on_leak": "drop"}},
        {"split": {"group_by": "user", "on_leak": "error"}},
    ]
)  # fmt: skip
_SOURCES = st.sampled_from(
    [({}, {}), ({"repeat": 2.5}, {"limit": 3}), ({"weight": 1.0}, {"weight": 3.0})]
)


@settings(max_examples=60, deadline=None)
@given(_ROWS, _SETTINGS, _SOURCES, st.integers(1, 20))
def test_rows_on_disk_are_divided_as_rows_in_a_list(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Conversation],
    more: dict[str, Any],
    sources: tuple[dict[str, Any], ...],
    size: int,
) -> None:
    files = [{"name": f"{number}.jsonl", **each} for number, each in enumerate(sources)]
    wanted = {"seed": SEED, "fraction": 0.3, "validation": [], "train": files, **more}
    with waiting_files(tmp_path_factory.mktemp("rows")) as files:
        there = stored(rows, files, wanted, size)
        nothing = there.take(np.empty(0, np.int64))
        assert outcome(there, nothing, wanted) == outcome(rows, [], wanted)


def outcome(rows: Any, validation: Any, wanted: dict[str, Any]) -> tuple[Any, ...]:
    try:
        made = divide(rows, validation, wanted, Conversation.digest)
    except ScriptError as error:
        return error.code, error.message
    return list(made.train), list(made.validation), made.sources, made.leaks


STEPS: dict[str, Any] = {
    "whitespace": True,
    "min_answer_chars": 4,
    "exact_duplicates": True,
    "near_duplicates": {"threshold": 0.7},
}


@settings(max_examples=40, deadline=None)
@given(_ROWS, st.integers(1, 7))
def test_rows_are_cleaned_and_counted_alike_however_they_are_cut(
    rows: list[Conversation], size: int
) -> None:
    whole, chunks = Cleaning(STEPS), Cleaning(STEPS)
    kept, _ = whole.cleaned(rows)
    sound: list[Any] = []
    positions: list[int] = []
    signatures = [np.empty((0, 32), np.uint64)]
    from runner.scripts.data.cleaning.duplicates import signatures_of

    for begin in range(0, len(rows), size):
        one = Cleaning(STEPS)
        found = one.row_by_row(rows[begin : begin + size])
        before = chunks.add(one.told, one.read)
        sound += found.rows
        positions += [before + each for each in found.positions]
        signatures.append(signatures_of(found.rows))
    left = chunks.compared(sound, positions, np.concatenate(signatures).T)
    assert [sound[index] for index in left] == kept
    assert chunks.measures() == whole.measures()


@pytest.mark.parametrize("remembered", [1 << 20, 300, 0])
def test_the_near_duplicates_are_those_that_comparing_all_rows_finds(
    remembered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.scripts.data.cleaning.duplicates._KEPT", remembered)
    generator = np.random.default_rng(SEED)
    texts = [" ".join(generator.choice(_WORDS[:5], 12)) for _ in range(12)]
    rows = []
    for line in range(1, 90):
        words = texts[int(generator.integers(12))].split()
        words[int(generator.integers(12))] = "changed"
        rows.append(talk("What?", " ".join(words), line))
    expected: list[Conversation] = []
    for row in rows:
        own = shingles_of(row)
        if all(jaccard(own, shingles_of(first)) < 0.8 for first in expected):
            expected.append(row)
    kept, _ = Cleaning({"near_duplicates": {"threshold": 0.8}}).cleaned(rows)
    assert kept == expected
    assert 12 <= len(kept) < len(rows)
