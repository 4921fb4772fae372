"""Run one script of runner/scripts as the executor does, without executor, store or supervisor."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors.numpy import load_file, save_file

import runner
from runner.backends import load_backend
from runner.crosscheck.by_cli import count_tokens
from runner.recipe.model import Recipe
from runner.system import determinism

SCRIPTS = Path(runner.__file__).parent / "scripts"
THREADS = 2
# The settings of a short, plain training, as the native backend gives them; tests change some.
SETTINGS: dict[str, Any] = {
    "method": "sft",
    "max_steps": 12,
    "num_train_epochs": None,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "optim": "adamw_torch",
    "bf16": False,
    "gradient_checkpointing": False,
    "seed": 1,
    "dtype": "float32",
    "attn_implementation": "sdpa",
    "packing": False,
    "has_prompts": True,
}


@dataclass(frozen=True)
class Finished:
    """What a script left behind."""

    status: int
    events: list[dict[str, Any]]
    folder: Path
    log: str

    def measures(self) -> dict[str, Any]:
        """All measures, the last value of a name."""
        found: dict[str, Any] = {}
        for event in self.events:
            if event["event"] == "measure":
                found |= event["values"]
        return found

    def error(self) -> dict[str, Any]:
        """The error event; fails when there is none."""
        return [event for event in self.events if event["event"] == "error"][-1]

    def files(self) -> dict[str, bytes]:
        """Relative path -> content of everything written."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }


class Fork:
    """A script at work in a fork of a warm interpreter."""

    def __init__(self, pid: int, answers: IO[str]) -> None:
        self.pid, self._answers = pid, answers

    def send_signal(self, number: int) -> None:
        """As `kill` does."""
        os.kill(self.pid, number)

    def running(self) -> bool:
        """Has it not ended yet?"""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def wait(self) -> int:
        """Its exit status; the negative number of the signal that ended it."""
        return int(json.loads(self._answers.readline())["status"])


class WarmInterpreter:
    """An interpreter with the heavy packages loaded (tests/warm_interpreter.py)."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("warm_interpreter.py"))],
            env={"PATH": os.environ["PATH"], **determinism.script_env(THREADS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fork(self, argv: list[str], cwd: Path, env: Mapping[str, str], log: Path) -> Fork:
        """Run `python ARGV` in a fork. One at a time: wait for it before the next."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"argv": argv, "cwd": str(cwd), "env": dict(env), "log": str(log)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Fork(answer["pid"], self._process.stdout)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)


class ScriptRun:
    """One script in its own folders below `place`; starting it again goes on in them."""

    def __init__(
        self,
        python: Path,
        name: str,
        hashed: Mapping[str, Any],
        inputs: Mapping[str, Path],
        place: Path,
    ) -> None:
        self._argv = [str(python), str(SCRIPTS), name, str(place / "spec.json")]
        self._place = place
        self.folder, self.scratch, self.events_file = (
            place / "out",
            place / "scratch",
            place / "events.jsonl",
        )
        for folder in (self.folder, self.scratch, place / "home"):
            folder.mkdir(parents=True, exist_ok=True)
        self.events_file.write_bytes(b"")
        spec = {
            "stage": name,
            "hashed": dict(hashed),
            "where": {
                "inputs": {key: str(path) for key, path in inputs.items()},
                "folder": str(self.folder),
                "scratch": str(self.scratch),
                "events": str(self.events_file),
            },
        }
        (place / "spec.json").write_text(json.dumps(spec))

    def start(self, interpreter: WarmInterpreter, **env: str) -> Fork:
        """Start the script in a fork of a warm interpreter and return at once; `env` is added."""
        return interpreter.fork(self._argv[1:], self.scratch, self._env(env), self._place / "log")

    def finish(self, interpreter: WarmInterpreter) -> Finished:
        """Run the script to its end in a fork of a warm interpreter."""
        return self.result(self.start(interpreter).wait())

    def finish_cold(self, **env: str) -> Finished:
        """Run the script to its end in a process that shares nothing; `env` is added."""
        with (self._place / "log").open("ab") as log:
            process = subprocess.run(
                self._argv,
                cwd=self.scratch,
                env=self._env(env),
                stdout=log,
                stderr=log,
                check=False,
            )
        return self.result(process.returncode)

    @property
    def spec_file(self) -> Path:
        """What the script is told."""
        return self._place / "spec.json"

    def start_cold(self, script: str) -> subprocess.Popen[bytes]:
        """Start `script` with the same spec, in a process that shares nothing."""
        with (self._place / "log").open("ab") as log:
            return subprocess.Popen(
                [*self._argv[:2], script, str(self.spec_file)],
                cwd=self.scratch,
                env=self._env({}),
                stdout=log,
                stderr=log,
            )

    def environment(self) -> dict[str, str]:
        """What the script's process is started with."""
        return self._env({})

    def _env(self, more: Mapping[str, str]) -> dict[str, str]:
        surroundings = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._place / "home"),
            "HF_HOME": str(self._place / "home" / "hf"),
        }
        return {**surroundings, **determinism.script_env(THREADS), **more}

    def result(self, status: int) -> Finished:
        """What lies there now."""
        return Finished(
            status, self.events(), self.folder, (self._place / "log").read_text(errors="replace")
        )

    def events(self) -> list[dict[str, Any]]:
        """Complete events so far."""
        lines = self.events_file.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def wait_for_step(self, process: Fork, step: int) -> None:
        """Return when the running script reports `step`; fails when it ends before."""
        while not any(event.get("step", 0) >= step for event in self.events()):
            assert process.running(), self.result(1).log
            time.sleep(0.01)


Document = tuple[Sequence[int], Sequence[int]]  # token ids, and 1 where the model is trained


def done(result: Finished) -> Finished:
    """A script that ended well."""
    assert result.status == 0, result.log
    return result


def trace(result: Finished) -> list[dict[str, Any]]:
    """The lines of a training's trace."""
    return [json.loads(line) for line in result.files()["trace.jsonl"].split(b"\n")[:-1]]


def tokens_by_step(result: Finished) -> list[dict[str, int]]:
    """Without padding, with it, and supervised."""
    return [event["tokens"] for event in result.events if event["event"] == "progress"]


def changed_recipe(
    base: Mapping[str, Any], model: Path, backend: str, changes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The recipe `base` on a model by a backend; None in `changes` takes a value away."""
    sections = {**base, "train": {**base["train"], "backend": backend}}
    for name, values in changes.items():
        merged = {**sections[name], **values}
        sections[name] = {key: value for key, value in merged.items() if value is not None}
    return {**sections, "model": {**sections["model"], "path": str(model)}}


def write_tokens(path: Path, rows: Sequence[Sequence[Document]], *, packed: bool) -> Path:
    """A tokens file as `prepare` writes it: a row is a list of documents, one unless packed."""
    ids: list[int] = []
    mask: list[int] = []
    offsets, document_offsets, positions = [0], [0], []
    for row in rows:
        for tokens, trained in row:
            ids += tokens
            mask += trained
            positions += range(len(tokens))
            document_offsets.append(len(ids))
        offsets.append(len(ids))
    tensors = {
        "input_ids": np.array(ids, np.int32),
        "labels_mask": np.array(mask, np.int8),
        "offsets": np.array(offsets, np.int64),
    }
    if packed:
        tensors["position_ids"] = np.array(positions, np.int32)
        tensors["document_offsets"] = np.array(document_offsets, np.int64)
    save_file(tensors, path)
    return path


def write_preferences(path: Path, rows: Sequence[tuple[Document, int]]) -> Path:
    """A tokens file as `prepare_preferences` writes it: documents, and 1 for a better one."""
    write_tokens(path, [[document] for document, _ in rows], packed=False)
    tensors = load_file(path) | {"preferred": np.array([good for _, good in rows], np.int8)}
    save_file(tensors, path)
    return path


def answers(count: int, kinds: int = 2, *, seed: int = 1) -> list[tuple[Document, int]]:
    """Answers to `count` questions in the tiny model's ChatML, `kinds` to each; the first, in
    small letters, is the better one."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        for kind in range(kinds):
            first = ord("Aa"[kind == 0])
            letters = bytes(random.integers(first, first + 26, 6 + number % 5 + kind).tolist())
            ids, mask = chat(("user", f"Q{number}"), ("assistant", letters.decode()))
            made.append(((ids[:-1], mask[:-1]), int(kind == 0)))
    return made


def documents(
    count: int, *, seed: int = 1, shortest: int = 12, longest: int = 40
) -> list[Document]:
    """Random documents of the tiny model's bytes: a prompt, then an answer that is trained on."""
    random = np.random.default_rng(seed)
    made = []
    for length in random.integers(shortest, longest, count).tolist():
        prompt = int(random.integers(4, length - 4))
        tokens = random.integers(3, 250, length).tolist()
        made.append((tokens, [0] * prompt + [1] * (length - prompt)))
    return made


def chat(*turns: tuple[str, str]) -> tuple[list[int], list[int]]:
    """Ids and mask of a conversation in the tiny model's ChatML: one token a byte, from 3 on."""
    ids: list[int] = []
    mask: list[int] = []
    for role, content in turns:
        head = [1, *(3 + byte for byte in f"{role}\n".encode())]
        said = [*(3 + byte for byte in content.encode()), 2]
        ids += [*head, *said, 3 + 10]
        mask += [0] * len(head) + [int(role == "assistant")] * len(said) + [0]
    return ids, mask


def training_of(
    recipe: Recipe,
    environment_python: Callable[[str], Path],
    inputs: Mapping[str, Path],
    place: Path,
    *,
    save_steps: int = 1000,
    script: str | None = None,
    told: Mapping[str, Any] | None = None,
    **more: Any,
) -> ScriptRun:
    """The recipe's training by its backend, or `script` of its spec. `inputs`: model, tokens.

    `told`: changes of LLaMA Factory's configuration; `more`: of the settings.
    """
    module = load_backend(recipe.train.backend)
    settings = {**module.spec(recipe), **more}
    settings.get("configuration", {}).update(told or {})
    return ScriptRun(
        environment_python(module.ENVIRONMENT),
        script or module.script(recipe),
        {
            "settings": settings,
            "save_steps": save_steps,
            "canary": recipe.train.canary,
            "device": "cpu",
            "more": count_tokens(recipe),
        },
        {**inputs, "template": inputs["model"] / "chat_template.jinja"},
        place,
    )


WEIGHTS = {"lora": "adapter/adapter_model.safetensors", "none": "model/model.safetensors"}


def assert_alike(ours: Finished, theirs: Finished, changes: Mapping[str, Any]) -> None:
    """Two trainings of one recipe, `changes` of a base: step by step, and in every byte."""
    assert trace(theirs) == trace(ours)
    kind = changes.get("train", {}).get("adapter", {"type": "lora"})["type"]
    assert theirs.files()[WEIGHTS[kind]] == ours.files()[WEIGHTS[kind]]
    assert tokens_by_step(theirs) == tokens_by_step(ours)
