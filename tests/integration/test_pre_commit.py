"""The hooks, by the real pre-commit: this checkout holds them, a temporary repository uses them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chain import copy_checkout
from tests.git_project import GIT_ENV, clean_env, commit_all, git
from tests.small_recipe import RECIPE, lock, write_recipe


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> dict[str, str]:
    """Everything that pre-commit and its hooks write lies in a folder of the test's."""
    place = tmp_path_factory.mktemp("pre-commit")
    return clean_env() | GIT_ENV | {
        "HOME": str(place),
        "PRE_COMMIT_HOME": str(place / "hooks"),
        "PIP_CACHE_DIR": str(shared_cache / "pip"),
        "SPARK_RECIPES_CACHE": str(place / "cache"),
        "PRE_COMMIT_COLOR": "never",
    }  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Path:
    """A repository with a good recipe and its lock, committed, and the hooks installed."""
    place = tmp_path_factory.mktemp("project")
    hooks = copy_checkout(
        place / "hooks", cache=place / "cache", store=place / "store", home=place / "home"
    ).folder
    folder = place / "team"
    write_recipe(folder / "recipes" / "x.yaml")
    (folder / "compose.yaml").write_text("services: {}\n")  # YAML, but no recipe
    (folder / ".pre-commit-config.yaml").write_text(
        f"repos:\n- repo: {hooks}\n  rev: {commit_all(hooks)}\n"
        "  hooks: [{id: recipe-validate}, {id: recipe-lock-check}]\n"
    )
    commit_all(folder)
    lock(folder / "recipes" / "x.yaml")
    commit_all(folder)
    installed = pre_commit(folder, env, "install", "--install-hooks")
    assert installed.returncode == 0, installed.stdout + installed.stderr
    return folder


def pre_commit(
    folder: Path, env: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pre_commit", *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def commit(folder: Path, env: dict[str, str]) -> tuple[int, str]:
    """Try to commit everything, then undo it: the exit code of git, and what the hooks say."""
    git(folder, "add", "-A")
    done = subprocess.run(
        ["git", "commit", "-m", "a change"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        git(folder, "reset", "-q", "--hard", "HEAD~1")
    else:
        git(folder, "reset", "-q", "--hard")
        git(folder, "clean", "-qfd")
    return done.returncode, done.stdout + done.stderr


def test_good_files_pass(project: Path, env: dict[str, str]) -> None:
    done = pre_commit(project, env, "run", "--all-files")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("Passed") == 2


def test_a_bad_recipe_is_refused_with_its_line(project: Path, env: dict[str, str]) -> None:
    write_recipe(project / "recipes" / "new.yaml", RECIPE.replace("max_steps", "max_stops"))
    code, said = commit(project, env)
    assert code == 1
    assert 'recipes/new.yaml:5:32: error[E102]: unknown key "max_stops"' in said
    assert 'did you mean "max_steps"?' in said


def test_a_base_that_breaks_what_extends_it_is_refused(project: Path, env: dict[str, str]) -> None:
    write_recipe(project / "recipes" / "base.yaml")
    child = project / "recipes" / "child.yaml"
    child.write_text("schema: 1\nextends: base.yaml\nname: child\nmerge: {}\n")
    commit_all(project)
    full = RECIPE.replace("{type: lora}", "{type: none}")
    assert full != RECIPE
    write_recipe(project / "recipes" / "base.yaml", full)
    code, said = commit(project, env)
    assert code == 1
    assert "recipes/child.yaml:4:1: error[E201]" in said


def test_a_good_change_is_committed(project: Path, env: dict[str, str]) -> None:
    write_recipe(project / "recipes" / "new.yaml")
    code, said = commit(project, env)
    assert code == 0, said


def test_a_change_of_the_data_needs_a_new_lock(project: Path, env: dict[str, str]) -> None:
    (project / "recipes" / "rows.jsonl").write_text('{"instruction": "new", "output": "a"}\n')
    code, said = commit(project, env)
    assert code == 1
    assert "recipes/x.lock.yaml: error[E802]: stale: files.rows.jsonl" in said
    assert "recipe lock recipes/x.yaml" in said
