"""`recipe compare --judge`: verdicts by a fake server, what is counted, and what goes wrong."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.judge.result import judges_itself
from runner.scripts.evaluation.examples import FILE, SHOWN, Example, content_id
from tests.evaluated_runs import relist, write_evaluated_run
from tests.html_page import Loaded
from tests.model_server import Answer, Asked, ModelServer

Says = Callable[[str, str], str]  # of the answers that are shown as A and as B


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


def answered(count: int, base: str = "bad {}", tuned: str = "good {}") -> list[Example]:
    """Questions with an answer of each side; `{}` is the number."""
    return [
        Example(
            "question",
            content_id(["judged", number]),
            {"prompt": f"Question {number}?"},
            {"base": {"answer": base.format(number)}, "tuned": {"answer": tuned.format(number)}},
        )
        for number in range(count)
    ]


def judge_file(folder: Path, server: ModelServer, more: str = "") -> Path:
    path = folder / "judge.yaml"
    path.write_text(
        f"judge: 1\nendpoint: {{api: '{server.url}/v1', model: fake}}\n"
        f"requests: {{attempts: 2, retries: 0}}\n{more}\n"
    )
    return path


def judging(says: Says, reason: str = "so it is") -> Callable[[Any, str, int], str]:
    """What the fake model says, by the two answers in the prompt."""

    def said(schema: Any, prompt: str, seed: int) -> str:
        shown = re.search(r"Answer of A:\n(.*)\n\nAnswer of B:\n(.*)\n\nAn answer", prompt, re.S)
        assert shown, "the prompt shows both answers"
        return json.dumps({"reason": reason, "verdict": says(shown[1], shown[2])})

    return said


def likes_good(first: str, second: str) -> str:
    goods = ["good" in first, "good" in second]
    return "tie" if goods[0] == goods[1] else "AB"[goods[1]]


def always_a(first: str, second: str) -> str:
    return "A"


def longer(first: str, second: str) -> str:
    return "AB"[len(second) > len(first)]


def compared(
    capsys: pytest.CaptureFixture[str], run: Path | Sequence[Path], *words: str, rc: int = 0
) -> dict[str, Any]:
    runs = [run] if isinstance(run, Path) else run
    assert main(["compare", *map(str, runs), *words, "--format", "json"]) == rc
    out = capsys.readouterr().out
    return dict(json.loads(out)) if rc == 0 else {}


def judged_once(data: dict[str, Any]) -> dict[str, Any]:
    [found] = data["judge"]["comparisons"]
    return dict(found)


def test_each_prompt_is_judged_in_both_orders_and_the_better_model_wins(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_evaluated_run(tmp_path / "sft", "sft", answered(30))
    server.says = judging(likes_good)
    found = judged_once(compared(capsys, run, "--judge", str(judge_file(tmp_path, server))))
    assert (found["wins"], found["losses"], found["contradictions"]) == (30, 0, 0)
    assert (found["win_rate"]["value"], found["verdict"]) == (1.0, "better")
    assert found["position"]["value"] == 0.5
    assert len(server.asked) == 60
    shown_first = [asked.prompt.index("bad") < asked.prompt.index("good") for asked in server.asked]
    assert sum(shown_first) == 30, "each answer is shown first once"


@pytest.mark.parametrize(
    ("judge", "itself"), [("small", True), ("small:latest", True), ("small:7b", False)]
)
def test_a_judge_of_its_own_answers_is_said(judge: str, itself: bool) -> None:
    found = judges_itself(judge, ["team/other", "small"])
    assert [note["code"] for note in found] == ["W923"] * itself


def test_a_judge_who_was_not_asked_is_not_counted(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_evaluated_run(tmp_path / "sft", "sft", answered(3, "alike", "alike"))
    assert main(["compare", str(run), "--judge", str(judge_file(tmp_path, server))]) == 0
    assert "judge: not asked, since no two answers differ" in capsys.readouterr().err


def test_exchanged_models_are_judged_by_the_same_log_and_mirrored(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_evaluated_run(tmp_path / "one", "one", answered(5, tuned="{} good"))
    other = write_evaluated_run(tmp_path / "other", "other", answered(5, tuned="{} meh"))
    server.says = judging(likes_good)
    judge = str(judge_file(tmp_path, server))
    there = compared(capsys, (one, other), "--judge", judge)["judge"]["comparisons"][-1]
    asked = len(server.asked)
    back = compared(capsys, (other, one), "--judge", judge)["judge"]["comparisons"][-1]
    assert len(server.asked) == asked, "nothing is asked, or paid for, twice"
    assert (there["second"], back["second"]) == ("other", "one")
    assert there["losses"] == back["wins"] == 5
    assert there["win_rate"]["value"] == 1 - back["win_rate"]["value"]


def test_the_log_alone_gives_the_same_result(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_evaluated_run(tmp_path / "sft", "sft", answered(6))
    server.says = judging(likes_good)
    judge = judge_file(tmp_path, server)
    first = compared(capsys, run, "--judge", str(judge))
    server.behave = lambda asked: Answer(status=500)
    assert compared(capsys, run, "--judge", str(judge), "--offline") == first
    assert compared(capsys, run, "--judge", str(judge)) == first
    assert len(server.asked) == 12
    log = tmp_path / "judge.requests.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    assert main(["compare", str(run), "--judge", str(judge), "--offline"]) == 4
    assert "error[E909]" in capsys.readouterr().err


def test_a_judge_led_by_the_order_is_found_out(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_evaluated_run(tmp_path / "sft", "sft", answered(6))
    server.says = judging(always_a)
    data = compared(capsys, run, "--judge", str(judge_file(tmp_path, server)))
    found = judged_once(data)
    assert (found["contradictions"], found["wins"], found["losses"]) == (6, 0, 0)
    assert (found["position"]["value"], found["win_rate"]["value"]) == (1.0, 0.5)
    assert found["verdict"] == "too few prompts: 6"
    assert [note["code"] for note in data["notes"]] == ["W924"]
    assert "6 of 6" in data["notes"][0]["message"]


def test_a_judge_led_by_length_is_reported(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = [
        *answered(4, tuned="good and long {}"),
        *answered(8, base="bad but much longer {}")[4:],
    ]
    run = write_evaluated_run(tmp_path / "sft", "sft", mixed)
    server.says = judging(longer)
    found = judged_once(compared(capsys, run, "--judge", str(judge_file(tmp_path, server))))
    assert (found["length"]["longer_won"]["value"], found["win_rate"]["value"]) == (1.0, 0.5)
    assert found["length"]["characters"] == {"first": (5 + 21) / 2, "second": (15 + 6) / 2}


def test_ties_equal_answers_and_half_verdicts_are_told_apart(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    same = answered(5, base="alike {}", tuned="alike {} ")
    examples = [*same, *answered(9, tuned="meh {}")[5:], *answered(12)[9:]]
    run = write_evaluated_run(tmp_path / "sft", "sft", examples)

    def says(first: str, second: str) -> str:
        return "B" if "good" in second else "tie"  # for the second place it knows no mercy

    server.says = judging(says)
    found = judged_once(compared(capsys, run, "--judge", str(judge_file(tmp_path, server))))
    assert (found["same"], found["ties"], found["half"]) == (5, 4, 3)
    assert (found["in_common"], found["asked"]) == (12, 7)
    assert len(server.asked) == 14, "the same answer twice is judged by nobody"
    assert found["win_rate"]["value"] == 0.5
    assert found["verdict"] == "too few prompts: 12"


def test_nonsense_is_asked_anew_counted_and_left_out(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_evaluated_run(tmp_path / "sft", "sft", answered(8))
    sane = judging(likes_good)

    def says(schema: Any, prompt: str, seed: int) -> str:
        if "Question 3?" in prompt:
            return "I like both!"
        if "Question 4?" in prompt:
            return '{"reason": "", "verdict": "the second"}'
        return sane(schema, prompt, seed)

    server.says = says
    data = compared(capsys, run, "--judge", str(judge_file(tmp_path, server)))
    found = judged_once(data)
    assert (found["wins"], found["without"], found["win_rate"]["count"]) == (6, 2, 6)
    assert found["unusable"] == {"a verdict that is none of A, B and tie": 2, "no JSON": 2}
    assert len(server.asked) == 6 * 2 + 2 * 2 * 2
    assert [note["code"] for note in data["notes"]] == ["W925"]


def test_a_judge_that_says_nothing_usable_is_an_error_with_its_words_in_the_log(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_evaluated_run(tmp_path / "sft", "sft", answered(3))
    server.says = lambda schema, prompt, seed: "\x1b[31mno"
    assert main(["compare", str(run), "--judge", str(judge_file(tmp_path, server))]) == 1
    err = capsys.readouterr().err
    assert "error[E914]" in err
    assert "no JSON (6)" in err
    assert "\x1b" not in err
    assert len((tmp_path / "judge.requests.jsonl").read_text().splitlines()) == 12


def test_a_judge_that_goes_away_loses_nothing(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_evaluated_run(tmp_path / "sft", "sft", answered(5))
    server.says = judging(likes_good)
    server.behave = lambda asked: Answer(status=500) if asked.number >= 7 else None
    judge = judge_file(tmp_path, server, "")
    assert main(["compare", str(run), "--judge", str(judge)]) == 1
    assert "error[E905]" in capsys.readouterr().err
    kept = len((tmp_path / "judge.requests.jsonl").read_text().splitlines())
    assert kept == 7
    before = len(server.asked)
    server.behave = lambda asked: None
    found = judged_once(compared(capsys, run, "--judge", str(judge)))
    assert found["wins"] == 5
    assert len(server.asked) - before == 10 - kept


def test_nobody_there_is_said_with_what_to_do(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_evaluated_run(tmp_path / "sft", "sft", answered(2))
    path = tmp_path / "judge.yaml"
    path.write_text("judge: 1\nendpoint: {api: 'http://127.0.0.1:9/v1', model: gone}\n")
    assert main(["compare", str(run), "--judge", str(path)]) == 4
    assert "error[E901]" in capsys.readouterr().err


def test_the_budget_ends_the_judging_and_what_was_judged_is_reported(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_evaluated_run(tmp_path / "sft", "sft", answered(10))
    server.says = judging(likes_good)
    judge = judge_file(tmp_path, server, "budget: {requests: 9}")
    data = compared(capsys, run, "--judge", str(judge))
    found = judged_once(data)
    assert len(server.asked) == 9
    assert found["wins"] + found["without"] == 10
    assert found["wins"] == 4
    assert set(found["unusable"]) == {"the budget is reached"}
    assert [note["code"] for note in data["notes"]] == ["W925"]


def test_a_limit_draws_the_same_prompts_of_every_pair_of_models(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        write_evaluated_run(tmp_path / name, name, answered(6, tuned=f"good {name} {{}}"))
        for name in ("one", "other")
    ]
    server.says = judging(likes_good)
    judge = judge_file(tmp_path, server, "limit: 2")
    found = compared(capsys, runs, "--judge", str(judge))["judge"]["comparisons"]
    assert [(each["in_common"], each["drawn"]) for each in found] == [(6, 2)] * 3
    asked = {re.findall(r"Question \d+\?", each.prompt)[0] for each in server.asked}
    assert len(asked) == 2


def test_a_long_prompt_is_judged_whole_and_with_its_instructions(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = "Why? " * 200
    row = {"question": whole, "base": "bad", "tuned": "good"}
    shown = {"prompt": whole[: SHOWN - 1] + "…"}
    results = {side: {"answer": row[side]} for side in ("base", "tuned")}
    run = write_evaluated_run(
        tmp_path / "sft", "sft", [Example("sample", content_id("long"), shown, results)]
    )
    (run / "evaluation" / "answers.jsonl").write_text(json.dumps(row) + "\n")
    relist(run, "answers.jsonl")
    server.says = judging(likes_good)
    compared(capsys, run, "--judge", str(judge_file(tmp_path, server)))
    assert whole in server.asked[0].prompt
    assert FILE not in server.asked[0].prompt


def test_text_and_page_tell_the_result_and_nothing_of_a_model_becomes_markup(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = "good <script>\x1b[2J{}</script>"
    run = write_evaluated_run(tmp_path / "sft", "sft", answered(4, tuned=tuned))
    server.says = judging(likes_good, reason="<img src=x>")
    judge = judge_file(tmp_path, server)
    out = tmp_path / "out"
    assert main(["compare", str(run), "--judge", str(judge), "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert "Judged by fake" in text
    assert "win rate of sft" in text
    assert "\x1b" not in text
    page = (out / "compare.html").read_text()
    assert "Judged by fake" in page
    assert "<script" not in page
    assert "<img" not in page
    loaded = Loaded()
    loaded.feed(page)
    assert (loaded.loads, loaded.runs) == ([], [])
    assert json.loads((out / "compare.json").read_text())["judge"]["judge"] == "fake"


def test_an_interrupt_waits_for_what_is_under_way_and_nothing_is_asked_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_evaluated_run(tmp_path / "sft", "sft", answered(6))
    fourth = threading.Event()
    with ModelServer() as server:
        server.says = judging(likes_good)

        def behave(asked: Asked) -> None:
            if asked.number == 3:
                fourth.set()

        server.behave = behave
        from runner.judge import judging as module

        really = module.in_order

        def interrupted(*words: Any) -> Iterator[Any]:
            for number, each in enumerate(really(*words)):
                yield each
                if number == 1:
                    fourth.wait(60)
                    raise KeyboardInterrupt

        judge = judge_file(tmp_path, server)
        with monkeypatch.context() as patch:
            patch.setattr(module, "in_order", interrupted)
            assert main(["compare", str(run), "--judge", str(judge)]) == 130
        capsys.readouterr()
        assert judged_once(compared(capsys, run, "--judge", str(judge)))["wins"] == 6
        assert len({(each.prompt, each.seed) for each in server.asked}) == len(server.asked) == 12


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("name: x\n", "E916", "a judge's file is wanted"),
        ("judge: 1\n", "E103", 'lacks the key "endpoint"'),
        ("judge: 1\nendpoint: {ollama: x}\nlimt: 3\n", "E102", 'did you mean "limit"?'),
        ("judge: 1\nendpoint: {ollama: x}\nmodel: y\n", "E102", "known keys: judge, endpoint"),
        (
            "judge: 1\nendpoint: {api: 'http://127.0.0.1:99999/v1', model: x}\n",
            "E916",
            "not the address of a server",
        ),
        (
            "judge: 1\nendpoint: {api: 'http://h/v1', model: x, key: sk-secret}\n",
            "E107",
            "must be the NAME of an environment variable",
        ),
    ],
)
def test_a_wrong_file_is_said_with_its_place(
    text: str, code: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "judge.yaml"
    path.write_text(text)
    assert main(["compare", str(tmp_path), "--judge", str(path)]) == 2
    err = capsys.readouterr().err
    message = next(line for line in err.splitlines() if f"error[{code}]" in line)
    assert message.startswith(f"{path}:") or "judge.yaml:" in message
    assert words in err
    assert "sk-secret" not in err


def test_nothing_to_judge_and_offline_without_a_judge_are_refused(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_evaluated_run(tmp_path / "sft", "sft", [])
    assert main(["compare", str(run), "--judge", str(judge_file(tmp_path, server))]) == 2
    assert "error[E913]" in capsys.readouterr().err
    assert main(["compare", str(run), "--offline"]) == 2
    assert "error[E915]" in capsys.readouterr().err
    assert not server.asked


def test_answers_of_other_lengths_are_not_judged(
    tmp_path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_evaluated_run(tmp_path / "one", "one", answered(3))
    other = write_evaluated_run(tmp_path / "other", "other", answered(3), max_new_tokens=32)
    server.says = judging(likes_good)
    data = compared(capsys, (one, other), "--judge", str(judge_file(tmp_path, server)))
    last = data["judge"]["comparisons"][-1]
    assert (last["drawn"], last["verdict"]) == (0, "answers of at most 64 and 32 tokens")
