"""The quickstart in the container, to Ollama's answer, as a user that is not root."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chain import ROOT, copy_checkout
from tests.container.conftest import Engine
from tests.e2e.conftest import Quickstart

UID = 1000
IMAGE = "spark-recipes-test/recipe:dev"


@dataclass(frozen=True)
class Composed:
    """The compose project of a copied checkout."""

    engine: Engine
    folder: Path

    def compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.engine.docker("compose", *arguments, cwd=self.folder)


@pytest.fixture(scope="module")
def composed(
    engine: Engine,
    base_image: str,
    ollama_image: str,
    tmp_path_factory: pytest.TempPathFactory,
    shared_cache: Path,
) -> Iterator[Composed]:
    """A checkout owned by uid 1000 with its image built, and the services taken down afterwards."""
    place = tmp_path_factory.mktemp("composed")
    checkout = copy_checkout(
        place / "checkout", cache=shared_cache, store=place / "store", home=place / "home"
    )
    for path in (place, *place.rglob("*")):
        shutil.chown(path, UID, UID)
    for parent in (place, place.parent):
        parent.chmod(0o755)
    env = engine.env | {
        "BASE_IMAGE": base_image,
        "OLLAMA_IMAGE": ollama_image,
        "SPARK_RECIPES_IMAGE": IMAGE,
        "RECIPE_UID": str(UID),
        "RECIPE_GID": str(UID),
        "OLLAMA_PORT": "0",
        "COMPOSE_PROJECT_NAME": "spark-recipes-test",
    }
    project = Composed(Engine(env), checkout.folder)
    project.compose("build", "recipe")
    yield project
    project.compose("down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def ran(composed: Composed) -> subprocess.CompletedProcess[str]:
    """What the README says to type."""
    return composed.compose("run", "--rm", "-T", "recipe", "run", "recipes/quickstart.yaml")


def test_the_manifest_equals_the_bare_machines(
    ran: subprocess.CompletedProcess[str], composed: Composed, quickstart: Quickstart
) -> None:
    latest = composed.folder / "runs" / "quickstart" / "latest"
    inside = (latest / "manifest.json").read_bytes()
    assert inside == (quickstart.folder / "manifest.json").read_bytes()


def test_it_ended_with_the_summary_and_results_that_belong_to_the_caller(
    ran: subprocess.CompletedProcess[str], composed: Composed
) -> None:
    assert "held-out loss" in ran.stdout
    latest = (composed.folder / "runs" / "quickstart" / "latest").resolve()
    assert {path.stat().st_uid for path in latest.rglob("*")} == {UID}
    record = json.loads((latest / "run.json").read_text())
    assert record["state"] == "done"


def test_the_model_answers_in_the_ollama_service(
    ran: subprocess.CompletedProcess[str], composed: Composed
) -> None:
    answer = composed.compose(
        "exec", "-T", "ollama", "ollama", "run", "quickstart", "What is the capital of France?"
    )
    assert answer.stdout.strip()


def test_again_everything_is_up_to_date(
    ran: subprocess.CompletedProcess[str], composed: Composed
) -> None:
    again = composed.compose("run", "--rm", "-T", "recipe", "run", "recipes/quickstart.yaml")
    assert "up to date" in again.stdout


def test_the_image_does_not_run_as_root(composed: Composed) -> None:
    found = composed.engine.docker("inspect", "--format", "{{.Config.User}}", IMAGE)
    assert found.stdout.strip() == "1000:1000"


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]])
def test_the_compose_files_are_valid(engine: Engine, files: list[str]) -> None:
    flags = [word for name in files for word in ("-f", str(ROOT / name))]
    engine.docker("compose", *flags, "config", "-q")
