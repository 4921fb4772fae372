"""Parquet files, by the real environment: the rows as JSON lines, or an error that says why."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.cli.main import main

WRITE = """
import sys, datetime, pyarrow as pa, pyarrow.parquet as pq
turn = {"role": "user", "content": "Q", "name": None}
answer = {"role": "assistant", "content": "A", "name": "Ann"}
chats = pa.table({"id": [1, 2], "messages": [[turn, answer]] * 2})
dated = pa.table({"text": ["T"], "at": [datetime.date(2020, 1, 1)]})
pq.write_table(chats, sys.argv[1] + "/a.parquet")
pq.write_table(dated, sys.argv[1] + "/b.parquet")
"""


def test_parquet_is_inspected_and_converted(
    environment_python: Callable[[str], Path],
    shared_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    python = environment_python("parquet")
    subprocess.run([python, "-I", "-c", WRITE, tmp_path], check=True)
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(shared_cache))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()  # what building the environment said
    before = set(shared_cache.glob("rows-*"))
    assert main(["data", "inspect", "a.parquet", "--format", "json"]) == 0
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert (file["format"], file["rows"], file["fit"]) == ("messages", 2, 2)
    assert main(["data", "convert", "a.parquet", "a.jsonl", "--to", "messages"]) == 0
    turns = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A", "name": "Ann"},
    ]
    rows = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert rows == [{"messages": turns, "id": number} for number in (1, 2)]
    capsys.readouterr()
    assert main(["data", "convert", "b.parquet", "b.jsonl", "--to", "text"]) == 1
    assert 'the column "at" has values that are no JSON' in capsys.readouterr().err
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:40])
    assert main(["data", "inspect", "c.parquet"]) == 1
    assert "[E353]" in capsys.readouterr().err
    assert set(shared_cache.glob("rows-*")) == before
