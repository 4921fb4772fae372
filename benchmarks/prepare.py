"""Make tokens of rows, beside LLaMA Factory's and TRL's own preprocessing of the same rows.

usage: .venv/bin/python -m benchmarks.prepare [ROWS] [--workers N] [--compared]

ROWS (20,000; 1000000 works too) alpaca rows of made-up words are generated, always the same ones,
and SmolLM2's tokenizer and template are used. Whole processes are measured, from the start to the
last row that could be trained on, with as many workers each (2) and all caches empty; in turn, once
each, since a run takes minutes. Memory is that of all processes of one contender together, pages
that they share counted once. The ids of all rows must be equal, else the benchmark fails.

--compared: ours alone, on rows of about 22 words, with every step that compares rows with each
other: stable split by a group and strata, a leak check, equal and near duplicates, packing. Memory
is then that of the largest process, and the disk what waits there beside the outputs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from runner.execution.context import SCRIPTS
from runner.system import determinism, environments, process_tree
from runner.system.folders import cache_folder
from tests.script_runs import PREPARING
from tests.smollm_models import published_gguf, write_two_layers

LOOK_SECONDS = 0.5  # how often memory is looked at
LENGTH = 2048
SYSTEM = "You are a helpful assistant."  # in every row: LLaMA Factory's own default is another
ROWS = 20_000

# Each prints the sha256 of the ids of all rows, four bytes each, in their order.
_TOLD = """
import hashlib, numpy as np
def tell(rows):
    digest = hashlib.sha256()
    for row in rows:
        digest.update(np.array(row["input_ids"], "<i4").tobytes())
    print("ids", digest.hexdigest())
"""
LLAMAFACTORY = f"""
import sys
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
model, place, workers = sys.argv[1:]
model_args, data_args, training_args, _, _ = get_train_args(dict(
    stage="sft", do_train=True, finetuning_type="lora", model_name_or_path=model,
    template="smollm2", dataset="rows", dataset_dir=place, cutoff_len={LENGTH},
    preprocessing_num_workers=int(workers), output_dir=place + "/out", report_to="none",
    use_cpu=True))
loaded = load_tokenizer(model_args)
template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
made = get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)
{_TOLD}
tell(made["train_dataset"])
"""
TRL = f"""
import sys
from datasets import load_dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer
model, place, workers = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(model)
tiny = LlamaForCausalLM(LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    num_attention_heads=1))
rows = load_dataset("json", data_files=place + "/turns.jsonl", split="train")
settings = SFTConfig(
    output_dir=place + "/out", max_length={LENGTH}, dataset_num_proc=int(workers),
    use_cpu=True, report_to="none")
trainer = SFTTrainer(tiny, settings, train_dataset=rows, processing_class=tokenizer)
{_TOLD}
tell(trainer.train_dataset)
"""


@dataclass(frozen=True)
class Measured:
    """Seconds, those of all processors, and bytes of one contender; the digest of its ids.

    On a busy machine the processors' seconds say more than those on the wall.
    """

    name: str
    seconds: float
    processor_seconds: float
    memory: int
    ids: str


def main(arguments: list[str]) -> None:
    """Print the table. Exit code 1 where ids differ."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="?", type=int, default=ROWS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--compared", action="store_true")
    args = parser.parse_args(arguments)
    if args.compared:
        print(compared(args.rows, args.workers))
        return
    with tempfile.TemporaryDirectory(prefix="prepare-") as name:
        place = Path(name)
        model = model_folder(place)
        write_rows(place, args.rows)
        found = [
            ours(place, model, args.workers),
            peer("LLaMA Factory", "llamafactory", LLAMAFACTORY, place, model, args.workers),
            peer("TRL's SFTTrainer", "native", TRL, place, model, args.workers),
        ]
    print(table(found))
    if len({each.ids for each in found}) > 1:
        raise SystemExit("the ids differ")
    print("\nthe ids of all rows are equal")


def model_folder(place: Path) -> Path:
    """SmolLM2's tokenizer, template and configuration; weights are not needed."""
    python = environments.ensure("data", cache_folder(), print).python
    model = write_two_layers(published_gguf(cache_folder()), python, place / "fetched")
    (model / "model.safetensors").unlink()
    return model


def write_rows(place: Path, count: int) -> None:
    """The same rows as alpaca and as turns of prompt and completion."""
    with (
        (place / "rows.jsonl").open("w", encoding="utf-8") as alpaca,
        (place / "turns.jsonl").open("w", encoding="utf-8") as turns,
    ):
        for question, answer in made_up(count):
            row = {"system": SYSTEM, "instruction": question, "output": answer}
            alpaca.write(json.dumps(row) + "\n")
            prompt = [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": question},
            ]
            completion = [{"role": "assistant", "content": answer}]
            turns.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
    columns = {"prompt": "instruction", "response": "output", "system": "system"}
    about = {"rows": {"file_name": "rows.jsonl", "columns": columns}}
    (place / "dataset_info.json").write_text(json.dumps(about))


def made_up(count: int, most: tuple[int, int] = (2, 8)) -> Iterator[tuple[str, str]]:
    """Questions and answers, of at `most` so many sentences, always the same ones; no two questions
    are equal."""
    generator = random.Random(42)
    sounds = [first + second for first in "bdfgklmnprstv" for second in "aeiou"]
    words = ["".join(generator.choices(sounds, k=generator.randint(1, 3))) for _ in range(3000)]
    words += ["the", "of", "and", "to", "in", "is", "for", "on", "with", "that", "by", "it"] * 100

    def sentences(least: int, most: int) -> str:
        made = [
            " ".join(generator.choices(words, k=generator.randint(6, 16))).capitalize()
            for _ in range(generator.randint(least, most))
        ]
        return ". ".join(made) + "."

    for number in range(count):
        yield f"{sentences(1, most[0])} Number {number}?", sentences(1, most[1])


def ours(place: Path, model: Path, workers: int) -> Measured:
    """The prepare script as the stage runs it."""
    argv, out = job(place, model, {})
    spent, _ = run(argv, determinism.script_env(workers))
    tokens = load_file(out / "train.tokens.safetensors")["input_ids"].astype("<i4")
    return Measured("recipe's prepare", *spent, digest_of(tokens))


def job(place: Path, model: Path, settings: dict[str, Any]) -> tuple[list[str], Path]:
    """What to run to prepare `rows.jsonl`, and the folder of its outputs."""
    out, scratch = place / "ours", place / "scratch"
    out.mkdir()
    scratch.mkdir()
    rows = {"name": "rows.jsonl", "format": "alpaca", "input": "train-0"}
    where = {
        "inputs": {"model": str(model), "train-0": str(place / "rows.jsonl")},
        "folder": str(out),
        "scratch": str(scratch),
        "events": str(place / "events.jsonl"),
    }
    hashed = PREPARING | {"train": [rows], "max_length": LENGTH} | settings
    spec = place / "spec.json"
    spec.write_text(json.dumps({"stage": "prepare", "hashed": hashed, "where": where}))
    python = environments.ensure("data", cache_folder(), print).python
    return [str(python), str(SCRIPTS), "prepare", str(spec)], out


COMPARED: dict[str, Any] = {
    "fraction": 0.01,
    "split": {"stable": True, "group_by": "user", "stratify": "topic", "on_leak": "drop"},
    "clean": {"exact_duplicates": True, "near_duplicates": {"threshold": 0.9}},
    "measured": [],
    "packing": True,
}


def compared(count: int, workers: int) -> str:
    """The table of one run with all that compares rows."""
    with tempfile.TemporaryDirectory(prefix="prepare-") as name:
        place = Path(name)
        model = model_folder(place)
        write_rows_in_groups(place / "rows.jsonl", count)
        argv, out = job(place, model, COMPARED)
        watch = Watch(place / "scratch")
        (seconds, busy, _), _ = run(argv, determinism.script_env(workers), watch)
        written = sum(path.stat().st_size for path in out.iterdir())
        data = (place / "rows.jsonl").stat().st_size
    return (
        "| rows | data MB | s | processor s | peak MB | waiting on disk MB | written MB |\n"
        "|--:|--:|--:|--:|--:|--:|--:|\n"
        f"| {count} | {data / 1e6:.0f} | {seconds:.1f} | {busy:.1f} | {watch.memory / 1e6:.0f} "
        f"| {watch.disk / 1e6:.0f} | {written / 1e6:.0f} |"
    )


def write_rows_in_groups(path: Path, count: int) -> None:
    """Short rows of users and topics; one in fifty is the one before it again, one much like it."""
    with path.open("w", encoding="utf-8") as file:
        before = ("", "")
        for number, each in enumerate(made_up(count, (1, 1))):
            question, answer = before if number % 50 in (7, 9) else each
            answer += " Yes." * (number % 50 == 9)
            before = question, answer
            row = {"instruction": question, "output": answer}
            about = {"user": f"user {number // 3}", "topic": f"topic {number % 7}"}
            file.write(json.dumps(row | about) + "\n")


@dataclass
class Watch:
    """The most bytes that the main process had in memory, and that waited on disk."""

    scratch: Path
    memory: int = 0
    disk: int = 0

    def look(self, pid: int) -> None:
        """Now. The kernel keeps the peak of the memory."""
        with suppress(OSError, IndexError):  # it ends, or a file is gone, meanwhile
            status = Path(f"/proc/{pid}/status").read_text()
            self.memory = 1024 * int(status.split("VmHWM:")[1].split()[0])
            held = sum(each.stat().st_blocks for each in self.scratch.rglob("*"))
            for each in Path(f"/proc/{pid}/fd").iterdir():  # nameless files too
                held += each.stat().st_blocks * str(each.readlink()).endswith("(deleted)")
            self.disk = max(self.disk, 512 * held)


def digest_of(tokens: np.ndarray[Any, Any]) -> str:
    """Sha256 of ids, four bytes each."""
    return hashlib.sha256(tokens.tobytes()).hexdigest()


def peer(name: str, role: str, script: str, place: Path, model: Path, workers: int) -> Measured:
    """Another's preprocessing, with an empty cache of data sets."""
    cache = place / "cache"
    env = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    python = environments.ensure(role, cache_folder(), print).python
    argv = [str(python), "-c", script, str(model), str(place), str(workers)]
    spent, said = run(argv, env)
    shutil.rmtree(cache, ignore_errors=True)
    ids = next(line.split()[1] for line in said.splitlines() if line.startswith("ids "))
    return Measured(name, *spent, ids)


def run(
    argv: list[str], env: dict[str, str], watch: Watch | None = None
) -> tuple[tuple[float, float, int], str]:
    """Seconds, processor seconds and peak bytes of all its processes; what it said.

    Raises RuntimeError when it fails.
    """
    started, before = time.perf_counter(), os.times()
    process = subprocess.Popen(
        argv,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = [0]
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            if watch:
                watch.look(process.pid)
            else:
                peak[0] = max(peak[0], process_tree.memory(process.pid))

    watcher = threading.Thread(target=look)
    watcher.start()
    said, errors = process.communicate()
    seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{argv[:3]} failed: {errors[-3000:]}")
    after = os.times()
    busy = after.children_user + after.children_system
    busy -= before.children_user + before.children_system
    return (seconds, busy, peak[0]), said


def table(found: list[Measured]) -> str:
    """Ratios are to ours."""
    first = found[0]
    lines = [
        "| | s | x ours | processor s | x ours | peak MB | x ours |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {each.name} | {each.seconds:.1f} | {each.seconds / first.seconds:.2f} "
        f"| {each.processor_seconds:.1f} "
        f"| {each.processor_seconds / first.processor_seconds:.2f} "
        f"| {each.memory / 1e6:.0f} | {each.memory / first.memory:.2f} |"
        for each in found
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
