"""Rows are cleaned by the real script before they become tokens, and what was done is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.rows.prepared import prepared_lines
from tests.script_runs import PREPARING, ScriptRun, run_script

GITHUB = "ghp_" + "aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5"
Prepare = Callable[..., ScriptRun]


@pytest.fixture
def prepare(
    environment_python: Callable[[str], Path], tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Prepare:
    """Clean and prepare `files` (format -> rows) as the recipe's settings say."""
    python = environment_python("data")

    def run(
        train: dict[str, list[Any]],
        clean: dict[str, Any],
        validation: dict[str, list[Any]] | None = None,
        measured: dict[str, str] | None = None,
        script: str = "prepare",
        **changed: Any,
    ) -> ScriptRun:
        place = tmp_path_factory.mktemp("cleaning")
        inputs = {"model": tiny}
        described: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
        for kind, files in (("train", train), ("validation", validation or {})):
            for number, (format_name, rows) in enumerate(files.items()):
                key = f"{kind}-{number}"
                inputs[key] = place / key
                inputs[key].write_text("".join(json.dumps(row) + "\n" for row in rows))
                described[kind].append(
                    {"name": f"{key}.jsonl", "format": format_name, "input": key}
                )
        for number, (name, text) in enumerate((measured or {}).items()):
            inputs[f"measured-{number}"] = place / name
            inputs[f"measured-{number}"].write_text(text)
        hashed = (
            PREPARING | described | {"clean": clean, "measured": list(measured or {})} | changed
        )
        return run_script(python, script, hashed, inputs, place / "run", HF_HUB_OFFLINE="1")

    return run


def alpaca(question: str, answer: str) -> dict[str, str]:
    return {"instruction": question, "output": answer}


def held_out(run: ScriptRun) -> list[Any]:
    text = (run.folder / "validation.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def steps(run: ScriptRun) -> dict[str, Any]:
    return {step["step"]: step for step in run.measures["clean"]["steps"]}


def test_rows_are_repaired_and_left_out_and_told_of(prepare: Prepare) -> None:
    rows = [
        alpaca("What is it?", "  The cafÃ©. "),
        alpaca("What is it?", "The café."),
        alpaca("Empty?", ""),
        alpaca("Which key?", f"It is {GITHUB}."),
    ]
    clean = {
        "unicode": True,
        "whitespace": True,
        "secrets": "mask",
        "min_answer_chars": 2,
        "exact_duplicates": True,
    }
    run = prepare({"alpaca": rows}, clean, validation={"alpaca": rows})
    assert run.returncode == 0, run.log
    assert run.measures["train"]["rows"] == 2
    answers = [row["messages"][-1]["content"] for row in held_out(run)]
    assert answers == ["The café.", "It is [SECRET]."]
    told = steps(run)
    assert list(told) == list(clean)
    assert told["unicode"]["changed"] == 2  # of both splits
    assert told["min_answer_chars"]["dropped"] == {"nothing to train on": 2}
    assert told["exact_duplicates"]["examples"][0]["why"] == "the same as train-0.jsonl:1"
    assert GITHUB not in json.dumps(run.events)
    lines = list(prepared_lines(run.measures))
    assert lines[0] == "cleaning: 8 rows, 4 of them kept"
    assert lines[1] == "  unicode: 2 rows changed, dropped: none"
    assert lines[2] == '    train-0.jsonl:1: "  The cafÃ©. " is now "  The café. "'


def test_cleaned_rows_are_the_same_bytes_on_every_machine(prepare: Prepare) -> None:
    """The digest is what every machine and every version of Python must give."""
    rows = [
        *(
            alpaca(f"Was ist {n}? &amp;", f"Eine Zahl, die grÃ¶ÃŸer ist als {n}.")
            for n in range(40)
        ),
        *(
            alpaca(f"What is <b>{n}</b>?\u200b", f"A number after {n - 1}, e\u0301.")
            for n in range(40)
        ),
        alpaca("Combien ?", "Une longue réponse en français, pour que la langue soit reconnue."),
        alpaca(
            "新しい\U000113c2文字",
            "\U000113c2\U000113c2 これは日本語の長い文章です。猫が好きです。",
        ),
    ]
    clean = dict.fromkeys(("web_text", "unicode", "whitespace", "exact_duplicates"), True)
    clean |= {"near_duplicates": {"threshold": 0.8}, "language": ["de", "en", "ja"]}
    clean |= {"decontaminate": {"ngram": 5, "validation": False}, "secrets": "mask"}
    run = prepare({"alpaca": rows}, clean, fraction=0.5)
    assert run.returncode == 0, run.log
    digest = hashlib.sha256()
    for file in sorted(run.folder.iterdir()):
        digest.update(file.read_bytes())
    assert (run.measures["clean"]["kept"], digest.hexdigest()) == (KEPT, SAME_BYTES)


KEPT = 78
SAME_BYTES = "7f890fa9da20a99702b7f6489acc05852f115d53c9a2d9fd7e4c138850760c00"


def test_the_same_rows_without_a_step_are_the_same_bytes(prepare: Prepare) -> None:
    """Clean rows are not touched by any of the steps."""
    rows = [
        alpaca(f"Where does number {n} of the list live?", f"At {n} Main Street.") for n in "ab"
    ]
    every = {
        "alternation": "merge",
        "web_text": True,
        "unicode": True,
        "whitespace": True,
        "secrets": "drop",
        "personal_data": "drop",
        "min_answer_chars": 1,
        "refusals": True,
        "language": ["en"],
        "exact_duplicates": True,
        "near_duplicates": {"threshold": 1.0},
        "decontaminate": {"ngram": 13, "validation": True},
    }
    cleaned, plain = prepare({"alpaca": rows}, every), prepare({"alpaca": rows}, {})
    assert cleaned.measures["clean"]["kept"] == 2
    for file in plain.folder.iterdir():
        assert (cleaned.folder / file.name).read_bytes() == file.read_bytes()


def test_turns_out_of_order_are_merged_where_that_is_asked_for(prepare: Prepare) -> None:
    said = [("human", "a"), ("human", "b"), ("gpt", "c"), ("human", "d")]
    row = {"conversations": [{"from": who, "value": what} for who, what in said]}
    files = {"sharegpt": [row]}
    assert prepare(files, {"unicode": True}).error["code"] == "E346"
    run = prepare(files, {"alternation": "merge"}, validation=files)
    assert run.returncode == 0, run.log
    assert [turn["content"] for turn in held_out(run)[0]["messages"]] == ["a\n\nb", "c"]


@pytest.mark.parametrize("clean", [{"language": ["de"]}, {"min_answer_chars": 1000}])
def test_nothing_left_is_an_error_that_says_what_took_it(
    prepare: Prepare, clean: dict[str, Any]
) -> None:
    long = [alpaca("What is this text about?", "This is an English answer of a few words.")]
    error = prepare({"alpaca": long}, clean).error
    assert error["code"] == "E354"
    assert f"dropped: {next(iter(clean))} 1" in error["message"]
    german = [
        alpaca("Was ist das?", "Das ist eine deutsche Antwort, die lang genug ist, um es zu sehen.")
    ]
    if "language" in clean:
        run = prepare({"alpaca": german}, clean, validation={"alpaca": long})
        assert run.error["code"] == "E356"


def test_what_is_measured_by_is_kept_out_of_the_training(prepare: Prepare) -> None:
    rows = [
        alpaca("At what minute does the lab open?", "At 9:17."),
        alpaca("Name a river of Europe.", "The Danube."),
        alpaca("Say it:", "The quick brown fox jumps over the lazy dog today"),
    ]
    asked = json.dumps({"question": "At what minute does the lab open?", "expect": ["9:17"]})
    bench = "text\nquick brown fox jumps over the lazy\n"
    clean = {"decontaminate": {"ngram": 13, "validation": True}}
    run = prepare({"alpaca": rows}, clean, measured={"q.jsonl": asked, "b.csv": bench})
    assert run.returncode == 0, run.log
    assert run.measures["train"]["rows"] == 1
    whys = [each["why"] for each in steps(run)["decontaminate"]["examples"]]
    assert whys == ["holds 7 words of q.jsonl:1", "holds 7 words of b.csv:2"]
    error = prepare({"alpaca": rows}, clean, measured={"q.jsonl": "{\n" + asked + "\n3\n"}).error
    places = [line.split(": ")[0] for line in error["message"].split("\n")]
    assert (error["code"], places) == ("E355", ["q.jsonl:1", "q.jsonl:3"])
    assert (
        prepare({"alpaca": rows}, clean, measured={"e.jsonl": '{"a": 1}'}).error["code"] == "E355"
    )


def test_a_row_stays_of_its_file_and_its_group_when_it_is_cleaned(prepare: Prepare) -> None:
    alpacas = [alpaca(f"q{n}", f"a{n} ") | {"topic": "ab"[n % 2]} for n in range(8)]
    texts = [{"text": f"text {n} ", "topic": "c"} for n in range(4)]
    files = {"alpaca": alpacas, "text": texts}
    split = {"group_by": "topic"}
    run = prepare(files, {"whitespace": True}, fraction=0.5, split=split)
    assert run.returncode == 0, run.log
    told = run.measures["sources"]
    assert [source["read"] for source in told] == [8, 4]
    assert sum(source["trained"] for source in told) == run.measures["train"]["rows"]
    assert steps(run)["whitespace"]["changed"] == 12
    assert {source["held_out"] for source in told} <= {0, 4, 8}  # whole groups
    nothing = prepare(files, {"min_answer_chars": 99}, fraction=0.5, split=split)
    assert nothing.error["code"] == "E354"


def test_preferences_and_plain_texts_are_cleaned_too(prepare: Prepare) -> None:
    def pair(chosen: str, rejected: str) -> dict[str, str]:
        return {"prompt": "What is it? ", "chosen": chosen, "rejected": rejected}

    pairs = [pair("A cafÃ©.", "A bar."), pair("A café.", "A bar."), pair("Yes ", "Yes")]
    clean = {"unicode": True, "whitespace": True, "exact_duplicates": True}
    run = prepare({"preference": pairs}, clean, script="prepare_preferences")
    assert run.returncode == 0, run.log
    assert run.measures["train"]["rows"] == 1
    assert steps(run)["exact_duplicates"]["dropped"] == {
        "duplicate": 1,
        "two answers that are the same": 1,
    }
    judged = [
        {"prompt": "Why?", "completion": "I cannot help with that.", "label": label}
        for label in (True, False)
    ] + [{"prompt": "Why?", "completion": "So.", "label": True}]
    run = prepare({"kto": judged}, {"refusals": True}, script="prepare_preferences")
    assert run.measures["train"]["rows"] == 2
    run = prepare({"text": [{"text": "<p>Some text.</p>"}]}, {"web_text": True, "whitespace": True})
    assert run.measures["train"]["rows"] == 1
    assert steps(run)["web_text"]["examples"][0]["now"] == "\nSome text.\n"


def test_a_row_of_ten_megabytes_is_cleaned(prepare: Prepare) -> None:
    hostile = "a@" * 1_000_000 + "<p " * 1_000_000 + "\n" * 2_000_000 + "1. " * 1_000_000
    clean = {"web_text": True, "unicode": True, "secrets": "mask", "max_answer_chars": 1000}
    clean |= {"near_duplicates": {"threshold": 0.8}, "language": ["en"]}
    rows = [alpaca("What is it?", hostile), alpaca("What is it?", "A short one.")]
    run = prepare({"alpaca": rows}, clean)
    assert run.returncode == 0, run.log
    assert run.measures["train"]["rows"] == 1


def test_inspect_shows_rows_as_they_are_cleaned(
    prepare: Prepare, environment_python: Callable[[str], Path], tiny: Path, tmp_path: Path
) -> None:
    """By the script behind `recipe data inspect --recipe`, as prepare makes them."""

    def talk(*turns: tuple[str, str]) -> dict[str, Any]:
        return {"conversations": [{"from": who, "value": said} for who, said in turns]}

    rows = [
        talk(("human", "One?"), ("human", "Two?"), ("gpt", f"Take {GITHUB}.")),
        talk(("human", "Sorry?"), ("gpt", "I'm sorry, but I can't help with that.")),
        talk(("human", "Empty?"), ("gpt", " ")),
        talk(("human", "Long?"), ("gpt", "word " * 90)),
        talk(("gpt", "Nobody asked.")),
    ]
    clean = {"alternation": "merge", "secrets": "mask", "refusals": True, "min_answer_chars": 1}
    made = prepare({"sharegpt": rows}, clean, fraction=0, max_length=60, too_long="truncate")
    assert made.returncode == 0, made.log
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = {"name": "r.jsonl", "format": "sharegpt", "input": "r", "held_out": False}
    settings = {"seed": 42, "system": None, "max_length": 60, "too_long": "truncate"}
    settings |= {"template": None, "rows": 9, "files": [file], "clean": clean}
    inputs = {"model": tiny, "r": tmp_path / "r.jsonl"}
    run = run_script(environment_python("data"), "inspect_rows", settings, inputs, tmp_path / "run")
    assert run.returncode == 0, run.log
    seen = [json.loads(line) for line in (run.folder / "rows.jsonl").read_text().splitlines()]
    assert [row.get("left_out") for row in seen] == [
        *(None, "refusals", "min_answer_chars", None, "alternation")
    ]
    assert seen[0]["changed"] == ["alternation", "secrets"]
    text = "".join(part for part, _ in seen[0]["parts"])
    assert "One?\n\nTwo?" in text
    assert "Take [SECRET]." in text
    assert seen[3]["tokens"] == 60 < seen[3]["whole"]
    assert made.measures["train"]["rows"] == 2
    assert made.measures["train"]["truncated"] == 1
    assert made.measures["train"]["tokens"]["total"] == seen[0]["tokens"] + seen[3]["tokens"]
    counted = run_script(
        environment_python("data"), "count_dropped", settings, inputs, tmp_path / "counted"
    )
    (counts,) = (counted.folder / "rows.jsonl").read_text().splitlines()
    assert json.loads(counts) == {
        step["step"]: sum(step["dropped"].values())
        for step in made.measures["clean"]["steps"]
        if step["dropped"]
    }
    settings |= {"max_length": 60, "too_long": "drop"}
    run = run_script(
        environment_python("data"), "inspect_rows", settings, inputs, tmp_path / "again"
    )
    seen = [json.loads(line) for line in (run.folder / "rows.jsonl").read_text().splitlines()]
    assert (seen[3]["left_out"], seen[3]["why"]) == ("too_long", "too long")


def test_rows_of_a_synthesis_go_through_the_same_steps(
    environment_python: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [
        {"question": "Which key?", "answer": f"Take {GITHUB} &amp; go."},
        {"question": "Help?", "answer": "I'm sorry, but I can't help with that."},
        {"question": "Was steht da?", "answer": "Das ist ein langer Satz in deutscher Sprache."},
    ]
    (tmp_path / "rows").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clean = {"web_text": True, "secrets": "mask", "refusals": True, "language": ["en"]}
    python, inputs = environment_python("data"), {"rows": tmp_path / "rows"}
    run = run_script(python, "clean_rows", {"clean": clean}, inputs, tmp_path / "run")
    found = [json.loads(line) for line in (run.folder / "rows.jsonl").read_text().splitlines()]
    assert found[0]["row"]["answer"] == "Take [SECRET] & go."
    assert [list(each["told"]) for each in found] == [
        ["web_text", "secrets"],
        ["refusals"],
        ["language"],
    ]
    assert [each["row"] for each in found[1:]] == [None, None]
