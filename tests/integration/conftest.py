"""Real tools for the integration tests, built into the shared cache if they are missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runner.execution.context import StageContext
from runner.execution.events import EventLog
from runner.stages.contract import Class, FileEntry, Outputs
from runner.store.digest import file_sha256
from runner.system import tools
from tests.chain import copy_checkout
from tests.crash_scene import Recording, import_the_runner, record
from tests.ollama_model import create
from tests.smollm_models import published_gguf
from tests.tiny_model import write_tiny_model
from tests.training_runs import WarmInterpreter

ContextFor = Callable[..., StageContext]


@pytest.fixture(scope="session")
def llama_cpp(shared_cache: Path) -> Path:
    """The root folder of the pinned llama.cpp."""
    return tools.ensure_tool("llama.cpp", shared_cache, print)


@pytest.fixture(scope="session")
def ollama_install(shared_cache: Path) -> Path:
    """The root folder of the pinned Ollama."""
    return tools.ensure_tool("ollama", shared_cache, print)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model made on the fly, for tests that do not change it."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def warm(environment_python: Callable[[str], Path]) -> Iterator[WarmInterpreter]:
    """An interpreter of `native` that has torch imported already; scripts run in its forks."""
    interpreter = WarmInterpreter(environment_python("native"))
    yield interpreter
    interpreter.close()


@pytest.fixture(scope="module")
def warm_harness(environment_python: Callable[[str], Path]) -> Iterator[WarmInterpreter]:
    """The same of `harness`."""
    interpreter = WarmInterpreter(environment_python("harness"))
    yield interpreter
    interpreter.close()


@pytest.fixture(scope="module")
def warm_ppo(environment_python: Callable[[str], Path]) -> Iterator[WarmInterpreter]:
    """The same of `ppo`."""
    interpreter = WarmInterpreter(environment_python("ppo"))
    yield interpreter
    interpreter.close()


@pytest.fixture(scope="module")
def warm_factory(environment_python: Callable[[str], Path]) -> Iterator[WarmInterpreter]:
    """The same of `llamafactory`."""
    interpreter = WarmInterpreter(environment_python("llamafactory"))
    yield interpreter
    interpreter.close()


@pytest.fixture(scope="module")
def warm_export(environment_python: Callable[[str], Path]) -> Iterator[WarmInterpreter]:
    """The same of `export`."""
    interpreter = WarmInterpreter(environment_python("export"))
    yield interpreter
    interpreter.close()


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Recording:
    """Real runs of the tiny recipes, whose scripts' work is replayed from then on."""
    place = tmp_path_factory.mktemp("recording")
    checkout = copy_checkout(
        place / "checkout", cache=shared_cache, store=place / "store", home=place / "home"
    )
    made = record(checkout, place / "recorded")
    import_the_runner()
    return made


@pytest.fixture
def own_ollama(ollama_install: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing but the pinned Ollama is found, and it keeps models in a folder of the test's own."""
    from runner.system import ollama

    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ollama, "USUAL_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(ollama, "find_program", lambda: ollama_install / "bin" / "ollama")
    return tmp_path / "models"


@pytest.fixture
def ollama_model(
    own_ollama: Path,
    ollama_install: Path,
    shared_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """A running Ollama of the test's own that has SmolLM2; OLLAMA_HOST names it."""
    from runner.system import ollama

    gguf = published_gguf(shared_cache)
    with ollama.serving(lambda: ollama_install, folder=tmp_path, log=tmp_path / "log") as server:
        create(server.url, gguf)
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        yield server.url


@pytest.fixture
def context_for(tmp_path: Path, shared_cache: Path) -> Iterator[ContextFor]:
    """A stage's real context, with folders below the test's own."""
    logs: list[EventLog] = []

    def make(stage: ModuleType, place: str = "context") -> StageContext:
        base = tmp_path / place
        for name in ("logs", "scratch"):
            (base / name).mkdir(parents=True)
        logs.append(EventLog(base / "events.jsonl"))
        return StageContext(
            stage=stage,  # type: ignore[arg-type]
            project_root=tmp_path,
            recipe_folder=tmp_path,
            log_folder=base / "logs",
            scratch=base / "scratch",
            cache=shared_cache,
            platform={"name": "test"},
            events=logs[-1],
        )

    yield make
    for log in logs:
        log.close()


def outputs_of(stage: str, folder: Path) -> Outputs:
    """The files of `folder` as a finished stage."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            files[name] = FileEntry(name, path.stat().st_size, file_sha256(path), Class.PORTABLE)
    return Outputs(stage, "key", folder, files)


def write_prompts(folder: Path, prompts: list[dict[str, Any]], text: str = "") -> Outputs:
    """Outputs of `prepare` that hold only prompts and the validation text."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in prompts)
    (folder / "prompts.jsonl").write_text(lines, encoding="utf-8", newline="\n")
    (folder / "validation.txt").write_text(text, encoding="utf-8", newline="\n")
    return outputs_of("prepare", folder)
