"""What names of the harness's own tasks mean, as the list beside its lock says."""

from __future__ import annotations

import re

import pytest

from runner.recipe.named_tasks import (
    Known,
    catalogue,
    known_tasks,
    repository_of,
    unfit,
)
from runner.system.folders import shipped


def test_the_list_is_of_the_locked_version() -> None:
    lock = (shipped("environments") / "harness.txt").read_text(encoding="utf-8")
    found = re.search(r"^lm-eval==([^\s\\]+)", lock, re.MULTILINE)
    assert found is not None
    assert catalogue().version == found[1], "make the list anew: python -m tests.harness_list"


@pytest.mark.parametrize(
    ("name", "repository", "config", "asked", "examples", "shots"),
    [
        ("arc_easy", "allenai/ai2_arc", "ARC-Easy", "test", "train", None),
        ("hellaswag", "Rowan/hellaswag", None, "validation", "train", None),
        ("gsm8k", "openai/gsm8k", "main", "test", "train", 5),
        ("truthfulqa_mc2", "truthfulqa/truthful_qa", "multiple_choice", "validation", None, 0),
        ("winogrande", "allenai/winogrande", "winogrande_xl", "validation", "train", None),
        ("boolq", "aps/super_glue", "boolq", "validation", "train", None),
        ("piqa", "baber/piqa", None, "validation", "train", None),
        ("openbookqa", "allenai/openbookqa", "main", "test", "train", None),
        ("mmlu_anatomy", "cais/mmlu", "anatomy", "test", "dev", None),
    ],
)
def test_what_people_measure_is_there(
    name: str,
    repository: str,
    config: str | None,
    asked: str,
    examples: str | None,
    shots: int | None,
) -> None:
    (known,) = known_tasks(name)
    assert (known.repository, known.config, known.asked) == (repository, config, asked)
    assert known.num_fewshot == shots
    assert known.splits(2) == ((asked, examples) if examples else (asked,))
    assert known.splits(0) == (asked,), "no examples, no rows for them"


def test_groups_and_tags_unfold_to_their_tasks() -> None:
    whole = known_tasks("mmlu")
    assert len(whole) == len({each.name for each in whole}) == 57
    assert {each.repository for each in whole} == {"cais/mmlu"}
    assert [each.name for each in known_tasks("ai2_arc")] == ["arc_challenge", "arc_easy"]
    assert repository_of({"name": "mmlu"}) == "cais/mmlu"
    assert repository_of({"name": "polemo2"}) is None, "of two data sets"
    assert repository_of({"name": None, "hub": "me/x"}) == "me/x"


def test_what_cannot_be_measured_has_a_reason() -> None:
    assert unfit("humaneval") == "humaneval runs what the model writes"
    assert unfit("truthfulqa").startswith("truthfulqa_gen needs Python packages")
    assert (unfit("arc_easy"), unfit("mmlu")) == ("", "")
    assert known_tasks("humaneval") == known_tasks("truthfulqa") == known_tasks("no such") == ()


def test_every_name_means_tasks_or_has_a_reason() -> None:
    listed = catalogue()
    assert not listed.tasks.keys() & listed.unfit.keys()
    assert not listed.groups.keys() & (listed.tasks.keys() | listed.unfit.keys())
    for name in listed.groups:
        assert bool(known_tasks(name)) != bool(unfit(name)), name


def test_a_task_that_says_no_examples_keeps_its_prompt() -> None:
    own = Known("t", "t.yaml", "a/x", None, "test", "train", 0)
    assert [own.shots(wanted) for wanted in (None, 0, 5)] == [0, 0, 0]
    five = Known("t", "t.yaml", "a/x", None, "test", "train", 5)
    assert [five.shots(wanted) for wanted in (None, 0, 3)] == [5, 0, 3]
    inside = Known("t", "t.yaml", "a/x", None, "test", None, 5)
    assert inside.splits(None) == ("test",)
