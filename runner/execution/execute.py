"""Run the stages of a recipe in order: reuse what the store holds and run the rest."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import MachineCannot, RecipeToolError, StageFailed
from runner.execution.context import StageContext
from runner.execution.events import EventLog
from runner.execution.machines.contract import Machines, NoMachines
from runner.execution.record import run_record
from runner.execution.run_folder import RunFolder
from runner.execution.turn import Turn
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

SAME_WORK, DEVICE = "the same work", "the device"  # what one waits for, in messages


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


class _DoneMeanwhile(Exception):
    """While this run waited for other machines, another one has put the outputs into the store."""

    def __init__(self) -> None:
        super().__init__("another run there has trained the same meanwhile")


@dataclass
class _Work:
    """A stage that may have to be computed. `staging` and what follows from it are this run's own
    once the key is locked (`Execution._prepare`)."""

    stage: Stage
    upstream: dict[str, Outputs]
    material: dict[str, Any]
    key: str
    staging: Staging
    context: StageContext
    resumed: bool = False  # does it go on from a checkpoint?
    since: float = 0.0  # when it began, by a clock of this machine


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
    open_machines: Callable[[], Machines] = NoMachines  # that train together with this one
    command: Sequence[str] = ()  # that goes on with this run; () where none was typed
    base: BaseResult | None = None  # what another recipe gave, where this one starts from it
    manifest_sha256: str | None = None
    results: list[StageResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.events = EventLog(self.run.events)
        self.machines: Machines = NoMachines()

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
        self.machines = self.open_machines()  # may be refused: then run.json says so
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
            with disk_errors("writing the run's lock", self.run.path):
                write_run_lock(self.recipe, known, self.run.path)

    def _execute_stage(self, stage: Stage, known: dict[str, Outputs]) -> StageResult:
        work = self._work(stage, known)
        while True:
            try:
                with self._key_lock(work) as lock:
                    if found := self._reused(work):
                        return found
                    if not self._meets_others(stage):
                        return self._run_alone(work, lock)
                    # Before the lock is given back, so that `recipe gc` leaves the checkpoints.
                    self._register((stage.NAME, work.key))
                return self._run_together(work)
            except _DoneMeanwhile:
                continue

    def _work(self, stage: Stage, known: Mapping[str, Outputs]) -> _Work:
        upstream = upstream_of(stage, dict(known))
        material = key_material(stage, self.recipe, upstream, self.surroundings)
        key = key_of(material)
        staging = self.store.staging_place(stage.NAME, key)
        context = self._context(stage, staging, material)
        return _Work(stage, upstream, material, key, staging, context)

    def _prepare(self, work: _Work, lock_fds: tuple[int, ...]) -> None:
        """All locks are held: look whether there is memory, and where the last try has stopped."""
        work.context.lock_fds = lock_fds
        work.context.memory_limit = self.before_device(work.stage)
        work.resumed = has_checkpoint(work.stage, work.staging.scratch)
        self.store.staging(work.stage.NAME, work.key)
        work.since = time.monotonic()

    def _key_lock(self, work: _Work) -> Lock:
        on_wait = self._waiting_for(SAME_WORK, work.stage)
        return self.store.lock(work.stage.NAME, work.key, wait=self.wait, on_wait=on_wait)

    def _reused(self, work: _Work) -> StageResult | None:
        """What the store has; the caller holds the key's lock."""
        found = self.store.reuse(work.stage.NAME, work.key)
        if found is None or probe_effect(work.stage, self.recipe, found):
            return None
        self._event(work.stage, "reuse", work.key)
        return self._keep(
            StageResult(work.stage.NAME, "reuse", work.key, work.material, found, 0.0)
        )

    def _keep(self, result: StageResult) -> StageResult:
        """Before the lock is released, so that no `recipe gc` can come between."""
        self.results.append(result)
        self._register()
        return result

    def _run_alone(self, work: _Work, lock: Lock) -> StageResult:
        with self._device(work.stage) as device_fds:
            self._prepare(work, (lock.fd, *device_fds))
            return self._keep(self._run_stage(work))

    def _meets_others(self, stage: Stage) -> bool:
        return stage.NAME == "train" and not isinstance(self.machines, NoMachines)

    def _run_together(self, work: _Work) -> StageResult:
        """Nothing is locked while the other machines are waited for."""
        with self._turn(work) as turn:
            work.context.turn = turn
            return self._keep(self._run_stage(work))

    def take_part(self, stage: Stage, known: Mapping[str, Outputs]) -> None:
        """Do this machine's share of a stage whose outputs another machine writes."""
        work = self._work(stage, known)
        with self._turn(work, writes=False) as turn:
            work.context.turn = turn
            self._event(stage, "start", work.key)
            try:
                stage.run(self.recipe, work.upstream, work.staging.out, work.context)
                self._event(stage, "done", work.key)
            finally:
                self._discard(work)

    @contextlib.contextmanager
    def _turn(self, work: _Work, *, writes: bool = True) -> Iterator[Turn]:
        """Key and device, to be taken when all machines are here. `writes`: into the store, which
        may have the outputs by then: raises _DoneMeanwhile."""
        waited = False

        def on_wait(what: str, holder: Holder | None) -> None:
            nonlocal waited
            waited = True
            if holder is None:  # who waits for other machines says so himself
                self._waits(work.stage, what)
            else:
                self._waiting_for(what, work.stage)(holder)

        def opened(descriptors: tuple[int, ...]) -> None:
            nonlocal waited
            if writes and self.store.reuse(work.stage.NAME, work.key) is not None:
                raise _DoneMeanwhile
            self._prepare(work, descriptors)
            if waited:
                self._event(work.stage, "start", work.key)
            waited = False

        name, device = work.stage.NAME, self._device_lock
        locks: list[tuple[str, Callable[[], Lock]]] = [
            (SAME_WORK, lambda: self.store.lock(name, work.key, wait=False)),
            (DEVICE, lambda: device(wait=False)),
        ]
        turn = Turn(locks, opened, on_wait, wait=self.wait)
        try:
            yield turn
        finally:
            turn.give_back()

    def _register(self, *more: tuple[str, str]) -> None:
        """Write down that this run needs its stages so far, `more`, and what it started from."""
        base = () if self.base is None else self.base.stages
        own = [(result.name, result.key) for result in self.results]
        register_root(self.store, self.run.path, [*base, *own, *more])

    def _run_stage(self, work: _Work) -> StageResult:
        stage, key, material = work.stage, work.key, work.material
        self._event(stage, "start", key)
        try:
            stage.run(self.recipe, work.upstream, work.staging.out, work.context)
            self._check_unchanged(stage)
            if work.resumed and not resume_is_proved(stage, self.recipe):
                material, key = self._resumed_privately(stage, material)
            outputs = self.store.commit(
                work.staging,
                key=key,
                version=stage.VERSION,
                key_inputs=material,
                classes=stage.OUTPUTS,
                measures=work.context.measures,
                seconds=time.monotonic() - work.since,
            )
        except _DoneMeanwhile:
            raise
        except BaseException as error:
            self._discard(work)
            with contextlib.suppress(OSError):  # or it would hide what went wrong
                self._event(stage, _state_of(error), key)
            if isinstance(error, RecipeToolError) and not getattr(error, "stage", "x"):
                error.stage = stage.NAME  # type: ignore[attr-defined]
            raise
        seconds = time.monotonic() - work.since
        self._event(stage, "done", key, seconds=round(seconds, 3))
        action = "resume" if work.resumed else "run"
        return StageResult(stage.NAME, action, key, material, outputs, seconds)

    def _discard(self, work: _Work) -> None:
        """Only a stage that can go on has use for what lies in its scratch folder. Before the key
        is locked, what lies there is another run's."""
        if work.context.lock_fds and work.context.turn.taken:
            self.store.discard(work.staging, keep_scratch=hasattr(work.stage, "resumable"))

    def _context(
        self,
        stage: Stage,
        staging: Staging,
        material: dict[str, Any],
    ) -> StageContext:
        return StageContext(
            stage=stage,
            project_root=self.recipe.project_root,
            recipe_folder=self.recipe.folder,
            log_folder=self.run.logs,
            scratch=staging.scratch,
            cache=self.cache,
            platform=self.surroundings.platform,
            events=self.events,
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
        with self._device_lock(wait=self.wait, on_wait=self._waiting_for(DEVICE, stage)) as lock:
            yield (lock.fd,)

    def _device_lock(self, *, wait: bool, on_wait: Callable[[Holder], None] | None = None) -> Lock:
        name = str(self.surroundings.platform["device"])
        path = self.cache / "locks" / f"device-{name}.lock"
        return Lock(path, f"the {name}", wait=wait, on_wait=on_wait)

    def _waiting_for(self, what: str, stage: Stage) -> Callable[[Holder], None]:
        """Says who has `what`: at the terminal, and in the events for whoever asks meanwhile."""

        def say(holder: Holder) -> None:
            self.say(f"waiting for {what}, held by {holder}")
            self._waits(stage, what, holder=str(holder))

        return say

    def _waits(self, stage: Stage, what: str, **fields: str) -> None:
        self.events.append({"stage": stage.NAME, "event": "waiting", "for": what, **fields})

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
