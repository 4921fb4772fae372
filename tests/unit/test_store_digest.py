"""Canonical JSON and digests: one text for one meaning, nothing else accepted."""

from __future__ import annotations

import enum
import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.stages.contract import Class
from runner.store.digest import canonical_json, canonical_sha256, file_sha256

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(JSON)
def test_what_is_read_back_is_what_was_written(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers()))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    assert canonical_json(dict(reversed(list(value.items())))) == canonical_json(value)


def test_the_text_is_compact_sorted_utf8() -> None:
    value = MappingProxyType({"ü": (1, 2.5, None), "a": {"y": True, "x": "日"}})
    assert canonical_json(value) == '{"a":{"x":"日","y":true},"ü":[1,2.5,null]}'.encode()
    assert canonical_sha256(value) == hashlib.sha256(canonical_json(value)).hexdigest()


def test_an_integer_is_not_a_float_and_not_a_bool() -> None:
    assert len({canonical_json(value) for value in (1, 1.0, True, "1")}) == 4


class Colour(enum.StrEnum):
    RED = "red"


@dataclass
class Point:
    x: int = 1


@pytest.mark.parametrize(
    "value",
    [Path("/x"), Class.PORTABLE, Colour.RED, Point(), {1: 2}, {Colour.RED: 1}, b"x", {1, 2}, 1j],
    ids=repr,
)
def test_what_is_not_plain_data_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(TypeError, match=r"value\.deep\[1\]"):
        canonical_json({"deep": [0, value]})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_cannot_say_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"value\.loss is"):
        canonical_json({"loss": value})


def test_a_file_digest_is_what_sha256sum_says(tmp_path: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(bytes(range(256)) * 5000)
    said = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout
    assert file_sha256(file) == said.split()[0]
