"""What a running stage is handed: scripts, programs, tools, events (stages/contract.py)."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import runner
from runner.errors import Interrupted, MachineCannot, RecipeToolError, StageFailed
from runner.execution.events import EventLog
from runner.execution.machines.contract import Machines, NoMachines, NoTurn, Turn
from runner.execution.machines.meeting import network_env
from runner.scripts.data.tokens import last_rendered
from runner.scripts.training.stopping import STOPPED
from runner.stages.contract import Stage
from runner.store.atomic import more_room, write_atomic
from runner.system import (
    determinism,
    environments,
    gpu_health,
    memory_limit,
    platforms,
    process,
    tools,
)
from runner.system.memory_limit import Group

SCRIPTS = Path(runner.__file__).parent / "scripts"
STARTER = "start_processes"  # of one script several times


@dataclass
class StageContext:
    """The context of one stage of one run. All paths are absolute."""

    stage: Stage
    project_root: Path
    recipe_folder: Path
    log_folder: Path
    scratch: Path
    cache: Path
    platform: Mapping[str, Any]
    events: EventLog
    lock_fds: tuple[int, ...] = ()
    on_poll: Callable[[], None] = lambda: None
    say: Callable[[str], None] = lambda message: None
    ollama_models: Path | None = None
    machines: Machines = field(default_factory=NoMachines)
    turn: Turn = field(default_factory=NoTurn)  # taken when all `machines` are here
    memory_limit: int = 0  # bytes that a script and its children may use; 0: no limit of ours
    material: Mapping[str, Any] = field(default_factory=dict)  # of the stage's key
    measures: dict[str, Any] = field(default_factory=dict)
    _children: int = 0

    def run_script(
        self,
        name: str,
        spec: Mapping[str, Any],
        *,
        folder: Path,
        inputs: Mapping[str, Path] | None = None,
        environment: str | None = None,
        outside: Mapping[str, str] | None = None,
        processes: int = 1,
        machines: int = 1,
    ) -> dict[str, Any]:
        """Run runner/scripts/NAME.py; see stages/contract.py."""
        role = environment or self.stage.ENVIRONMENT
        assert role is not None, f"stage {self.stage.NAME} names no environment for {name}"
        python = self.environment_python(role)
        env = determinism.script_env(max(1, platforms.compute_threads() // processes))
        stem = self._next_log_stem(name)
        spec_file = self.log_folder / f"{stem}.spec.json"
        content = self._spec(spec, env, folder, inputs or {})
        log = self.log_folder / f"{stem}.log"
        started, network = name, {}
        others = self.machines if machines > 1 else NoMachines()
        with _told_how_it_ends(others):
            if processes * machines > 1:
                place: dict[str, Any] = {"machine": 0, "machines": 1}
                if machines > 1:
                    plan = {"material": self.material, "spec": content["hashed"]}
                    place = others.begin(plan, self.turn)
                    network = network_env(place["own_address"])
                started = STARTER
                content["where"]["processes"] = {"script": name, "local": processes, **place}
            write_atomic(spec_file, _json_text(content))
            mark = self.events.position()
            health = gpu_health.watch(time.monotonic) if self.stage.DEVICE else None
            with self._memory_group() as group:
                result = process.run_child(
                    [str(python), str(SCRIPTS), started, str(spec_file)],
                    env={**self._child_env(env), **network, **(outside or {})},
                    cwd=self.scratch,
                    stdout=log,
                    stderr=log,
                    lock_fds=self.lock_fds,
                    on_poll=lambda: self._poll(others, health),
                    group=group,
                )
            events = self.events.since(mark)
            if not result.ok:
                failure = self._failure(name, result, events, log)
                if failure.code == StageFailed.default_code:  # of what another machine did, maybe
                    others.blame()
                raise failure
        measured: dict[str, Any] = {}
        for event in events:
            if event["event"] == "measure":
                measured.update(event["values"])
        self.measures.update(measured)
        if health is not None:
            self.measures.update(health.measures())
        return measured

    @contextlib.contextmanager
    def _memory_group(self) -> Iterator[Group | None]:
        """The cgroup of a script where its memory is limited."""
        if not self.memory_limit:
            yield None
            return
        with memory_limit.group(self.memory_limit) as group:
            if group is None:
                self.say(f"no limit keeps this job from taking all memory: {memory_limit.COMMAND}")
            yield group

    def run_program(
        self,
        argv: list[str],
        *,
        log: str,
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> str:
        """Run a program under the supervisor and return its stdout; stderr goes to the log."""
        stem = self._next_log_stem(log)
        stdout, stderr = self.log_folder / f"{stem}.out", self.log_folder / f"{stem}.log"
        hashed = determinism.script_env(platforms.compute_threads())
        result = process.run_child(
            argv,
            env=self._child_env({**hashed, **(env or {})}),
            cwd=folder or self.scratch,
            stdout=stdout,
            stderr=stderr,
            lock_fds=self.lock_fds,
            on_poll=self.on_poll,
        )
        if not result.ok:
            raise self._failure(Path(argv[0]).name, result, [], stderr)
        return stdout.read_text(encoding="utf-8", errors="replace")

    def environment_python(self, role: str) -> Path:
        """The interpreter of environment `role`, built now if it is missing."""
        return environments.ensure(role, self.cache, self.say).python

    def tool(self, name: str) -> Path:
        """The root folder of a pinned tool, built now if it is missing."""
        return tools.ensure_tool(name, self.cache, self.say)

    def progress(self, step: int, total: int, **fields: Any) -> None:
        """Append a progress event of this stage."""
        self.events.append(
            {"stage": self.stage.NAME, "event": "progress", "step": step, "total": total, **fields}
        )
        self.on_poll()

    def measure(self, name: str, value: Any) -> None:
        """Record a measure for run.json."""
        self.measures[name] = value

    def _poll(self, others: Machines, health: gpu_health.Watch | None) -> None:
        self.on_poll()
        if health is not None:
            health.look()
        others.poll()

    def _next_log_stem(self, name: str) -> str:
        self._children += 1
        safe = re.sub(r"[^A-Za-z0-9._-]", "-", name)
        return f"{self.stage.NAME}-{self._children:02d}-{safe}"

    def _spec(
        self,
        spec: Mapping[str, Any],
        env: Mapping[str, str],
        folder: Path,
        inputs: Mapping[str, Path],
    ) -> dict[str, Any]:
        return {
            "stage": self.stage.NAME,
            "hashed": {**spec, "env": dict(env)},
            "where": {
                "inputs": {name: str(path) for name, path in inputs.items()},
                "folder": str(folder),
                "scratch": str(self.scratch),
                "events": str(self.events.path),
            },
        }

    def _child_env(self, hashed: Mapping[str, str]) -> dict[str, str]:
        """The hashed environment, the host's short list, and caches kept inside our own folder."""
        caches = {
            "PYTHONPYCACHEPREFIX": str(self.cache / "pycache"),
            "HF_HOME": str(self.cache / "huggingface"),
            # code that a trusted model brings along: never that of another run
            "HF_MODULES_CACHE": str(self.scratch / "modules"),
            "MPLCONFIGDIR": str(self.cache / "matplotlib"),
            "XDG_CACHE_HOME": str(self.cache / "xdg"),
            "TRITON_CACHE_DIR": str(self.cache / "triton"),
            "CUDA_CACHE_PATH": str(self.cache / "cuda"),
        }
        return {**process.child_env(hashed), **caches}

    def _failure(
        self, name: str, result: process.ChildResult, events: list[dict[str, Any]], log: Path
    ) -> RecipeToolError:
        """The script's own words when it gave any, else what its exit status and log say."""
        said = [event for event in events if event["event"] == "error"]
        if said:
            last = said[-1]
            if last["code"] == STOPPED:
                return Interrupted(signal.SIGINT, last["message"])
            if last["code"].startswith("E4"):  # not the recipe's fault: exit code 4
                room = f"{more_room(self.scratch)}; " if last["code"] == "E410" else ""
                hint = f"{room}{last['hint']}"
                return MachineCannot(last["message"], hint=hint, code=last["code"])
            return StageFailed(
                last["message"],
                hint=last["hint"],
                code=last["code"],
                stage=self.stage.NAME,
                log=str(log),
            )
        if result.signal == last_rendered.KILLED_BY:
            return StageFailed(
                last_rendered.words_of(self.scratch / last_rendered.FOLDER / last_rendered.SCRIPT),
                hint=last_rendered.HINT,
                code="E326",
                stage=self.stage.NAME,
                log=str(log),
            )
        return StageFailed(
            f"{name} failed: {process.describe_exit(result)}",
            hint=f"read {log}, then run the same command again",
            stage=self.stage.NAME,
            log=str(log),
        )


def _json_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@contextlib.contextmanager
def _told_how_it_ends(others: Machines) -> Iterator[None]:
    """The other machines of a training are told, if there are any."""
    try:
        yield
    except BaseException as error:
        others.end(error)
        raise
    others.end(None)
