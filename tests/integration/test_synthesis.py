"""`recipe data synthesize` with the real Ollama and SmolLM2: small, and as bad as it is, real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.cli.main import main
from runner.rows.survey import survey
from tests.ollama_model import NAME

FACTS = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("How many days has a week?", "A week has seven days."),
    ("What do bees make?", "Bees make honey."),
    ("Which planet do we live on?", "We live on the planet Earth."),
)
TEXT = """# The harbour

The harbour of Fernlow was built in 1874 by three brothers. It has two piers and a small lighthouse,
which is painted red. Fishing boats leave every morning at five.

# The market

On Saturdays there is a market beside the harbour. People sell fish, bread and flowers there.
"""


def written(folder: Path, kind: str, endpoint: str, more: str) -> Path:
    (folder / ".git").mkdir(exist_ok=True)
    seeds = [{"instruction": asked, "output": said} for asked, said in FACTS]
    (folder / "seeds.jsonl").write_text("".join(json.dumps(seed) + "\n" for seed in seeds))
    (folder / "text.md").write_text(TEXT)
    path = folder / f"{kind}.yaml"
    path.write_text(
        f"synthesis: 1\nkind: {kind}\ncount: 2\nendpoint: {endpoint}\n"
        "sampling: {temperature: 0.7, max_tokens: 160}\nbudget: {requests: 30}\n"
        f"requests: {{concurrency: 2, attempts: 2}}\n{more}\n"
    )
    return path


def synthesized(path: Path, *words: str) -> Path:
    out = path.with_suffix(".jsonl")
    assert main(["data", "synthesize", str(path), "-o", str(out), *words]) == 0
    return out


def test_smollm2_makes_rows_by_both_protocols_and_the_log_makes_them_again(
    ollama_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_ollama = f"{{ollama: {NAME}}}"
    of_api = f"{{api: '{ollama_model}/v1', model: {NAME}}}"
    rows = "rows: [{path: seeds.jsonl, format: alpaca}]"
    made = {
        path: synthesized(path)
        for path in (
            written(tmp_path, "question-answer", of_ollama, "documents: [text.md]\nper_chunk: 2"),
            written(tmp_path, "paraphrase", of_api, f"{rows}\nvariants: 3"),
            written(tmp_path, "preference", of_ollama, f"{rows}\ncandidates: 2"),
        )
    }
    before = {out: out.read_bytes() for out in made.values()}
    for path, out in made.items():
        found = survey(out, out.name, 0)
        assert (found.rows >= 1, found.unfit) == (True, 0)
        assert found.format == ("preference" if path.stem == "preference" else "messages")
        lines = out.with_name(f"{path.stem}.requests.jsonl").read_text().splitlines()
        answers = [json.loads(json.loads(line)["answer"]) for line in lines]
        assert answers
        assert all(_counted(answer) for answer in answers), "the real servers count tokens"
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")  # nobody is there any more
    for path, out in made.items():
        out.unlink()
        assert synthesized(path, "--offline").read_bytes() == before[out]


def _counted(answer: dict[str, object]) -> bool:
    usage = answer.get("usage")
    if isinstance(usage, dict):
        return bool(usage["prompt_tokens"] and usage["completion_tokens"])
    return bool(answer.get("prompt_eval_count") and answer.get("eval_count"))


def test_a_model_that_ollama_does_not_have_is_said(
    ollama_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "paraphrase", "{ollama: nobody-made-this}", "")
    path.write_text(path.read_text() + "rows: [{path: seeds.jsonl, format: alpaca}]\n")
    assert main(["data", "synthesize", str(path), "-o", str(tmp_path / "x.jsonl")]) == 4
    err = capsys.readouterr().err
    assert "error[E903]" in err
    assert "ollama pull nobody-made-this" in err


def test_a_prompt_longer_than_the_context_is_said_not_cut_off(
    ollama_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "documents: [text.md]\nchunk: 20000"
    path = written(tmp_path, "question-answer", f"{{ollama: {NAME}, num_ctx: 512}}", more)
    (tmp_path / "text.md").write_text(TEXT * 20)
    assert main(["data", "synthesize", str(path), "-o", str(tmp_path / "x.jsonl")]) == 1
    err = capsys.readouterr().err
    assert "error[E906]" in err
    assert "exceeds the available context size" in err


def test_an_ollama_is_started_where_none_runs(own_ollama: Path, tmp_path: Path) -> None:
    """It has no models, and says so: that it was started is what matters."""
    rows = "rows: [{path: seeds.jsonl, format: alpaca}]"
    path = written(tmp_path, "paraphrase", f"{{ollama: {NAME}}}", rows)
    assert main(["data", "synthesize", str(path), "-o", str(tmp_path / "x.jsonl")]) == 4
    assert own_ollama.is_dir()
