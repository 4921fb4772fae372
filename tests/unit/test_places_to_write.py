"""Places that take no files, where a command writes or keeps what it makes: an error, no bug.

The tests may run as root, for whom every folder is writable: /proc takes files of nobody, and no
user can make a folder below a file or write a file that is a folder.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.cli import crosscheck
from runner.cli import lock as lock_command
from runner.cli.main import main
from runner.compare.page import write_page
from runner.errors import MachineCannot
from runner.lock import locking
from runner.lock.results import results_path, write_results
from runner.recipe.load import load_recipe
from runner.store.atomic import disk_errors, more_room, variable_of, write_as_told, write_atomic
from runner.store.clean_place import clean_place
from runner.system.folders import CACHE, STORE
from runner.webui.workspace import Workspace
from tests.small_recipe import write_recipe


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(STORE, raising=False)
    write_recipe(tmp_path / "a.yaml")
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def nowhere(project: Path, place: str) -> Path:
    """A path that cannot be written."""
    return {
        "proc": Path("/proc/x.yaml"),
        "file": project / "file" / "x.yaml",
        "folder": project / "folder",
    }[place]


# --- what is said of a place


@pytest.mark.parametrize(
    ("place", "why", "fix"),
    [
        ("proc", "its file system takes no files: /proc/x.yaml", "make the folder writable"),
        ("file", "File exists", "move the file away"),
        ("folder", "Is a directory", "move the folder away"),
    ],
)
def test_what_is_written_for_the_user_is_written_or_refused_in_words(
    place: str, why: str, fix: str, project: Path
) -> None:
    path = nowhere(project, place)
    with pytest.raises(MachineCannot, match=why) as caught:
        write_as_told(path, "text")
    assert caught.value.code == "E411"
    assert fix in caught.value.hint
    assert "SPARK_RECIPES" not in caught.value.hint
    assert "partial" not in caught.value.message, "a name that nobody knows"
    assert [each.name for each in project.iterdir() if "partial" in each.name] == []


def test_a_file_that_is_not_there_to_be_read_is_another_matter(project: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_errors("reading"):
        (project / "absent").read_bytes()


def test_a_full_disk_is_told_of_the_file_that_was_to_be_written(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.yaml'"):
        write_atomic(project / "x.yaml", "text")


@pytest.mark.parametrize(
    ("store", "place", "variable"),
    [
        ("own", "own/fetch/1", STORE),
        ("own", "cache/store", CACHE),
        ("own", "cache/tools", CACHE),
        ("own", "runs/t/1", ""),
        ("", "cache/store/fetch/1", CACHE),
        ("", "own/fetch/1", ""),
        ("deep/own", "deep", STORE),
        ("file/own", "file", STORE),
        ("link/own", "folder/own/fetch", STORE),
        ("own", None, ""),
    ],
)
def test_a_hint_names_the_variable_of_the_place(
    store: str, place: str | None, variable: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "link").symlink_to(project / "folder")
    monkeypatch.setenv(STORE, str(project / store) if store else "")
    found = variable_of(None if place is None else project / place)
    assert found == variable
    hint = more_room(None if place is None else project / place)
    assert [each for each in (CACHE, STORE) if each in hint] == ([variable] if variable else [])


def test_without_a_home_there_is_no_cache_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CACHE, STORE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert variable_of(Path("x")) == ""


# --- every command that writes where the user points


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of a command that cannot write."""
    code = main(words)
    err = capsys.readouterr().err
    assert (code, "error[E411]: cannot write while" in err) == (4, True), err
    assert "SPARK_RECIPES" not in err
    return err


def test_a_lock_that_cannot_be_written(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock_command, "fetched_model", lambda recipe: {})
    monkeypatch.setattr(locking, "make_lock", lambda recipe, fetch: {"lock": 1})
    (project / "a.lock.yaml").mkdir()
    assert "writing a.lock.yaml: Is a directory" in refused(["lock", "a.yaml"], capsys)
    assert [each.name for each in project.iterdir() if "partial" in each.name] == []


def test_results_that_cannot_be_written(project: Path) -> None:
    recipe = load_recipe(project / "a.yaml")
    record = {"resolved": recipe.resolved(), "platform": {"name": "here"}}
    run: Any = SimpleNamespace(record=record, manifest={}, folder=project)
    (project / "a.results").touch()
    with pytest.raises(MachineCannot, match=r"writing .*a\.results/here"):
        write_results(recipe, run)
    (project / "a.results").unlink()
    assert write_results(recipe, run) == results_path(recipe.source.path, "here")
    assert json.loads((project / "a.results" / "here.json").read_text())["stages"] == {}


@pytest.mark.parametrize("place", ["proc", "file"])
def test_a_crosscheck_that_cannot_be_written(place: str, project: Path) -> None:
    data: Any = {"ways": []}
    with pytest.raises(MachineCannot, match="cannot write while writing the crosscheck"):
        crosscheck._write(data, nowhere(project, place))


@pytest.mark.parametrize("place", ["proc", "file"])
def test_a_comparison_that_cannot_be_written(place: str, project: Path) -> None:
    with pytest.raises(MachineCannot, match="cannot write while writing the comparison"):
        write_page(nowhere(project, place), {})


@pytest.mark.parametrize("place", ["proc", "file"])
def test_a_workspace_that_cannot_be_made(place: str, project: Path) -> None:
    with pytest.raises(MachineCannot, match="cannot write while making the workspace"):
        Workspace(nowhere(project, place)).make()


@pytest.mark.parametrize("place", ["/proc/x.jsonl", "file/x.jsonl"])
def test_rows_that_cannot_be_written(
    place: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "convert", "rows.jsonl", place, "--to", "messages"]
    assert f"writing {place}" in refused(words, capsys)


# --- a cache or a store that takes no files


@pytest.mark.parametrize("place", ["/proc/nostore", "/proc/no/store", "file", "file/store"])
def test_a_store_that_cannot_be(
    place: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(STORE, place)
    code = main(["data", "prepare", "a.yaml"])
    err = capsys.readouterr().err
    assert (code, "error[E411]: cannot write while" in err) == (4, True), err
    fix = "make the folder writable for you" if "/proc" in place else "move the file away that is"
    assert fix in err
    assert "or set SPARK_RECIPES_STORE to another one" in err


@pytest.mark.parametrize("place", ["/proc/nocache", "file", "file/cache"])
def test_a_cache_that_cannot_be(
    place: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(CACHE, place)
    with pytest.raises(MachineCannot) as caught, clean_place(Path(place).absolute()):
        pass
    assert (caught.value.code, CACHE in caught.value.hint) == ("E411", True)
    code = main(["data", "convert", "rows.jsonl", "-", "--to", "messages"])
    err = capsys.readouterr().err
    assert (code, "error[E411]: cannot write while" in err, CACHE in err) == (4, True, True), err


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT])
def test_such_a_cache_is_no_bug_wherever_it_is_met(
    number: int,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Wherever no `disk_errors` stands around what fails."""
    place = Path("/proc/nocache") if number == errno.ENOENT else project / "file" / "cache"
    monkeypatch.setenv(CACHE, str(place))

    def fail(args: object) -> int:
        raise OSError(number, os.strerror(number), str(place / "published"))

    monkeypatch.setattr("runner.cli.gc.main", fail)
    if number == errno.ENOENT:  # as mkdir says it of the first that it makes
        monkeypatch.setattr("runner.cli.gc.main", lambda args: place.mkdir(parents=True))
    code = main(["gc"])
    assert (code, "error[E411]" in capsys.readouterr().err) == (4, True)


def test_a_file_in_the_way_inside_of_the_cache_is_a_bug(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "cache").mkdir()
    (project / "cache" / "tools").touch()
    monkeypatch.setattr("runner.cli.gc.main", lambda args: (project / "cache" / "tools").mkdir())
    assert main(["gc"]) == 3
    assert "error[E003]" in capsys.readouterr().err
