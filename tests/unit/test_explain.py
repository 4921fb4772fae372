"""`recipe explain` and `recipe schema` print what stands once, in the page and in the schema."""

from __future__ import annotations

import json
import re

import pytest

from runner.cli.main import main
from tests.chain import ROOT


def test_every_code_of_the_page_is_listed_in_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    page = (ROOT / "docs" / "errors.md").read_text()
    headings = re.findall(r"^### ([EW]\d{3}) (.*)$", page, flags=re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == [f"{code}  {title}" for code, title in headings]
    assert len(headings) > 150


def test_a_section_is_printed_whole_and_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "e102", "[W206]"]) == 0
    first, second = capsys.readouterr().out.split("\n\nW206 ")
    assert first.startswith("E102 ")
    assert "**Fix:** " in first
    assert "**Fix:** " in second
    assert not re.search(r"^#|^[EW]\d{3} ", first[5:], flags=re.MULTILINE)


def test_the_last_section_before_a_new_part_ends_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "E004"]) == 0
    assert "## " not in capsys.readouterr().out


def test_an_unknown_code_names_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "E1022"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error[E004]: there is no code E1022; did you mean E102?")


def test_the_schema_is_the_file(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["schema"]) == 0
    printed = capfdbinary.readouterr().out
    assert printed == (ROOT / "schemas" / "recipe-1.json").read_bytes()
    assert json.loads(printed)["type"] == "object"
