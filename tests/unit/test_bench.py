"""Figures of a training that can be true, energy from counters, and the page's arithmetic."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.bench.energy import Meter, meter_of, rapl_meter
from runner.bench.figures import (
    ImpossibleFigure,
    Roofline,
    Spread,
    Step,
    figures_of,
    spread,
    steps_of,
)
from runner.bench.train import Bench, of_steps, roofline_of
from runner.cli.main import main
from runner.plan.cost import flop_per_token
from runner.plan.machines import hardware, known_names, peak_of
from runner.plan.shapes import shapes_of
from runner.recipe.load import check_recipe
from runner.recipe.model import Recipe
from runner.report.bench_text import as_data, as_text
from tests.chain import ROOT

PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
SPARK = hardware("dgx-spark").peak_flops
NOBODY = Roofline(0.0, "a new GPU", None)


def step(seconds: float, non_pad: int = 100, padded: int = 128, supervised: int = 40) -> Step:
    tokens = {"non_pad": non_pad, "padded": padded, "supervised": supervised}
    return Step(seconds, tokens, ended=0.0)


# --- figures


def test_warm_up_counts_for_nothing_and_tokens_are_told_apart() -> None:
    figures = figures_of([step(9.0), step(1.0), step(2.0), step(1.0)], 1, NOBODY)
    assert (figures.steps, figures.left_out, figures.total) == (3, 1, 4.0)
    assert figures.per_second == {"non_pad": 75.0, "padded": 96.0, "supervised": 30.0}
    assert figures.seconds == Spread(1.0, 1.0, 1.5)
    assert (figures.flops, figures.mfu) == (None, None)


def test_a_single_step_is_its_own_spread() -> None:
    assert spread([2.5]) == Spread(2.5, 2.5, 2.5)


def test_useful_work_is_that_of_tokens_without_padding() -> None:
    figures = figures_of([step(1.0)], 0, Roofline(1e6, "a chip", flop_per_token=1000.0))
    assert figures.flops == pytest.approx(1e5)
    assert figures.mfu == pytest.approx(0.1)


def test_one_step_above_the_roofline_refuses_all() -> None:
    roofline = Roofline(1e6, "a chip", flop_per_token=1000.0)
    slow = [step(1.0)] * 50
    figures_of(slow, 0, roofline)
    with pytest.raises(ImpossibleFigure, match=r"a chip cannot do more than 1\.00e") as caught:
        figures_of([*slow, step(0.1)], 0, roofline)
    assert (caught.value.code, caught.value.exit_code) == ("E933", 3)


@pytest.mark.parametrize("counts", [(200, 128, 40), (100, 128, 101), (100, 128, 0), (0, 128, 0)])
def test_counts_that_contradict_each_other_are_refused(counts: Sequence[int]) -> None:
    with pytest.raises(ImpossibleFigure, match="cannot be"):
        figures_of([step(1.0, *counts)], 0, NOBODY)


def test_steps_are_read_from_events() -> None:
    tokens = {"non_pad": 100, "padded": 128, "supervised": 40}
    told = {"event": "progress", "step": 1, "total": 2, "time": 7.0, "tokens": tokens}
    events = [
        {"event": "measure", "values": {}},
        told | {"tokens_per_second": 50.0},
        {"event": "progress", "step": 1, "total": 2, "message": "loading"},
    ]
    assert steps_of(events) == [Step(2.0, tokens, 7.0)]


# --- what the hardware can do


@pytest.mark.parametrize("name", known_names())
def test_every_machine_says_what_it_cannot_exceed(name: str) -> None:
    known = hardware(name)
    assert known.flops < known.peak_flops < 4 * known.flops
    assert peak_of(known.gpu) == (known.peak_flops, known.title) or "H100" in known.gpu
    assert peak_of("NVIDIA Nothing") == (0.0, "NVIDIA Nothing")


def test_a_file_of_a_machine_may_leave_the_peak_out(tmp_path: Path) -> None:
    data = json.loads((ROOT / "runner/plan/data/machines/h200.json").read_text())
    del data["peak_flops"]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    assert hardware(str(path)).peak_flops == 0.0


def test_the_peak_of_a_gpu_is_that_of_the_file_that_is_given(lora: Recipe) -> None:
    known = replace(hardware("h200"), title="ours", peak_flops=3e14)
    assert roofline_of(lora, "NVIDIA H999", known).peak == 3e14
    assert roofline_of(lora, "NVIDIA H999").peak == 0.0


def test_several_gpus_can_do_more_than_one(lora: Recipe) -> None:
    """The tokens that are counted are those of all processes."""
    train = replace(lora.train, processes=2, nodes=2)
    found = roofline_of(replace(lora, train=train), "NVIDIA GB10")
    assert (found.peak, found.source) == (4 * SPARK, "4 of NVIDIA DGX Spark")


def test_a_file_without_a_peak_is_no_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"title": "t", "memory": 9000000000, "usable": 1, "flops": 1}')
    recipe = str(ROOT / "recipes" / "quickstart.yaml")
    assert main(["bench", "train", recipe, "--hardware", str(path)]) == 2
    assert "add peak_flops" in capsys.readouterr().err


# --- the page


def published() -> list[list[str]]:
    """The rows of the table of published figures."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| Llama")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_published_figures_need_what_the_page_says() -> None:
    rows = [row for row in published() if len(row) == 6]
    assert len(rows) == 3
    for _, weights, operations, rate, needs, times in rows:
        work = float(weights) * float(operations) * float(rate)
        assert f"{work:.2e}".replace("e+", "e") == needs
        assert f"{work / SPARK:.1f}" == times
        assert work > 10 * SPARK


def test_what_to_expect_is_the_peak_divided_by_the_work() -> None:
    work = {row[0]: float(row[1]) * float(row[2]) for row in published() if len(row) == 6}
    expected = [row for row in published() if len(row) == 3]
    assert len(expected) == 3
    for name, low, high in expected:
        assert (int(low), int(high)) == (
            round(0.3 * SPARK / work[name]),
            round(0.6 * SPARK / work[name]),
        )


def test_the_peak_of_the_page_is_the_file_s() -> None:
    assert SPARK == 1e15 / 2 / 4
    assert "1.25e14 FLOP/s" in PAGE


@pytest.fixture(scope="module")
def lora() -> Recipe:
    recipe, _ = check_recipe(ROOT / "recipes" / "course" / "10.2-8b-lora.yaml")
    assert recipe is not None
    return recipe


def test_the_published_rate_of_8b_lora_would_be_refused(lora: Recipe) -> None:
    name = ROOT / "runner/plan/data/published/llama-3.1-8b.json"
    need = flop_per_token(lora, shapes_of(json.loads(name.read_text())), 2)
    assert need == pytest.approx(4 * 8.03e9, rel=0.07)  # the lookup of a token is no product
    roofline = Roofline(SPARK, "NVIDIA DGX Spark", need)
    with pytest.raises(ImpossibleFigure, match=r"53,658 tokens/s would take at least 1\."):
        figures_of([step(1.0, 53_658, 53_658, 53_658)], 0, roofline)
    assert figures_of([step(1.0, 2000, 2048, 900)], 0, roofline).mfu == pytest.approx(0.5, rel=0.1)


# --- what is trained for it


def test_the_recipe_is_trained_a_few_steps_without_a_checkpoint(lora: Recipe) -> None:
    short = of_steps(lora, 23).train
    assert (short.max_steps, short.num_train_epochs, short.save_steps) == (23, None, 24)
    assert short.learning_rate == lora.train.learning_rate


def test_a_processor_has_a_ceiling_and_an_unknown_model_no_work(lora: Recipe) -> None:
    other = replace(lora, model=replace(lora.model, hub="someone/something"))
    roofline = roofline_of(other, "")
    assert roofline.peak > 1e11
    assert "any processor" in roofline.source
    assert roofline.flop_per_token is None


@pytest.mark.parametrize("option", ["--steps=0", "--steps=10001", "--warm-up=-1"])
def test_what_cannot_be_measured_is_refused(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "train", "x.yaml", option]) == 2
    assert "error[E935]" in capsys.readouterr().err


# --- energy


def rapl(root: Path, zone: str, energy: int) -> None:
    folder = root / "sys/class/powercap" / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text("1000000000\n")


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    for zone, energy in (("intel-rapl:0", 5_000_000), ("intel-rapl:1", 2_000_000)):
        rapl(tmp_path, zone, energy)
    rapl(tmp_path, "intel-rapl:0:0", 4_000_000)
    meter = rapl_meter(tmp_path)
    assert meter is not None
    assert meter.read() == 7.0


def test_a_counter_that_begins_again_goes_on(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", 999_000_000)
    meter = rapl_meter(tmp_path)
    assert meter is not None
    meter.sample(0.0)
    rapl(tmp_path, "intel-rapl:0", 4_000_000)
    meter.sample(10.0)
    assert meter.joules(0.0, 10.0) == pytest.approx(5.0)
    assert meter.joules(5.0, 10.0) == pytest.approx(2.5)
    assert meter.joules(5.0, 11.0) is None


@pytest.mark.parametrize("content", [None, "much\n"])
def test_what_cannot_be_read_is_no_meter(tmp_path: Path, content: str | None) -> None:
    assert rapl_meter(tmp_path) is None
    rapl(tmp_path, "intel-rapl:0", 1)
    path = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert rapl_meter(tmp_path) is None


def nvml(failure: int = 0) -> Any:
    """The driver's library, as far as it is called; `failure`: what asking for energy returns."""

    def energy(device: Any, used: Any) -> int:
        ctypes.cast(used, ctypes.POINTER(ctypes.c_ulonglong))[0] = 12_500  # millijoules
        return failure

    return SimpleNamespace(
        nvmlInit_v2=lambda: 0,
        nvmlDeviceGetHandleByIndex_v2=lambda index, device: index,
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )


def missing(name: str) -> Any:
    raise OSError(f"{name} is not there")


def test_a_gpu_is_read_by_the_driver_s_counter() -> None:
    meter = meter_of(True, load=lambda name: nvml())
    assert meter is not None
    assert meter.read() == 12.5
    assert "GPU alone" in meter.what
    assert meter_of(True, load=lambda name: nvml(failure=3)) is None
    assert meter_of(True, load=missing) is None


def test_a_counter_that_fails_in_between_leaves_no_sample() -> None:
    answers = iter([1.0, None, 3.0])
    meter = Meter("x", lambda: next(answers))
    for now in (0.0, 1.0, 2.0):
        meter.sample(now)
    assert meter.samples == [(0.0, 1.0), (2.0, 3.0)]


# --- the report


def found(joules: float | None, roofline: Roofline) -> Bench:
    figures = figures_of([step(1.0), step(2.0), step(2.0)], 1, roofline)
    return Bench("t", "2 cores", figures, roofline, joules, "a meter", 1_500_000_000)


def test_the_report_says_what_was_left_out_and_what_is_not_known() -> None:
    text = as_text(found(None, NOBODY))
    assert "2 steps measured, behind 1 of warm-up that are left out" in text
    assert re.search(r"50\.0  without padding", text)
    assert "not known: the model's shapes" in text
    assert "energy             not readable here" in text
    assert "1.5  GB" in text


def test_the_report_has_part_of_the_peak_and_energy_a_token() -> None:
    bench = found(100.0, Roofline(1e6, "a chip", 1000.0))
    assert "5.0 % of 1.00e+06 (a chip)" in as_text(bench)
    assert "0.5000  J a token without padding: a meter" in as_text(bench)
    data = as_data(bench)
    assert data["mfu"] == pytest.approx(0.05)
    assert data["tokens_per_second"]["padded"] == 64.0
    assert json.loads(json.dumps(data)) == data
