"""`recipe data convert` and what it loses: numbers, system turns, whole rows; and where to go."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.scripts.data.convert import convert as to_rows_of
from runner.scripts.data.files.numbers import loses_digits, read_float, with_all_digits
from runner.scripts.data.files.rows import decoded_whole
from runner.scripts.data.kinds import Columns
from runner.scripts.data.kinds import kind_of as kind_of_column


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    return tmp_path


def convert(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["data", "convert", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


# --- numbers

PI = "3.14159265358979323846"
DIGITS = [PI, "7.50", "1E5", "-0.0", "1e-400", "0.1", "123456789012345678901234567890"]


@pytest.mark.parametrize("number", DIGITS)
@pytest.mark.parametrize("as_list", [True, False])
def test_numbers_keep_their_digits(
    number: str, as_list: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = f'{{"instruction": "Q", "output": "A", "é": {{"x": [{number}, "{number}", null]}}}}'
    (folder / "in.jsonl").write_text(f"[{row}]" if as_list else row)
    code, out, err = convert(capsys, "in.jsonl", "-", "--to", "alpaca")
    assert (code, out, "lost" in err) == (0, row + "\n", False)


def test_arguments_of_calls_keep_their_digits(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = f'{{"type": "function", "function": {{"name": "f", "arguments": {{"x": {PI}}}}}}}'
    turns = f'[{{"role": "user", "content": "Q"}}, {{"role": "assistant", "tool_calls": [{call}]}}]'
    (folder / "in.jsonl").write_text(f'{{"messages": {turns}}}')
    for target in ("messages", "sharegpt"):
        assert PI in convert(capsys, "in.jsonl", "-", "--to", target)[1]


def test_to_everybody_else_such_a_number_is_a_float() -> None:
    number = read_float(PI)
    again = pickle.loads(pickle.dumps(number))
    assert (number, str(again), json.dumps([again]), repr(again)) == (
        float(PI), repr(float(PI)), f"[{float(PI)!r}]", repr(float(PI)),
    )  # fmt: skip
    assert with_all_digits(again) == PI
    assert type(read_float("7.5")) is float
    assert kind_of_column({"x": [number]}) == {"fields": {"x": {"list": "float"}}}


@pytest.mark.parametrize(
    ("number", "loses"),
    [(PI, True), ("7.50", False), ("1E5", False), ("1e-400", True), ("0.1", False),
     ("1e-99999999999999999999", True)],
)  # fmt: skip
def test_a_float_of_parquet_loses_digits_that_mean_something(number: str, loses: bool) -> None:
    assert loses_digits({"x": [read_float(number)]}) == loses


def test_a_number_hundreds_of_levels_deep_is_an_error_and_no_bug(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = "[" * 900 + PI + "]" * 900
    (folder / "in.jsonl").write_text(f'{{"text": "T", "x": {deep}}}')
    decoded_whole(deep)
    code, _, err = convert(capsys, "in.jsonl", "-", "--to", "text")
    assert code == 0 or "error[E865]" in err, err


def test_a_table_says_what_becomes_texts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "a", "x": 1}, {"text": "b", "x": "1"}, {"text": "c", "x": None},
        {"text": "d", "x": True}, {"text": "e", "x": [1]}, {"text": "f"},
    ]  # fmt: skip
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = convert(capsys, "in.jsonl", "out.csv", "--to", "text", "--lossy")
    assert code == 0
    assert [line for line in err.splitlines() if line.startswith("lost: ")] == [
        'lost: that "x" holds numbers, which become texts: 1 row, the first at in.jsonl:1',
        'lost: that "x" holds null, which becomes an empty cell: 1 row, the first at in.jsonl:3',
        'lost: that "x" holds true or false, which become texts: 1 row, the first at in.jsonl:4',
        'lost: that "x" holds lists or objects, which become texts: 1 row, the first at in.jsonl:5',
        'lost: that "x" is missing, which becomes an empty cell: 1 row, the first at in.jsonl:6',
    ]


def test_parquet_says_that_a_column_becomes_texts() -> None:
    columns = Columns(("text",))
    said = [columns.add({"text": "a", "x": value}) for value in (1, "b")]
    assert said == [[], ['that "x" holds values of several kinds, which become texts']]


# --- prompts

PROMPTS = '{"prompt": "p", "answer": 7}\n{"prompt": "p", "answer": 7.50}\n'


@pytest.mark.parametrize("target", ["messages", "alpaca"])
def test_an_answer_of_a_prompt_becomes_one_to_train_on_only_if_told(
    target: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "in.jsonl").write_text(PROMPTS)
    code, out, err = convert(capsys, "in.jsonl", "-", "--to", target)
    assert (code, out, "error[E865]" in err) == (2, "", True)
    code, out, err = convert(capsys, "in.jsonl", "-", "--to", target, "--lossy")
    assert (code, len(out.splitlines())) == (0, 2)
    assert "lost: that the answer is not trained on: 2 rows" in err
    assert "lost: that the answer is a number: it becomes a text: 2 rows" in err


def test_an_answer_that_is_a_number_stays_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "in.jsonl").write_text(PROMPTS)
    assert convert(capsys, "in.jsonl", "-", "--to", "prompt")[:2] == (0, PROMPTS)
    code, _, err = convert(capsys, "in.jsonl", "out.csv", "--to", "prompt")
    assert (code, 'that "answer" holds numbers, which become texts: 2 rows' in err) == (2, True)
    assert convert(capsys, "in.jsonl", "out.csv", "--to", "prompt", "--lossy")[0] == 0
    assert (folder / "out.csv").read_text() == "prompt,answer,system,tools\np,7,,\np,7.50,,\n"


# --- a system turn in a table


@pytest.mark.parametrize(
    ("target", "rows"),
    [
        ("preference", ["S,q,a,b", ",q2,a,b"]),
        ("kto", ["S,q,a,true", ",q2,b,false"]),
        ("prompt-completion", ["S,q,a", " ,q2,b"]),
        ("prompt", ["S,q,a", ",q2,"]),
    ],
)
def test_a_table_with_system_comes_back(
    target: str, rows: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"preference": "chosen,rejected", "kto": "completion,label",
               "prompt-completion": "completion", "prompt": "answer"}[target]  # fmt: skip
    (folder / "in.csv").write_text("\n".join([f"system,prompt,{answers}", *rows, ""]))
    words = ("--from", target, "--to", target)
    code, _, err = convert(capsys, "in.csv", "out.csv", *words)
    assert (code, "lost" in err) == (0, False), err
    plain = [convert(capsys, each, "-", *words)[1] for each in ("in.csv", "out.csv")]
    assert plain[0] == plain[1] != ""
    assert '"role": "system", "content": "S"' in plain[1]


def test_what_no_column_holds_is_left_out_by_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    rows = [{"prompt": turns, "chosen": "a", "rejected": "b"},
            {"prompt": "q", "chosen": "a", "rejected": "b"}]  # fmt: skip
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = convert(capsys, "in.jsonl", "out.csv", "--to", "preference", "--lossy")
    assert (code, out) == (0, "1 row of format preference is in out.csv\n")
    why = 'a cell of a table cannot hold its "prompt"'
    assert f"left out: 1 row, the first at in.jsonl:1: {why}" in err
    assert "lost:" not in err


# --- another format


KTO = '{"prompt": "q", "completion": "a", "label": true}\n'
PAIR = '{"prompt": "q", "chosen": "a", "rejected": "b"}\n'
TURNS = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
NAMED = (
    '{"messages": [{"role": "user", "content": "q", "name": "Ann"}, '
    '{"role": "assistant", "content": "a"}]}\n'
)


@pytest.mark.parametrize(
    ("rows", "target", "hint"),
    [
        (PAIR, "alpaca", "write --lossy to lose it"),
        (PAIR, "kto", "write --lossy to lose it"),
        (KTO, "preference", "keep format kto: no other holds all of it"),
        (KTO, "prompt", "write --lossy to lose it"),
        (TURNS, "text", "choose another format, which holds it: alpaca or"),
        (NAMED, "alpaca", "choose another format, which holds it: prompt-completion"),
        (TURNS + KTO.replace("true", "3"), "kto", ""),
    ],
)
def test_a_format_is_named_only_where_it_holds_the_rows(
    rows: str, target: str, hint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "in.jsonl").write_text(rows)
    _, _, err = convert(capsys, "in.jsonl", "-", "--to", target)
    assert hint in err, err
    assert "messages hold all turns" not in err
    for named in err.partition("which holds it: ")[2].split("\n")[0].split(" or "):
        if named:
            assert convert(capsys, "in.jsonl", "-", "--to", named)[0] == 0, named


def test_a_folder_that_is_not_there_is_named_and_not_made(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = convert(capsys, "absent.jsonl", "no where/x.jsonl", "--to", "messages")
    assert (code, "error[E929]: no where/x.jsonl: there is no folder no where" in err) == (2, True)
    assert "mkdir -p 'no where'" in err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("name", "lost"), [("a.parquet", True), ("a.jsonl", False)])
def test_digits_that_parquet_drops_are_named(name: str, lost: bool, folder: Path) -> None:
    (folder / "in.jsonl").write_text(f'{{"text": "T", "x": {PI}, "y": 7.50}}\n')
    done = to_rows_of(folder / "in.jsonl", "in.jsonl", io.BytesIO(), name, "text", "text")
    what = 'digits of numbers in the column "x", which floats do not hold'
    assert list(done.lost) == [what] * lost
    assert done.by_file == set(done.lost)
