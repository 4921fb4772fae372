"""The quickstart in the container, to Ollama's answer, as a user that is not root."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
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
        "WEBUI_PORT": "0",
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


# --- the web UI


@dataclass(frozen=True)
class Served:
    """The web UI as the host sees it."""

    url: str
    password: str
    workspace: Path


@pytest.fixture(scope="module")
def webui(composed: Composed) -> Served:
    """Two steps of the quickstart, prepared and served as the documents say."""
    steps = ("--set", "train.max_steps=2", "--set", "train.warmup_steps=0")
    prepare = ("webui", "recipes/quickstart.yaml", "--prepare", *steps)
    composed.compose("run", "--rm", "-T", "recipe", *prepare)
    composed.compose("up", "--detach", "--wait", "webui")
    log = composed.compose("logs", "--no-log-prefix", "webui").stdout
    password = re.search(r"user recipe, password (\S{20,})", log)
    assert password, log
    where = composed.compose("port", "webui", "7860").stdout.strip()
    assert where.startswith("127.0.0.1:")  # this machine's loopback, and no other address
    return Served(f"http://{where}", password.group(1), composed.folder / "webui")


def test_the_web_ui_asks_for_its_password(webui: Served) -> None:
    for path in ("/config", "/gradio_api/info", "/gradio_api/file=/etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(webui.url + path, timeout=20)
        refused.value.close()
        assert refused.value.code == 401


def test_the_web_ui_trains_as_a_user_without_rights(
    webui: Served, environment_python: Callable[[str], Path]
) -> None:
    script = ROOT / "tests" / "board_client.py"
    changes = json.dumps({"train-output_dir": "outside"})
    said = subprocess.run(
        [
            *(str(environment_python("llamafactory")), str(script)),
            *(webui.url, "run_train", changes, webui.password),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert json.loads(said.stdout.splitlines()[-1])["train-output_box"].startswith("Finished.")
    saved = webui.workspace / "saves" / "Custom" / "lora" / "outside"
    assert (saved / "adapter_model.safetensors").stat().st_size > 100_000
    assert {path.stat().st_uid for path in saved.rglob("*")} == {UID}


def test_the_web_ui_sees_its_workspace_and_has_no_rights(webui: Served, composed: Composed) -> None:
    status = composed.compose("exec", "-T", "webui", "cat", "/proc/self/status").stdout
    assert re.search(rf"^Uid:\s+{UID}\s+{UID}\s", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    name = composed.compose("ps", "--quiet", "webui").stdout.strip()
    mounts = composed.engine.docker("inspect", "--format", "{{json .Mounts}}", name).stdout
    assert [mount["Destination"] for mount in json.loads(mounts)] == ["/workspace"]


def test_what_was_trained_there_becomes_a_recipe(webui: Served, composed: Composed) -> None:
    saved = "webui/saves/Custom/lora/outside"
    command = ("capture", saved, "-o", "recipes/clicked.yaml")
    said = composed.compose("run", "--rm", "-T", "recipe", *command).stdout
    assert "recipes/clicked.yaml is written\n" in said
    assert "max_steps: 2" in (composed.folder / "recipes" / "clicked.yaml").read_text()


def test_the_image_does_not_run_as_root(composed: Composed) -> None:
    found = composed.engine.docker("inspect", "--format", "{{.Config.User}}", IMAGE)
    assert found.stdout.strip() == "1000:1000"


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]])
def test_the_compose_files_are_valid(engine: Engine, files: list[str]) -> None:
    flags = [word for name in files for word in ("-f", str(ROOT / name))]
    engine.docker("compose", *flags, "config", "-q")
