"""Rows of preferences to tokens by the real script, with a tokenizer that knows only bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from runner.rows.prepared import prepared_lines
from tests.script_runs import PREPARING, ScriptRun, run_script
from tests.training_runs import chat

Prepare = Callable[..., ScriptRun]
PAIRS = [{"prompt": f"Q{n}", "chosen": f"good {n}", "rejected": f"bad {n % 3}"} for n in range(8)]


@pytest.fixture
def prepare(
    environment_python: Callable[[str], Path], tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Prepare:
    def run(rows: list[Any], format_name: str = "preference", **changed: Any) -> ScriptRun:
        place = tmp_path_factory.mktemp("prepare")
        (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        described = {"name": "rows.jsonl", "format": format_name, "input": "train-0"}
        return run_script(
            environment_python("data"),
            "prepare_preferences",
            PREPARING | {"train": [described]} | changed,
            {"model": tiny, "train-0": place / "rows.jsonl"},
            place / "run",
            HF_HUB_OFFLINE="1",
        )

    return run


def rows_of(folder: Path, name: str = "train") -> list[tuple[list[int], list[int], int]]:
    """Ids, mask and whether it is preferred, of every row of a tokens file."""
    tensors = load_file(folder / f"{name}.tokens.safetensors")
    ids, mask, offsets = (tensors[key] for key in ("input_ids", "labels_mask", "offsets"))
    return [
        (ids[begin:end].tolist(), mask[begin:end].tolist(), good)
        for (begin, end), good in zip(
            pairwise(offsets.tolist()), tensors["preferred"].tolist(), strict=True
        )
    ]


def as_prepared(*turns: tuple[str, str], good: int) -> tuple[list[int], list[int], int]:
    """What a conversation must become: up to the end of its last answer, which alone is trained."""
    ids, mask = chat(*turns)
    end = len(mask) - mask[::-1].index(1)
    _, before = chat(*turns[:-1])
    return ids[:end], [0] * len(before) + mask[len(before) : end], good


def test_a_pair_is_two_rows_with_one_prompt(prepare: Prepare) -> None:
    first = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    asked = [*first, {"role": "user", "content": "Why?"}]
    row = {"prompt": asked, "chosen": "So.", "rejected": "No idea."}
    result = prepare([row, {"prompt": "Q", "chosen": "a", "rejected": "b"}])
    turns = (("user", "Hi"), ("assistant", "Hello."), ("user", "Why?"))
    assert rows_of(result.folder) == [
        as_prepared(*turns, ("assistant", "So."), good=1),
        as_prepared(*turns, ("assistant", "No idea."), good=0),
        as_prepared(("user", "Q"), ("assistant", "a"), good=1),
        as_prepared(("user", "Q"), ("assistant", "b"), good=0),
    ]
    assert result.measures["train"]["rows"] == 2
    assert result.measures["train"]["answers"] == {
        "chosen": {"count": 2, "mean_tokens": 3.0},
        "rejected": {"count": 2, "mean_tokens": 5.5},
    }


def test_a_judged_answer_is_a_row_with_its_label(prepare: Prepare) -> None:
    rows = [{"prompt": "Q", "completion": c, "label": c == "yes"} for c in ("yes", "no")]
    result = prepare(rows, "kto")
    assert rows_of(result.folder) == [
        as_prepared(("user", "Q"), ("assistant", "yes"), good=1),
        as_prepared(("user", "Q"), ("assistant", "no"), good=0),
    ]


def test_a_system_prompt_stands_before_both_sides(prepare: Prepare) -> None:
    result = prepare(PAIRS[:1], system="Be brief.")
    turns = (("system", "Be brief."), ("user", "Q0"))
    assert rows_of(result.folder) == [
        as_prepared(*turns, ("assistant", "good 0"), good=1),
        as_prepared(*turns, ("assistant", "bad 0"), good=0),
    ]


def test_rows_of_one_prompt_are_held_out_together(prepare: Prepare) -> None:
    rows = [{**row, "rejected": f"bad {n}"} for row in PAIRS for n in range(3)]
    result = prepare(rows, fraction=0.3)
    train, held = rows_of(result.folder), rows_of(result.folder, "validation")
    assert len(train) + len(held) == 2 * len(rows)
    assert len(held) % 6 == 0
    assert held
    assert result.measures["rows_in_both"] == 0
    prompts = {tuple(ids[: mask.index(1)]) for ids, mask, _ in held}
    assert not prompts & {tuple(ids[: mask.index(1)]) for ids, mask, _ in train}
    # the good answers are what perplexity is measured by, and every prompt is asked once
    text = (result.folder / "validation.jsonl").read_text()
    assert "good" in text
    assert "bad" not in text
    lines = (result.folder / "prompts.jsonl").read_text().strip("\n").split("\n")
    asked = [json.loads(line) for line in lines]
    assert sum(prompt["kind"] == "validation" for prompt in asked) == len(prompts)


def test_the_bytes_depend_on_the_rows_alone(prepare: Prepare) -> None:
    one, two = prepare(PAIRS, fraction=0.2), prepare(PAIRS, fraction=0.2)
    files = sorted(path.name for path in one.folder.iterdir())
    assert len(files) == 6
    for name in files:
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes(), name


def test_every_bad_row_is_told_with_its_line(prepare: Prepare) -> None:
    bad = [
        {"prompt": "Q", "chosen": "a", "rejected": "a"},
        PAIRS[0],
        {"prompt": "Q", "chosen": "a"},
        {"chosen": "a", "rejected": "b"},
    ]
    error = prepare(bad).error
    assert error["code"] == "E333"
    assert error["message"].split("\n") == [
        "rows.jsonl:1: chosen and rejected are the same (E333)",
        'rows.jsonl:3: "rejected" is missing (E334)',
        'rows.jsonl:4: "prompt" is missing: "chosen" is a text without a question (E335)',
    ]


def test_labels_that_are_all_the_same_are_refused(prepare: Prepare) -> None:
    rows = [{"prompt": f"Q{n}", "completion": "a", "label": True} for n in range(3)]
    error = prepare(rows, "kto").error
    assert error["code"] == "E336"
    assert "all rows to train on have the label true" in error["message"]


def test_labels_that_are_all_the_same_because_the_others_are_held_out(prepare: Prepare) -> None:
    rows = [{"prompt": f"Q{n}", "completion": "a", "label": n == 0} for n in range(12)]
    held_out = prepare(rows, "kto", fraction=0.95).error
    assert held_out["code"] == "E336"
    assert "the rows of the other kind are all held out" in held_out["message"]
    assert "data.validation.fraction" in held_out["hint"]
    all_bad = prepare([row | {"label": False} for row in rows], "kto").error
    assert all_bad["hint"] == "add good answers, which have the label true"


def test_pairs_that_are_preferred_both_ways_are_told(prepare: Prepare) -> None:
    other = [
        {"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]}
        for row in PAIRS[3:5]
    ]
    measures = prepare([*PAIRS, *other]).measures
    assert measures["both_ways"] == {"count": 2, "first": ["rows.jsonl:4", "rows.jsonl:9"]}
    said = "\n".join(prepared_lines(measures))
    assert "warning: 2 pairs of answers are preferred both ways" in said
    assert "both_ways" not in prepare(PAIRS).measures


def test_long_pairs_are_told_cut_or_left_out(prepare: Prepare) -> None:
    long = {"prompt": "Q", "chosen": "x" * 100 + "a", "rejected": "x" * 100 + "b"}
    error = prepare([long, PAIRS[0]], max_length=60).error
    assert (error["code"], "rows.jsonl:1: the row has" in error["message"]) == ("E325", True)
    assert prepare([long, PAIRS[0]], max_length=60, too_long="drop").measures["train"][
        "dropped"
    ] == {"too long": 1}
    cut = {**long, "rejected": "y" * 100}
    result = prepare([long, cut], max_length=60, too_long="truncate")
    # what is left of the first pair's sides is the same
    assert result.measures["train"]["dropped"] == {"the same within max_length": 1}
    assert result.measures["train"]["truncated"] == 1
    assert [len(ids) for ids, _, _ in rows_of(result.folder)] == [60, 60]
