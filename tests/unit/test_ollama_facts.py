"""What is known of an Ollama without running one."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runner.asking.asker import _error
from runner.asking.http import Address, Failure
from runner.asking.settings import Endpoint
from runner.errors import MachineCannot
from runner.report.printable import quoted
from runner.stages import ollama as stage
from runner.stages.contract import Class, FileEntry, Outputs
from runner.system import ollama, tools
from tests.model_server import ModelServer


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No server, no program, an empty models folder and cache."""
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(ollama, "USUAL_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(ollama, "find_program", lambda: None)
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:11434"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:1234", "http://127.0.0.1:1234"),
        ("[::1]:1234", "http://[::1]:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("ollama", "http://ollama:11434"),
        ("http://ollama:11434", "http://ollama:11434"),
        ("https://gpu.example.com", "https://gpu.example.com:443"),
        ("http://gpu.example.com", "http://gpu.example.com:80"),
        ("https://gpu.example.com:8443/ollama/", "https://gpu.example.com:8443/ollama"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(value: str, url: str) -> None:
    assert ollama.parse_host(value) == url


@pytest.mark.parametrize(
    "value",
    [
        "localhost:abc",
        "localhost:99999",
        "localhost:-1",
        "garbage:::x",
        "[::1",
        "a b",
        "ftp://h",
        "unix:///run/x",
        "x\x1b[31m",
    ],
)
def test_what_is_no_address_is_named_with_its_form(value: str) -> None:
    with pytest.raises(MachineCannot) as caught:
        ollama.parse_host(value)
    assert caught.value.code == "E440"
    assert f"OLLAMA_HOST is {quoted(value)}" in caught.value.message
    assert "http://HOST:PORT" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("quickstart", ("library", "quickstart", "latest")),
        ("quickstart:v2", ("library", "quickstart", "v2")),
        ("team/quickstart:v2", ("team", "quickstart", "v2")),
    ],
)
def test_a_name_has_namespace_model_and_tag(name: str, parts: tuple[str, str, str]) -> None:
    assert ollama.split_name(name) == parts


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://127.0.0.1:11434", True),
        ("http://localhost:1", True),
        ("http://[::1]:1", True),
        ("http://ollama:11434", True),
        ("http://10.0.0.7:11434", False),
        ("https://gpu.example.com:443", False),
    ],
)
def test_planning_asks_the_loopback_or_a_neighbour_of_compose(url: str, asked: bool) -> None:
    assert ollama.may_be_asked_while_planning(url) is asked


def test_a_named_server_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with pytest.raises(MachineCannot) as caught:
        ollama.find_running()
    assert caught.value.code == "E440"
    assert "OLLAMA_HOST=127.0.0.1:9 ollama serve" in caught.value.hint


def test_no_named_server_and_none_on_the_usual_port_is_none() -> None:
    assert ollama.find_running() is None


# --- the command to talk to the model


def test_with_ollama_in_the_cache_the_command_has_full_paths_and_starts_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tools, "find_tool", lambda name, cache: Path("/c/tools/ollama-1"))
    command = ollama.talk_command("quickstart")
    models = os.environ["OLLAMA_MODELS"]
    assert command.startswith(f"OLLAMA_MODELS={models} /c/tools/ollama-1/bin/ollama serve")
    assert command.endswith("/c/tools/ollama-1/bin/ollama run quickstart; kill $!")


def test_with_a_running_server_the_command_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama, "find_program", lambda: Path("/usr/bin/ollama"))
    monkeypatch.setattr(ollama, "_version", lambda url: "0.32.15")
    assert ollama.talk_command("quickstart") == "ollama run quickstart"


def test_a_named_server_is_named_in_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama, "find_program", lambda: Path("/usr/bin/ollama"))
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:5000")
    assert ollama.talk_command("m") == "OLLAMA_HOST=127.0.0.1:5000 ollama run m"


def test_beside_a_compose_service_the_client_is_in_the_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tools, "find_tool", lambda name, cache: None)
    monkeypatch.setenv("OLLAMA_HOST", "http://ollama:11434")
    assert ollama.talk_command("m") == "docker compose exec ollama ollama run m"


# --- what lies in a models folder


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def created(no_server: Path) -> dict[str, Any]:
    """A model as the real server lays it out, and the create.json that made it."""
    parameters = {"temperature": 0.2, "stop": ["<|im_end|>"]}
    layers = {
        ollama.MODEL_LAYER: b"GGUF",
        ollama.TEMPLATE_LAYER: b"{{ .Prompt }}",
        ollama.SYSTEM_LAYER: b"You are terse.",
        ollama.PARAMETERS_LAYER: json.dumps(parameters).encode(),
    }
    (no_server / "blobs").mkdir(parents=True)
    for content in layers.values():
        ollama.blob_path(no_server, digest(content)).write_bytes(content)
    manifest = no_server / "manifests" / "some.registry" / "library" / "m" / "latest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(
        json.dumps(
            {
                "layers": [
                    {"mediaType": kind, "digest": f"sha256:{digest(content)}"}
                    for kind, content in layers.items()
                ]
            }
        )
    )
    return {
        "request": {"model": "m", "parameters": parameters, "template": "{{ .Prompt }}"},
        "stored": {
            "model": digest(b"GGUF"),
            "template": digest(b"{{ .Prompt }}"),
            "system": digest(b"You are terse."),
            "parameters": ["anything"],
        },
    }


def probe(created: dict[str, Any], folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "create.json").write_text(json.dumps(created))
    entry = FileEntry("create.json", 1, "", Class.EFFECT)
    outputs = Outputs("ollama", "key", folder, {"create.json": entry})
    return stage.probe(None, outputs)  # type: ignore[arg-type]


def test_a_model_that_is_there_as_created_needs_no_server(
    created: dict[str, Any], tmp_path: Path
) -> None:
    assert probe(created, tmp_path / "out") == ""


@pytest.mark.parametrize("what", ["model", "system"])
def test_a_changed_layer_is_noticed(created: dict[str, Any], tmp_path: Path, what: str) -> None:
    created["stored"][what] = digest(b"other")
    assert "was changed" in probe(created, tmp_path / "out")


def test_a_changed_template_is_noticed(created: dict[str, Any], tmp_path: Path) -> None:
    created["request"]["template"] = "{{ .Response }}"
    assert "was changed" in probe(created, tmp_path / "out")


def test_the_jinja_that_the_server_shows_is_no_layer(
    created: dict[str, Any], tmp_path: Path
) -> None:
    """It renders the file's own where that knows of more, and still keeps the Go template."""
    created["stored"]["template"] = digest(b"{%- for message in messages -%}")
    assert probe(created, tmp_path / "out") == ""


def test_changed_parameters_are_noticed(created: dict[str, Any], tmp_path: Path) -> None:
    created["request"]["parameters"] = {"temperature": 0.3, "stop": ["<|im_end|>"]}
    assert "was changed" in probe(created, tmp_path / "out")


def test_a_missing_layer_file_is_noticed(
    created: dict[str, Any], tmp_path: Path, no_server: Path
) -> None:
    ollama.blob_path(no_server, digest(b"GGUF")).unlink()
    assert "has no model m" in probe(created, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"layers": [{}]}'])
def test_a_broken_manifest_is_no_model(
    created: dict[str, Any], tmp_path: Path, no_server: Path, content: bytes
) -> None:
    (manifest,) = no_server.glob("manifests/*/*/*/*")
    manifest.write_bytes(content)
    assert "has no model m" in probe(created, tmp_path / "out")


def test_another_machine_is_not_asked_while_planning(
    created: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://192.0.2.1:11434")
    asked: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    assert "another machine" in probe(created, tmp_path / "out")
    assert asked == []


def test_probing_writes_nothing(created: dict[str, Any], tmp_path: Path, no_server: Path) -> None:
    before = sorted(no_server.rglob("*"))
    probe(created, tmp_path / "out")
    assert sorted(no_server.rglob("*")) == before
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("program", "cached", "call"),
    [
        (None, Path("/c/tools/ollama-1"), "/c/tools/ollama-1/bin/ollama"),
        (Path("/usr/bin/ollama"), Path("/c/tools/ollama-1"), "ollama"),
        (None, None, "ollama"),
    ],
)
def test_what_is_to_be_typed_has_a_full_path_where_only_the_cache_has_it(
    program: Path | None, cached: Path | None, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ollama, "find_program", lambda: program)
    monkeypatch.setattr(tools, "find_tool", lambda name, cache: cached)
    monkeypatch.delenv("OLLAMA_MODELS")
    endpoint = Endpoint("nomodel:1b", None, None, structured=True)
    error = _error(Failure("HTTP 404", status=404), endpoint, Address("http://127.0.0.1:1"), 1, 1.0)
    typed = error.hint.partition(" after: ")[2]
    assert typed == (
        f"{call} serve >/dev/null 2>&1 & until {call} list >/dev/null 2>&1; do sleep 1; done; "
        f"{call} pull nomodel:1b; kill $!"
    )


def test_models_are_pulled_where_the_next_command_looks_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", "/my models")
    assert ollama.pull_command("a", "b:1").startswith("OLLAMA_MODELS='/my models' ollama serve ")
    assert "; ollama pull a && ollama pull b:1; kill $!" in ollama.pull_command("a", "b:1")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:5000")
    assert ollama.pull_command("a") == "OLLAMA_HOST=127.0.0.1:5000 ollama pull a"
    monkeypatch.delenv("OLLAMA_HOST")
    monkeypatch.setattr(ollama, "_version", lambda url: "0.32.15")
    assert ollama.pull_command("a") == "ollama pull a"


def test_what_is_to_be_typed_starts_a_server_pulls_and_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a shell runs it, with a program in Ollama's place that is ready at the second look."""
    program, said = tmp_path / "ollama", tmp_path / "said"
    program.write_text(
        f'#!/bin/sh\necho "$1 $2 $OLLAMA_MODELS" >> {said}\n'
        "case $1 in serve) exec sleep 600;; "
        f"list) [ $(grep -c list {said}) -ge 2 ];; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("OLLAMA_MODELS", "/m")
    monkeypatch.setattr(ollama, "find_program", lambda: program)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    typed = ollama.pull_command("a")
    monkeypatch.delenv("OLLAMA_MODELS")
    subprocess.run(["sh", "-c", f"{typed}; wait $!"], check=False, timeout=60)
    assert sorted(said.read_text().splitlines()) == ["list  ", "list  ", "pull a ", "serve  /m"]


def test_a_server_tells_which_models_it_lacks() -> None:
    with ModelServer() as server:
        assert ollama.lacking(server.url, ["m"]) == []  # it does not tell
        server.models = ["Big:latest", "team/small:1b"]
        names = ["no:1b", "big", "team/small:1B", "team/small", "big", "absent", "unlisted"]
        assert ollama.lacking(server.url, names) == ["absent", "no:1b", "team/small"]
        server.models = []
        assert ollama.lacking(server.url, ["m"]) == ["m"]
    assert ollama.lacking("http://127.0.0.1:9", ["m"]) == []
