"""The wheel works outside a checkout: schemas, environments and recipes travel in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.stages.templates.shipped_templates import names
from tests.chain import ROOT, copy_checkout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """The bin folder of a fresh environment into which the wheel was installed."""
    place = tmp_path_factory.mktemp("wheel")
    checkout = copy_checkout(
        place / "source", cache=shared_cache, store=place / "store", home=place / "home"
    )
    env = os.environ | {"UV_CACHE_DIR": str(shared_cache / "uv")}
    uv = str(Path(sys.executable).with_name("uv"))

    def run(*argv: str) -> None:
        subprocess.run(argv, cwd=checkout.folder, env=env, check=True, capture_output=True)

    run(
        uv, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", str(place)
    )
    run(uv, "venv", "--python", sys.executable, str(place / "venv"))
    wheel = next(place.glob("*.whl"))
    locked = str(ROOT / "environments" / "runner.txt")
    python = str(place / "venv" / "bin" / "python")
    run(uv, "pip", "install", "--python", python, "--require-hashes", "-r", locked)
    run(uv, "pip", "install", "--python", python, "--no-deps", str(wheel))
    return place / "venv" / "bin"


def test_the_installed_command_validates_the_shipped_quickstart(
    installed: Path, tmp_path: Path
) -> None:
    shipped = subprocess.run(
        [
            installed / "python",
            "-c",
            "from runner.system.folders import shipped; print(shipped('recipes'))",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert str(ROOT) not in shipped
    result = subprocess.run(
        [installed / "recipe", "validate", f"{shipped}/quickstart.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_chat_templates_travel(installed: Path, tmp_path: Path) -> None:
    code = (
        "from runner.stages.templates import shipped_templates as t; "
        "print(*map(t.path_of, t.names()))"
    )
    named = subprocess.run(
        [installed / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()
    assert [Path(path).name for path in named] == [f"{name}.jinja" for name in names()]
    assert all(Path(path).is_file() and str(ROOT) not in path for path in named)


def test_environments_travel_with_their_identity(installed: Path, tmp_path: Path) -> None:
    code = "from runner.system.environments import identity; print(identity('native'))"
    inside = subprocess.run(
        [installed / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.strip()
    from runner.system.environments import identity

    assert inside == identity("native")


def test_the_installed_command_explains_its_errors(installed: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [installed / "recipe", "explain", "E102"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "**Fix:**" in result.stdout


def test_the_installed_command_completes(installed: Path, tmp_path: Path) -> None:
    """The scripts' templates travel in the wheel."""
    for shell in ("bash", "zsh", "fish"):
        result = subprocess.run(
            [installed / "recipe", "completion", shell],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert "validate" in result.stdout
