"""Splits and mixes of several files by the real scripts, down to the bytes that they write."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from runner.rows.prepared import prepared_lines
from tests.script_runs import PREPARING, ScriptRun, run_script

Rows = Sequence[Mapping[str, Any]]
Prepare = Callable[..., ScriptRun]


@pytest.fixture
def prepare(
    environment_python: Callable[[str], Path], tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Prepare:
    """Prepare files {name: (rows or bytes, settings of the file)}; `held` are data.validation's."""
    python = environment_python("data")

    def run(
        files: Mapping[str, tuple[Rows | bytes, dict[str, Any]]],
        held: Mapping[str, tuple[Rows | bytes, dict[str, Any]]] | None = None,
        script: str = "prepare",
        **changed: Any,
    ) -> ScriptRun:
        place = tmp_path_factory.mktemp("mix")
        inputs, described = {"model": tiny}, {}
        for kind, group in (("train", files), ("validation", held or {})):
            described[kind] = []
            for number, (name, (rows, settings)) in enumerate(group.items()):
                inputs[f"{kind}-{number}"] = place / f"{kind}-{name}"
                inputs[f"{kind}-{number}"].write_bytes(as_bytes(rows))
                item = {"name": name, "format": "alpaca", "input": f"{kind}-{number}"}
                described[kind].append(item | settings)
        return run_script(python, script, PREPARING | described | changed, inputs, place / "run")

    return run


def as_bytes(rows: Rows | bytes) -> bytes:
    if isinstance(rows, bytes):
        return rows
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def quiz(name: str, count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"instruction": f"{name} {n}?", "output": f"{n}", **more} for n in range(count)]


def written(run: ScriptRun) -> dict[str, bytes]:
    assert run.returncode == 0, run.log
    return {path.name: path.read_bytes() for path in sorted(run.folder.iterdir())}


def rows_in(run: ScriptRun, name: str = "train") -> int:
    return len(load_file(run.folder / f"{name}.tokens.safetensors")["offsets"]) - 1


def test_neither_the_order_of_rows_nor_of_equal_weights_changes_a_byte(prepare: Prepare) -> None:
    many, few, equal = quiz("m", 30), quiz("f", 6), {"weight": 1.0, "limit": 20}
    first = prepare({"m.jsonl": (many, equal), "f.jsonl": (few, equal)}, fraction=0.2, packing=True)
    random.Random(3).shuffle(many)
    other = {"f.jsonl": (few[::-1], equal), "m.jsonl": (many, equal)}
    second = prepare(other, fraction=0.2, packing=True)
    assert written(first) == written(second)
    told = {source["file"]: source for source in first.measures["sources"]}
    assert told["m.jsonl"]["read"] == 30
    assert told["m.jsonl"]["taken"] == 20
    assert told["m.jsonl"]["trained"] == told["f.jsonl"]["trained"] > 6
    assert told["m.jsonl"]["share"] == 0.5
    train = first.measures["train"]
    assert train["rows"] == sum(source["trained"] for source in told.values())
    assert train["tokens"]["total"] == sum(source["tokens"] for source in told.values())
    assert train["packs_padding"] == pytest.approx(1 - train["packs_filled"])
    mean = train["documents_a_pack"]["mean"]
    assert mean == pytest.approx(train["rows"] / train["packs"], abs=0.01)
    shown = "\n".join(prepared_lines(first.measures))
    held_out = told["m.jsonl"]["held_out"]
    assert f"m.jsonl: 20 of 30 rows, {held_out} held out, trained on as" in shown
    assert f"on average {mean:g}" in shown


def test_a_repeat_that_takes_no_row_is_named(prepare: Prepare) -> None:
    run = prepare({"q.jsonl": (quiz("q", 3), {"repeat": 1e-6})}, fraction=0)
    assert run.error["code"] == "E329"
    assert run.error["message"].endswith("repeat in data.train takes no row of any file")
    assert run.error["hint"].startswith("raise repeat")


def test_rows_that_are_added_move_no_other_of_a_stable_split(prepare: Prepare) -> None:
    rows = quiz("q", 40)
    stable = {"fraction": 0.3, "split": {"stable": True}}
    before = written(prepare({"q.jsonl": (rows, {})}, **stable))["validation.jsonl"].splitlines()
    after = written(prepare({"q.jsonl": (quiz("new", 40) + rows, {})}, **stable))
    lines = after["validation.jsonl"].splitlines()
    assert [line for line in lines if b"new" not in line] == before
    assert any(b"new" in line for line in lines)


def test_groups_and_strata_are_read_of_every_kind_of_file(prepare: Prepare) -> None:
    """A table whose question is the column to stratify by, and lines with numbers for groups."""
    table = b"topic,output,id\n" + b"".join(b"T%d,%d,%d\n" % (n % 2, n, n // 4) for n in range(24))
    renamed = {"columns": {"instruction": "topic"}}
    lines = [row | {"id": n % 6, "topic": "T3"} for n, row in enumerate(quiz("j", 24))]
    grouped = {"fraction": 0.25, "split": {"group_by": "id", "on_leak": "error"}}
    run = prepare({"t.csv": (table, renamed), "j.jsonl": (lines, {})}, **grouped)
    assert run.error["code"] == "E360"  # two questions tie all groups together
    run = prepare({"j.jsonl": (lines, {})}, **grouped)
    held = [
        json.loads(line)["messages"][0]["content"]
        for line in written(run)["validation.jsonl"].splitlines()
    ]
    groups = {int(question[2:-1]) % 6 for question in held}
    assert len(held) == 4 * len(groups) == 8
    by_topic = {"fraction": 0.25, "split": {"stratify": "topic"}}
    run = prepare({"t.csv": (table, renamed), "j.jsonl": (lines, {})}, **by_topic)
    told = {source["file"]: source["held_out"] for source in run.measures["sources"]}
    assert told == {"t.csv": 0, "j.jsonl": 6}  # a topic with one question is not parted


def test_a_row_without_the_column_is_named_by_its_line(prepare: Prepare) -> None:
    rows = [*quiz("q", 3, id="a"), *quiz("r", 2)]
    run = prepare({"q.jsonl": (rows, {})}, fraction=0.5, split={"group_by": "id"})
    assert run.error["code"] == "E361"
    assert run.error["message"].startswith('q.jsonl:4: the column "id" is missing')


def test_a_leak_between_files_is_an_error_with_both_places_or_dropped(prepare: Prepare) -> None:
    train = {"q.jsonl": (quiz("q", 6), {})}
    held = {"h.jsonl": ([{"instruction": "Q  3?", "output": "3"}, *quiz("h", 2)], {})}
    run = prepare(train, held, split={"on_leak": "error"})
    assert run.error["code"] == "E362"
    assert run.error["message"] == "q.jsonl:4: the row is held out too, at h.jsonl:1"
    run = prepare(train, held, split={"on_leak": "drop"})
    assert (rows_in(run), rows_in(run, "validation")) == (5, 3)
    shown = "\n".join(prepared_lines(run.measures))
    assert "left out of training, row held out: 1 row, such as" in shown
    run = prepare(train, held, near=True)
    assert rows_in(run) == 6
    (told,) = (line for line in prepared_lines(run.measures) if line.startswith("warning: "))
    assert told.startswith("warning: 1 of 3 held-out rows are trained on too, but for case and")
    assert "(the first: h.jsonl:1 and q.jsonl:4)" in told


def test_pairs_are_mixed_and_split_by_their_prompts(prepare: Prepare) -> None:
    pair = {"format": "preference"}
    pairs = [
        {"prompt": f"Q{n}", "chosen": "yes", "rejected": f"no {m}"} for n in range(12) for m in "ab"
    ]
    files = {"p.jsonl": (pairs, pair | {"repeat": 2.0})}
    split = {"stable": True, "on_leak": "error"}
    run = prepare(files, script="prepare_preferences", fraction=0.3, split=split)
    (source,) = run.measures["sources"]
    assert source["held_out"] % 2 == 0
    assert source["trained"] == 2 * (24 - source["held_out"]) == run.measures["train"]["rows"]
    files = {"p.jsonl": (random.Random(1).sample(pairs, 24), pair | {"repeat": 2.0})}
    again = prepare(files, script="prepare_preferences", fraction=0.3, split=split)
    assert written(run) == written(again)


def text_of(run: ScriptRun, model: Path) -> str:
    """All that is trained on, as text: the tiny model's tokens are bytes."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"] | {
        each["content"]: each["id"] for each in tokenizer["added_tokens"]
    }
    spelled = {number: token for token, number in vocabulary.items()}
    ids = load_file(run.folder / "train.tokens.safetensors")["input_ids"].tolist()
    return "".join(spelled[each] for each in ids).replace("Ġ", " ").replace("Ċ", "\n")


def test_system_turns_vary_in_training_alone(prepare: Prepare, tiny: Path) -> None:
    rows = quiz("q", 60)
    several = {"system": "one", "system_variants": ["two", "three"]}
    files = {"q.jsonl": (rows, {})}
    run = prepare(files, fraction=0.3, split={"stable": True}, **several)
    text = text_of(run, tiny)
    assert {text.count(f"system\n{each}") > 5 for each in ("one", "two", "three")} == {True}
    held = [json.loads(line) for line in written(run)["validation.jsonl"].splitlines()]
    assert {row["messages"][0]["content"] for row in held} == {"one"}
    added = prepare(
        {"q.jsonl": (quiz("new", 9) + rows, {})}, fraction=0.3, split={"stable": True}, **several
    )
    turns = set(text.split("<|im_start|>system"))
    assert turns <= set(text_of(added, tiny).split("<|im_start|>system"))


def test_the_recipes_system_turn_may_take_the_place_of_all(prepare: Prepare) -> None:
    rows = quiz("q", 9, system="Its own.")
    kept = prepare({"q.jsonl": (rows, {})}, fraction=0.3, system="The recipe's.")
    taken = prepare({"q.jsonl": (rows, {})}, fraction=0.3, system="The recipe's.", system_for="all")
    bare = prepare({"q.jsonl": (quiz("q", 9), {})}, fraction=0.3, system="The recipe's.")
    assert written(taken) == written(bare)
    assert written(taken) != written(kept)
    pairs = [
        {"prompt": f"Q{n}", "chosen": "a", "rejected": "b", "system": "Its own."} for n in range(9)
    ]
    plain = [{name: value for name, value in row.items() if name != "system"} for row in pairs]
    form = {"format": "preference"}
    changed = {"script": "prepare_preferences", "fraction": 0.3, "system": "The recipe's."}
    taken = prepare({"p.jsonl": (pairs, form)}, system_for="all", **changed)
    assert written(taken) == written(prepare({"p.jsonl": (plain, form)}, **changed))


def test_rows_are_shown_as_they_are_trained_on(
    prepare: Prepare, tiny: Path, environment_python: Callable[[str], Path], tmp_path: Path
) -> None:
    """By the script behind `recipe data inspect --recipe`."""
    rows = [*quiz("own", 6, system="Its own."), *quiz("bare", 30)]
    systems = {"system": "one", "system_variants": ["two", "three"], "system_for": "all"}
    trained = text_of(prepare({"q.jsonl": (rows, {})}, **systems), tiny)
    (tmp_path / "q.jsonl").write_bytes(as_bytes(rows))
    (tmp_path / "p.jsonl").write_text('{"prompt": "3 plus 4?", "answer": 7}\n')
    quizzes = {"name": "q.jsonl", "format": "alpaca", "input": "q"}
    described = [
        quizzes | {"held_out": False},
        quizzes | {"held_out": True},
        {"name": "p.jsonl", "format": "prompt", "input": "p", "held_out": False},
    ]
    settings = {"seed": 42, "max_length": 512, "template": None, "rows": 99, "files": described}
    settings |= {"too_long": "error", "clean": {}}
    inputs = {"model": tiny, "q": tmp_path / "q.jsonl", "p": tmp_path / "p.jsonl"}
    python = environment_python("data")
    run = run_script(python, "inspect_rows", settings | systems, inputs, tmp_path / "run")
    assert run.returncode == 0, run.log
    seen = [json.loads(line) for line in (run.folder / "rows.jsonl").read_text().splitlines()]
    texts = ["".join(part for part, _ in row["parts"]) for row in seen]
    assert len(texts) == 2 * len(rows) + 1
    assert "".join(texts[: len(rows)]) == trained
    assert "Its own." not in trained
    assert all("system\none<" in text for text in texts[len(rows) : -1])
    assert (seen[-1]["side"], seen[-1]["answer"], seen[-1]["trained"]) == ("prompt", "7", 0)
    assert texts[-1].endswith("<|im_start|>assistant\n")


def test_the_rows_of_a_mix_add_up_with_those_that_were_left_out(
    prepare: Prepare,
) -> None:
    """Held out, left out for what is measured by, and the rest, which is repeated."""
    text = "the very long question about the width of the bridge number"
    rows = [{"instruction": f"{text} {number}?", "output": str(number)} for number in range(20)]
    clean = {"decontaminate": {"ngram": 8, "validation": True}}
    other = quiz("q", 10)
    run = prepare(
        {"t.jsonl": (rows, {"repeat": 2.0}), "q.jsonl": (other, {"repeat": 3.0})},
        fraction=0.1,
        clean=clean,
        measured=[],
    )
    told = {source["file"]: source for source in run.measures["sources"]}
    gone = told["t.jsonl"]
    assert gone["held_out"] > 0
    assert gone["contaminated"] == 20 - gone["held_out"]
    assert gone["trained"] == 0
    assert "contaminated" not in told["q.jsonl"]
    shown = "\n".join(prepared_lines(run.measures))
    count = gone["contaminated"]
    assert f"held out, {count} left out by decontaminate, trained on as 0" in shown


def test_a_split_that_cannot_be_says_what_cleaning_took(prepare: Prepare) -> None:
    rows = [*quiz("q", 1) * 30, *quiz("r", 1)]
    run = prepare(
        {"q.jsonl": (rows, {})},
        fraction=0.01,
        split={"stable": True},
        clean={"exact_duplicates": True},
        measured=[],
    )
    assert run.error["code"] == "E360"
    assert "the 2 rows are of 2 prompts or groups" in run.error["message"]
    assert "data.clean dropped other rows before: exact_duplicates 29" in run.error["message"]
