"""Hints hold when they are typed: they name the recipe, and what `--set` said of it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from runner.cli.main import main, parse
from runner.errors import UsageError
from runner.execution.lacks import lacks
from runner.execution.machines.meeting import parse_address
from runner.plan.cost import Machine, cost_of
from runner.plan.fits import fits_of
from runner.plan.machines import hardware
from runner.plan.plan import Action, Step
from runner.plan.published_models import FOLDER as PUBLISHED
from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe
from runner.recipe.model_facts import Facts
from runner.recipe.typed import how_to_get_sizes, typed
from runner.runs.reading import jobs_of
from runner.stages import stages_of
from runner.system import hardware as system
from tests.chain import ROOT
from tests.small_recipe import write_recipe

QLORA = ROOT / "recipes" / "course" / "10.3-70b-qlora.yaml"
# as typed: texts, numbers, what is null, lists, a text that looks like a number
SAID = [
    "model.hub=Qwen/Qwen3-32B",
    "train.learning_rate=1e-05",
    "merge=null",
    "gguf.quantize=[Q8_0, Q4_K_M]",
    'model.revision="123"',
    "description=it's # here",
]


def changed(*said: str) -> Recipe:
    return load_recipe(QLORA, overrides=said)


def test_a_recipe_is_named_with_what_options_said_of_it() -> None:
    assert typed(changed()) == shlex.quote(str(QLORA))
    recipe = changed(*(each for each in SAID if not each.startswith(("merge", "gguf"))))
    words = shlex.split(typed(recipe))
    assert words[:3] == [str(QLORA), "--set", "model.hub=Qwen/Qwen3-32B"]
    args = parse(["plan", *words])
    again = load_recipe(args.recipes[0], overrides=args.set)
    assert again == recipe
    assert dict(again.source.overrides) == dict(recipe.source.overrides)


@pytest.mark.parametrize("said", SAID)
def test_every_value_is_read_again_as_it_was(said: str) -> None:
    others = {"merge=null": ["gguf=null", "ollama=null", "benchmark=null"]}.get(said, [])
    recipe = changed(said, *others)
    args = parse(["plan", *shlex.split(typed(recipe))])
    again = load_recipe(args.recipes[0], overrides=args.set)
    assert dict(again.source.overrides) == dict(recipe.source.overrides)


def test_a_lock_is_named_where_it_has_the_sizes_only() -> None:
    file = shlex.quote(str(QLORA))
    assert how_to_get_sizes(changed()) == f"run `recipe lock {file}`"
    assert how_to_get_sizes(changed("seed=7")) == f"run `recipe lock {file}`"
    other = how_to_get_sizes(changed("model.hub=some/where"))
    assert other.startswith("`recipe lock` takes no --set: write model.hub into a recipe with ")
    assert f"`extends: {file}`" in other


def test_whether_another_model_fits_is_not_told_by_a_lock_of_this_one() -> None:
    with pytest.raises(UsageError) as unknown:
        fits_of(changed("model.hub=some/where"), [hardware("dgx-spark")])
    assert unknown.value.code == "E007"
    assert "takes no --set" in unknown.value.hint


def test_what_is_lacking_is_mended_by_commands_about_the_same_recipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = changed("seed=7")
    monkeypatch.setattr(system, "memory", lambda root=ROOT: system.Memory(10**9, 10**9))
    stages = stages_of(recipe, "train")
    steps = [Step(stage.NAME, Action.RUN, "no stored result") for stage in stages]
    facts = Facts(json.loads((PUBLISHED / "llama-3.1-70b.json").read_bytes()), "a test")
    cost = cost_of(recipe, steps, facts, Path("none"), Machine(2, "", "cpu-x86_64"))
    found = {each.code: each.next for each in lacks(recipe, steps, cost, Path("/cache"))}
    commands = [
        command
        for said in found.values()
        for command in re.findall(r"recipe ((?:plan|run) .*)", said)
    ]
    assert {"W250", "W252", "W255"} <= set(found)
    assert {command.split()[-1] for command in commands} == {"--shrink", "all", "--get"}
    for command in commands:
        args = parse(shlex.split(command))
        assert (args.recipes, args.set) == ([QLORA], ["seed=7"])


# --- the command line


@pytest.mark.parametrize(
    ("words", "usage", "said"),
    [
        (["ls", "foo"], "recipe ls", "unrecognized arguments: foo"),
        (["run", "x.yaml", "--shrink", "tiny"], "recipe run", "unrecognized arguments: tiny"),
        (["bench", "train", "x.yaml", "--step", "2", "--shrink"], "recipe bench", ": --shrink"),
        (["plan", "x.yaml", "--hardwear=all"], "recipe plan", "; did you mean --hardware?"),
        (["data", "inspect", "x", "--forma", "--rowz", "3"], "recipe data inspect", "argument"),
        (["data", "inspect", "x", "--rowz=3"], "recipe data inspect", "did you mean --rows?"),
    ],
)
def test_what_a_command_does_not_know_is_answered_with_its_own_usage(
    words: list[str], usage: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"usage: {usage} [-h]")
    assert f"\n{usage}: error: " in told
    assert said in told


def test_a_plan_takes_the_machines_as_a_run_does() -> None:
    for command in ("plan", "run"):
        args = parse([command, "x.yaml", "--nodes", "2", "--set", "seed=7"])
        assert args.set == ["train.nodes=2", "seed=7"]


def test_nobody_is_waited_for_where_one_machine_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path / "x.yaml")
    args = parse(["run", "x.yaml", "--rendezvous", "10.0.0.1:29400"])
    with pytest.raises(UsageError) as refused:
        jobs_of(args)
    assert (refused.value.code, refused.value.exit_code) == ("E957", 2)
    assert refused.value.hint.startswith("add --nodes 2 ")
    (job,) = jobs_of(parse(["run", "x.yaml", "--rendezvous", "10.0.0.1:29400", "--nodes", "2"]))
    assert job.recipe.train.nodes == 2
    assert main(["run", "x.yaml", "--rendezvous", "10.0.0.1:29400"]) == 2
    assert "error[E957]" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["99999", "0", "65536", "9" * 5000])
def test_a_port_that_there_is_not_is_named(port: str) -> None:
    with pytest.raises(ValueError, match="has no port that there is: it goes from 1 to 65535"):
        parse_address(f"127.0.0.1:{port}")
    assert parse_address("127.0.0.1:65535") == ("127.0.0.1", 65535)


def test_what_is_not_known_is_said_by_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    rows = str(ROOT / "recipes" / "data" / "spark-faq.jsonl")
    options = ["--machine", "rtx4090", "--model", "smollm2", "--data", rows]
    assert main(["new", "x.yaml", "--stdout", *options]) == 2
    told = capsys.readouterr().err
    assert "there is no machine 'rtx4090'" in told
    assert "did you mean rtx-4090? Else write spark, gpu, cpu" in told


def test_a_word_is_answered_with_the_codes_that_are_about_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain", "memory"]) == 2
    told = capsys.readouterr().err
    assert "error[E004]: 'memory' is no code of an error (such as E102) or a warning" in told
    assert "W252 Not enough memory" in told
    assert main(["explain", "foo"]) == 2
    assert "FOO" not in capsys.readouterr().err
    assert main(["explain", "E9999"]) == 2
    assert "there is no code E9999" in capsys.readouterr().err
