"""Train one case by the product's own script, evaluate it, and tell what each phase took.

usage: python -m benchmarks.gpu.child CASE ANSWER   (by an interpreter that has torch)

CASE is JSON, the fields of a Case.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.cases import NEW_TOKENS, Case
from benchmarks.gpu.children import DONE, FAILED, NOT_RUN
from runner.scripts.spec import Events, ScriptError, Spec

if TYPE_CHECKING:
    from benchmarks.gpu.meter import Meter


# As runner/scripts/training/training_record.py parts a training, in this order.
PHASES = ("load", "first step", "train", "save")


@contextmanager
def followed(watch: Meter) -> Iterator[None]:
    """While entered, each phase that a training's record ends is one of the meter's, too."""
    from runner.scripts.training import training_record

    names, begin = iter(PHASES), training_record.begin_peak

    def end_and_begin(device: Any) -> None:
        watch.end(next(names))
        begin(device)

    training_record.begin_peak = end_and_begin
    try:
        yield
    finally:
        training_record.begin_peak = begin


def missing(needs: tuple[str, ...]) -> str:
    """Why a case cannot be run; empty where all is there."""
    absent = [name for name in needs if find_spec(name) is None]
    return f"{', '.join(absent)} is not installed" if absent else ""


def measured(case: Case, place: Path) -> dict[str, Any]:
    """Bytes by phase, and the events of the training. Raises ScriptError."""
    from benchmarks.gpu import drawn, meter

    available = meter.available_memory()
    import torch

    from runner.scripts.training.torch_setup import told_of_gpu

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = {
        "model": drawn.write_model(place / "model", case),
        "tokens": drawn.write_rows(place / "train.tokens.safetensors", case),
    }
    inputs["template"] = inputs["model"] / "chat_template.jinja"
    watch = meter.Meter(device, available)
    events = Events(place / "events.jsonl", "train")
    script = importlib.import_module(f"runner.scripts.{case.script}")
    with drawn.drawn_weights(drawn.place_of(case, device)):
        with followed(watch):
            told_of_gpu(script.train)(_training(case, inputs, place), events)
        if case.evaluates:
            _empty(device)
            watch.begin()
            evaluation = importlib.import_module("runner.scripts.evaluate")
            told_of_gpu(evaluation.evaluate)(_evaluation(case, inputs, place), events)
            watch.end("evaluate")
    return {"device": device.type, "phases": watch.phases, "events": _lines(place)}


def _training(case: Case, inputs: dict[str, Path], place: Path) -> Spec:
    """Without the canary: random weights are no base that reads text."""
    hashed = {"settings": case.settings, "save_steps": case.steps + 1, "canary": False}
    return _spec(hashed, inputs, place, "trained")


def _evaluation(case: Case, inputs: dict[str, Path], place: Path) -> Spec:
    """Of the held-out loss, on the rows that were trained on."""
    settings = case.settings
    kind = "model" if settings["adapter"]["type"] == "none" else "adapter"
    held = {"quantization": settings["quantization"]} if "quantization" in settings else {}
    hashed = {
        "loss": True,
        "samples": 0,
        "max_new_tokens": NEW_TOKENS,
        "questions": None,
        "trained": kind,
        "system": None,
        "dtype": settings["dtype"],
        "attn_implementation": settings["attn_implementation"],
        **held,
    }
    prompts = place / "prompts.jsonl"
    prompts.write_bytes(b"")
    more = {"trained": place / "trained" / kind, "prompts": prompts}
    return _spec(hashed, inputs | more, place, "evaluated")


def _spec(hashed: dict[str, Any], inputs: dict[str, Path], place: Path, name: str) -> Spec:
    for folder in (place / name, place / "scratch"):
        folder.mkdir(exist_ok=True)
    return Spec(hashed, inputs, place / name, place / "scratch", place / "events.jsonl")


def _empty(device: Any) -> None:
    """Give back what the training held: in a run the evaluation is a process of its own."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _lines(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "events.jsonl").read_bytes().splitlines()]


def tell(case: Case, answer: Path) -> None:
    """Write what came out of the case to `answer`; its files lie beside it."""
    if absent := missing(case.needs):
        told: dict[str, Any] = {NOT_RUN: absent}
    else:
        try:
            told = {DONE: measured(case, answer.parent)}
        except ScriptError as error:
            told = {FAILED: f"{error.code}: {error.message}"}
    answer.write_text(json.dumps(told))


if __name__ == "__main__":
    tell(Case(**json.loads(sys.argv[1])), Path(sys.argv[2]))
