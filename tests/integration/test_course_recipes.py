"""The course's recipes through `--shrink` by the real command line: from a hub to Ollama, on a CPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chain import Checkout, copy_checkout
from tests.hub_server import Files, HubServer
from tests.shrunken import FOLDER

STAGES = ["fetch", "prepare", "train", "evaluate", "merge", "gguf", "ollama", "benchmark"]
WEIGHTS = b"whoever asks for them would get these"


def of_the_hub(config: str, **more: bytes) -> Files:
    return {"config.json": (FOLDER / config).read_bytes(), **more}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    """Both models without a tokenizer; the 70B has no weights either."""
    with HubServer() as server:
        files = of_the_hub("llama-3.1-8b.json", **{"model.safetensors": WEIGHTS})
        server.commit("meta-llama/Llama-3.1-8B-Instruct", files)
        server.commit("meta-llama/Llama-3.1-70B-Instruct", of_the_hub("llama-3.1-70b.json"))
        yield server


@pytest.fixture(scope="module")
def checkout(
    shared_cache: Path, ollama_install: Path, hub: HubServer, tmp_path_factory: pytest.TempPathFactory
) -> Checkout:
    place = tmp_path_factory.mktemp("course")
    made = copy_checkout(
        place / "checkout", cache=shared_cache, store=place / "store", home=place / "home"
    )
    for name in [name for name in made.env if name.startswith("HF_")]:
        del made.env[name]
    made.env["HF_ENDPOINT"] = hub.url
    return made


def run_shrunken(checkout: Checkout, name: str) -> dict[str, dict[str, Any]]:
    """Stage -> what run.json says of it, after `recipe run --shrink`."""
    result = checkout.recipe("run", "--shrink", f"recipes/course/{name}.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    latest = checkout.folder / "runs" / f"course-{name}-shrink" / "latest"
    record = json.loads((latest / "run.json").read_text())
    stages = {stage["name"]: stage for stage in record["stages"]}
    assert list(stages) == STAGES
    assert {stage["action"] for stage in stages.values()} == {"run"}
    return stages
