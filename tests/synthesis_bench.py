"""A folder with sources and a server of models, for the tests of `recipe data synthesize`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from tests.chain import ROOT
from tests.model_server import ModelServer, made_up

KEY = "planted-key-that-nobody-may-see"
SOURCES = {
    "self-instruct": "rows: [{path: seeds.jsonl, format: alpaca}]\nown_examples: 2",
    "question-answer": "documents: [text.md]\nchunk: 300\nrounds: 5",
    "paraphrase": "rows: [{path: seeds.jsonl, format: alpaca}]\nvariants: 9",
    "preference": "rows: [{path: seeds.jsonl, format: alpaca}]",
    "critique": "rows: [{path: seeds.jsonl, format: alpaca}]\nrounds: 2",
}
QUICK = "requests: {backoff: 0.01, retries: 3, concurrency: %d}"


@dataclass
class Bench:
    """A folder with sources, and a server; `run` is one command in this process."""

    folder: Path
    server: ModelServer
    capsys: pytest.CaptureFixture[str]

    def write(self, kind: str = "self-instruct", more: str = "", **changed: Any) -> Path:
        """The synthesis recipe; a section that `more` has replaces the usual one."""
        lines = {
            "synthesis": "1",
            "kind": kind,
            "count": "20",
            "endpoint": f"{{api: '{self.server.url}/v1', model: m, key: TEST_KEY}}",
            "requests": (QUICK % changed.pop("concurrency", 2)).partition(": ")[2],
        }
        lines |= {name: str(value) for name, value in changed.items()}
        text = "".join(f"{name}: {value}\n" for name, value in lines.items())
        path = self.folder / "s.yaml"
        path.write_text(f"{text}{SOURCES[kind]}\n{more}\n")
        return path

    def run(self, *words: str, out: str = "rows.jsonl") -> tuple[int, str, str]:
        code = main(["data", "synthesize", "s.yaml", "-o", out, *words])
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def report(self, *words: str) -> dict[str, Any]:
        code, out, err = self.run("--format", "json", *words)
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    def rows(self, out: str = "rows.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / out).read_text().splitlines()]

    @property
    def log(self) -> Path:
        return self.folder / "rows.requests.jsonl"


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Bench]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TEST_KEY", KEY)
    (tmp_path / ".git").mkdir()
    seeds = [{"instruction": made_up(n), "output": made_up(-n - 1)} for n in range(30)]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(seed) + "\n" for seed in seeds))
    paragraphs = [made_up(("paragraph", number), 30) for number in range(12)]
    (tmp_path / "text.md").write_text("\n\n".join(paragraphs))
    with ModelServer() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        yield Bench(tmp_path, server, capsys)


def start(bench: Bench) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "runner", "data", "synthesize", "s.yaml", "-o", "rows.jsonl"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        words, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.01)


def logged(bench: Bench) -> int:
    return bench.log.read_bytes().count(b"\n") if bench.log.exists() else 0


def holds_at_least(bench: Bench, answers: int) -> bool:
    return logged(bench) >= answers
