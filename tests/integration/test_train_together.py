"""One training by two processes over gloo: the same rows, equal bytes, resume, a lost process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load

from tests.chain import ROOT
from tests.tiny_model import write_tiny_model
from tests.together import (
    finish_together,
    kill_together,
    process_ids,
    settings_of_lora,
    start_together,
)
from tests.training_runs import SETTINGS as PLAIN
from tests.training_runs import (
    Finished,
    ScriptRun,
    WarmInterpreter,
    documents,
    done,
    tokens_by_step,
    trace,
    write_tokens,
)

ADAPTER = "adapter/adapter_model.safetensors"
# 13 rows in batches of 2 for two processes: 4 steps an epoch; in the last one the first process has
# a single row, and the second has none
SETTINGS: dict[str, Any] = PLAIN | {
    "max_steps": 6,
    "per_device_train_batch_size": 2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 1,
    "weight_decay": 0.01,
    "seed": 42,
    "adapter": settings_of_lora(),
    "has_prompts": False,  # random bytes, not conversations
}
FULL = {"type": "none"}
Make = Callable[..., ScriptRun]
Pair = list[WarmInterpreter]


@pytest.fixture(scope="module")
def pair(warm: WarmInterpreter, environment_python: Callable[[str], Path]) -> Iterator[Pair]:
    second = WarmInterpreter(environment_python("native"))
    yield [warm, second]
    second.close()


@pytest.fixture(scope="module")
def make(
    environment_python: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Make:
    """A training of the tiny model; keywords replace settings."""
    model = write_tiny_model(tmp_path_factory.mktemp("model") / "model")
    other = write_tiny_model(tmp_path_factory.mktemp("model") / "model")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.Y"}}))

    def made(
        script: str = "train_shared",
        *,
        save_steps: int = 1000,
        packing: bool = False,
        loaded_whole: bool = False,
        **settings: Any,
    ) -> ScriptRun:
        place = tmp_path_factory.mktemp("training")
        rows = [[document] for document in documents(13)]
        if packing:
            rows = [documents(3, seed=seed) for seed in range(13)]
        return ScriptRun(
            environment_python("native"),
            script,
            {"settings": SETTINGS | {"packing": packing} | settings, "save_steps": save_steps},
            {
                "model": other if loaded_whole else model,
                "tokens": write_tokens(place / "train.tokens.safetensors", rows, packed=packing),
                "template": model / "chat_template.jinja",
            },
            place,
        )

    return made


@pytest.fixture(scope="module")
def uninterrupted(make: Make, pair: Pair) -> Finished:
    return done(finish_together(make(), pair))


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": settings_of_lora(lora_dropout=0.0)},
        {"adapter": settings_of_lora(lora_dropout=0.0), "gradient_checkpointing": True},
        {"adapter": FULL, "learning_rate": 1e-4},
        {"adapter": settings_of_lora(lora_dropout=0.0), "method": "pretrain", "bf16": True},
        {"adapter": settings_of_lora(lora_dropout=0.0), "packing": True, "dtype": "bfloat16"},
    ],
    ids=["lora", "checkpointed", "every weight", "pre-training in bfloat16", "packs on bfloat16"],
)
def test_a_step_of_two_processes_takes_the_rows_of_one_with_twice_the_accumulation(
    make: Make, pair: Pair, warm: WarmInterpreter, changes: dict[str, Any]
) -> None:
    alone = done(make("train_native", gradient_accumulation_steps=4, **changes).finish(warm))
    both = done(finish_together(make(gradient_accumulation_steps=2, **changes), pair))
    taken = [(step["non_pad"], step["supervised"]) for step in tokens_by_step(both)]
    assert taken == [(step["non_pad"], step["supervised"]) for step in tokens_by_step(alone)]
    half = changes.get("bf16") or changes.get("dtype") == "bfloat16"
    loose = 1e-2 if half else 1e-4  # the sums are the same, and rounded otherwise
    for ours, theirs in zip(trace(both), trace(alone), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=loose)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=loose * 10)
        assert ours["learning_rate"] == theirs["learning_rate"]
    assert set(both.files()) == set(alone.files())
    for name, content in alone.files().items():
        if name.endswith(".safetensors"):
            assert shapes(both.files()[name]) == shapes(content)
        elif name != "trace.jsonl":
            assert both.files()[name] == content


def shapes(content: bytes) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in load(content).items()}


def test_two_trainings_with_dropout_give_the_same_bytes(
    make: Make, pair: Pair, uninterrupted: Finished
) -> None:
    again = done(finish_together(make(), pair))
    assert again.files() == uninterrupted.files()
    digests = [line["weights"] for line in trace(again)]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    "changes",
    [{}, {"adapter": FULL, "learning_rate": 1e-4}],
    ids=["lora", "every weight"],
)
def test_whether_each_process_reads_its_part_or_all_of_the_base_the_bytes_are_the_same(
    make: Make, pair: Pair, changes: dict[str, Any]
) -> None:
    """The float32 files are rounded to bfloat16 in both, also where float32 is trained."""
    changes = changes | {"dtype": "bfloat16", "max_steps": 2}
    in_parts = done(finish_together(make(**changes), pair))
    whole = done(finish_together(make(loaded_whole=True, **changes), pair))
    words = "every process loads the whole model: it brings its own code"
    assert (words in in_parts.log, words in whole.log) == (False, True)
    assert set(in_parts.files()) == set(whole.files())
    for name, content in in_parts.files().items():
        if name != "model/config.json":  # which says that there is code
            assert whole.files()[name] == content


def test_each_process_draws_for_itself(make: Make, pair: Pair, uninterrupted: Finished) -> None:
    without = done(finish_together(make(adapter=settings_of_lora(lora_dropout=0.0)), pair))
    assert without.files()[ADAPTER] != uninterrupted.files()[ADAPTER]


def test_the_first_process_alone_speaks(uninterrupted: Finished) -> None:
    steps = [event["step"] for event in uninterrupted.events if event["event"] == "progress"]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert uninterrupted.measures()["steps"] == 6
    epoch = sum(tokens["non_pad"] for tokens in tokens_by_step(uninterrupted)[:4])
    assert epoch == sum(len(tokens) for tokens, _ in documents(13))


@pytest.mark.parametrize("step", [2, 4, 6])
def test_both_killed_and_started_again_they_go_on_and_give_the_same_bytes(
    make: Make, pair: Pair, uninterrupted: Finished, step: int
) -> None:
    run = make(save_steps=1)
    forks = start_together(run, pair)
    run.wait_for_step(forks[0], step)
    kill_together(forks, signal.SIGKILL)
    kept = newest_step(run)
    before = len(run.events())
    result = done(finish_together(run, pair))
    assert result.files() == uninterrupted.files()
    again = [event["step"] for event in result.events[before:] if event["event"] == "progress"]
    assert again == list(range(kept + 1, 7))


def newest_step(run: ScriptRun) -> int:
    """Of the newest complete checkpoint; 0 without any."""
    markers = (run.scratch / "checkpoints").glob("checkpoint-*/COMPLETE.json")
    return max((int(marker.parent.name.split("-")[1]) for marker in markers), default=0)


def test_a_full_training_goes_on_from_its_checkpoint_too(make: Make, pair: Pair) -> None:
    changes: dict[str, Any] = {"adapter": FULL, "learning_rate": 1e-4, "max_steps": 3}
    whole = done(finish_together(make(**changes), pair))
    run = make(save_steps=1, **changes)
    forks = start_together(run, pair)
    run.wait_for_step(forks[0], 2)
    kill_together(forks, signal.SIGKILL)
    assert done(finish_together(run, pair)).files() == whole.files()


def test_asked_to_stop_both_end_behind_the_same_step_with_a_checkpoint(
    make: Make, pair: Pair, uninterrupted: Finished
) -> None:
    run = make()
    forks = start_together(run, pair)
    run.wait_for_step(forks[0], 1)
    (run.scratch / "stop").touch()
    assert [fork.wait() for fork in forks] == [1, 1]
    assert run.result(1).error()["code"] == "E130"
    assert list((run.scratch / "checkpoints").glob("checkpoint-*/COMPLETE.json"))
    assert done(finish_together(run, pair)).files() == uninterrupted.files()


def test_a_checkpoint_of_half_the_files_is_not_gone_on_from(
    make: Make, pair: Pair, uninterrupted: Finished
) -> None:
    run = make(save_steps=2)
    forks = start_together(run, pair)
    run.wait_for_step(forks[0], 5)
    kill_together(forks, signal.SIGKILL)
    for folder in (run.scratch / "checkpoints").glob("checkpoint-*"):
        (folder / "optimizer-1.safetensors").write_bytes(b"")
    assert done(finish_together(run, pair)).files() == uninterrupted.files()


# --- through PyTorch's launcher


def test_started_by_the_launcher_a_lost_process_is_named_and_the_training_goes_on(
    make: Make, uninterrupted: Finished
) -> None:
    run = make(save_steps=1)
    spec = json.loads(run.spec_file.read_text())
    place = {"script": "train_shared", "local": 2, "machine": 0, "machines": 1}
    spec["where"]["processes"] = place
    run.spec_file.write_text(json.dumps(spec))
    process = run.start_cold("start_processes")
    while not any(event.get("step", 0) >= 2 for event in run.events()):
        assert process.poll() is None, run.result(1).log
        time.sleep(0.02)
    second = [pid for pid in process_ids(process.pid, "train_shared") if rank_of(pid) == "1"]
    os.kill(second[0], signal.SIGKILL)
    assert process.wait() == 1
    error = run.result(1).error()
    assert error["code"] == "E377"
    assert error["message"] == "process 1 of 2 was killed by SIGKILL; the others were ended"
    assert "goes on from its last checkpoint" in error["hint"]
    assert run.start_cold("start_processes").wait() == 0, run.result(1).log
    assert run.result(0).files() == uninterrupted.files()


CAUSE = """
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from runner.scripts.start_processes import _cause

def cause(*exitcodes):
    failed = {n: ProcessFailure(n, 10 + n, code, "") for n, code in enumerate(exitcodes) if code}
    return _cause(ChildFailedError("train", failed))[0]

print(cause(1, -9), cause(-6, -9), cause(-15, 0, 1), cause(0, 2))
"""


def test_the_process_that_was_lost_is_the_cause_and_not_one_that_missed_it(
    environment_python: Callable[[str], Path],
) -> None:
    done = subprocess.run(
        [str(environment_python("native")), "-c", CAUSE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[:2] == ["1", "1"]
    assert done.stdout.split()[3] == "1"


def rank_of(pid: int) -> str:
    variables = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
    return dict(each.split("=", 1) for each in variables if "=" in each).get("RANK", "")
