"""Run the stages of a recipe in order: reuse what the store holds and run the rest."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import MachineCannot, RecipeToolError, StageFailed
from runner.execution.context import StageContext
from runner.execution.events import EventLog
from runner.execution.machines.contract import Machines, NoMachines
from runner.execution.record import run_record
from runner.execution.run_folder import RunFolder
from runner.plan.keys import PRIVATE, key_material, key_of
from runner.plan.plan import upstream_of
from runner.plan.snapshot import (
    file_digests,
    has_checkpoint,
    probe_effect,
    resume_is_proved,
)
from runner.store.atomic import disk_errors, disk_failures
from runner.store.locks import Holder, Lock
from runner.store.manifest import build_manifest
from runner.store.roots import register_root

if TYPE_CHECKING:
    from runner.execution.chain import BaseResult
    from runner.plan.keys import Surroundings
    from runner.recipe.model import Recipe
    from runner.stages.contract import Outputs, Stage
    from runner.store.store import Staging, Store


@dataclass
class StageResult:
    """What happened to one stage of this run. `key` and `material` may be the run's own: see
    `Execution._resumed_privately`."""

    name: str
    action: str  # run | reuse | resume
    key: str
    material: dict[str, Any]
    outputs: Outputs
    seconds: float


@dataclass
class Execution:
    """Everything one execution of a recipe needs; `on_poll` keeps the display alive."""

    recipe: Recipe
    stages: list[Stage]
    surroundings: Surroundings
    store: Store
    run: RunFolder
    cache: Path
    wait: bool = True  # for a lock that another run holds; False: exit 6
    on_poll: Callable[[], None] = lambda: None
    say: Callable[[str], None] = lambda message: None
    until: str | None = None  # the recipe goes on behind this stage, and the run does not
    # may raise to end the run; gives the bytes of memory that a stage may use, 0: all
    before_device: Callable[[Stage], int] = lambda stage: 0
    check_outputs: Callable[[Outputs], None] = lambda outputs: None  # may raise to end the run
    # what else is done with the outputs, before the run is; may raise to end it
    afterwards: Callable[[Execution, Mapping[str, Outputs]], None] = lambda execution, known: None
    given: Mapping[str, Outputs] = field(default_factory=dict)  # of stages that are not to run
    ollama_models: Path | None = None  # deploy to a server of our own with this models folder
    machines: Machines = field(default_factory=NoMachines)  # that train together with this one
    base: BaseResult | None = None  # what another recipe gave, where this one starts from it
    manifest_sha256: str | None = None
    results: list[StageResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.events = EventLog(self.run.events)

    def execute(self) -> list[StageResult]:
        """Run every stage. When it ends early, run.json says how, and the error is raised."""
        try:
            with disk_failures("running the recipe"):
                self._run_all()
        except BaseException as error:
            with contextlib.suppress(MachineCannot, OSError):  # a full disk takes no last words
                if not self.run.finished():
                    self._write_record(_state_of(error), error)
            raise
        finally:
            self.events.close()
            self.run.close()
        return self.results

    def _run_all(self) -> None:
        # Before anything else, so that `recipe gc` knows the folder from its first file on.
        self._register()
        self._write_record("running")
        known: dict[str, Outputs] = dict(self.given)
        outside = {} if self.base is None else self.base.given()
        for stage in self.stages:
            result = self._execute_stage(stage, {**known, **outside})
            self.check_outputs(result.outputs)
            known[stage.NAME] = result.outputs
            self.run.show(result.outputs)
            self._write_record("running")
        self.afterwards(self, {**known, **outside})
        manifest = build_manifest(known, str(self.surroundings.platform["name"]))
        self.manifest_sha256 = hashlib.sha256(manifest).hexdigest()
        self._write_lock(known)
        self._write_record("done")
        self.run.finish(manifest)

    def _write_lock(self, known: Mapping[str, Outputs]) -> None:
        """recipe.lock.yaml, for whoever wants to do this run again. A twin has nothing to pin."""
        from runner.lock.of_run import write_run_lock

        if "fetch" in known and self.recipe.shrink is None:
            with disk_errors("writing the run's lock"):
                write_run_lock(self.recipe, known, self.run.path)

    def _execute_stage(self, stage: Stage, known: dict[str, Outputs]) -> StageResult:
        upstream = upstream_of(stage, known)
        material = key_material(stage, self.recipe, upstream, self.surroundings)
        key = key_of(material)
        with self.store.lock(stage.NAME, key, wait=self.wait, on_wait=self._say_waiting) as lock:
            found = self.store.reuse(stage.NAME, key)
            if found is not None and not probe_effect(stage, self.recipe, found):
                self._event(stage, "reuse", key)
                result = StageResult(stage.NAME, "reuse", key, material, found, 0.0)
            else:
                with self._device(stage) as device_fds:
                    limit = self.before_device(stage)
                    fds = (lock.fd, *device_fds)
                    result = self._run_stage(stage, upstream, key, material, fds, limit)
            self.results.append(result)
            # Before the lock is released, so that no `recipe gc` can come between.
            self._register()
        return result

    def _register(self, *more: tuple[str, str]) -> None:
        """Write down that this run needs its stages so far, `more`, and what it started from."""
        base = () if self.base is None else self.base.stages
        own = [(result.name, result.key) for result in self.results]
        register_root(self.store, self.run.path, [*base, *own, *more])

    def take_part(self, stage: Stage, known: Mapping[str, Outputs]) -> None:
        """Do this machine's share of a stage whose outputs another machine writes."""
        upstream = upstream_of(stage, known)
        material = key_material(stage, self.recipe, upstream, self.surroundings)
        key = key_of(material)
        with (
            self.store.lock(stage.NAME, key, wait=self.wait, on_wait=self._say_waiting) as lock,
            self._device(stage) as device_fds,
        ):
            limit = self.before_device(stage)
            staging = self.store.staging(stage.NAME, key)
            context = self._context(stage, staging, material, (lock.fd, *device_fds), limit)
            self._event(stage, "start", key)
            try:
                stage.run(self.recipe, upstream, staging.out, context)
                self._event(stage, "done", key)
            finally:
                self._discard(stage, staging)

    def _run_stage(
        self,
        stage: Stage,
        upstream: dict[str, Outputs],
        key: str,
        material: dict[str, Any],
        lock_fds: tuple[int, ...],
        limit: int,
    ) -> StageResult:
        resumed = has_checkpoint(stage, self.store.scratch_folder(stage.NAME, key))
        staging = self.store.staging(stage.NAME, key)
        context = self._context(stage, staging, material, lock_fds, limit)
        self._event(stage, "start", key)
        started = time.monotonic()
        try:
            stage.run(self.recipe, upstream, staging.out, context)
            self._check_unchanged(stage)
            if resumed and not resume_is_proved(stage, self.recipe):
                material, key = self._resumed_privately(stage, material)
            outputs = self.store.commit(
                staging,
                key=key,
                version=stage.VERSION,
                key_inputs=material,
                classes=stage.OUTPUTS,
                measures=context.measures,
                seconds=time.monotonic() - started,
            )
        except BaseException as error:
            self._discard(stage, staging)
            with contextlib.suppress(OSError):  # or it would hide what went wrong
                self._event(stage, "failed", key)
            if isinstance(error, RecipeToolError) and not getattr(error, "stage", "x"):
                error.stage = stage.NAME  # type: ignore[attr-defined]
            raise
        seconds = time.monotonic() - started
        self._event(stage, "done", key, seconds=round(seconds, 3))
        return StageResult(
            stage.NAME, "resume" if resumed else "run", key, material, outputs, seconds
        )

    def _discard(self, stage: Stage, staging: Staging) -> None:
        """Only a stage that can go on has use for what lies in its scratch folder."""
        self.store.discard(staging, keep_scratch=hasattr(stage, "resumable"))

    def _context(
        self,
        stage: Stage,
        staging: Staging,
        material: dict[str, Any],
        lock_fds: tuple[int, ...],
        limit: int,
    ) -> StageContext:
        return StageContext(
            memory_limit=limit,
            stage=stage,
            project_root=self.recipe.project_root,
            recipe_folder=self.recipe.folder,
            log_folder=self.run.logs,
            scratch=staging.scratch,
            cache=self.cache,
            platform=self.surroundings.platform,
            events=self.events,
            lock_fds=lock_fds,
            on_poll=self.on_poll,
            say=self.say,
            ollama_models=self.ollama_models,
            machines=self.machines,
            material=material,
        )

    def _resumed_privately(
        self, stage: Stage, material: dict[str, Any]
    ) -> tuple[dict[str, Any], str]:
        """Material and key of this run alone: nobody has proved that resuming gives equal bytes."""
        material = material | {PRIVATE: self.run.id}
        key = key_of(material)
        # Before there is anything to keep, so that no `recipe gc` can come between.
        self._register((stage.NAME, key))
        return material, key

    def _check_unchanged(self, stage: Stage) -> None:
        """A file edited while the stage read it would give bytes that its key does not tell of."""
        if file_digests(stage, self.recipe) != self.surroundings.files.get(stage.NAME, {}):
            raise StageFailed(
                f"a file that {stage.NAME} reads was changed while it ran",
                hint="run the same command again",
                code="E501",
                stage=stage.NAME,
            )

    @contextlib.contextmanager
    def _device(self, stage: Stage) -> Iterator[tuple[int, ...]]:
        """Stages that compute take turns on the device, across all runs of this user."""
        if not stage.DEVICE:
            yield ()
            return
        name = str(self.surroundings.platform["device"])
        path = self.cache / "locks" / f"device-{name}.lock"
        with Lock(path, f"the {name}", wait=self.wait, on_wait=self._say_waiting) as lock:
            yield (lock.fd,)

    def _say_waiting(self, holder: Holder) -> None:
        self.say(f"waiting for {holder}")

    def _event(self, stage: Stage, state: str, key: str, **fields: Any) -> None:
        self.events.append(
            {"stage": stage.NAME, "event": "stage", "state": state, "key": key, **fields}
        )
        self.on_poll()

    def _write_record(self, state: str, error: BaseException | None = None) -> None:
        self.run.write_record(run_record(self, state, error))


def _state_of(error: BaseException) -> str:
    from runner.errors import Interrupted

    return "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
