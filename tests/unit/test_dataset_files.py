"""Which files of a data set hold a split: as the hub's own data sets lie there."""

from __future__ import annotations

import pytest

from runner.scripts.dataset_files import files_of
from runner.scripts.spec import ScriptError

ARC = """---
license: cc-by-sa-4.0
configs:
- config_name: ARC-Challenge
  data_files:
  - {split: test, path: ARC-Challenge/test-*}
- config_name: ARC-Easy
  data_files:
  - {split: train, path: ARC-Easy/train-*}
  - {split: test, path: ARC-Easy/test-*}
---
# A card
"""
ARC_FILES = [
    "README.md",
    "ARC-Challenge/test-00000-of-00001.parquet",
    "ARC-Easy/test-00001-of-00002.parquet",
    "ARC-Easy/test-00000-of-00002.parquet",
    "ARC-Easy/train-00000-of-00001.parquet",
]
EASY = ["ARC-Easy/test-00000-of-00002.parquet", "ARC-Easy/test-00001-of-00002.parquet"]


def card(configs: str) -> str:
    return f"---\nconfigs:\n{configs}\n---\n"


@pytest.mark.parametrize(
    ("paths", "text", "config", "split", "wanted"),
    [
        (ARC_FILES, ARC, "ARC-Easy", "test", EASY),
        (ARC_FILES, "", "ARC-Easy", "test", EASY),
        (ARC_FILES, "---\nconfigs: [\n---\n", "ARC-Easy", "test", EASY),
        (
            ["data/train-0.parquet", "data/test-0.parquet"],
            "",
            None,
            "test",
            ["data/test-0.parquet"],
        ),
        (
            ["main/partial-train/0000.parquet", "main/train/0000.parquet", "x/train/0000.parquet"],
            "",
            "main",
            "train",
            ["main/train/0000.parquet"],
        ),
        (["a_dev.jsonl", "a_train.jsonl"], "", None, "validation", ["a_dev.jsonl"]),
        (["latest.json", "contest.json", "test.json"], "", None, "test", ["test.json"]),
        (["en_test.jsonl", "fr_test.jsonl"], "", "fr", "test", ["fr_test.jsonl"]),
        (
            ["d/a/1.jsonl", "d/2.jsonl", "e/3.jsonl"],
            card("- {data_files: 'd/**/*.jsonl'}"),
            None,
            "train",
            ["d/2.jsonl", "d/a/1.jsonl"],
        ),
        (
            ["p.jsonl", "q.jsonl"],
            card("- {data_files: {test: [q.jsonl], train: p.jsonl}}"),
            None,
            "test",
            ["q.jsonl"],
        ),
        (
            ["de/test.jsonl", "en/test.jsonl"],
            card(
                "- {config_name: de, data_dir: de}\n"
                "- {config_name: en, data_dir: en, default: true}"
            ),
            None,
            "test",
            ["en/test.jsonl"],
        ),
    ],
    ids=[
        *("by the card", "by names", "by names: a card that is no YAML", "a folder for all"),
        *("as the hub converts", "another word for a split", "a word, not a part of one"),
        *("a configuration in the name", "any depth", "a mapping of splits", "a default"),
    ],
)
def test_the_files_of_a_split(
    paths: list[str], text: str, config: str | None, split: str, wanted: list[str]
) -> None:
    assert files_of(paths, text.encode(), "acme/x", config, split) == wanted


@pytest.mark.parametrize(
    ("paths", "text", "config", "code", "words"),
    [
        (["x.py", "README.md"], "", None, "E317", "a script of its own, x.py, which is never run"),
        (["data/test.csv"], card("- {data_files: {test: data/test.csv}}"), None, "E317", "as .csv"),
        (["data/train.jsonl"], "", None, "E317", "has no files for split test"),
        (ARC_FILES, ARC, "ARC-Hard", "E317", "it has ARC-Challenge, ARC-Easy"),
        (ARC_FILES, ARC, None, "E317", "none is its default"),
        (["test.json", "test.parquet"], "", None, "E317", "has split test"),
    ],
    ids=["a script", "neither of both", "no such split", "no such configuration", "many", "mixed"],
)
def test_what_cannot_be_had_is_told(
    paths: list[str], text: str, config: str | None, code: str, words: str
) -> None:
    with pytest.raises(ScriptError) as caught:
        files_of(paths, text.encode(), "acme/x", config, "test")
    assert caught.value.code == code
    assert words in caught.value.message


def test_a_hostile_card_takes_no_time_and_no_files() -> None:
    """Nested lists, patterns that go back and forth, a pattern that leads out."""
    deep = "---\nconfigs: " + "[" * 5000 + "\n---\n"
    assert files_of(["test.jsonl"], deep.encode(), "a/x", None, "test") == ["test.jsonl"]
    many = card("- {data_files: {test: '" + "*a" * 2000 + "'}}")
    with pytest.raises(ScriptError, match="no files"):
        files_of(["a" * 60 + "/test.jsonl"], many.encode(), "a/x", None, "test")
    out = card("- {data_files: {test: ['../../test.jsonl', '/etc/*']}}")
    with pytest.raises(ScriptError, match="no files"):
        files_of(["test.jsonl"], out.encode(), "a/x", None, "test")
