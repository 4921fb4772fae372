"""`recipe data inspect` and `recipe data convert`, on the command line."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.errors import Interrupted, StageFailed
from runner.rows.script import _keep_log
from runner.rows.show import marked, plain_number, seen_lines
from runner.rows.survey import note_seen, survey
from runner.scripts.data.files.rows import Problem, read_rows
from tests.data_command import GOOD, good_rows, run


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return good_rows(tmp_path, monkeypatch)


def test_inspect_says_format_reason_counts_and_rows(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(["inspect", "rows.jsonl", "--rows", "1"], capsys)
    assert code == 0
    assert 'looks like alpaca: "question" and "reply" in 3 of 3 rows' in out
    assert "format: alpaca, columns: {instruction: question, output: reply}" in out
    assert "3 rows, 3 fit" in out
    assert "rows.jsonl:1\n  user: Q0\n  assistant: ⟦A⟧" in out
    assert "Q1" not in out


def test_prompts_without_an_answer_are_recognised(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write_text('{"prompt": "Why?"}\n{"prompt": "How?", "system": "S"}\n')
    code, out, _ = run(["inspect", "rows.jsonl"], capsys)
    assert (code, "looks like prompt" in out, "2 rows, 2 fit" in out) == (0, True, True)
    rows.write_text('{"prompt": "Why?", "good": "a", "bad": "b"}\n')  # no pair by these names
    assert run(["inspect", "rows.jsonl"], capsys)[0] == 2


def test_the_advice_for_unknown_keys_of_pairs_can_be_followed(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write_text('{"q": "Why?", "good": "a", "bad": "b"}\n')
    code, _, err = run(["inspect", "rows.jsonl"], capsys)
    assert code == 2
    words = "--from preference --column prompt=NAME --column chosen=NAME --column rejected=NAME"
    assert words in " ".join(err.split())
    for name in ("q", "good", "bad"):
        words = words.replace("NAME", name, 1)
    code, out, _ = run(["inspect", "rows.jsonl", *words.split()], capsys)
    assert (code, "1 row, 1 fit" in out) == (0, True)


def test_inspect_tells_what_is_preferred_both_ways(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [("yes", "no"), ("no", "yes"), ("up", "down"), ("down", "up"), ("a", "b")]
    made = [{"prompt": "Q", "chosen": one, "rejected": other} for one, other in answers]
    lines = [*(json.dumps(row) for row in made[:1]), "no row", *map(json.dumps, made[1:])]
    rows.write_text("\n".join(lines) + "\n")
    _, out, _ = run(["inspect", "rows.jsonl"], capsys)
    assert "warning: 2 pairs of answers are preferred both ways" in out
    assert "the first: rows.jsonl:1 and rows.jsonl:3" in out
    _, out, _ = run(["inspect", "rows.jsonl", "--format", "json"], capsys)
    assert '"both_ways"' in out


@pytest.mark.parametrize(
    ("labels", "told", "warned"),
    [([True, False, True], "2 good, 1 bad", ""), ([True, True], "2 good, 0 bad", "no bad answers"),
     ([False], "0 good, 1 bad", "no good answers")],
)  # fmt: skip
def test_inspect_tells_how_answers_are_judged(
    rows: Path, capsys: pytest.CaptureFixture[str], labels: list[bool], told: str, warned: str
) -> None:
    made = [{"prompt": "Q", "completion": f"A{n}", "label": each} for n, each in enumerate(labels)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in made))
    _, out, _ = run(["inspect", "rows.jsonl"], capsys)
    assert f"answers: {told}" in out
    assert ("warning: all answers have the same label" in out) == bool(warned)
    assert warned in out
    _, out, _ = run(["inspect", "rows.jsonl", "--format", "json"], capsys)
    (file,) = json.loads(out)["files"]
    assert sum(file["labels"].values()) == len(labels)


def test_inspect_names_bad_rows_and_exits_1(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows.write_text(rows.read_text() + '{"question": "\x1b[31m", "reply": 3}\nx\n')
    code, out, _ = run(["inspect", "rows.jsonl", "--format", "json"], capsys)
    (file,) = json.loads(out)["files"]
    assert (code, file["rows"], file["fit"]) == (1, 5, 3)
    problems = [(each["line"], each["code"]) for each in file["problems"]]
    assert problems == [(4, "E321"), (5, "E321")]
    assert file["characters"] == {"min": 3, "median": 3, "max": 3}
    assert file["guess"]["columns"] == {"instruction": "question", "output": "reply"}
    _, text, _ = run(["inspect", "rows.jsonl"], capsys)
    assert "\x1b" not in text
    assert "rows.jsonl:5: broken JSON" in text


def test_all_bad_rows_are_named_on_request(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows.write_text('{"text": "T"}\n' * 20 + '{"text": 3}\n' * 15)
    code, out, _ = run(["inspect", "rows.jsonl"], capsys)
    assert (code, out.count('"text" is a number')) == (1, 10)
    assert "and 5 more rows: --bad 15 names all of them" in out
    code, out, _ = run(["inspect", "rows.jsonl", "--bad", "15"], capsys)
    assert (code, out.count('"text" is a number'), "more rows" in out) == (1, 15, False)
    code, out, _ = run(["inspect", "rows.jsonl", "--bad", "0"], capsys)
    assert (code, out.count('"text" is a number'), "and 15 more rows" in out) == (1, 0, True)
    _, out, _ = run(["inspect", "rows.jsonl", "--format", "json"], capsys)
    (file,) = json.loads(out)["files"]
    assert [each["line"] for each in file["problems"]] == list(range(21, 36))
    _, _, err = run(["convert", "rows.jsonl", "o.json", "--to", "text", "--from", "text"], capsys)
    (hint,) = [line.split("recipe data ")[1] for line in err.splitlines() if "next: " in line]
    assert hint == "inspect rows.jsonl --from text --bad 15"
    assert run(hint.split(), capsys)[1].count('"text" is a number') == 15


def test_what_a_stranger_wrote_never_reaches_the_terminal(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "a\x1b]0;title\x07\u202eb\nsecond line"
    rows.write_text(json.dumps({"text": evil, "\x1b[2J": 1}) + "\n")
    _, out, _ = run(["inspect", "rows.jsonl"], capsys)
    assert not set(out) & {"\x1b", "\x07", "\u202e"}
    assert "b\nsecond line⟧" in out
    assert marked([("a\x1b", True), ("b", False)], color=True) == "\x1b[32ma\\x1b\x1b[0mb"


def test_convert_reads_what_it_guesses_and_writes_whole_files(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["convert", "rows.jsonl", "out.csv.gz", "--to", "prompt-completion"]
    code, out, err = run(words, capsys)
    assert (code, out) == (0, "3 rows of format prompt-completion are in out.csv.gz\n")
    assert "looks like alpaca" in err
    read = list(read_rows(Path("out.csv.gz"), "out.csv.gz"))
    assert not any(isinstance(each, Problem) for each in read)
    before = Path("out.csv.gz").read_bytes()
    code, _, err = run(words, capsys)
    assert (code, "E866" in err) == (2, True)
    assert run([*words, "--force"], capsys)[0] == 0
    assert Path("out.csv.gz").read_bytes() == before
    columns = ["--column", "instruction=question", "--column", "output=reply"]
    named = [*words, "--force", "--from", "alpaca", *columns]
    assert run(named, capsys)[0] == 0
    assert Path("out.csv.gz").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "words", "code"),
    [
        ('{"prompt": "Q", "completion": "A", "label": false}\n', ["--to", "messages"], "E865"),
        ('{"text": "T"}\n', ["--to", "messages", "--lossy"], "E865"),
        ('{"text": "T"}\n{"text": 3}\n', ["--to", "text"], "E867"),
        ('{"a": 1}\n', ["--to", "text"], "E864"),
        ("", ["--to", "text", "--from", "text"], "E862"),
        ('{"text": "T"}\n', ["--to", "text", "--column", "text=T"], "E002"),
        ('{"text": "T"}\n', ["--to", "text", "--from", "text", "--column", "label=T"], "E002"),
    ],
)
def test_nothing_is_written_when_something_is_wrong(
    content: str, words: list[str], code: str, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write_text(content)
    exit_code, _, err = run(["convert", "rows.jsonl", "out.jsonl", *words], capsys)
    assert (exit_code, f"[{code}]" in err) == (2, True), err
    assert [path.name for path in rows.parent.iterdir()] == ["rows.jsonl"]


def test_lossy_says_what_it_loses(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [{"prompt": "Q", "chosen": "A", "rejected": "B"}] * 2
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    words = ["convert", "rows.jsonl", "out.json", "--to", "alpaca"]
    code, _, err = run(words, capsys)
    assert (code, Path("out.json").exists()) == (2, False)
    assert "the rejected answer: 2 rows, the first at rows.jsonl:1" in err
    assert run([*words, "--lossy"], capsys)[0] == 0
    assert json.loads(Path("out.json").read_text()) == [{"instruction": "Q", "output": "A"}] * 2


MESSAGES_ROW = '{"messages": [{"role": "user", "content": "Q"}]}'
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
UNREADABLE = [
    ("a.jsonl.gz", gzip.compress(b'{"text": "T"}\n', mtime=0)[:-14], "E347", "damaged", ""),
    ("a.jsonl.xz", lzma.compress(b'{"text": "T"}\n')[:-40], "E347", "damaged", ""),
    ("a.csv", "text\ncafé\n".encode("latin-1"), "E320", "UTF-8", "iconv -f LATIN1 -t UTF-8"),
    ("a.jsonl", '{"text": "T"}'.encode("utf-16"), "E320", "UTF-8", "iconv -f UTF-16"),
    ("a.jsonl", bytes([0, *range(128, 256)]), "E320", "UTF-8", ""),
    ("a.csv", b"text,id\na\nb\n", "E351", "1 cells", ""),
    ("a.jsonl", b'{"a": ' * 60_000, "E321", "nested too deeply", ""),
    ("a.jsonl", b'{\n  "text": "T"\n}\n', "E321", "broken JSON", "jq -c . a.jsonl"),
    ("a.jsonl", b'{"a":' * 60_000 + b"\n", "E321", "nested too deeply", ""),
    ("a.jsonl", LFS, "E347", "git lfs pull", ""),
    ("a.csv", LFS, "E347", "git lfs pull", ""),
    ("a.parquet", LFS, "E347", "git lfs pull", ""),
    ("a.jsonl.gz", gzip.compress(LFS, mtime=0), "E347", "git lfs pull", ""),
    ("a.json", b"\n<!DOCTYPE HTML>\n<p>\n", "E347", "web page", ""),
    ("a.jsonl", b"<html lang='en'>\n<p>\n", "E347", "web page", ""),
    ("a.jsonl", b"Once upon\na time.\n", "E321", "looks like plain text", "format text"),
    ("a.jsonl", b'{"text": NaN}\n', "E321", "NaN is not JSON", ""),
]


@pytest.mark.parametrize(("name", "content", "code", "words", "advice"), UNREADABLE)
def test_what_cannot_be_read_says_so_whether_the_format_is_named_or_not(
    name: str,
    content: bytes,
    code: str,
    words: str,
    advice: str,
    rows: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path(name).write_bytes(content)
    for more in ([], ["--from", "alpaca"]):
        exit_code, out, err = run(["inspect", name, *more], capsys)
        assert (exit_code, err) == (1, "")
        assert f"({code})" in out
        assert words in out
        assert advice in out
        assert ("  next: " in out) == bool(advice)
    exit_code, out, err = run(["convert", name, "out.jsonl", "--to", "text"], capsys)
    assert (exit_code, "[E867]" in err, f"({code})" in err) == (2, True, True)
    assert "next: " in err
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("a.jsonl", " \n\n"), ("a.json", "[]"), ("a.csv", "instruction,output\n")],
)
def test_a_file_without_rows_is_a_problem(
    name: str, content: str, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text(content)
    for more in ([], ["--from", "alpaca"]):
        exit_code, out, _ = run(["inspect", name, *more], capsys)
        assert (exit_code, "0 rows, 0 fit" in out) == (1, True)
        assert f"problems:\n    {name}:1: the file holds no rows (E862)" in out
        exit_code, _, err = run(["convert", name, "out.jsonl", "--to", "text", *more], capsys)
        assert (exit_code, "[E862]" in err, "next: " in err) == (2, True, True)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "instruction;output\nQ;A\n", "write the table with commas"),
        ("a b.jsonl", f'{{"data": [{MESSAGES_ROW}]}}', """jq -c '.["data"][]' 'a b.jsonl' > NEW"""),
        ("a.jsonl", '{"foo": "T", "bar": 1}', "--from alpaca"),
    ],
)
def test_keys_of_no_format_are_named_with_what_to_do(
    name: str, content: str, words: str, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text(content)
    exit_code, _, err = run(["inspect", name], capsys)
    assert (exit_code, "[E864]" in err) == (2, True)
    assert words in err
    assert ('of no format: "foo", "bar"' in err) == ("foo" in content)
    advised = [line.split("next: ")[1] for line in err.splitlines() if "next: " in line]
    exit_code, out, _ = run(["inspect", name, "--from", "alpaca"], capsys)
    assert exit_code == 1
    assert ("foo" in content) or advised[0] in out


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_the_turns_of_one_bad_row_are_no_list_of_rows(
    name: str, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no tool for texts reads what is compressed."""
    packed = name.endswith(".gz")
    row = f'{{"data": [{MESSAGES_ROW}]}}' if packed else MESSAGES_ROW
    Path(name).write_bytes(gzip.compress(row.encode()) if packed else row.encode())
    _, out, _ = run(["inspect", name, "--from", "messages"], capsys)
    assert ("E322" in out or "E323" in out, "jq" in out) == (True, False), out


def test_a_column_that_is_not_there_is_told_with_those_that_are(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["--column", "instruction=nope", "--column", "output=reply"]
    code, out, _ = run(["inspect", "rows.jsonl", "--from", "alpaca", *columns], capsys)
    assert (code, 'the column "nope" is missing' in out) == (1, True)
    assert '  next: the first row has "question", "reply"\n' in out


def test_one_bad_file_does_not_hide_the_others(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("odd.jsonl").write_text('{"foo": 1}\n')
    names = ["absent.jsonl", "rows.jsonl", "odd.jsonl", "rows.jsonl"]
    code, out, err = run(["inspect", *names], capsys)
    assert (code, out.count("3 rows, 3 fit")) == (2, 2)
    assert err.index("[E862]: cannot read absent.jsonl") < err.index("[E864]")
    code, out, _ = run(["inspect", *names, "--format", "json"], capsys)
    told = json.loads(out)
    assert (code, [file["fit"] for file in told["files"]]) == (2, [3, 3])
    assert [each["code"] for each in told["errors"]] == ["E862", "E864"]


def test_json_says_what_failed_and_of_which_file(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["inspect", "absent.jsonl", "rows.jsonl", "--format", "json"]
    code, out, _ = run(words, capsys)
    told = json.loads(out)
    assert (code, [each["file"] for each in told["errors"]]) == (2, ["absent.jsonl"])
    assert [each["file"] for each in told["files"]] == ["rows.jsonl"]
    code, out, err = run(["prepare", "absent.yaml", "--format", "json"], capsys)
    told = json.loads(out)
    (error,) = told["errors"]
    assert (code, told["run"], told["measures"]) == (2, None, None)
    assert error["code"] in err
    assert error["message"]


def test_rows_that_begin_with_an_answer_or_ask_nothing_are_warned_of(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": "assistant", "content": "Hi."}, {"role": "user", "content": " "}]
    turns.append({"role": "assistant", "content": "Yes?"})
    late = [{**turns[0], "weight": 0}, {"role": "user", "content": "Q"}, turns[2]]
    said = "".join(json.dumps({"messages": each}) + "\n" for each in (turns, late))
    rows.write_text(said)
    code, out, _ = run(["inspect", "rows.jsonl"], capsys)
    assert (code, "2 rows, 2 fit" in out) == (0, True)
    assert "  warning: 1 row begins with an answer" in out
    assert "  warning: 1 row has an empty question" in out
    assert out.count("the first: rows.jsonl:1;") == 2
    _, out, _ = run(["inspect", "rows.jsonl", "--format", "json"], capsys)
    file = json.loads(out)["files"][0]
    once = {"count": 1, "first": "rows.jsonl:1"}
    assert (file["begins_with_answer"], file["empty_questions"]) == (once, once)


def test_why_a_text_has_one_token_less_to_train_on_is_said() -> None:
    row = {"file": "r", "line": 1, "tokens": 10, "trained": 9, "parts": [], "text": True}
    line, _ = seen_lines([row], color=False)
    assert "10 tokens, 9 trained on (nothing comes before the first" in line


def test_an_interruption_promises_no_more_than_is_kept() -> None:
    assert "what was finished before is reused" in Interrupted(signal.SIGINT).hint
    assert "where it stopped" not in Interrupted(signal.SIGINT).hint


def test_rows_that_fit_the_format_but_not_the_model_are_problems(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write_text(rows.read_text() + "x\n")
    found = survey(rows, "rows.jsonl", 3)
    seen = [{"file": "rows.jsonl", "line": 2, "code": "E350", "problem": "no place for tools"},
            {"file": "rows.jsonl", "line": 3, "parts": []},
            {"file": "rows.jsonl", "line": 4, "code": "E321", "problem": "no"}]  # fmt: skip
    note_seen(found, seen)
    assert (found.unfit, found.refused, found.rendered) == (1, 1, 2)
    assert not found.is_sound
    codes = [(each.place.line, each.error.code) for each in found.problems]
    assert codes == [(4, "E321"), (2, "E350")]


@pytest.mark.parametrize("out", ["rows.xlsx", "rows", "rows.gz", "rows.parquet.gz"])
def test_a_name_that_says_no_shape_of_file_is_refused(
    out: str, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(["convert", "rows.jsonl", out, "--to", "messages"], capsys)
    assert (code, "[E868]" in err, Path(out).exists()) == (2, True, False)


def test_convert_says_rows_alone_on_its_output(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(["convert", "rows.jsonl", "-", "--to", "prompt-completion"], capsys)
    told = [{"prompt": row["question"], "completion": row["reply"]} for row in GOOD]
    assert (code, [json.loads(line) for line in out.splitlines()]) == (0, told)
    assert "3 rows of format prompt-completion are written" in err
    rows.write_text(rows.read_text() + "no row\n")
    code, out, err = run(["convert", "rows.jsonl", "-", "--to", "prompt-completion"], capsys)
    assert (code, out, "[E867]" in err) == (2, "", True)
    assert [path.name for path in rows.parent.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("more", [[], ["--force"]])
def test_a_folder_is_not_replaced(
    more: list[str], rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out.jsonl").mkdir()
    words = ["convert", "rows.jsonl", "out.jsonl", "--to", "messages", *more]
    code, _, err = run(words, capsys)
    assert (code, "[E866]: out.jsonl is a folder" in err) == (2, True), err
    assert "name a file in it: out.jsonl/rows.jsonl" in err


def test_a_folder_that_cannot_be_made_is_no_matter_of_the_cache(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    words = ["convert", "rows.jsonl", "file/out.jsonl", "--to", "messages"]
    code, _, err = run(words, capsys)
    assert (code, "[E411]" in err, "write to another one" in err) == (4, True, True), err
    assert "SPARK_RECIPES_CACHE" not in err


@pytest.mark.parametrize(
    ("value", "shown"), [(4_000_000, "4000000"), (2.5, "2.5"), (12345678.5, "12345678.5")]
)
def test_numbers_are_plain(value: float, shown: str) -> None:
    assert plain_number(value) == shown


def test_long_rows_are_counted_in_plain_numbers(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write_text(json.dumps({"text": "a" * 4_000_000}) + "\n")
    _, out, _ = run(["inspect", "rows.jsonl", "--rows", "0"], capsys)
    assert "characters a row: 4000000 to 4000000, median 4000000" in out


@pytest.mark.parametrize("code", ["E353", "E500"])
def test_no_log_is_named_that_is_gone(code: str, tmp_path: Path) -> None:
    log, kept = tmp_path / "there" / "script.log", tmp_path / "rows.log"
    log.parent.mkdir()
    log.write_text("what it said")
    error = StageFailed("it failed", hint=f"read {log}, then", code=code, log=str(log))
    _keep_log(error, kept)
    shutil.rmtree(log.parent)
    assert str(log.parent) not in error.log
    if code == StageFailed.default_code:
        assert (error.hint, kept.read_text()) == (f"read {kept}, then", "what it said")
    assert error.log in ("", str(kept))


def test_an_ending_in_capitals_says_what_to_write_too(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write_text('{"instruction": "Q", "output": "A"}\n')
    assert run(["convert", "rows.jsonl", "ROWS.JSON", "--to", "alpaca"], capsys)[0] == 0
    assert Path("ROWS.JSON").exists()


@pytest.mark.parametrize(
    "words", [["inspect", "rows.jsonl"], ["convert", "rows.jsonl", "o.json", "--to", "text"]]
)
@pytest.mark.parametrize(
    ("arrives", "code"), [(KeyboardInterrupt(), 130), (Interrupted(signal.SIGTERM), 143)]
)
def test_what_begins_anew_does_not_say_that_it_goes_on(
    words: list[str],
    arrives: BaseException,
    code: int,
    rows: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise arrives

    monkeypatch.setattr("runner.rows.opening.opened", interrupted)
    exit_code, _, err = run(words, capsys)
    assert (exit_code, "E130" in err, "begins anew" in err) == (code, True, True)
    assert "where it stopped" not in err


@pytest.mark.parametrize("words", [["inspect", "absent.jsonl"], ["inspect", "."],
                                   ["convert", "absent", "o.json", "--to", "text"]])  # fmt: skip
def test_a_file_that_cannot_be_read_is_named(
    words: list[str], rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(words, capsys)
    assert (code, "[E862]" in err) == (2, True), err


@pytest.mark.parametrize("words", [["inspect", "pipe"], ["convert", "pipe", "o.json"]])
def test_a_pipe_is_not_waited_for(
    words: list[str], rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe")
    code, _, err = run([*words, "--to", "text"] if words[0] == "convert" else words, capsys)
    assert (code, "[E862]: cannot read pipe: it is not a regular file" in err) == (2, True), err


def test_the_line_for_a_recipe_has_the_columns_that_were_named(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write_text('{"q": "Why?", "a": "So."}\n')
    words = ["--from", "alpaca", "--column", "instruction=q", "--column", "output=a"]
    _, out, _ = run(["inspect", "rows.jsonl", *words], capsys)
    told = "{path: rows.jsonl, format: alpaca, columns: {instruction: q, output: a}}"
    assert f"  in a recipe: {told}\n" in out
    _, out, _ = run(["inspect", "rows.jsonl", *words[:-1], "output=b"], capsys)
    assert "in a recipe" not in out  # where no row is right


def test_a_prompt_is_called_one_and_its_answer_is_shown(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write_text('{"prompt": "3 plus 4?", "answer": 7}\n{"prompt": "Go on."}\n')
    _, out, _ = run(["inspect", "rows.jsonl", "--from", "prompt"], capsys)
    assert "rows.jsonl:1 (prompt)\n  user: 3 plus 4?\n  right answer: 7\n" in out
    assert out.endswith("rows.jsonl:2 (prompt)\n  user: Go on.\n")
    seen = {"file": "r", "line": 1, "side": "prompt", "tokens": 1, "trained": 0}
    parts: dict[str, Any] = {"parts": [["3 plus 4?", False]], "answer": "7\x1b"}
    assert list(seen_lines([seen | parts], color=False)) == [
        "\nr:1 (prompt): 1 token, 0 trained on", "3 plus 4?", "right answer: 7\\x1b"
    ]  # fmt: skip


def test_a_row_that_lacks_what_most_have_is_a_problem(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = [{"prompt": f"Q{number}", "completion": "A", "label": True} for number in range(20)]
    judged.insert(4, {"prompt": "Q", "completion": "A"})
    rows.write_text("".join(json.dumps(row) + "\n" for row in judged))
    code, out, _ = run(["inspect", "rows.jsonl"], capsys)
    assert (code, "21 rows, 20 fit" in out) == (1, True)
    assert 'rows.jsonl:5: "label" is missing (E337)' in out


def test_keys_that_are_not_read_are_named(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [{"text": "T", "id": number, "note": None, "\x1b": ""} for number in range(3)]
    made[1]["note"] = "n"
    made[2]["\x1b"] = "e"
    rows.write_text("".join(json.dumps(row) + "\n" for row in made))
    code, out, _ = run(["inspect", "rows.jsonl"], capsys)
    assert code == 0
    assert '  ignored: "id" in 3 rows, "\\x1b" in 1 row, "note" in 1 row\n' in out
    _, out, _ = run(["inspect", "rows.jsonl", "--format", "json"], capsys)
    assert json.loads(out)["files"][0]["ignored"] == {"id": 3, "\x1b": 1, "note": 1}
    rows.write_text(json.dumps({"text": "T"} | {f"k{n:02d}": n for n in range(12)}) + "\n")
    _, out, _ = run(["inspect", "rows.jsonl"], capsys)
    assert '"k09" in 1 row, and 2 more keys\n' in out
    rows.write_text('{"messages": [{"role": "user", "content": "Q"}, '
                    '{"role": "assistant", "content": "A"}], "text": "Q A"}\n')  # fmt: skip
    _, out, _ = run(["inspect", "rows.jsonl"], capsys)
    assert "looks like messages" in out
    assert 'could also be text ("text"): --from says which' in out
    assert 'ignored: "text" in 1 row\n' in out


def test_what_a_table_cannot_hold_is_not_laid_to_the_format(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    rows.write_text(json.dumps({"messages": turns, "id": 7}) + "\n")
    words = ["--to", "messages"]
    code, _, err = run(["convert", "rows.jsonl", "out.csv", *words], capsys)
    assert (code, "[E865]: a table cannot hold all of it" in err) == (2, True), err
    assert "next: write --lossy to lose it, or name OUT .jsonl or .parquet" in err
    assert "choose another format" not in err
    assert run(["convert", "rows.jsonl", "out.jsonl", *words], capsys)[0] == 0
    rows.write_text('{"prompt": "Q", "completion": "A", "label": false, "id": 7}\n')
    code, _, err = run(["convert", "rows.jsonl", "out.tsv.gz", *words], capsys)
    assert (code, "format messages cannot hold all of it" in err) == (2, True), err
    assert "keep format kto: no other holds all of it" in err
    rows.write_text('{"prompt": "Q", "chosen": "A", "rejected": "B"}\n')
    code, _, err = run(["convert", "rows.jsonl", "out.csv", "--to", "alpaca"], capsys)
    assert "next: write --lossy to lose it\n" in err


def test_the_line_for_a_recipe_is_yaml_whatever_the_file_is_called(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    for name in ("a, b # {c}.jsonl", "12", "null", "q: \u202e.jsonl", "plain.jsonl"):
        for key in ("null", "the turns", "messages"):
            Path(name).write_text(json.dumps({key: turns}) + "\n")
            _, out, _ = run(["inspect", name], capsys)
            (line,) = [each for each in out.splitlines() if "in a recipe: " in each]
            read = yaml.safe_load(line.split("in a recipe: ")[1])
            columns = {} if key == "messages" else {"columns": {"messages": key}}
            assert read == {"path": name, "format": "messages", **columns}
    assert "{path: plain.jsonl, format: messages}" in out


def test_what_is_no_file_of_rows_is_one_problem(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in (LFS, b"<html>\n<p>\n", b"Once upon\na time.\n" * 20):
        rows.write_bytes(content)
        code, out, _ = run(["inspect", "rows.jsonl"], capsys)
        said = out.split("problems:\n")[1].splitlines()
        assert (code, [line.startswith("    ") for line in said].count(True)) == (1, 1), out
        assert "--bad" not in out
        _, _, err = run(["convert", "rows.jsonl", "o.jsonl", "--to", "text"], capsys)
        assert err.count("(E3") == 1
    rows.write_bytes(b'Once upon\n{"text": "T"}\n')  # one line of another kind
    _, out, _ = run(["inspect", "rows.jsonl"], capsys)
    assert "rows.jsonl:1: broken JSON" in out
    assert "plain text" not in out


def test_rows_under_other_keys_are_told_the_columns(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(["inspect", "rows.jsonl", "--from", "alpaca"], capsys)
    words = "next: name its columns: --column instruction=question --column output=reply"
    assert (code, words in out) == (1, True)
    named = words.split(": ")[-1].split()
    assert run(["inspect", "rows.jsonl", "--from", "alpaca", *named], capsys)[0] == 0
    _, out, _ = run(["inspect", "rows.jsonl", "--from", "preference"], capsys)
    assert "name its columns" not in out


def test_a_row_of_many_turns_is_cut(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each text is cut already; there may be thousands of them."""
    roles = ("user", "assistant")
    turns = [{"role": roles[n % 2], "content": f"turn {n}."} for n in range(3000)]
    rows.write_text(json.dumps({"messages": turns}) + "\n")
    _, out, _ = run(["inspect", "rows.jsonl", "--rows", "1"], capsys)
    assert "  assistant: ⟦turn 39.⟧\n  … (2960 turns more: they are in the file)\n" in out
    assert "turn 40." not in out
    parts = [("abc", n % 2 == 1) for n in range(100)]
    text = marked(parts, color=True)
    assert text.count("\x1b[32m") == text.count("\x1b[0m") == 20
    assert text.endswith("\x1b[0m… (180 characters more: --format json shows them)")
    assert "more" not in marked(parts[:40], color=False)


@pytest.mark.parametrize("names", [["a\x1b[31mb"], ["a\x1b[31mb", "\x9b1mc", "d\u202ee"]])
def test_no_error_prints_a_command_of_the_terminal(
    names: list[str], rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the one that ends the command nor those before it."""
    code, out, err = run(["inspect", *(f"{name}.jsonl" for name in names)], capsys)
    assert (code, err.count("error[E862]: cannot read ")) == (2, len(names))
    assert "a\\x1b[31mb.jsonl" in err
    assert all(line.isprintable() for line in (out + err).split("\n"))


# --- files as other programs write them

ROW = '{"instruction": "Q", "output": "é"}'
SAID = '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]'
COLUMNS = 'orient="records", lines=True'


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("a.jsonl", '{"instruction": ["a", "b"], "output": ["c", "d"]}', COLUMNS),
        ("a.json", '{"instruction": {"0": "a"}, "output": {"0": "c"}}', COLUMNS),
        ("a.jsonl", f"{ROW}\r{ROW}\r", "tr '\\r' '\\n' < a.jsonl > NEW.jsonl"),
        ("a.jsonl", f"{ROW}\n{ROW}\n".encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8 a.jsonl"),
        ("a.jsonl", f"{ROW}\n{ROW}\n".encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8 a.jsonl"),
        ("a.csv", "prompt;answer\né;b\n".encode("cp1252"), "-t UTF-8 a.csv > NEW; its cells look"),
        ("a.jsonl", json.dumps({"messages": SAID}), "jq -c '.[\"messages\"] |= fromjson' a.jsonl"),
    ],
)
def test_a_file_of_another_kind_gets_a_next_step(
    name: str, content: str | bytes, hint: str, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (rows.parent / name).write_bytes(data)
    code, out, err = run(["inspect", name], capsys)
    assert (code != 0, hint in out + err) == (True, True), out + err


@pytest.mark.parametrize(
    ("content", "no_hint"),
    [
        (f"{ROW[:-1]}, x}}\r\n{ROW[:-1]}, x}}\r\n", "tr '"),
        ('{"instruction": ["a"], "output": "c"}', COLUMNS),
        ('{"instruction": ["a"], "output": ["b", "c"]}', COLUMNS),
        ('{"x": "[1, 2]"}', "fromjson"),
    ],
)
def test_no_step_is_named_that_does_not_fit(
    content: str, no_hint: str, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write_bytes(content.encode())
    code, out, err = run(["inspect", "rows.jsonl"], capsys)
    assert (code != 0, no_hint in out + err) == (True, False), out + err


def test_a_pair_whose_question_is_called_otherwise_is_converted(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"system": "S", "question": "Q", "chosen": "A", "rejected": "B"}
    rows.write_text(json.dumps(row) + "\n")
    code, out, _ = run(["convert", "rows.jsonl", "-", "--to", "preference"], capsys)
    (made,) = out.splitlines()
    assert (code, json.loads(made)["prompt"][1]["content"]) == (0, "Q")
    code, out, err = run(["inspect", "rows.jsonl", "--from", "preference"], capsys)
    assert (code, "--column prompt=question" in out + err) == (1, True)
