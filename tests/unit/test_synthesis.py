"""`recipe data synthesize`: what it makes of the answers of a server that speaks both protocols."""

from __future__ import annotations

import json
import re
import threading

import pytest

from runner.asking.http import Address, post
from runner.cli.main import main
from runner.rows.survey import survey
from runner.scripts.data.files.rows import read_rows
from runner.synthesis.kinds import KINDS
from tests.model_server import Answer, Asked, ModelServer, made_up
from tests.synthesis_bench import (
    KEY,
    Bench,
    logged,
)
from tests.synthesis_bench import bench as bench  # a fixture

# --- every kind


@pytest.mark.parametrize("protocol", ["ollama", "api"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_gives_rows_that_are_read_as_a_format(
    kind: str, protocol: str, bench: Bench
) -> None:
    endpoint = {"endpoint": "{ollama: m}"} if protocol == "ollama" else {}
    bench.write(kind, "system: Be brief.", **endpoint)
    assert bench.report()["rows"] == len(bench.rows()) == 20
    found = survey(bench.folder / "rows.jsonl", "rows.jsonl", 0)
    format_name = "preference" if kind == "preference" else "messages"
    assert (found.format, found.rows, found.unfit) == (format_name, 20, 0)
    assert found.turns["system"] == (40 if kind == "preference" else 20)
    for row in bench.rows():
        place = row["synthesis"]["from"]
        assert re.fullmatch(r"(seeds\.jsonl|text\.md):\d+", place)
        assert row["synthesis"]["requests"]
    path = "/api/chat" if protocol == "ollama" else "/v1/chat/completions"
    assert {asked.path for asked in bench.server.asked} == {path}
    asks_for_json = [asked.schema is not None for asked in bench.server.asked]
    assert all(asks_for_json) or kind == "preference"
    assert any(asks_for_json)


def test_what_is_sent_is_what_the_protocols_say(bench: Bench) -> None:
    sampling = "sampling: {temperature: 0, max_tokens: 77}"
    bench.write(more=sampling, count=1)
    bench.report()
    (asked,) = bench.server.asked
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert (asked.body["model"], asked.body["max_tokens"]) == ("m", 77)
    assert asked.body["response_format"]["json_schema"]["strict"] is True
    bench.write(more=sampling, count=1, endpoint="{ollama: n, structured: false, num_ctx: 99}")
    bench.server.behave = lambda asked: Answer(said='{"question": "Q", "answer": "A"}')
    bench.report()
    body = bench.server.asked[-1].body
    assert (body["model"], body["stream"], "format" in body) == ("n", False, False)
    options = body["options"]
    assert (options["temperature"], options["num_predict"]) == (0.0, 77)
    assert (body["truncate"], options["num_ctx"]) == (False, 99)
    assert "Authorization" not in bench.server.asked[-1].headers


def test_examples_come_from_the_seeds_and_from_rows_of_earlier_waves(bench: Bench) -> None:
    bench.write(count=20)
    bench.report()
    first = bench.rows()[0]["messages"][0]["content"]
    questions = [re.findall("Question: (.*)", asked.prompt) for asked in bench.server.asked]
    assert {len(each) for each in questions} == {3, 5}  # with two rows of its own from task 16 on
    made = {row["messages"][0]["content"] for row in bench.rows()[:16]}
    assert all(set(each[3:]) <= made for each in questions)
    assert first in made


def test_a_strong_model_against_a_weak_one(bench: Bench) -> None:
    bench.write("preference", f"weak: {{api: '{bench.server.url}/v1', model: weak}}", count=3)
    bench.server.behave = lambda asked: Answer(said=f"{asked.body['model']} {made_up(asked.seed)}")
    bench.report()
    for row in bench.rows():
        assert (row["chosen"][:2], row["rejected"][:5]) == ("m ", "weak ")


def test_pairs_come_of_prompts_without_answers(bench: Bench) -> None:
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "What is LoRA?"}]
    prompts = [{"prompt": turns}, {"prompt": "What is GGUF?", "answer": "A format."}]
    (bench.folder / "prompts.jsonl").write_text("".join(f"{json.dumps(p)}\n" for p in prompts))
    pair = {"prompt": "What is GGML?", "chosen": "A library.", "rejected": "A radio."}
    (bench.folder / "pairs.jsonl").write_text(json.dumps(pair))
    path = bench.write("preference", count=3)
    others = (
        "rows: [{path: prompts.jsonl, format: prompt}, {path: pairs.jsonl, format: preference}]"
    )
    path.write_text(path.read_text().replace("rows: [{path: seeds.jsonl, format: alpaca}]", others))
    assert bench.report()["rows"] == 3
    assert {row["prompt"]: row["synthesis"]["from"] for row in bench.rows()} == {
        "What is LoRA?": "prompts.jsonl:1",
        "What is GGUF?": "prompts.jsonl:2",
        "What is GGML?": "pairs.jsonl:1",
    }


def test_pairs_come_of_documents(bench: Bench) -> None:
    path = bench.write("preference", count=8)
    start = path.read_text().replace("rows: [{path: seeds.jsonl, format: alpaca}]\n", "")
    path.write_text(f"{start}documents: [text.md]\nchunk: 300\nrounds: 2\n")
    found = bench.report()
    assert found["rows"] == 8
    text = (bench.folder / "text.md").read_text()
    for row in bench.rows():
        assert row["synthesis"]["from"].startswith("text.md:")
        assert len(row["synthesis"]["requests"]) == 1 + 4 + 1  # question, candidates, judge
        asked = [each.prompt for each in bench.server.asked if row["prompt"] in each.prompt]
        assert len(asked) == 5
        for prompt in asked:  # who answers and who judges sees the text; the row does not show it
            assert prompt.split("---")[1].strip() in text
    assert len({row["prompt"] for row in bench.rows()}) == 8


def test_the_judge_decides_and_sees_answers_in_an_order_of_chance(bench: Bench) -> None:
    def behave(asked: Asked) -> Answer | None:
        if "best" not in asked.prompt:
            return Answer(said=f"number {asked.seed} is {'good' if asked.seed % 2 else 'bad'}")
        shown = dict(re.findall(r"Answer (\w):\nnumber \d+ is (\w+)", asked.prompt))
        names = {said: name for name, said in shown.items()}
        if len(names) < 2:
            return Answer(said=json.dumps({"best": "A", "worst": "A"}))
        return Answer(said=json.dumps({"best": names["good"], "worst": names["bad"]}))

    bench.server.behave = behave
    bench.write("preference", f"judge: {{api: '{bench.server.url}/v1', model: j}}")
    report = bench.report()
    rows = bench.rows()
    assert rows
    assert all(row["chosen"].endswith("good") for row in rows)
    assert all(row["rejected"].endswith("bad") for row in rows)
    judged = [asked for asked in bench.server.asked if asked.body["model"] == "j"]
    assert len(judged) >= len(rows)
    for reason in report["refused"]:
        assert "the judge names one answer best and worst" in reason
    orders = set()
    for asked in judged:
        numbers = [int(n) for n in re.findall(r"number (\d+) is", asked.prompt)]
        orders.add(tuple(sorted(range(len(numbers)), key=numbers.__getitem__)))
    assert len(orders) > 3


# --- filters, counts, budget


def test_rows_that_are_known_short_or_long_are_refused_with_examples(bench: Bench) -> None:
    seed = json.loads((bench.folder / "seeds.jsonl").read_text().splitlines()[0])
    asks = [
        seed["instruction"].upper() + "?",  # as a seed
        f"{seed['instruction']} indeed",  # nearly
        "x " * 300,
        "one two three four",
    ]

    def behave(asked: Asked) -> Answer | None:
        if asked.number < 4:
            answer = "short" if asked.number == 3 else "a" * 20
            return Answer(said=json.dumps({"question": asks[asked.number], "answer": answer}))
        return None

    bench.server.behave = behave
    bench.write(more="filters: {min_characters: 10, max_characters: 500}", concurrency=1)
    report = bench.report()
    assert report["refused"] == {"duplicate": 1, "near duplicate": 1, "too long": 1, "too short": 1}
    assert report["rows"] == 20
    assert report["examples"]["duplicate"][0]["text"].startswith("of seeds.jsonl:1: ")
    assert re.match(r"0\.\d\d of seeds.jsonl:1: ", report["examples"]["near duplicate"][0]["text"])


def test_a_model_that_repeats_itself_ends_with_what_there_is(bench: Bench) -> None:
    bench.server.says = lambda schema, prompt, seed: json.dumps(
        {"question": f"Is it {made_up((seed % 3, 'asked'))}?", "answer": "Yes, it is."}
    )
    bench.write()
    code, out, err = bench.run()
    assert code == 0, err
    assert len(bench.rows()) == 3
    assert "warning[W900]: 3 of 20 rows: the last 50 tasks gave no row" in err
    assert "duplicate" in out


def test_sources_that_are_used_up_are_said(bench: Bench) -> None:
    bench.write("paraphrase", count=10_000)
    assert len(bench.server.asked) == 0
    code, _, err = bench.run()
    assert (code, "W900" in err) == (0, True)
    assert "at most 270 rows can come of 30 seed rows with variants: 9" in err
    assert "every row or part of a document is used" in err
    assert len(bench.server.asked) == 30 * 9
    report = bench.report("--offline")
    assert report["rows"] < report["wanted"] == 10_000
    assert report["ended"] == "used up"


@pytest.mark.parametrize("concurrency", [1, 6])
def test_the_budget_ends_it_with_what_there_is(concurrency: int, bench: Bench) -> None:
    bench.write("critique", "budget: {requests: 33}", concurrency=concurrency)
    code, _, err = bench.run()
    assert (code, "the budget is reached" in err, "s.yaml:3:8: warning[W900]" in err) == (
        0,
        True,
        True,
    )
    assert len(bench.server.asked) == logged(bench) == 33
    rows = (bench.folder / "rows.jsonl").read_bytes()
    assert 1 <= len(bench.rows()) <= 33 // 4
    for words in ([], ["--offline"]):
        assert bench.run(*words)[0] == 0
        assert (bench.folder / "rows.jsonl").read_bytes() == rows
    assert len(bench.server.asked) == 33  # not one more, however often it is run
    bench.write("critique", "budget: {requests: 80}", concurrency=concurrency)
    assert bench.report()["rows"] == 20
    assert len(bench.server.asked) == 80


def test_a_budget_of_tokens_leaves_room_for_the_longest_answer(bench: Bench) -> None:
    more = "budget: {tokens: 700}\nsampling: {max_tokens: 300}"
    bench.write(more=more, concurrency=8)
    report = bench.report()
    assert report["ended"] == "budget"
    spent = report["tokens"]["prompts"] + report["tokens"]["answers"]
    assert 0 < spent <= 700
    assert report["tokens"]["new"] == spent
    assert len(bench.server.asked) < report["rows"] + 8  # behind the first refused task: nothing
    sent, rows = len(bench.server.asked), (bench.folder / "rows.jsonl").read_bytes()
    for words in ([], ["--offline"]):
        assert bench.report(*words)["ended"] == "budget"
        assert (bench.folder / "rows.jsonl").read_bytes() == rows
    assert len(bench.server.asked) == sent


def test_a_budget_that_is_too_small_for_one_row_is_said(bench: Bench) -> None:
    bench.write(more="budget: {tokens: 50}")
    code, _, err = bench.run()
    assert (code, "no row came out: the budget is reached" in err) == (1, True)
    assert bench.server.asked == []


def test_diversity_is_what_it_says(bench: Bench) -> None:
    bench.server.says = lambda schema, prompt, seed: json.dumps(
        {"question": f"{seed} same words", "answer": "ok"}
    )
    bench.write(count=4)
    found = bench.report()["diversity"]
    assert found["distinct_1"] == round(6 / 12, 4)  # four numbers and two words, of twelve
    assert found["distinct_3"] == 1.0
    assert found["mean_overlap"] == 0.0


# --- the output


def test_a_file_that_somebody_else_made_is_not_replaced(bench: Bench) -> None:
    bench.write()
    (bench.folder / "rows.jsonl").write_text("mine\n")
    code, _, err = bench.run()
    assert (code, "[E900]" in err, (bench.folder / "rows.jsonl").read_text()) == (2, True, "mine\n")
    assert bench.run("--force")[0] == 0
    assert len(bench.rows()) == 20


@pytest.mark.parametrize("out", ["rows.json", "rows", "rows.requests.jsonl"])
def test_another_ending_is_refused(out: str, bench: Bench) -> None:
    bench.write()
    code, _, err = bench.run(out=out)
    assert (code, "[E900]" in err, bench.server.asked) == (2, True, [])
    assert main(["data", "synthesize", "s.yaml"]) == 2


def test_every_request_and_answer_can_be_reviewed(bench: Bench) -> None:
    bench.write("question-answer", count=5)
    bench.report()
    log = {entry["request"]: entry for entry in map(json.loads, bench.log.read_text().splitlines())}
    for item in read_rows(bench.folder / "rows.jsonl", "rows.jsonl"):
        assert isinstance(item, tuple)
        row = item[1]
        (digest,) = row["synthesis"]["requests"]
        assert row["messages"][-1]["content"] in log[digest]["answer"]
        asked = log[digest]["asked"]
        assert asked["to"] == f"{bench.server.url}/v1"
        assert asked["body"] in [each.body for each in bench.server.asked]


def test_the_server_stands_in_for_real_ones_in_threads() -> None:
    """The tests' own server answers several at once, or the tests of concurrency say nothing."""
    with ModelServer(seconds=0.2) as server:
        body = {"messages": [{"role": "user", "content": "x"}], "seed": 1}
        threads = [
            threading.Thread(target=post, args=(Address(server.url), "/v1/x", body, 5.0))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert server.most_at_once == 3
