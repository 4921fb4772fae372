"""What names of the harness's own tasks mean, as the list beside its lock says."""

from __future__ import annotations

import re

import pytest

from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe
from runner.recipe.named_tasks import (
    Known,
    catalogue,
    figures,
    known_tasks,
    repository_of,
    unfit,
)
from runner.report.summary import _quality_lines
from runner.scripts.evaluation.examples import Group
from runner.stages import harness
from runner.system.folders import shipped
from tests.chain import ROOT


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


def test_what_the_harness_says_of_a_group_as_a_whole_is_listed() -> None:
    recipe = recipe_that_names("mmlu", "ai2_arc", "bhs_hindi")
    found = {each["group"]: each for each in figures(recipe)}
    below = {"mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities"}
    assert set(found) == {"mmlu", "bhs_hindi", *below}, "a tag has no figure"
    assert len(found["mmlu"]["tasks"]) == 57
    assert sum(len(found[name]["tasks"]) for name in below) == 57
    assert found["mmlu"]["metrics"] == [["acc", None, True]]
    assert found["bhs_hindi"]["metrics"] == [["acc", None, False]]


def test_only_groups_are_in_the_spec_of_the_stage() -> None:
    """Of recipes that name none the key is as it was."""
    assert "groups" not in harness.snapshot(recipe_that_names("boolq", "ai2_arc"))
    (group,) = harness.snapshot(recipe_that_names("wmdp"))["groups"]
    assert group["tasks"] == ["wmdp_bio", "wmdp_chem", "wmdp_cyber"]


def test_every_figure_is_of_a_group_in_the_list_and_can_be_read() -> None:
    listed = catalogue()
    assert len(listed.figures) > 500
    for name, metrics in listed.figures.items():
        data = {"group": name, "tasks": list(listed.groups[name]), "metrics": metrics}
        assert Group.of(data).as_data() == data


def test_a_group_has_a_line_of_its_own_in_the_summary() -> None:
    def mean(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1}

    found = {"base": mean(0.25), "tuned": mean(0.5), "change": mean(0.25), "few": False}
    measures = {"tasks": {}, "groups": {"mmlu/acc": {"count": 57, **found}}}
    lines = _quality_lines(
        {"stages": [{"name": "harness", "measures": measures}], "margin_unit": ""}
    )
    assert lines == [
        "group             mmlu/acc: 0.250 before, 0.500 after  "
        "(95% of the difference: +0.150 to +0.350)"
    ]


def recipe_that_names(*names: str) -> Recipe:
    """The quickstart, with these tasks in place of its evaluation."""
    tasks = ", ".join(f"{{name: {name}, revision: '{'0' * 40}'}}" for name in names)
    override = f"evaluate={{harness: {{tasks: [{tasks}]}}}}"
    return load_recipe(ROOT / "recipes/quickstart.yaml", overrides=[override])
