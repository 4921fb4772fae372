"""Rows that a model is asked for go through the cleaning steps of `prepare` before they count."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runner.errors import MachineCannot
from runner.recipe.schema import load_schema
from runner.scripts.clean_rows import clean_rows, cleaned
from runner.scripts.data.cleaning.pipeline import ORDER
from runner.scripts.spec import Events, Spec
from runner.synthesis.cleaning import STEPS
from runner.synthesis.settings import SCHEMA
from tests.model_server import made_up
from tests.synthesis_bench import Bench
from tests.synthesis_bench import bench as bench  # a fixture

GITHUB = "ghp_" + "aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5"
REFUSES = "I'm sorry, but I can't help with that."


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The script runs in this process; the environments that it would have run in."""
    started: list[str] = []

    @contextmanager
    def written_by(
        script: str, role: str, settings: Mapping[str, Any], inputs: Mapping[str, Path]
    ) -> Iterator[Path]:
        assert script == "clean_rows"
        started.append(role)
        folder = tmp_path / f"out-{len(started)}"
        folder.mkdir()
        spec = Spec(dict(settings), dict(inputs), folder, folder, folder / "events")
        clean_rows(spec, cast(Events, SimpleNamespace(progress=lambda *_, **__: None)))
        yield folder / "rows.jsonl"

    monkeypatch.setattr("runner.synthesis.cleaning.written_by", written_by)
    return started


def says(bench: Bench, *answers: str) -> None:
    """The model answers task by task with one of `answers` to a question of its own."""

    def said(schema: object, prompt: str, seed: int) -> str:
        question = made_up(seed)
        return json.dumps({"question": question, "answer": answers[seed % len(answers)]})

    bench.server.says = said


def answers_of(bench: Bench) -> set[str]:
    return {row["messages"][-1]["content"] for row in bench.rows()}


def test_what_a_step_leaves_out_is_refused_counted_and_drawn_again(
    bench: Bench, runs: list[str]
) -> None:
    says(bench, REFUSES, "caf\u00c3\u00a9 &amp; tea")
    bench.write(count=6, more="clean: {refusals: true, unicode: true, web_text: true}")
    found = bench.report()
    assert answers_of(bench) == {"caf\u00e9 & tea"}
    assert (found["rows"], found["ended"]) == (6, "complete")
    refused = found["refused"]["refusals: an answer refuses"]
    assert refused > 0
    assert found["examples"]["refusals: an answer refuses"][0]["text"] == REFUSES
    steps = {step["step"]: step for step in found["clean"]["steps"]}
    assert list(steps) == ["web_text", "unicode", "refusals"]
    assert (found["clean"]["rows"], found["clean"]["kept"]) == (6 + refused, 6)
    assert steps["refusals"]["dropped"] == {"an answer refuses": refused}
    assert steps["unicode"]["changed"] == 6
    assert len(steps["unicode"]["examples"]) == 3
    assert steps["unicode"]["examples"][0]["place"].startswith("task ")
    assert set(runs) == {"data"}


def test_the_words_name_each_step_and_hide_what_it_hides(bench: Bench, runs: list[str]) -> None:
    says(bench, f"The key is {GITHUB}, keep it.")
    bench.write(count=2, more="clean: {secrets: mask}")
    code, out, err = bench.run()
    assert code == 0, err
    assert answers_of(bench) == {"The key is [SECRET], keep it."}
    assert "  cleaning: 2 rows, 2 of them kept" in out
    assert "secrets: 2 rows changed, dropped: none" in out
    assert GITHUB not in out + err


def test_lengths_and_duplicates_are_those_of_the_cleaned_text(
    bench: Bench, runs: list[str]
) -> None:
    questions = iter(f"<p>{word}</p>" for word in ("same words here", "same words here", "others"))
    bench.server.says = lambda schema, prompt, seed: json.dumps(
        {"question": next(questions, made_up(seed)), "answer": "<div>A</div> long enough"}
    )
    bench.write(count=3, concurrency=1, more="clean: {web_text: true, whitespace: true}")
    assert bench.report()["refused"] == {"duplicate": 1}
    assert [row["messages"][0]["content"] for row in bench.rows()][:2] == [
        "same words here",
        "others",
    ]


@pytest.mark.parametrize("kind", ["preference", "critique"])
def test_both_answers_of_a_pair_are_cleaned(kind: str, bench: Bench, runs: list[str]) -> None:
    mail = "write to jane.roe@acme-mail.org"
    usual = bench.server.says

    def with_mail(schema: dict[str, Any] | None, prompt: str, seed: int) -> str:
        if schema is None:
            return f"{made_up(seed)}, {mail}"
        if "answer" in schema["properties"]:
            return json.dumps({"answer": f"{made_up(seed)}, {mail}"})
        return usual(schema, prompt, seed)

    bench.server.says = with_mail
    more = "clean: {personal_data: mask}" + ("\npairs: true" if kind == "critique" else "")
    bench.write(kind, more, count=3)
    bench.report()
    for row in bench.rows():
        assert row["chosen"].endswith("write to [EMAIL]")
        assert "@" not in row["rejected"]


def test_a_rejected_answer_may_refuse_and_nothing_of_a_pair_may_become_the_same() -> None:
    pair = {"question": "Why?", "answer": "Because.", "rejected": REFUSES}
    assert cleaned(pair, {"refusals": True})["row"] == pair
    alike = {"question": "Why?", "answer": "Because\u200b.", "rejected": "Because."}
    found = cleaned(alike, {"whitespace": True})
    assert found["row"] is None
    assert found["told"]["whitespace"]["dropped"] == {"two answers that are the same": 1}
    same = {"question": "Why?", "answer": "Because.", "rejected": "Because."}
    assert cleaned(same, {"whitespace": True})["problem"] == "chosen and rejected are the same"


def test_the_log_alone_gives_the_same_rows_and_the_budget_ends_it_as_without(
    bench: Bench, runs: list[str]
) -> None:
    says(bench, REFUSES, "Tea.")
    more = "clean: {refusals: true}\nbudget: {requests: 7}"
    bench.write(count=20, more=more)
    first = bench.report()
    rows = bench.rows()
    assert (first["ended"], len(bench.server.asked)) == ("budget", 7)
    assert 0 < len(rows) < 7
    assert bench.report("--offline")["clean"] == first["clean"]
    assert bench.rows() == rows


def test_what_was_answered_is_not_asked_again_after_cleaning_failed(
    bench: Bench, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    says(bench, "Tea.")
    bench.write(count=3, more="clean: {refusals: true}")
    with monkeypatch.context() as patch:

        def fails(*_: object) -> None:
            raise MachineCannot("the disk is full", hint="free some space", code="E410")

        patch.setattr("runner.synthesis.cleaning.written_by", fails)
        code, _, err = bench.run()
    assert (code, "[E410]" in err) == (4, True), err
    assert not (bench.folder / "rows.jsonl").exists()
    assert len(bench.server.asked) == 3
    assert bench.report()["rows"] == 3
    assert len(bench.server.asked) == 3


def test_without_steps_nothing_is_started(bench: Bench, runs: list[str]) -> None:
    bench.write(count=2, more="clean: {secrets: keep, refusals: false, language: []}")
    assert "clean" not in bench.report()
    assert runs == []


def test_a_language_that_cannot_be_told_has_its_place(bench: Bench) -> None:
    bench.write(more="clean: {language: [en, xx]}")
    code, _, err = bench.run()
    assert (code, "the language xx cannot be told" in err, "[E252]" in err) == (2, True, True)
    line = (bench.folder / "s.yaml").read_text().splitlines().index("clean: {language: [en, xx]}")
    assert f"s.yaml:{line + 1}:24" in err


def test_the_steps_are_those_of_a_recipe_under_the_same_names() -> None:
    given = load_schema(SCHEMA)["oneOf"][0]["properties"]["clean"]["properties"]
    whole = load_schema("recipe-1")["properties"]["data"]["properties"]["clean"]["properties"]
    assert tuple(given) == STEPS == tuple(step for step in ORDER if step in STEPS)
    assert {step: whole[step] for step in STEPS} == given
