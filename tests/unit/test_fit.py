"""Whether a training fits a machine that is only described: the course's models and its table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.errors import UsageError
from runner.plan.cost import this_machine
from runner.plan.fit import MOST_ROWS, fit, peak_of, ways_that_fit
from runner.plan.job import Job
from runner.plan.machines import (
    FOLDER,
    Hardware,
    hardware,
    known_names,
    machines_of,
    rate_of,
)
from runner.plan.memory import training_memory
from runner.plan.phases import beside_of, phases_of
from runner.plan.published_models import FOLDER as PUBLISHED
from runner.plan.shapes import Shapes, shapes_of
from runner.recipe.in_folders import recipes_below
from runner.recipe.load import load_recipe
from runner.recipe.model_facts import Facts
from runner.report.fit_table import verdict
from runner.system import hardware as system
from tests.chain import ROOT

GB = 10**9
COURSE = ROOT / "recipes" / "course"
REPOSITORIES = json.loads((PUBLISHED / "repositories.json").read_bytes())


LLAMA_1B = Facts(json.loads((PUBLISHED / "llama-3.2-1b.json").read_bytes()), "a test")


def shapes(name: str, **config: Any) -> Shapes:
    return shapes_of(json.loads((PUBLISHED / f"{name}.json").read_bytes()) | config)


@pytest.fixture(scope="module")
def qlora() -> Job:
    return Job.of(load_recipe(COURSE / "10.3-70b-qlora.yaml"))


@pytest.fixture(scope="module")
def full(qlora: Job) -> Job:
    """Every weight in float32, four rows of 2048 tokens."""
    none = dataclasses.replace(qlora.adapter, type="none", r=0, target_modules=())
    return dataclasses.replace(
        qlora, adapter=none, quantization=None, batch=4, gradient_checkpointing=False
    )


def test_the_70b_fits_a_spark_and_no_change_makes_it_fit_a_4090(qlora: Job) -> None:
    model = shapes("llama-3.1-70b")
    spark = fit(model, qlora, hardware("dgx-spark").budget)
    assert (spark.changes, spark.peak) == ((), "train")
    assert 45 * GB < spark.changed < 55 * GB
    small = fit(model, qlora, hardware("rtx-4090").budget)
    assert small.changes is None
    assert small.changed > hardware("rtx-4090").memory
    assert small.largest == {}


def test_answers_that_are_drawn_at_once_count_with_their_keys_and_values() -> None:
    """8B, bfloat16: 32 layers of 8 key heads of 128 numbers take 128 KiB a token."""
    job = Job.of(load_recipe(COURSE / "10.5-grpo.yaml"))
    assert (job.answers, job.batch, job.loss, job.questions) == (16, 16, False, 16)
    job = dataclasses.replace(job, dtype="bfloat16", batch=1, accumulation=512, answers=512)
    found = {item.name: item.bytes for item in training_memory(shapes("llama-3.1-8b"), job).items}
    assert found["KV cache of 512 answers"] == 512 * job.length * (128 << 10)


def test_changes_are_the_fewest_that_make_it_fit(qlora: Job) -> None:
    model, card = shapes("llama-3.1-8b"), hardware("rtx-4090").budget
    job = dataclasses.replace(qlora, quantization=None, batch=8, gradient_checkpointing=False)
    assert peak_of(model, job) > card
    found = fit(model, job, card)
    assert found.changes is not None
    assert found.changed <= card
    without_one = [
        dataclasses.replace(job, gradient_checkpointing=True),
        dataclasses.replace(job, batch=1, accumulation=8 * job.accumulation),
    ]
    if len(found.changes) > 1:
        assert all(peak_of(model, each) > card for each in without_one)


def test_the_largest_smaller_batch_that_fits_is_proposed(qlora: Job) -> None:
    model = shapes("llama-3.1-8b")
    job = dataclasses.replace(qlora, batch=12, accumulation=1, gradient_checkpointing=True)
    half, quarter = (
        dataclasses.replace(job, batch=batch, accumulation=12 // batch) for batch in (6, 3)
    )
    words = "train.per_device_train_batch_size: {}, train.gradient_accumulation_steps: {}"
    for budget, batch in ((peak_of(model, half), 6), (peak_of(model, quarter), 3)):
        found = fit(model, job, budget)
        assert found.changes == (words.format(batch, 12 // batch),)
        assert found.changed == budget
    ways = [way for way, _ in ways_that_fit(model, job, "train", peak_of(model, half))]
    assert ways.count((words.format(6, 2),)) == 1
    assert not [way for way in ways if words.format(3, 4) in way]


def test_a_batch_of_pairs_is_halved_in_pairs(qlora: Job) -> None:
    model = shapes("llama-3.1-8b")
    job = dataclasses.replace(qlora, batch=8, sides=2, accumulation=1, gradient_checkpointing=True)
    budget = peak_of(model, dataclasses.replace(job, batch=4, accumulation=2))
    assert fit(model, job, budget).changes == (
        "train.per_device_train_batch_size: 2, train.gradient_accumulation_steps: 2",
    )


def test_full_fine_tuning_that_does_not_fit_is_told_to_be_lora(full: Job) -> None:
    found = fit(shapes("llama-3.1-8b"), full, hardware("dgx-spark").budget)
    assert found.changes is not None
    assert any("type: lora" in change for change in found.changes)
    assert not any("load_in_4bit" in change for change in found.changes)


def test_what_fits_at_most_fits_and_one_row_more_does_not(qlora: Job) -> None:
    model, budget = shapes("llama-3.1-70b"), hardware("dgx-spark").budget
    largest = fit(model, qlora, budget).largest
    assert sorted(largest) == [1024, 2048, 4096]
    for length, rows in largest.items():
        here, more = (
            training_memory(model, dataclasses.replace(qlora, batch=count, length=length)).total
            for count in (rows, rows + 1)
        )
        assert here <= budget < more


def test_a_pair_counts_as_one_row_of_the_recipe(qlora: Job) -> None:
    model, budget = shapes("llama-3.1-70b"), hardware("dgx-spark").budget
    pairs = dataclasses.replace(qlora, batch=2 * qlora.batch, sides=2)
    single, double = (fit(model, job, budget).largest for job in (qlora, pairs))
    assert all(double[length] == single[length] // 2 for length in single)
    large = dataclasses.replace(pairs, batch=8, accumulation=1)
    found = fit(model, large, 1)  # nothing fits: all changes are tried
    assert found.changes is None
    assert found.changed < found.phases["train"].total


def test_rows_longer_than_the_context_are_not_proposed(qlora: Job) -> None:
    model = dataclasses.replace(shapes("llama-3.2-1b"), context=2048)
    assert sorted(fit(model, qlora, 100 * GB).largest) == [1024, 2048]


def test_loading_holds_a_weight_as_it_is_stored_beside_the_4_bits(qlora: Job) -> None:
    model = shapes("llama-3.1-70b")
    items = {item.name: item.bytes for item in phases_of(model, qlora)["load"].items}
    assert items["largest weight, as stored"] == 2 * 28672 * 8192
    in_16_bits = dataclasses.replace(qlora, quantization=None)
    assert "largest weight, as stored" not in {
        item.name for item in phases_of(model, in_16_bits)["load"].items
    }


# --- phases


def test_before_the_first_step_the_optimizer_has_no_states(qlora: Job) -> None:
    model = shapes("llama-3.1-70b")
    phases = phases_of(model, qlora)
    assert list(phases) == ["load", "first step", "train", "save", "evaluate", "fidelity"]
    states = next(i.bytes for i in phases["train"].items if i.name.startswith("optimizer"))
    assert phases["train"].total - phases["first step"].total == states


def test_what_is_written_is_copied_to_the_host_where_both_share_the_memory(qlora: Job) -> None:
    model = shapes("llama-3.1-70b")
    trained = 4 * 207_093_760
    shared, own = (
        phases_of(model, dataclasses.replace(qlora, pages=pages))["save"].total
        for pages in (False, True)
    )
    assert shared - own == trained
    on_cpu = {item.name for item in phases_of(model, qlora, "cpu")["save"].items}
    assert "copy that is written" not in on_cpu


def test_the_machines_own_memory_holds_the_merge_and_the_conversion(qlora: Job) -> None:
    """Neither grows with the depth; the conversion does with the largest tensor."""
    model = shapes("llama-3.1-70b")
    beside = beside_of(model, qlora)
    assert list(beside) == ["merge", "convert"]
    assert beside["merge"].total < GB
    assert beside["convert"].total > 8 * 128_256 * 8192
    nothing = dataclasses.replace(qlora, merged=False, converted=False)
    assert beside_of(model, nothing) == {}


# --- what fits


def test_ways_that_fit_are_no_parts_of_one_another(full: Job) -> None:
    model, budget = shapes("llama-3.1-8b"), hardware("dgx-spark").budget
    found = ways_that_fit(model, full, "train", budget)
    assert found
    assert all(size <= budget for _, size in found)
    words = [set(way) for way, _ in found]
    assert not any(a < b for a in words for b in words)


def test_the_longest_row_fits_and_a_longer_one_does_not(qlora: Job) -> None:
    model, budget = shapes("llama-3.1-70b"), hardware("dgx-spark").budget
    longest = fit(model, qlora, budget).longest
    longer = dataclasses.replace(qlora, batch=1, length=longest + 64)
    assert training_memory(model, longer).total > budget
    assert training_memory(model, dataclasses.replace(longer, length=longest)).total <= budget
    assert fit(shapes("llama-3.2-1b"), qlora, 10**15).longest == 131_072  # its context


def test_more_rows_than_are_counted_are_said_to_be_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    text = said(capsys, "recipes/course/10.2-8b-qlora.yaml", "--hardware", "h200")
    assert f"{MOST_ROWS} or more x " in text


# --- facts


@pytest.mark.parametrize("name", known_names())
def test_every_machine_has_its_facts_and_their_source(name: str) -> None:
    machine = hardware(name)
    assert machine.title
    assert 0.5 < machine.usable <= 1
    assert len(machine.source) > 40


@pytest.mark.parametrize("repository", sorted(REPOSITORIES))
def test_every_repository_has_the_sizes_of_a_model(repository: str) -> None:
    assert shapes(REPOSITORIES[repository]).parameters > 10**8


def test_the_hub_models_of_the_course_are_known() -> None:
    models = [load_recipe(path).model.hub for path in recipes_below(COURSE)]
    assert {model for model in models if model is not None} <= set(REPOSITORIES)


def test_a_gpu_has_the_rate_of_its_machine_and_an_unknown_one_has_none() -> None:
    assert rate_of("NVIDIA GB10") == hardware("dgx-spark").flops
    assert (rate_of(""), rate_of("NVIDIA H999")) == (0.0, 0.0)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"memory": None}, "memory is missing"),
    "several": ({"memory": None, "title": None}, "title, memory are missing"),
    "unknown": ({"ram": 1}, "unknown key ram"),
    "text": ({"cores": "8"}, 'cores is "8", not a whole number'),
    "half": ({"cores": 1.5}, "cores is 1.5, not a whole number"),
    "zero": ({"memory": 0}, "memory is 0, not above zero"),
    "true": ({"memory": True}, "memory is true, not a whole number"),
    "yes": ({"unified": "yes"}, 'unified is "yes", not true or false'),
    "gigabytes": ({"memory": 96}, "memory is 96 bytes, which is too small: 96 GB are 96e9"),
    "more": ({"usable": 1.5}, "usable is 1.5, and is a part of the memory: at most 1"),
    "too fast": ({"flops": 1e30}, "flops is too large"),
    "endless": ({"flops": float("inf")}, "flops is too large"),
    "digits": ({"cores": 10**400}, "cores is too large"),
    "no number": ({"flops": float("nan")}, "flops is nan, not above zero"),
    "all at once": (
        {"flops": None, "memory": 96, "ram": 1, "unified": "yes"},
        "unknown key ram; .*; flops is missing; memory is 96 bytes, .*; unified is .yes.",
    ),
}


def described(changes: dict[str, Any]) -> dict[str, Any]:
    data = json.loads((FOLDER / "h200.json").read_text()) | changes
    return {key: value for key, value in data.items() if value is not None}


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_file_that_does_not_describe_a_machine(case: str, tmp_path: Path) -> None:
    changes, said = BAD[case]
    file = tmp_path / "own.json"
    file.write_text(json.dumps(described(changes)))
    with pytest.raises(UsageError, match=said) as caught:
        hardware(str(file))
    assert caught.value.code == "E006"


def test_a_machine_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text(json.dumps(described({"title": "ours", "memory": 48 * GB})))
    assert hardware(str(file)) == Hardware(**described({"title": "ours", "memory": 48 * GB}))


def test_a_number_of_bytes_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text(json.dumps(described({"memory": 48e9})))
    assert hardware(str(file)).memory == 48 * GB
    assert type(hardware(str(file)).memory) is int


def test_what_fits_nowhere_names_the_changes_that_were_tried(qlora: Job) -> None:
    card = hardware("rtx-4090")
    found = fit(shapes("llama-3.1-70b"), qlora, card.budget)
    assert found.least == ("data.max_length: 256",)
    shorter = dataclasses.replace(qlora, length=256)
    assert found.changed == peak_of(shapes("llama-3.1-70b"), shorter)
    assert verdict(found).endswith("; even with data.max_length: 256 still 45.5 GB")
    least = fit(shapes("llama-3.1-70b"), shorter, card.budget)
    assert least.least == ()
    assert verdict(least).endswith("; no change of the recipe makes it less")


def test_four_facts_are_enough(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    facts = {"title": "ours", "memory": 48 * GB, "usable": 0.5, "flops": 10**13}
    file.write_text(json.dumps(facts))
    found = hardware(str(file))
    assert (found.budget, found.device, found.unified) == (24 * GB, "cuda", False)


def test_names_are_known_in_any_case() -> None:
    assert hardware("DGX-Spark") == hardware("dgx-spark")


def test_the_machine_at_hand_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "gpus", lambda: ())
    monkeypatch.setattr(system, "memory", lambda: system.Memory(40 * GB, 8 * GB))
    found = hardware("auto")
    assert (found.device, found.budget, found.unified) == ("cpu", 34 * GB, True)


@pytest.mark.parametrize(
    ("gpu", "driver_says", "memory"),
    [
        ("NVIDIA GB10", 0, 128 * GB),  # the machine's
        ("NVIDIA GeForce RTX 4090", 0, 25_757_220_864),  # by its facts
        ("NVIDIA H999", 7 * GB, 7 * GB),
    ],
)
def test_a_gpu_has_the_memory_of_its_own(
    gpu: str, driver_says: int, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "gpus", lambda: (system.Gpu(gpu, "580.1"),))
    monkeypatch.setattr(system, "memory", lambda: system.Memory(128 * GB, 64 * GB))
    monkeypatch.setattr(system, "gpu_memory", lambda: driver_says)
    assert (hardware("auto").memory, this_machine().memory) == (memory, memory)


def test_a_gpu_of_which_nothing_is_known_wants_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "gpus", lambda: (system.Gpu("NVIDIA H999", "580.1"),))
    monkeypatch.setattr(system, "gpu_memory", lambda: 0)
    with pytest.raises(UsageError, match="the memory of NVIDIA H999 cannot be read"):
        hardware("auto")


def test_no_file_and_no_known_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not describe a machine: No such file"):
        hardware(str(tmp_path / "none.json"))
    with pytest.raises(UsageError, match="no facts of a machine called dgx-spak") as caught:
        hardware("dgx-spak")
    assert "did you mean dgx-spark?" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "meant"), [("h100", "h100-80"), ("spark", "dgx-spark"), ("4090", "rtx-4090")]
)
def test_a_part_of_a_name_is_enough_to_be_understood(name: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        hardware(name)
    assert f"did you mean {meant}?" in caught.value.hint


# --- the command


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert main(["plan", *arguments]) == status
    return capsys.readouterr().out


def test_the_pages_tables_are_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "hardware.md").read_text()
    for recipe in sorted(COURSE.glob("10.[23]-*.yaml")):
        name = recipe.relative_to(ROOT).as_posix()
        text = said(capsys, name, "--hardware", "all", "--format", "markdown")
        if "comparison" in name:  # of two recipes; its own has fewer stages than the 70B's
            assert text.index("course-10.2-8b-lora\n") < text.index("course-10.3-comparison\n")
            continue
        assert text.strip() in page


def test_text_and_json_say_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    recipe = "recipes/course/10.3-70b-qlora.yaml"
    text = said(capsys, recipe, "--hardware", "rtx-4090,dgx-spark")
    data = json.loads(said(capsys, recipe, "--hardware", "rtx-4090,dgx-spark", "--format", "json"))
    card, spark = data["machines"]
    assert (card["fits"], card["changes"], spark["fits"], spark["changes"]) == (
        False,
        None,
        True,
        [],
    )
    assert "GeForce RTX 4090: does not fit: " in text
    assert "NVIDIA DGX Spark: fits: " in text
    assert (
        sum(item["bytes"] for item in spark["phases"]["train"]["items"])
        == (spark["phases"]["train"]["total"])
    )


def test_one_machine_is_told_in_full_and_several_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    recipe = "recipes/course/10.3-70b-qlora.yaml"
    one = said(capsys, recipe, "--hardware", "dgx-spark")
    assert one.count("weights in 4 bits") == 6  # of every phase
    assert "time train: about " in one
    assert "On the disk: about " in one
    several = said(capsys, recipe, "--hardware", "h200,h100-80")
    assert several.startswith("H200: fits: about ")
    assert several.count("GB  evaluate") == 1
    assert "H100 80 GB: one row by itself may have " in several


def test_what_is_not_run_is_not_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)

    def phases(recipe: str, *options: str) -> tuple[dict[str, Any], set[str], set[str]]:
        given = (f"recipes/course/{recipe}", "--hardware", "dgx-spark", "--format", "json")
        data = json.loads(said(capsys, *given, *options))
        first = data["bases"][0] if "bases" in data else data
        (machine,) = first["machines"]
        return machine, set(machine["phases"]), set(machine["beside"])

    whole, measured, beside = phases("10.2-8b-lora.yaml")
    assert ("evaluate" in measured, beside) == (True, {"merge", "convert"})
    until, measured, beside = phases("10.2-8b-lora.yaml", "--until", "evaluate")
    assert ("evaluate" in measured, beside) == (True, set())
    assert until["disk"]["store"] < whole["disk"]["store"] / 1.5
    assert phases("10.3-comparison.yaml") == (until, measured, beside)
    _, measured, beside = phases("10.2-8b-lora.yaml", "--until", "train")
    assert (measured, beside) == ({"load", "first step", "train", "save"}, set())
    _, measured, beside = phases("10.2-8b-qlora.yaml", "--until", "merge")
    assert beside == {"merge"}
    assert "fidelity" not in measured


def test_every_recipe_of_a_chain_is_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("runner.plan.fits.facts_at_hand", lambda _: LLAMA_1B)
    recipe = "recipes/course/10.5-sft-then-dpo.yaml"
    text = said(capsys, recipe, "--hardware", "rtx-4090")
    assert [line for line in text.splitlines() if line in ("quickstart", "sft-then-dpo")] == [
        "quickstart",
        "sft-then-dpo",
    ]
    data = json.loads(said(capsys, recipe, "--hardware", "rtx-4090", "--format", "json"))
    assert (data["recipe"], [base["recipe"] for base in data["bases"]]) == (
        "sft-then-dpo",
        ["quickstart"],
    )


def test_a_shrunken_twin_is_not_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    recipe = "recipes/course/10.3-70b-qlora.yaml"
    assert main(["plan", recipe, "--shrink", "--hardware", "h200"]) == 2
    told = capsys.readouterr().err
    assert "a shrunken twin fits every machine" in told
    assert "leave --shrink out" in told


def test_a_model_of_unknown_size_ends_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    text = (COURSE / "10.2-8b-lora.yaml").read_text()
    own = text.replace("meta-llama/Llama-3.1-8B-Instruct", "someone/something")
    (tmp_path / "recipes" / "data").mkdir(parents=True)
    for path in (COURSE.parent / "data").iterdir():
        (tmp_path / "recipes" / "data" / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "recipes" / "course" / "x.yaml"
    file.parent.mkdir()
    file.write_text(own)
    (tmp_path / ".git").mkdir()
    assert main(["plan", str(file), "--hardware", "all"]) == 2
    told = capsys.readouterr().err
    assert "E007" in told
    assert "the model's facts are not at hand" in told


@pytest.mark.parametrize("words", [["--hardware", ""], ["--hardware", "", "--recommend"]])
def test_no_name_is_not_this_machine(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["plan", "recipes/course/10.3-70b-qlora.yaml", *words]) == 2
    told = capsys.readouterr().err
    assert "error[E006]: no machine is named" in told
    assert "dgx-spark" in told


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_no_machine(name: str) -> None:
    with pytest.raises(UsageError, match="no machine is named"):
        hardware(name)


def test_a_list_of_machines_names_each_once() -> None:
    spark, card = hardware("dgx-spark"), hardware("rtx-4090")
    assert machines_of("rtx-4090, DGX-Spark,,rtx-4090,") == [card, spark]
    assert machines_of("dgx-spark,all")[0] == spark
    assert sorted(each.title for each in machines_of("dgx-spark,all")) == sorted(
        hardware(name).title for name in known_names()
    )


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_a_list_of_no_machine_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no machine is named") as caught:
        machines_of(text)
    assert caught.value.code == "E006"
