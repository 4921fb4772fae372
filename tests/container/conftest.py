"""A Docker engine, a stand-in for NGC's base image, and one for Ollama's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.system.tools import ensure_tool
from tests.e2e.conftest import quickstart, store  # noqa: F401  (fixtures: the bare machine's run)

HERE = Path(__file__).parent
BASE = "spark-recipes-test/base:bookworm"
OLLAMA = "spark-recipes-test/ollama:0.32.15"


@dataclass(frozen=True)
class Engine:
    """How to reach a Docker engine."""

    env: dict[str, str]

    def docker(self, *arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
        """Run `docker ...`; raises with its output when it fails."""
        result = subprocess.run(  # type: ignore[call-overload]
            ["docker", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            **more,
        )
        assert result.returncode == 0, f"docker {arguments}\n{result.stdout}\n{result.stderr}"
        return result  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def engine(shared_cache: Path) -> Iterator[Engine]:
    """The engine that is running, else one of our own from Debian's packages (needs root)."""
    running = subprocess.run(["docker", "version"], capture_output=True, check=False)
    if running.returncode == 0:
        yield Engine(dict(os.environ))
        return
    folder = shared_cache / "test-docker"
    folder.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"ENGINE": str(folder)}
    subprocess.run([HERE / "engine.sh", "up"], env=env, check=True)
    yield Engine(
        env
        | {
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
            "DOCKER_CONFIG": str(folder / "config"),
            "PATH": f"{folder}/bin:{env['PATH']}",
        }
    )
    subprocess.run([HERE / "engine.sh", "down"], env=env, check=True)


@pytest.fixture(scope="session")
def base_image(engine: Engine, shared_cache: Path) -> str:
    """A small Debian with python3: what the Dockerfile needs of a base."""
    env = engine.env | {"ENGINE": str(shared_cache / "test-docker")}
    subprocess.run([HERE / "engine.sh", "base", BASE], env=env, check=True)
    return BASE


@pytest.fixture(scope="session")
def ollama_image(
    engine: Engine,
    base_image: str,
    shared_cache: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """The pinned Ollama, as built for bare machines, in an image of its own."""
    context = tmp_path_factory.mktemp("ollama-image")
    shutil.copytree(ensure_tool("ollama", shared_cache, print), context / "ollama", symlinks=True)
    (context / "Dockerfile").write_text(
        f"FROM {base_image}\nCOPY ollama /opt/ollama\nENV PATH=/opt/ollama/bin:$PATH\n"
        'ENTRYPOINT ["/opt/ollama/bin/ollama"]\nCMD ["serve"]\n'
    )
    engine.docker("build", "-q", "-t", OLLAMA, str(context))
    return OLLAMA
