"""`recipe data synthesize` and servers that fail, models that answer nonsense, kills and damage.

Nothing is paid for twice, and the same file and log give the same bytes.
"""

from __future__ import annotations

import email.utils
import errno
import functools
import html
import http.client
import itertools
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from runner.asking import wave
from runner.asking.http import Address, _no_answer, seconds_to_wait
from runner.asking.log import Log
from runner.asking.masking import without_key_in_answer, without_key_in_words
from runner.errors import MachineCannot
from runner.synthesis.kinds import KINDS
from tests.model_server import Answer, Asked, Behaviour, made_up
from tests.synthesis_bench import (
    KEY,
    Bench,
    holds_at_least,
    logged,
    start,
    wait_until,
)
from tests.synthesis_bench import bench as bench  # a fixture

# --- the same file and log, the same bytes; nothing paid for twice


@pytest.mark.parametrize("kind", KINDS)
def test_concurrency_changes_neither_bytes_nor_requests(kind: str, bench: Bench) -> None:
    made = []
    for concurrency in (1, 8):
        bench.server.asked.clear()
        bench.write(kind, concurrency=concurrency)
        bench.run(out=f"rows-{concurrency}.jsonl")
        asked = sorted(json.dumps(each.body) for each in bench.server.asked)
        made.append(((bench.folder / f"rows-{concurrency}.jsonl").read_bytes(), asked))
    assert made[0] == made[1]


def test_requests_are_under_way_at_once_and_no_more_than_allowed(bench: Bench) -> None:
    bench.server.seconds = 0.2
    bench.write(concurrency=4)
    bench.report()
    assert bench.server.most_at_once == 4


def test_the_log_alone_gives_the_same_bytes_though_the_model_would_not(bench: Bench) -> None:
    bench.write("question-answer")
    bench.report()
    before = (bench.folder / "rows.jsonl").read_bytes()
    log = bench.log.read_bytes()
    (bench.folder / "rows.jsonl").unlink()
    asked = len(bench.server.asked)
    bench.server.says = lambda schema, prompt, seed: "{}"
    os.environ.pop("TEST_KEY")  # no key is needed for what was answered
    for words in ([], ["--offline"]):
        report = bench.report(*words)
        assert report["requests"] == {"from_log": asked, "new": 0, "failed_tries": 0}
        assert (bench.folder / "rows.jsonl").read_bytes() == before
    assert (len(bench.server.asked), bench.log.read_bytes()) == (asked, log)


def test_offline_names_what_is_missing_and_writes_nothing(bench: Bench) -> None:
    bench.write()
    code, _, err = bench.run("--offline")
    assert (code, "error[E909]" in err) == (4, True)
    assert sorted(path.name for path in bench.folder.glob("rows*")) == []


def test_more_rows_later_ask_for_the_rest_alone(bench: Bench) -> None:
    bench.write("paraphrase", count=10)
    bench.report()
    before = (bench.folder / "rows.jsonl").read_text()
    bench.write("paraphrase", count=25)
    report = bench.report()
    assert (report["requests"]["from_log"], report["requests"]["new"]) == (10, 15)
    assert (bench.folder / "rows.jsonl").read_text().startswith(before)


def test_a_killed_run_pays_for_nothing_twice_and_ends_with_the_same_bytes(bench: Bench) -> None:
    bench.write("critique", concurrency=3)
    bench.run()
    expected = (bench.folder / "rows.jsonl").read_bytes()
    requests = {json.dumps(asked.body, sort_keys=True) for asked in bench.server.asked}
    for path in bench.folder.glob("rows*"):
        path.unlink()
    bench.server.asked.clear()
    bench.server.seconds = 0.02
    for kills in range(1, 4):
        process = start(bench)
        wait_until(functools.partial(holds_at_least, bench, 12 * kills))
        process.kill()
        process.communicate()
        assert not (bench.folder / "rows.jsonl").exists()
    assert bench.run()[0] == 0
    assert (bench.folder / "rows.jsonl").read_bytes() == expected
    asked = [json.dumps(each.body, sort_keys=True) for each in bench.server.asked]
    assert set(asked) == requests
    assert len(asked) <= len(requests) + 3 * 3  # what was under way at each of three kills


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_waits_for_what_is_under_way_and_keeps_it(
    number: int, code: int, bench: Bench
) -> None:
    bench.server.seconds = 0.3
    bench.write(concurrency=3, count=60)
    process = start(bench)
    wait_until(lambda: len(bench.server.asked) >= 5)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "waiting for what is under way" in err
    assert "failed" not in err
    assert logged(bench) == len(bench.server.asked) < 60
    bench.server.seconds = 0.0
    sent = len(bench.server.asked)
    report = bench.report()
    assert (report["rows"], report["requests"]["from_log"]) == (60, sent)
    assert len(bench.server.asked) == 60


def test_a_second_interrupt_does_not_wait(bench: Bench) -> None:
    bench.server.seconds = 600
    bench.write()
    process = start(bench)
    wait_until(lambda: len(bench.server.asked) >= 2)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "waiting" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_two_at_once_on_one_output_do_not_mix(bench: Bench) -> None:
    bench.server.seconds = 0.2
    bench.write()
    process = start(bench)
    wait_until(lambda: len(bench.server.asked) >= 1)
    code, _, err = bench.run()
    assert (code, "[E600]" in err) == (6, True)
    process.communicate(timeout=60)
    assert (process.returncode, len(bench.rows())) == (0, 20)


# --- the log


def test_half_a_line_is_cut_off_and_asked_for_again(bench: Bench) -> None:
    bench.write()
    bench.report()
    rows, log = (bench.folder / "rows.jsonl").read_bytes(), bench.log.read_bytes()
    last = log.rstrip(b"\n").rfind(b"\n") + 1
    torn = [log[:end] for end in (last + 1, last + 20, len(log) - 1)]
    for content in (*torn, log[:last] + bytes(4096)):  # zeros are what a power loss leaves
        bench.log.write_bytes(content)
        report = bench.report()
        assert (report["requests"]["from_log"], report["requests"]["new"]) == (19, 1)
        assert (bench.folder / "rows.jsonl").read_bytes() == rows
        assert bench.log.read_bytes().count(b"\n") == 20
    bench.log.write_bytes(torn[-1])
    assert bench.run("--offline")[0] == 4
    assert bench.log.read_bytes() == torn[-1]  # it changes no log


@pytest.mark.parametrize(
    "change",
    [
        lambda log: log.replace(b"amber", b"AMBER", 1),
        lambda log: b'{"a": 1}\n' + log,
        lambda log: b"my notes",
        lambda log: log.replace(b'"model": "m"', b'"model": "n"', 1),
    ],
)
def test_a_log_that_was_changed_is_refused_and_left_alone(
    change: Callable[[bytes], bytes], bench: Bench
) -> None:
    bench.write()
    bench.report()
    changed = change(bench.log.read_bytes())
    assert changed != bench.log.read_bytes()
    bench.log.write_bytes(changed)
    code, _, err = bench.run()
    assert (code, "[E907]" in err, re.search(r"requests\.jsonl:\d+: ", err) is not None) == (
        1,
        True,
        True,
    )
    assert bench.log.read_bytes() == changed


def test_a_full_disk_loses_no_answer_and_is_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = os.pwrite
    left = [6000]

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = data[: left[0]]  # a write may be short before it fails
        left[0] -= len(part)
        return written(descriptor, part, offset)

    bench.write(concurrency=1)
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", pwrite)
        code, _, err = bench.run()
    assert (code, "[E410]" in err) == (4, True)
    kept = logged(bench)
    assert bench.log.read_bytes().endswith(b"\n")
    assert 0 < kept == len(bench.server.asked) - 1
    report = bench.report()
    assert (report["rows"], report["requests"]["from_log"]) == (20, kept)


def test_nothing_is_asked_where_the_answer_would_find_no_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(bench.folder)
    fields = [*real]
    fields[4] = 1  # f_bavail
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(fields))
    bench.write()
    code, _, err = bench.run()
    assert (code, "[E410]" in err, bench.server.asked) == (4, True, [])


@pytest.mark.parametrize("out", ["rows.jsonl", "new/deep/rows.jsonl"])
def test_what_fails_before_anything_was_answered_leaves_nothing(bench: Bench, out: str) -> None:
    bench.write()
    os.environ.pop("TEST_KEY")
    before = sorted(bench.folder.iterdir())
    code, _, err = bench.run(out=out)
    assert (code != 0, bench.server.asked) == (True, []), err
    assert sorted(each for each in bench.folder.iterdir() if each.name != "cache") == before


@pytest.mark.parametrize("more", [[], ["--force"]])
def test_a_folder_is_refused_before_anything_is_paid_for(bench: Bench, more: list[str]) -> None:
    bench.write()
    (bench.folder / "rows.jsonl").mkdir()
    code, _, err = bench.run(*more)
    assert (code, bench.server.asked) == (2, [])
    assert "error[E900]: rows.jsonl is a folder, not a file" in err


def test_what_was_there_before_stays_when_a_synthesis_fails(bench: Bench) -> None:
    bench.write()
    os.environ.pop("TEST_KEY")
    (bench.folder / "mine").mkdir()
    bench.log.touch()
    code, _, _ = bench.run()
    assert (code != 0, bench.log.exists()) == (True, True)
    assert bench.run(out="mine/rows.jsonl")[0] != 0
    assert list((bench.folder / "mine").iterdir()) == []


def test_a_log_that_cannot_be_opened_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def full(path: Path, flags: int, *rest: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", full)
    path = tmp_path / "new" / "deep" / "rows.requests.jsonl"
    with pytest.raises(MachineCannot, match="no space left"), Log(path, read_only=False):
        pass
    assert list(tmp_path.iterdir()) == []


# --- servers that fail


def fails(times: int, answer: Answer) -> Behaviour:
    """The first `times` requests get `answer`."""
    return lambda asked: answer if asked.number < times else None


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500, "oops"),
        Answer(503, '{"error": "loading"}', {"Retry-After": "0"}),
        Answer(429, '{"error": {"message": "slow down"}}'),
        Answer(200, "<html>captive portal</html>"),
        Answer(200, '{"choices": []}'),
        Answer(200, '{"choices": [{"message": {"content": 3}}]}'),
        Answer(200, "[" * 5000),
        Answer(cut=True),
    ],
    ids=["500", "503", "429", "html", "no choice", "no text", "deep", "cut"],
)
def test_a_failure_that_passes_is_tried_again_and_changes_nothing(
    answer: Answer, bench: Bench
) -> None:
    bench.write(concurrency=1)
    bench.report()
    expected = (bench.folder / "rows.jsonl").read_bytes()
    bench.log.unlink()
    bench.server.asked.clear()
    bench.server.behave = fails(3, answer)
    report = bench.report("--force")
    assert report["requests"] == {"from_log": 0, "new": 20, "failed_tries": 3}
    assert (bench.folder / "rows.jsonl").read_bytes() == expected


@pytest.mark.parametrize(
    ("answer", "code", "exit_code", "tries", "words"),
    [
        (Answer(401, f'{{"error": "bad key {KEY}"}}'), "E902", 4, 1, "bad key ***"),
        (Answer(403, "no"), "E902", 4, 1, "check the key in TEST_KEY"),
        (Answer(404, '{"error": "no model m"}'), "E903", 4, 1, "no model m"),
        (Answer(429, "slow"), "E904", 1, 4, "too many requests"),
        (Answer(429, "slow", {"Retry-After": "86400"}), "E904", 1, 1, "too many requests"),
        (Answer(500, f"\x1b[31m{KEY}"), "E905", 1, 4, "\\x1b[31m***"),
        (Answer(200, f"nonsense {KEY}"), "E905", 1, 4, "no answer of a model: nonsense ***"),
        (Answer(400, '{"error": "response_format"}'), "E906", 1, 1, "response_format"),
        (
            Answer(302, "", {"Location": f"http://127.0.0.1:9/{KEY}"}),
            "E906",
            1,
            1,
            "HTTP 302: to http://127.0.0.1:9/***",
        ),
        (Answer(301, "{}"), "E906", 1, 1, "write the final address in endpoint.api, without its /"),
    ],
)
def test_a_failure_that_stays_ends_it_and_keeps_what_was_answered(
    answer: Answer, code: str, exit_code: int, tries: int, words: str, bench: Bench
) -> None:
    bench.write(concurrency=1)
    bench.server.behave = lambda asked: answer if asked.number >= 5 else None
    found, _, err = bench.run()
    assert (found, f"error[{code}]" in err, words in err) == (exit_code, True, True), err
    assert KEY not in err
    assert len(bench.server.asked) == 5 + tries
    assert (logged(bench), (bench.folder / "rows.jsonl").exists()) == (5, False)
    bench.server.behave = lambda asked: None
    assert bench.report()["requests"]["from_log"] == 5


def test_an_api_that_is_not_there_is_said_at_once(bench: Bench) -> None:
    bench.write(endpoint="{api: 'http://127.0.0.1:9/v1', model: m}", requests="{backoff: 60}")
    code, _, err = bench.run()
    assert (code, "error[E901]: nobody answers: m at http://127.0.0.1:9/v1" in err) == (4, True)


def test_an_ollama_that_is_not_there_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.system import ollama

    bench.write(endpoint="{ollama: m}")
    monkeypatch.delenv("OLLAMA_HOST")
    monkeypatch.setattr(ollama, "USUAL_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(ollama, "find_program", lambda: None)
    code, _, err = bench.run()
    assert (code, "error[E901]: no Ollama runs" in err) == (4, True)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    code, _, err = bench.run()
    assert (code, "error[E440]" in err) == (4, True)


@pytest.mark.parametrize("other", ["judge", "weak"])
def test_a_model_that_is_missing_is_said_before_anything_is_asked(other: str, bench: Bench) -> None:
    bench.server.models = ["m:latest"]
    bench.write("preference", f"{other}: {{ollama: 'absent:7b'}}", endpoint="{ollama: m}")
    code, _, err = bench.run()
    assert (
        code,
        f"error[E903]: no such model: the Ollama at {bench.server.url} has no" in err,
    ) == (
        4,
        True,
    )
    assert f"after: OLLAMA_HOST={bench.server.url} ollama pull absent:7b\n" in err
    assert bench.server.asked == []
    bench.server.models.append("absent:7b")
    assert bench.report()["rows"] == 20


def test_a_server_that_dies_in_the_middle_is_tried_again_and_then_said(bench: Bench) -> None:
    bench.write(concurrency=1)

    def die(asked: Asked) -> Answer | None:
        if asked.number == 4:
            bench.server._server.socket.close()  # nobody listens from now on
            return Answer(cut=True)
        return None

    bench.server.behave = die
    code, _, err = bench.run()
    assert (code, "[E901]" in err, "4 tries" in err) == (4, True, True), err
    assert logged(bench) == 4


@pytest.mark.parametrize("key", [None, "", "two words", "line\nbreak", "clé"])
def test_a_key_that_is_missing_or_none_is_said_before_anything_is_sent(
    key: str | None, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write()
    monkeypatch.delenv("TEST_KEY")
    if key is not None:
        monkeypatch.setenv("TEST_KEY", key)
    code, _, err = bench.run()
    assert (code, "[E902]" in err, "TEST_KEY" in err) == (4, True, True)
    assert not key or key not in err
    assert bench.server.asked == []


def test_the_key_is_in_no_file_and_no_output(bench: Bench) -> None:
    bench.write(concurrency=1)
    bench.server.says = lambda schema, prompt, seed: json.dumps(
        {"question": f"{made_up(seed)} {KEY}", "answer": made_up(-seed)}
    )
    bench.server.behave = fails(2, Answer(429, f'{{"error": "{KEY} is busy"}}'))
    _, out, err = bench.run()
    assert KEY in bench.server.asked[-1].headers["Authorization"]
    files = [path for path in bench.folder.rglob("*") if path.is_file()]
    assert len(files) >= 5
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in out + err


def forms_of(key: str) -> list[str]:
    """A key as a server may repeat it."""
    return [
        key,
        key.upper(),
        quote(key, safe=""),
        html.escape(key),
        key.replace("/", r"\/"),
        "".join(f"%{ord(each):02X}" for each in key),
        "".join(f"\\u{ord(each):04x}" for each in key),
        "".join(f"&#{ord(each)};" for each in key),
    ]


@pytest.mark.parametrize("key", ["sekret123", "ab", "k" * 44, "a/b+c=&d", 'A-b.c"d~e'])
def test_no_message_shows_a_key_however_short_or_escaped(key: str) -> None:
    for form in forms_of(key):
        assert without_key_in_words(f"it is <{form}>", key) == "it is <***>"


@pytest.mark.parametrize("key", ["sekret123", "ab", "k" * 44])
def test_a_refusal_that_repeats_the_key_is_shown_without_it(
    key: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", key)
    bench.write(concurrency=1)
    bench.server.behave = lambda asked: Answer(
        401, json.dumps({"error": f"not good: {asked.headers['Authorization']}, {key}"})
    )
    code, _, err = bench.run()
    assert (code, "HTTP 401: not good: Bearer ***, ***\n" in err) == (4, True), err


def test_what_a_server_makes_of_the_key_behind_bearer_is_not_shown(bench: Bench) -> None:
    bench.write(concurrency=1)
    for said in ("Bearer plant…see", "bearer nonsense", "Bearer%20plant"):
        bench.server.behave = lambda asked, said=said: Answer(401, f"refused: {said} at 3")
        assert re.search(r"refused: Bearer(%20| )\*\*\* at 3", bench.run()[2], re.IGNORECASE)
    bench.server.behave = lambda asked: Answer(401, "a Bearer token is wanted")
    assert "a Bearer token is wanted" in bench.run()[2]


def test_a_status_line_that_repeats_the_key_is_not_shown() -> None:
    error = http.client.BadStatusLine("HTTP/9 ab sekret123")
    assert "sekret123" not in _no_answer(Address("http://x", "sekret123"), error).words


@pytest.mark.parametrize(
    ("key", "said", "kept"),
    [
        ("sekret123", r"is sekret123, sek\u0072et123, SEKRET123", "is ***, ***, ***"),
        ("a/b+c=&d", r"is a\/b+c=&d, a%2Fb%2Bc%3D%26d, a%2fb+c=&amp;d", "is ***, ***, ***"),
        ("ab", "cabs; Bearer ab, Bearer abc", "cabs; Bearer ***, Bearer abc"),
        (None, "Bearer abc", "Bearer abc"),
    ],
)
def test_an_answer_loses_the_key_and_no_other_word(key: str | None, said: str, kept: str) -> None:
    assert without_key_in_answer(said, key) == kept


@pytest.mark.parametrize("part", ["\\", "%25", "&#0", "Bearer ", "a", "&#x", "\\u0"])
def test_what_a_hostile_server_repeats_is_looked_through_in_one_pass(part: str) -> None:
    """Some of it took hours by a pattern that tries everything."""
    said = part * 200_000
    assert without_key_in_answer(said, "aaaaaaab") == said
    assert "***" not in without_key_in_words(said, "aaaaaaab").replace("Bearer ***", "")


def test_a_stand_in_for_a_key_is_no_secret(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local servers want any word: answers that hold it are kept as they are."""
    monkeypatch.setenv("TEST_KEY", "amber")
    bench.write(count=40)
    bench.report()
    assert "amber" in (bench.folder / "rows.jsonl").read_text()
    assert "***" not in bench.log.read_text()


def test_retry_after_holds_every_request_back(bench: Bench) -> None:
    times: list[float] = []

    def behave(asked: Asked) -> Answer | None:
        times.append(time.monotonic())
        return Answer(429, "", {"Retry-After": "1"}) if asked.number == 4 else None

    bench.server.behave = behave
    bench.write(concurrency=3)
    bench.report()
    pauses = [after - before for before, after in itertools.pairwise(times)]
    longest = pauses.index(max(pauses))
    assert longest >= 4
    assert len(times) - longest > 5  # and not the one alone that is asked again
    assert len(times) == 21


def test_retry_after_is_seconds_or_a_date() -> None:
    now = 1_800_000_000.0
    date = email.utils.formatdate(now + 90, usegmt=True)
    said = [seconds_to_wait(each, now) for each in (None, "7", date, "soon", "")]
    assert said == [None, 7.0, 90.0, None, None]
    assert seconds_to_wait(email.utils.formatdate(now - 90, usegmt=True), now) == 0.0


def test_the_rate_limit_spaces_requests(bench: Bench) -> None:
    times: list[float] = []
    bench.server.behave = lambda asked: times.append(time.monotonic())
    bench.write(requests="{per_minute: 600, concurrency: 8}", count=6)
    began = time.monotonic()
    bench.report()
    assert times[-1] - began >= 0.5  # six requests, a tenth of a second apart


# --- models that answer nonsense


def test_nonsense_is_asked_anew_with_another_seed_in_bounds_and_listed(bench: Bench) -> None:
    def behave(asked: Asked) -> Answer | None:
        return Answer(said="I cannot \x1b[31mdo that") if asked.seed % 2 else None

    bench.server.behave = behave
    bench.write(count=20)
    report = bench.report()
    assert report["rows"] == 20
    nonsense = report["asked_anew"]["no JSON"]
    lost = report["refused"].get("no usable answer: no JSON", 0)
    odd = sum(asked.seed % 2 for asked in bench.server.asked)
    assert (nonsense + lost, nonsense > 5) == (odd, True), "the last of three is not asked anew"
    assert len(bench.server.asked) == 20 + nonsense + lost
    assert nonsense >= 2 * lost
    assert report["examples"]["no JSON"][0]["text"] == "I cannot \x1b[31mdo that"
    before = (bench.folder / "rows.jsonl").read_bytes()
    _, out, _ = bench.run("--offline")
    assert f"asked anew: {nonsense} no JSON" in out
    assert '"I cannot \\x1b[31mdo that"' in out
    assert "\x1b" not in out
    assert (bench.folder / "rows.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(said="{}"), "JSON of another shape"),
        (Answer(said='{"question": 1, "answer": "a"}'), "JSON of another shape"),
        (Answer(said='{"question": " ", "answer": "a"}'), "an empty answer"),
        (Answer(said='{"question": "\\ud800", "answer": "a"}'), "half of a surrogate pair"),
        (Answer(said="  "), "an empty answer"),
        (Answer(said='{"question": "wh', ended="length"), "cut off at max_tokens"),
        (Answer(said="x", ended="content_filter"), "refused by the server"),
        (Answer(said="[" * 100_000), "no JSON"),
    ],
)
def test_a_model_that_only_answers_nonsense_ends_it(
    answer: Answer, reason: str, bench: Bench
) -> None:
    bench.write()
    bench.server.behave = lambda asked: answer
    code, _, err = bench.run()
    assert (code, f"error[E908]: no row came out: no usable answer: {reason} (50)" in err) == (
        1,
        True,
    ), err
    assert "next: read the answers in rows.requests.jsonl" in err
    assert len(bench.server.asked) <= 3 * 66  # three times each, until fifty tasks were in vain
    assert not (bench.folder / "rows.jsonl").exists()


def test_json_between_other_words_is_taken(bench: Bench) -> None:
    def behave(asked: Asked) -> Answer:
        said = bench.server.says(asked.schema, asked.prompt, asked.seed)
        return Answer(said=f"Sure!\n```json\n{said}\n```")

    bench.server.behave = behave
    bench.write()
    assert bench.report()["asked_anew"] == {}


def test_a_server_that_is_too_slow_names_the_timeout(bench: Bench) -> None:
    bench.server.seconds = 2
    bench.write(requests="{timeout: 1, retries: 0, concurrency: 1}")
    code, _, err = bench.run()
    assert (code, "error[E905]" in err) == (1, True), err
    assert "next: raise requests.timeout (now 1 s), or" in err


def test_what_is_waited_for_is_said_with_why(bench: Bench) -> None:
    bench.write(concurrency=1)
    bench.server.behave = lambda asked: Answer(404, "no")
    assert "waiting" not in bench.run()[2], "nothing else is under way"
    told: list[str] = []

    def work(task: int) -> None:
        if task:
            raise ValueError("it failed")
        wait_until(lambda: bool(told))  # is under way until that is told

    tasks = wave.in_order(range(2), work, 2, threading.Event(), told.append)
    with pytest.raises(ValueError, match="failed"):
        list(tasks)
    assert told == [
        "a request failed, of which more is said in a moment: waiting for what is under way (1), "
        "which is kept; Ctrl-C leaves it"
    ]


# --- what is at OUT already

CORRECTED = '{"messages": [], "by": "hand"}\n'


def test_rows_that_were_corrected_are_replaced_by_no_recipe_unless_told(bench: Bench) -> None:
    out = bench.folder / "rows.jsonl"
    bench.write()
    bench.report()
    made, asked = out.read_bytes(), len(bench.server.asked)
    for corrected in (CORRECTED, made.decode() + CORRECTED, ""):
        out.write_text(corrected)
        for kind in ("self-instruct", "paraphrase"):
            bench.write(kind)
            code, _, err = bench.run()
            assert (code, "error[E900]: rows.jsonl holds other rows than" in err) == (2, True), err
            assert "--force" in err
            assert (out.read_text(), len(bench.server.asked)) == (corrected, asked)
    bench.write()
    assert bench.report("--force")["requests"]["new"] == 0
    assert out.read_bytes() == made


def test_rows_as_they_were_written_last_are_replaced(bench: Bench) -> None:
    out = bench.folder / "rows.jsonl"
    bench.write(budget="{requests: 5}")
    assert bench.report()["ended"] == "budget"
    first = out.read_bytes()
    assert (bench.folder / "rows.jsonl.sha256").read_text().split()[1] == "rows.jsonl"
    bench.write()
    assert bench.report()["rows"] == 20, "an unfinished synthesis goes on"
    assert out.read_bytes() != first
    bench.write(count=10)
    assert bench.report("--offline")["rows"] == 10
    bench.write()
    assert bench.report()["rows"] == 20


def test_rows_that_the_log_gives_are_ours_without_their_digest(bench: Bench) -> None:
    """A kill between the two, or rows of a version that wrote none."""
    digest = bench.folder / "rows.jsonl.sha256"
    bench.write()
    bench.report()
    for damage in (digest.unlink, lambda: digest.write_bytes(b"\xff\0")):
        damage()
        assert bench.report()["requests"]["new"] == 0
        assert digest.exists()
    digest.unlink()
    bench.write(count=25)
    assert bench.run()[0] == 2


@pytest.mark.parametrize("more", [[], ["--force"], ["--offline"]])
def test_a_folder_that_is_not_there_is_refused_before_anything_is_read(
    more: list[str], bench: Bench
) -> None:
    code, _, err = bench.run(*more, out="no where/rows.jsonl")  # nor is there any s.yaml
    assert (code, "error[E929]: no where/rows.jsonl: there is no folder no where" in err) == (
        2,
        True,
    ), err
    assert "mkdir -p 'no where'" in err
    assert not (bench.folder / "no where").exists()
