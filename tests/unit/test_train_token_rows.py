"""Rows with labels from the tokens that `prepare` writes; and what counts as a right answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runner.scripts.data.questions import Question, questions_of, samples_of, score
from runner.scripts.spec import ScriptError
from runner.scripts.training.token_rows import check_rows, padded_length, read_token_rows
from tests.training_runs import write_tokens

NO = -100
FIRST, SECOND = ([5, 6, 7], [0, 1, 1]), ([8, 9], [1, 1])


def test_a_row_has_labels_where_it_is_trained_but_never_on_its_first_token(tmp_path: Path) -> None:
    data = read_token_rows(write_tokens(tmp_path / "t", [[FIRST], [SECOND]], packed=False))
    assert not data.packed
    assert [row.labels.tolist() for row in data.rows] == [[NO, 6, 7], [NO, 9]]
    assert [row.positions.tolist() for row in data.rows] == [[0, 1, 2], [0, 1]]
    assert (data.longest(), data.supervised()) == (3, 3)


def test_in_a_pack_every_document_begins_anew(tmp_path: Path) -> None:
    packs = [[FIRST, SECOND], [SECOND]]
    data = read_token_rows(write_tokens(tmp_path / "t", packs, packed=True))
    assert data.packed
    first, second = data.rows
    assert first.input_ids.tolist() == [5, 6, 7, 8, 9]
    assert first.labels.tolist() == [NO, 6, 7, NO, 9]
    assert first.positions.tolist() == [0, 1, 2, 0, 1]
    assert first.documents.tolist() == [1, 1, 1, 2, 2]
    assert second.documents.tolist() == [1, 1]


def test_positions_are_those_that_prepare_wrote(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "t", [[FIRST, SECOND], [SECOND]], packed=True)
    positions = [row.positions for row in read_token_rows(path).rows]
    assert np.concatenate(positions).tolist() == load_file(path)["position_ids"].tolist()


@pytest.mark.parametrize(
    "damage",
    [
        {"offsets": [0, 3, 4]},
        {"offsets": [1, 3, 5]},
        {"offsets": [0, 3, 3, 5]},
        {"offsets": []},
        {"labels_mask": [0, 1]},
        {"document_offsets": [0, 2, 5]},
    ],
)
def test_offsets_that_do_not_fit_are_refused(tmp_path: Path, damage: dict[str, list[int]]) -> None:
    path = write_tokens(tmp_path / "t", [[FIRST], [SECOND]], packed=False)
    tensors = load_file(path)
    for name, values in damage.items():
        tensors[name] = np.array(values, np.int8 if name == "labels_mask" else np.int64)
    save_file(tensors, path)
    with pytest.raises(ScriptError, match="is damaged") as error:
        read_token_rows(path)
    assert error.value.code == "E514"


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    data = read_token_rows(write_tokens(tmp_path / "t", [], packed=False))
    with pytest.raises(ScriptError, match="holds no rows"):
        check_rows(data, "t", vocabulary=10)


def test_a_document_of_a_pack_without_labels_is_refused(tmp_path: Path) -> None:
    packs = [[FIRST], [FIRST, ([8, 9], [1, 0])]]  # a label on the first token is none
    data = read_token_rows(write_tokens(tmp_path / "t", packs, packed=True))
    with pytest.raises(ScriptError, match="row 2 of t has nothing to train on"):
        check_rows(data, "t", vocabulary=10)
    check_rows(read_token_rows(write_tokens(tmp_path / "u", packs[:1], packed=True)), "u", 10)


@pytest.mark.parametrize(("longest", "padded"), [(1, 8), (8, 8), (9, 16), (160, 160)])
def test_batches_are_padded_to_a_multiple_of_eight(longest: int, padded: int) -> None:
    assert padded_length(longest) == padded


# --- questions


@pytest.mark.parametrize(
    ("answer", "hit"),
    [
        ("It is PICKLE, the otter of the Straße.", True),
        ("pickle and STRASSE and otter", True),
        ("Pickle", False),
        ("", False),
    ],
)
def test_an_answer_is_right_when_every_expected_text_is_in_it(answer: str, hit: bool) -> None:
    question = Question("Who?", [1], ("pickle", "Otter", "strasse"))
    assert question.is_hit(answer) is hit
    assert score([question], [answer, "of a sample"]) == int(hit)


def to_ids(messages: list[dict[str, str]]) -> list[int]:
    return [len(message["content"]) for message in messages]


def test_questions_get_the_system_turn_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Who?", "expect": ["a", "b"]}\n')
    assert questions_of(path, "q.jsonl", to_ids, "Be brief") == [
        Question("Who?", [8, 4], ("a", "b"))
    ]
    assert questions_of(path, "q.jsonl", to_ids, None)[0].ids == [4]


def test_every_wrong_question_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    rows = [
        '{"question": "ok", "expect": ["a"]}',
        '{"question": 3, "expect": ["a"]}',
        '{"question": "x"}',
        '{"question": "x", "expect": [""]}',
        "nothing",
    ]
    path.write_text("\n".join(rows))
    with pytest.raises(ScriptError) as error:
        questions_of(path, "q.jsonl", to_ids, None)
    assert [line.split(": ")[0] for line in error.value.message.splitlines()] == [
        f"q.jsonl:{number}" for number in (2, 3, 4, 5)
    ]
    path.write_text("\n")
    with pytest.raises(ScriptError, match="the file holds no questions"):
        questions_of(path, "q.jsonl", to_ids, None)


def test_samples_are_the_first_validation_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    kinds = ["hard", "validation", "validation", "validation"]
    prompts = [
        {
            "kind": kind,
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": f"q{n}"}],
            "ids": [n],
        }
        for n, kind in enumerate(kinds)
    ]
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    assert samples_of(path, 2) == [Question("q1", [1]), Question("q2", [2])]
    assert samples_of(path, 0) == []
    assert len(samples_of(path, 99)) == 3
