"""What an error repeats of a stranger's file commands no terminal; its own line ends stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.cli import ls
from runner.cli.main import main
from runner.errors import NotReproduced, RecipeToolError, StageFailed
from runner.report.beside import say, say_line, warn

HOSTILE = "\x1b[31mred\x07\x9b1m\u202e"
SHOWN = r"\x1b[31mred\x07\x9b1m\u202e"


def said(error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command that ends by `error`."""

    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(ls, "main", fail)
    return main(["ls"])


def test_message_log_hint_and_notes_are_escaped_but_for_line_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = StageFailed(
        f"one\n\ttwo {HOSTILE}", hint=f"a {HOSTILE}", code="E326", log=f"/{HOSTILE}.log"
    )
    error.add_note(f"note {HOSTILE}")
    assert said(error, monkeypatch) == 1
    assert capsys.readouterr().err == (
        f"error[E326]: one\n\ttwo {SHOWN}\n  log:  /{SHOWN}.log\n  next: a {SHOWN}\nnote {SHOWN}\n"
    )


def test_the_lines_of_what_differs_stay_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(NotReproduced("differs:", entries=["a", HOSTILE]), monkeypatch) == 7
    assert capsys.readouterr().err == f"error[E700]: differs:\n  a\n  {SHOWN}\n"


def test_what_is_said_beside_is_escaped_too(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"the inputs of {HOSTILE}\nare here")
    say_line(f"a server: {HOSTILE}\nforged")
    warn(HOSTILE)
    assert capsys.readouterr().err == (
        f"the inputs of {SHOWN}\nare here\na server: {SHOWN}\\nforged\nwarning: {SHOWN}\n"
    )


def test_half_a_surrogate_pair_is_an_error_that_can_be_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name of a file that is no text."""
    assert said(RecipeToolError("\udcff"), monkeypatch) == 1
    assert capsys.readouterr().err == "error[E001]: \\udcff\n"


def test_a_bug_prints_no_command_either_and_its_log_has_every_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path))
    assert said(ValueError(HOSTILE), monkeypatch) == 3
    err = capsys.readouterr().err
    assert f"ValueError: {SHOWN}\n" in err
    assert "\x1b" not in err
    assert HOSTILE in (tmp_path / "crash.log").read_text(encoding="utf-8")


def test_usage_is_said_without_the_commands_of_what_was_typed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["ls", f"--{HOSTILE}"]) == 2
    assert f"unrecognized arguments: --{SHOWN}\n" in capsys.readouterr().err
