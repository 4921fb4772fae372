"""Digests on disk are put in order, counted and found as they would be in a list."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.scripts.data.chunks import digests as module
from runner.scripts.data.chunks.digests import Digests, Ordered, first_of, in_both, ordered
from runner.scripts.data.chunks.spool import Column, Files, waiting_files
from runner.scripts.data.cleaning import duplicates
from runner.scripts.data.cleaning.pipeline import Cleaning
from runner.scripts.data.conversation import Conversation
from runner.scripts.spec import ScriptError
from tests.unit.test_data_chunks import outcome, stored, talk

_NUMBERS = st.lists(st.integers(0, 30), max_size=120)
_ONE_PLACE = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def in_memory(numbers: list[int]) -> Digests:
    return Digests.of(map(digest, numbers))


def on_disk(numbers: list[int], files: Files) -> Digests:
    column = Column.nameless(files.folder, np.uint64)
    for block in in_memory(numbers).blocks():
        column.extend(block.reshape(-1))
    return Digests(column)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """Where runs are short, so that a few digests are many runs."""
    monkeypatch.setattr(module, "RUN", 8)
    with waiting_files(tmp_path) as made:
        yield made


def told(found: Ordered) -> dict[str, Any]:
    return {
        name: getattr(found, name)().tolist() for name in ("firsts", "lasts", "copies", "codes")
    } | {"order": found.order.tolist(), "count": found.count}


@_ONE_PLACE
@given(_NUMBERS)
def test_the_order_is_that_of_the_texts_and_copies_keep_theirs(
    files: Files, numbers: list[int]
) -> None:
    texts = [digest(number) for number in numbers]
    names, first, codes, copies = np.unique(
        np.array(texts, "S64"), return_index=True, return_inverse=True, return_counts=True
    )
    last = [max(at for at, text in enumerate(texts) if text == name.decode()) for name in names]
    expected = {
        "firsts": first.tolist(),
        "lasts": last,
        "copies": copies.tolist(),
        "codes": codes.tolist(),
        "order": sorted(range(len(texts)), key=lambda at: (texts[at], at)),
        "count": len(names),
    }
    assert told(ordered(on_disk(numbers, files))) == expected
    assert told(ordered(in_memory(numbers))) == expected
    assert [text.decode() for text in on_disk(numbers, files)] == texts


@_ONE_PLACE
@given(_NUMBERS, _NUMBERS, st.randoms())
def test_what_is_taken_hashed_and_found_in_others_is_as_in_a_list(
    files: Files, ours: list[int], theirs: list[int], chance: Any
) -> None:
    where = chance.choices(range(len(ours)), k=len(ours)) if ours else []
    taken = on_disk(ours, files).take(np.array(where, np.int32))
    texts = [digest(ours[at]) for at in where]
    assert [text.decode() for text in taken] == texts
    hashed = [hashlib.sha256(f"7:{text}".encode()).hexdigest() for text in texts]
    assert [text.decode() for text in taken.hashed("7:")] == hashed
    there = [digest(number) for number in theirs]
    expected = [there.index(text) if text in there else -1 for text in texts]
    assert first_of(taken, on_disk(theirs, files)).tolist() == expected
    assert in_both(taken, on_disk(theirs, files)) == len({*texts} & {*there})


def test_many_copies_of_one_digest_are_not_held_together(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges of more than four runs that are of one digest come run by run."""
    numbers = [1] * 300 + [2] * 300 + [1] * 100
    longest: list[int] = []
    merged = module._merged

    def watched(*given: Any) -> Iterator[Any]:
        for part in merged(*given):
            longest.append(len(part))
            yield part

    monkeypatch.setattr(module, "_merged", watched)
    found = ordered(on_disk(numbers, files))
    texts = [digest(number) for number in numbers]
    assert found.order.tolist() == sorted(range(700), key=lambda at: (texts[at], at))
    assert found.count == 2
    assert max(longest) <= module.RUN


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"split": {"stable": True, "group_by": "user", "stratify": "topic"}},
        {"split": {"group_by": "user", "on_leak": "drop"}},
    ],
)
def test_rows_are_divided_alike_however_short_the_runs(files: Files, more: dict[str, Any]) -> None:
    rows = [
        talk(f"Q{line % 3} {line % 70}", f"A{line % 90}", line, line % 2) for line in range(1, 200)
    ]
    sources = [{"name": "0.jsonl", "limit": 60}, {"name": "1.jsonl", "repeat": 1.5}]
    wanted = {"seed": 1, "fraction": 0.2, "validation": [], "train": sources, **more}
    there = stored(rows, files, wanted, 30)
    nothing = there.take(np.empty(0, np.int64))
    found = outcome(there, nothing, wanted)
    assert found == outcome(rows, [], wanted)
    assert len(found) == 4, "it was divided"


# --- near duplicates

_WORDS = ("river", "house", "answer", "model", "water")


@pytest.mark.parametrize("most", [1, 3, 64])
def test_near_duplicates_on_disk_are_those_that_lists_of_rows_a_key_find(
    files: Files, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Runs of 8 rows, blocks of 16, and at `most` so many earlier rows that one is compared with;
    some rows are gone already, some say nothing."""
    monkeypatch.setattr(duplicates, "_BLOCK", 16)
    monkeypatch.setattr(duplicates, "_MOST_COMPARED", most)
    generator = np.random.default_rng(5)
    texts = [" ".join(generator.choice(_WORDS, 10)) for _ in range(10)]
    rows = [
        talk("?", "..." if line % 40 == 0 else varied(texts, generator), line)
        for line in range(1, 150)
    ]
    left = generator.random(len(rows)) < 0.9
    signatures = duplicates.signatures_of(rows)
    expected = by_lists(rows, left, signatures, most, 0.8)
    bands = []
    for band in signatures.T:
        bands.append(Column.nameless(files.folder, np.uint64))
        bands[-1].extend(band)
    there = stored(rows, files, {}, 20)
    assert list(duplicates.near(there, left, bands, 0.8)) == expected
    assert list(duplicates.near(rows, left, signatures.T, 0.8)) == expected
    assert len(expected) > 5


def test_it_is_told_how_many_rows_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of few words all meet each other, which takes long where there are many."""
    monkeypatch.setattr(duplicates, "_TOLD_EVERY", 10)
    generator = np.random.default_rng(5)
    rows = [talk("?", " ".join(generator.choice(_WORDS[:4], 30)), n) for n in range(1, 46)]
    told: list[tuple[int, int]] = []
    bands = duplicates.signatures_of(rows).T
    everything = np.ones(len(rows), bool)
    cleaning = Cleaning({"near_duplicates": {"threshold": 1.0}}, lambda *each: told.append(each))
    assert len(cleaning.compared(rows, range(1, 46), bands)) > 20
    assert told == [(9, 45), (19, 45), (29, 45), (39, 45)]
    list(duplicates.near(rows, everything, bands, 1.0))  # nobody asks


def test_a_full_disk_is_told_of_before_anything_is_written_where_memory_maps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    rows = [talk("?", "the same words over and over", line) for line in range(1, 4)]
    with pytest.raises(ScriptError) as caught, waiting_files(tmp_path) as made:  # noqa: PT012
        there = stored(rows, made, {}, 2)
        bands = duplicates.signatures_of(rows).T
        list(duplicates.near(there, np.ones(3, bool), bands, 0.8))
    assert caught.value.code == "E366"
    assert list(tmp_path.iterdir()) == []


def test_a_row_is_taken_by_its_number_or_there_is_none(files: Files) -> None:
    rows = [talk("?", f"answer {line}", line) for line in range(1, 8)]
    some = stored(rows, files, {}, 3).take(np.array([5, 0, 6]))
    assert [some[0], some[-1], *some[1:]] == [rows[5], rows[6], rows[0], rows[6]]
    with pytest.raises(IndexError):
        some[3]


def varied(texts: list[str], generator: Any) -> str:
    """One of the texts, for the most part with another word in it."""
    words = texts[generator.integers(len(texts))].split()
    words[generator.integers(len(words))] = _WORDS[generator.integers(len(_WORDS))]
    return " ".join(words)


def by_lists(
    rows: list[Conversation], left: Any, signatures: Any, most: int, threshold: float
) -> list[duplicates.Found]:
    """What `near` finds, by a list of rows for every key that is there."""
    kept: dict[tuple[int, int], list[int]] = defaultdict(list)
    found = []
    shingles = [duplicates.shingles_of(row) for row in rows]
    for index in np.flatnonzero(left).tolist():
        keys = [(band, int(key)) for band, key in enumerate(signatures[index]) if key]
        earlier = sorted({row for key in keys for row in kept[key]})[:most]
        likeness = {row: duplicates.jaccard(shingles[index], shingles[row]) for row in earlier}
        same = next((row for row in earlier if likeness[row] >= threshold), None)
        if same is not None:
            found.append((index, same, likeness[same]))
            continue
        for key in keys:
            kept[key].append(index)
    return found
