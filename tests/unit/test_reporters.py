"""What a person and a program see. Golden files: tests/golden/reporters."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from runner.recipe.load import check_recipe
from runner.report.diagnostic import Diagnostic
from runner.report.printable import escaped, one_column_each, quoted
from runner.report.reporters import MAX_SHOWN_WIDTH, REPORTERS, wants_color
from tests.recipe_cases import copy_recipes

GOLDEN = Path(__file__).parent.parent / "golden" / "reporters"
SHOWN = (
    "invalid/reading/tab-before-a-value.yaml",
    "invalid/reading/empty.yaml",
    "invalid/reading/not-utf-8.yaml",
    "invalid/reading/direction-mark.yaml",
    "invalid/schema/unknown-key.yaml",
    "invalid/schema/out-of-range.yaml",
    "invalid/cross/malformed-questions.yaml",
    "invalid/cross/ollama-without-gguf.yaml",
    "invalid/warnings/rank-and-scale.yaml",
)


@pytest.fixture
def diagnostics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Diagnostic]:
    copy_recipes(tmp_path)
    monkeypatch.chdir(tmp_path / "recipes")
    return [each for name in SHOWN for each in check_recipe(Path(name))[1]]


@pytest.mark.parametrize(
    ("golden", "reporter", "color"),
    [("text.txt", "text", False), ("color.txt", "text", True), ("report.json", "json", False)],
)
def test_the_report_is_the_golden_one(
    golden: str, reporter: str, color: bool, diagnostics: list[Diagnostic]
) -> None:
    shown = REPORTERS[reporter](diagnostics, files=len(SHOWN), color=color)
    assert shown == (GOLDEN / golden).read_text(encoding="utf-8")


def test_the_json_report_has_a_version_and_every_diagnostic(diagnostics: list[Diagnostic]) -> None:
    report = json.loads(REPORTERS["json"](diagnostics, files=len(SHOWN)))
    assert report["version"] == 1
    assert report["errors"] + report["warnings"] == len(report["diagnostics"]) == len(diagnostics)
    first = report["diagnostics"][0]
    assert set(first) == {
        "code", "severity", "message", "file", "line", "column", "end_line", "end_column", "hint"
    }  # fmt: skip


def test_nothing_wrong_is_said_too() -> None:
    assert REPORTERS["text"]([], files=1) == "1 recipe checked: all valid\n"
    assert REPORTERS["text"]([]) == ""


def one_line(tmp_path: Path, line: str, column: int, end: int) -> list[str]:
    """The source line and the caret line of a report about one line of text."""
    path = tmp_path / "x.yaml"
    path.write_text(line + "\n", encoding="utf-8")
    diagnostic = Diagnostic("E100", "error", "m", str(path), 1, column, 1, end)
    return REPORTERS["text"]([diagnostic]).splitlines()[1:3]


def test_the_caret_stands_below_wide_and_combining_characters(tmp_path: Path) -> None:
    assert one_line(tmp_path, "名前: x", 5, 6)[1] == "      |       ^"
    assert one_line(tmp_path, "e\u0301: x", 5, 6)[1] == "      |    ^"
    assert one_line(tmp_path, "日本", 1, 3)[1] == "      | ^^^^"


def test_a_long_line_is_cut_around_the_caret(tmp_path: Path) -> None:
    source, caret = one_line(tmp_path, "a" * 5000 + "b" + "c" * 5000, 5001, 5002)
    assert len(source) == len("    1 | ") + MAX_SHOWN_WIDTH
    assert source[caret.index("^")] == "b"


def test_an_empty_place_still_has_a_caret(tmp_path: Path) -> None:
    assert one_line(tmp_path, "merge:", 7, 7)[1].endswith("^")


def test_nothing_from_a_file_reaches_the_terminal_as_a_command(tmp_path: Path) -> None:
    path = tmp_path / "evil\x1b[2J.yaml"
    path.write_text("\x1b[31mred \u202eback\n", encoding="utf-8")
    diagnostic = Diagnostic("E100", "error", "m\x9b", str(path), 1, 1, 1, 2, "h\x07")
    shown = REPORTERS["text"]([diagnostic])
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert "?[31mred ?back" in shown


def test_a_file_that_went_away_is_reported_without_its_line(tmp_path: Path) -> None:
    diagnostic = Diagnostic("E100", "error", "m", str(tmp_path / "gone.yaml"), 3, 1, 3, 2)
    assert REPORTERS["text"]([diagnostic]) == f"{tmp_path}/gone.yaml:3:1: error[E100]: m\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_color_is_for_terminals_and_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_color(Terminal())
    assert not wants_color(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_color(Terminal())


def test_quoted_text_reads_back_as_itself() -> None:
    text = 'a"b\\c\n\t\0\x1b\x9b\u2028\U000e0001é日'
    shown = quoted(text)
    assert shown.isprintable()
    from runner.recipe.source import parse_source

    assert parse_source(f"a: {shown}\n".encode(), Path("x")).data == {"a": text}
    assert quoted("x" * 100, 10) == '"xxxxxxx..."'
    assert escaped("a\nb") == "a\\nb"
    assert one_column_each("a\tb\x1bc") == "a b?c"
