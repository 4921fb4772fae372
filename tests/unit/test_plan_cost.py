"""What a run would take and what is missing: of the course's 70B, and of machines that lack things.

Golden files: tests/golden/plan.
"""

from __future__ import annotations

import dataclasses
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.cli.run import _warn_of_lacks
from runner.execution import lacks as lacking
from runner.execution.lacks import CODES, Lack, lacks
from runner.lock.locking import write_lock
from runner.lock.pins import FACTS, cheap_pins
from runner.plan.cost import Cost, Machine, Time, cost_of
from runner.plan.job import Job
from runner.plan.memory import training_memory
from runner.plan.plan import Action, Step
from runner.plan.shapes import UnknownShapesError, shapes_of
from runner.plan.tokens import training_tokens
from runner.recipe.load import check_recipe, load_recipe
from runner.recipe.model import Recipe
from runner.recipe.model_facts import Facts, known_facts
from runner.report import plan_text as command
from runner.report.plan_text import in_words
from runner.stages import stages_of
from runner.system import environments, hardware, hub, ollama, tools
from tests.chain import ROOT
from tests.gguf_files import write_gguf_of_model
from tests.recipe_cases import copy_recipes
from tests.tiny_model import write_tiny_model

GOLDEN = ROOT / "tests" / "golden" / "plan"
GB = 10**9
SPARK = Machine(20, "NVIDIA GB10", "cuda-nvidia-gb10", 128 * GB, 2000 * GB, 50e12)
PROCESSOR = Machine(2, "", "cpu-x86_64")


def config(name: str) -> Facts:
    text = (ROOT / "runner" / "plan" / "data" / "published" / f"{name}.json").read_text()
    return Facts(json.loads(text), "the lock")


@pytest.fixture(scope="module")
def qlora() -> Recipe:
    recipe, _ = check_recipe(ROOT / "recipes" / "course" / "10.3-70b-qlora.yaml")
    assert recipe is not None
    return recipe


@pytest.fixture(scope="module")
def lora() -> Recipe:
    recipe, _ = check_recipe(ROOT / "recipes" / "course" / "10.2-8b-lora.yaml")
    assert recipe is not None
    return recipe


def all_run(recipe: Recipe) -> list[Step]:
    return [Step(stage.NAME, Action.RUN, "no stored result") for stage in stages_of(recipe)]


def cost(recipe: Recipe, facts: Facts | None, machine: Machine, runs: Path = Path("none")) -> Cost:
    return cost_of(recipe, all_run(recipe), facts, runs, machine)


def test_the_70b_of_the_course_takes_what_the_course_expects(qlora: Recipe) -> None:
    found = cost(qlora, config("llama-3.1-70b"), SPARK)
    assert found.parameters == 70_553_706_496
    assert found.trained == 207_093_760
    assert 45 * GB < found.memory["train"].total < 55 * GB
    assert 45 * GB < found.memory["evaluate"].total < 55 * GB
    # fetched, merged, quantised; and beside them what is downloaded or converted, one at a time
    assert 450 * GB < found.stored < 500 * GB
    assert 43 * GB < found.models < 50 * GB


def test_the_plan_of_the_70b_is_the_golden_one(qlora: Recipe) -> None:
    steps, found = all_run(qlora), cost(qlora, config("llama-3.1-70b"), SPARK)
    missing = [Lack("W253", "disk: too small", "recipe gc --dry-run")]
    plan = command.Plan(qlora.name, steps, found, missing)
    assert command.as_text(plan) + "\n" == (GOLDEN / "70b.txt").read_text()
    assert command.as_json([plan]) + "\n" == (GOLDEN / "70b.json").read_text()


def test_a_smaller_model_a_shorter_row_and_fewer_bits_take_less(
    qlora: Recipe, lora: Recipe
) -> None:
    large, small = config("llama-3.1-70b"), config("llama-3.1-8b")
    less, more = (cost(qlora, facts, SPARK).memory["train"] for facts in (small, large))
    assert less.total < more.total / 4
    in_16_bits = cost(lora, large, SPARK).memory["train"].items[0]
    assert in_16_bits.bytes == 2 * 70_553_706_496


def test_checkpoints_of_ppo_hold_the_value_model_too(lora: Recipe) -> None:
    facts = config("llama-3.1-8b")
    usual, ppo = (
        next(each for each in cost(recipe, facts, SPARK).disk if each.stage == "train")
        for recipe in (
            lora,
            dataclasses.replace(lora, train=dataclasses.replace(lora.train, method="ppo")),
        )
    )
    assert (ppo.stored, ppo.temporary) == (usual.stored, 2 * usual.temporary)


def test_nothing_is_guessed_without_facts(qlora: Recipe) -> None:
    found = cost(qlora, None, SPARK)
    assert (found.peak, found.disk, found.stored) == (0, (), 0)
    text = command.as_text(command.Plan("x", all_run(qlora), found, []))
    named = f"run `recipe lock {qlora.source.path}`"  # as it is typed, to be typed again
    assert f"not checked: the model's facts are not at hand; {named}" in text
    assert "not known: the model's facts" in text


def test_a_family_that_is_not_known_is_not_guessed(qlora: Recipe) -> None:
    found = cost(qlora, Facts({"model_type": "mamba"}, "the lock"), SPARK)
    assert found.unknown.startswith("not estimated: the model type mamba is none of llama")


@pytest.mark.parametrize("setting", ["target_modules", "exclude_modules", "rank_pattern"])
def test_a_regular_expression_that_never_ends_is_given_up(setting: str, qlora: Recipe) -> None:
    bomb = r"(([a-z.]*)*)*[0-9]{9}"
    value: Any = {bomb: 4} if setting == "rank_pattern" else bomb
    adapter = dataclasses.replace(qlora.train.adapter, **{setting: value})
    recipe = dataclasses.replace(qlora, train=dataclasses.replace(qlora.train, adapter=adapter))
    found = cost(recipe, config("qwen2.5-0.5b"), SPARK)
    assert found.unknown.startswith("not estimated: a regular expression")


def test_a_regular_expression_that_ends_is_counted(qlora: Recipe) -> None:
    some = r".*layers\.[01]\..*_proj"
    adapter = dataclasses.replace(qlora.train.adapter, target_modules=some)
    recipe = dataclasses.replace(qlora, train=dataclasses.replace(qlora.train, adapter=adapter))
    facts = config("llama-3.1-70b")
    assert cost(recipe, facts, SPARK).trained * 40 == cost(qlora, facts, SPARK).trained


def test_pairs_and_a_reference_model_are_counted(lora: Recipe) -> None:
    train = lora.train
    one = Job.of(lora)
    preferring = dataclasses.replace(train, method="dpo")
    pairs = Job.of(dataclasses.replace(lora, train=preferring))
    assert (pairs.batch, pairs.reference) == (2 * one.batch, False)
    every = dataclasses.replace(preferring, adapter=dataclasses.replace(train.adapter, type="none"))
    both = Job.of(dataclasses.replace(lora, train=every))
    shapes = shapes_of(config("qwen2.5-0.5b").config)
    alone = training_memory(shapes, dataclasses.replace(both, reference=False))
    assert training_memory(shapes, both).total - alone.total == 4 * shapes.parameters


def test_what_is_reused_takes_nothing(qlora: Recipe) -> None:
    steps = [Step(stage.NAME, Action.REUSE, "up to date") for stage in stages_of(qlora)]
    found = cost_of(qlora, steps, config("llama-3.1-70b"), Path("none"), SPARK)
    assert (found.peak, found.stored, found.time) == (0, 0, ())
    assert command.as_text(command.Plan("x", steps, found, [])).count("\n") == len(steps) - 1


# --- time


def write_run(runs: Path, name: str, platform: str, stages: dict[str, tuple[str, float]]) -> None:
    (runs / name).mkdir(parents=True)
    record = {
        "platform": {"name": platform},
        "stages": [
            {"name": stage, "action": action, "seconds": seconds}
            for stage, (action, seconds) in stages.items()
        ],
    }
    (runs / name / "run.json").write_text(json.dumps(record))


def test_times_are_those_of_the_newest_run_on_this_platform_that_ran_the_stage(
    lora: Recipe, tmp_path: Path
) -> None:
    here = SPARK.platform
    write_run(tmp_path, "20260101-000000", here, {"train": ("run", 500.0), "gguf": ("run", 70.0)})
    write_run(tmp_path, "20260102-000000", here, {"train": ("run", 400.0), "gguf": ("reuse", 0.0)})
    write_run(tmp_path, "20260103-000000", "cpu-other", {"train": ("run", 9.0)})
    (tmp_path / "20260104-000000").mkdir()
    (tmp_path / "20260104-000000" / "run.json").write_text("half of a rec")
    times = {each.stage: each for each in cost(lora, None, SPARK, tmp_path).time}
    assert times["train"].seconds == 400.0
    assert "20260102-000000" in times["train"].source
    assert times["gguf"].seconds == 70.0
    assert times["merge"].seconds is None
    assert times["merge"].source == "unknown: no earlier run on this platform"


def time_of_training(recipe: Recipe, name: str, machine: Machine = SPARK) -> Time:
    return next(each for each in cost(recipe, config(name), machine).time if each.stage == "train")


def test_a_first_training_is_timed_by_arithmetic_at_a_stated_speed(lora: Recipe) -> None:
    time = time_of_training(lora, "llama-3.1-8b")
    assert time.seconds is not None
    assert time.source.startswith("estimated from the characters of the rows: ")
    assert "assumed 5e+13 FLOP/s" in time.source
    tokens = training_tokens(lora)
    assert tokens is not None
    # there, again (checkpointing), back: two for each of the 7.5 billion that multiply
    assert time.seconds == pytest.approx(2 * tokens.count * 3 * 7.5e9 / 50e12, rel=0.01)


def test_machines_that_train_together_share_the_work(lora: Recipe) -> None:
    """Twice the rows a step, by twice the GPUs."""
    both = dataclasses.replace(lora, train=dataclasses.replace(lora.train, nodes=2))
    one, two = (time_of_training(recipe, "llama-3.1-8b") for recipe in (lora, both))
    assert one.seconds is not None
    assert two.seconds == pytest.approx(one.seconds / 2)
    assert "assumed 1e+14 FLOP/s" in two.source


def test_nothing_is_assumed_of_another_gpu(lora: Recipe) -> None:
    machine = Machine(8, "NVIDIA H999", "cuda-h999")
    time = next(
        each for each in cost(lora, config("llama-3.1-8b"), machine).time if each.stage == "train"
    )
    assert time.seconds is None
    assert time.source.endswith("not known: this GPU")


# --- what is missing


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with everything, but for what a test takes away."""

    def have(memory: int = 128, disk: int = 2000, **more: Any) -> None:
        monkeypatch.delenv("OLLAMA_HOST", raising=False)
        monkeypatch.setattr(
            hardware, "memory", lambda: hardware.Memory(memory * GB, memory * GB // 2)
        )
        monkeypatch.setattr(hardware, "disk_free", lambda path: disk * GB)
        monkeypatch.setattr(hub, "find_token", lambda: more.get("token", "hf_x"))
        monkeypatch.setattr(ollama, "find_program", lambda: more.get("program", Path("/ollama")))
        monkeypatch.setattr(ollama, "answers", lambda url: more.get("answers", False))
        monkeypatch.setattr(tools, "find_tool", lambda name, cache: more.get("tool", Path("/t")))
        monkeypatch.setattr(
            environments, "find", lambda role, cache: more.get("environment", Path("/e"))
        )

    return have


def missing(recipe: Recipe, facts: Facts | None, machine: Machine = SPARK) -> dict[str, Lack]:
    steps = all_run(recipe)
    found = lacks(recipe, steps, cost(recipe, facts, machine), Path("/cache"))
    return {lack.code: lack for lack in found}


def test_a_machine_with_everything_lacks_nothing(
    qlora: Recipe, machine: Callable[..., None]
) -> None:
    machine()
    assert missing(qlora, config("llama-3.1-70b")) == {}


@pytest.mark.parametrize(
    ("code", "taken", "words"),
    [
        ("W251", {"token": None}, "meta-llama/Llama-3.1-70B-Instruct is given to those"),
        ("W252", {"memory": 24}, "train takes about 50.2 GB, this machine has 24.0 GB"),
        ("W253", {"disk": 300}, "300.0 GB are free"),
        ("W254", {"program": None, "tool": None}, "none on PATH, none answers"),
        ("W255", {"environment": None}, "environment data, environment evaluate"),
    ],
)
def test_what_is_taken_away_is_missed(
    code: str, taken: dict[str, Any], words: str, qlora: Recipe, machine: Callable[..., None]
) -> None:
    machine(**taken)
    found = missing(qlora, config("llama-3.1-70b"))
    assert code in found
    assert words in str(found[code])
    assert found[code].next
    assert set(found) - {"W255"} <= {code}


def test_where_memory_is_missed_two_machines_may_have_it(
    qlora: Recipe, machine: Callable[..., None]
) -> None:
    machine()
    held = dataclasses.replace(qlora.model, quantization=None)
    found = missing(dataclasses.replace(qlora, model=held), config("llama-3.1-70b"))["W252"]
    assert found.next.startswith("set model.quantization: {load_in_4bit: true}: about 50.2 GB")
    assert "; or train on two machines, train.nodes: 2 and " in found.next


def test_a_measurement_that_alone_does_not_fit_can_be_left_out(
    qlora: Recipe, machine: Callable[..., None]
) -> None:
    """A merged model that would be loaded whole, and has no room for its predictions."""
    machine(memory=21)
    card = dataclasses.replace(SPARK, memory=21 * GB)
    held = dataclasses.replace(qlora.model, hub="meta-llama/Llama-3.1-8B-Instruct")
    smaller = dataclasses.replace(qlora, model=held)
    found = missing(smaller, config("llama-3.1-8b"), card)["W252"]
    assert found.what.startswith("memory: fidelity takes about ")
    assert found.next.startswith("set merge.fidelity: false: about ")


def test_results_are_copied_to_runs_on_another_file_system(
    qlora: Recipe, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    free = {"runs": 100 * GB}
    monkeypatch.setattr(hardware, "disk_free", lambda path: free.get(path.parent.name, 2000 * GB))
    assert "W253" not in missing(qlora, config("llama-3.1-70b"))
    monkeypatch.setattr(hardware, "device_of", lambda path: path.parent.name)
    found = missing(qlora, config("llama-3.1-70b"))["W253"]
    assert "about 189.5 GB to" in found.what  # adapter, merged model, GGUF file
    assert "100.0 GB are free" in found.what
    assert "or move the project to a larger disk" in found.next, "the store has room"


def test_a_processor_lacks_a_gpu_for_a_large_model_only(
    qlora: Recipe, lora: Recipe, machine: Callable[..., None]
) -> None:
    machine()
    assert "70.6 billion weights" in missing(qlora, config("llama-3.1-70b"), PROCESSOR)["W250"].what
    unknown = missing(qlora, None, PROCESSOR)["W250"].what
    assert unknown.endswith("takes days on a processor")
    (seconds,) = (
        each.seconds
        for each in cost(qlora, config("llama-3.1-70b"), PROCESSOR).time
        if each.stage == "train"
    )
    assert seconds is not None
    said = missing(qlora, config("llama-3.1-70b"), PROCESSOR)["W250"].what
    assert f"takes about {in_words(seconds)} on a processor" in said
    assert "W250" in missing(lora, config("llama-3.1-8b"), PROCESSOR)
    assert "W250" not in missing(lora, config("qwen2.5-0.5b"), PROCESSOR)


def test_a_named_server_that_does_not_answer_is_missed(
    qlora: Recipe, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    found = missing(qlora, config("llama-3.1-70b"))["W254"]
    assert "http://127.0.0.1:9, which OLLAMA_HOST names" in found.what
    assert not found.mends_itself


def test_a_name_that_is_no_address_is_missed_too(
    qlora: Recipe, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    monkeypatch.setenv("OLLAMA_HOST", "localhost:99999")
    found = missing(qlora, config("llama-3.1-70b"))["W254"]
    assert 'OLLAMA_HOST is "localhost:99999", which is no address' in found.what


def test_the_codes_are_those_of_the_module() -> None:
    source = Path(lacking.__file__).read_text()
    assert all(source.count(f'"{code}"') >= 2 for code in CODES)


# --- the command


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = copy_recipes(tmp_path) / "valid"
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.chdir(folder)
    return folder


def test_plan_writes_nothing_and_asks_the_loopback_at_most(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def connect(self: socket.socket, address: Any) -> None:
        asked.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", connect)
    small = {**config("llama-3.2-1b").config, "num_hidden_layers": 2}
    (project.parent / "data" / "model" / "config.json").write_text(json.dumps(small))
    before = sorted(project.parents[1].rglob("*"))
    assert main(["plan", "minimal.yaml", "--format", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["schema"] == 2
    assert plan["cost"]["facts_from"] == "its config.json"
    assert plan["cost"]["memory"]["peak"] > 0
    assert {lack["code"] for lack in plan["lacks"]} <= set(CODES)
    assert sorted(project.parents[1].rglob("*")) == before
    assert set(asked) <= {"127.0.0.1", "::1", "localhost"}


def test_the_facts_of_a_repository_come_from_its_lock(project: Path) -> None:
    recipe = load_recipe(project / "hub.yaml")
    assert known_facts(recipe) is None
    facts = {"architectures": ["LlamaForCausalLM"], "parameters": 1, "modules": {}}
    facts |= {name: value for name, value in config("llama-3.1-8b").config.items() if name in FACTS}
    write_lock(recipe, {**cheap_pins(recipe), "model": {}, "facts": facts})
    found = known_facts(recipe)
    assert found is not None
    assert (found.where, found.context) == ("hub.lock.yaml", 131072)
    assert cost(recipe, found, SPARK).parameters == 8_030_261_248
    other = (project / "hub.yaml").read_text().replace("revision: ", "revision: a")
    (project / "hub.yaml").write_text(other.replace("revision: a0", "revision: a"))
    assert known_facts(load_recipe(project / "hub.yaml")) is None, "the lock is of another model"


def test_the_lock_of_a_branch_says_what_the_branch_was(project: Path) -> None:
    text = (project / "hub.yaml").read_text().replace("  trust_remote_code: true\n", "")
    (project / "hub.yaml").write_text(text)
    recipe = load_recipe(project / "hub.yaml")
    facts = {"architectures": [], "parameters": 1, "modules": {}, "max_position_embeddings": 2048}
    write_lock(recipe, {**cheap_pins(recipe), "model": {}, "facts": facts})
    commit = "  revision: 0123456789abcdef0123456789abcdef01234567\n"
    (project / "hub.yaml").write_text(text.replace(commit, "  revision: main\n", 1))
    branch = load_recipe(project / "hub.yaml")
    assert branch.model.revision == "main"
    found = known_facts(branch)
    assert found is not None
    assert found.context == 2048


def test_a_plan_says_why_the_steps_are_not_counted(qlora: Recipe) -> None:
    def lines(recipe: Recipe) -> list[str]:
        found = cost(recipe, None, SPARK)
        text = command.as_text(command.Plan(recipe.name, all_run(recipe), found, []))
        return [line for line in text.splitlines() if line.startswith("training ")]

    (packed,) = lines(qlora)
    assert "steps not counted: how many rows share a pack" in packed
    (file,) = qlora.data.train
    on_hub = dataclasses.replace(file, path=None, hub="acme/rows", file="rows.jsonl")
    data = dataclasses.replace(qlora.data, packing=False, train=(on_hub,))
    (unknown,) = lines(dataclasses.replace(qlora, data=data))
    assert "steps not counted: the rows are on the hub" in unknown
    counted = dataclasses.replace(qlora, data=dataclasses.replace(qlora.data, packing=False))
    (known,) = lines(counted)
    assert " steps, by backend native" in known


def test_a_run_warns_of_what_it_will_not_get_by_itself(
    qlora: Recipe, machine: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(token=None, environment=None)
    _warn_of_lacks(qlora, all_run(qlora))
    said = capsys.readouterr().err
    assert "warning: lacks[W251]: a token" in said
    assert "W255" not in said


def test_the_facts_of_a_gguf_file_are_in_its_header(project: Path) -> None:
    model = write_tiny_model(project / "tiny")
    write_gguf_of_model(model, model / "tiny.gguf")
    text = (project / "minimal.yaml").read_text()
    (project / "minimal.yaml").write_text(text.replace("../data/model", "tiny"))
    of_folder = known_facts(load_recipe(project / "minimal.yaml"))
    text = text.replace("../data/model", "tiny\n  file: tiny.gguf")
    (project / "minimal.yaml").write_text(text)
    of_gguf = known_facts(load_recipe(project / "minimal.yaml"))
    assert of_folder is not None
    assert of_gguf is not None
    assert of_gguf.where == "the GGUF file's header"
    assert of_gguf.context == of_folder.context == 512
    assert of_gguf.chat_template == of_folder.chat_template
    assert shapes_of(of_gguf.config) == shapes_of(of_folder.config)


@pytest.mark.parametrize(
    ("name", "value"), [("num_hidden_layers", 10**9), ("vocab_size", 10**30), ("hidden_size", True)]
)
def test_a_config_that_is_no_models_is_not_laid_out(name: str, value: Any) -> None:
    config = {"model_type": "llama", "vocab_size": 9, "hidden_size": 8, "intermediate_size": 8}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 1}
    assert shapes_of(config).parameters > 0
    with pytest.raises(UnknownShapesError):
        shapes_of(config | {name: value})
