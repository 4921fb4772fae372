"""A whole `recipe run` in a fork, with a fault in it, and what must be true after.

Everything of the runner is real: command line, planning, locks, store, run folder, supervisors,
stages. What is not computed again and again is the scripts' work: a tiny recipe is run once for
real, and the interpreter that the stages start is then a shell script which puts that run's outputs
where the spec says, so that a run takes a fraction of a second.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import io
import json
import os
import pkgutil
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import runner
from runner.execution.run_folder import SHOWN_AS, latest_run
from runner.store.collect import collect
from runner.store.digest import file_sha256
from runner.store.store import State, Store
from runner.system.supervisor import Supervisor
from tests.chain import Checkout
from tests.faults import OPERATIONS as DOORS
from tests.faults import Handler, Injector, Operation, open_doors, open_files_by_doors
from tests.tiny_chain import write_tiny_chain

WORTH = 50_000  # bytes: the digest of the tiny model's weights is remembered, as of a large one
STAGES = ("fetch", "prepare", "train", "evaluate", "merge")
# Two recipes that part only at the merge, and have all before it in common.
RECIPES = {"first": "merge: {}\n", "other": "merge: {dtype: float32}\n"}
FILES = {"first": "tiny.yaml", "other": "other.yaml"}
REPLAY = """#!/bin/sh
# The interpreter of every environment: writes what the real script wrote.
set -e
eval "$(sed -n 's/^ *"\\(stage\\|folder\\|events\\)": "\\(.*\\)",\\{0,1\\}$/\\1="\\2"/p' "$3")"
echo "$stage" >>RECORDED/computed
BEFORE
cp -R RECORDED/"$stage"/. "$folder"
cat RECORDED/"$stage".events >>"$events"
"""


@dataclass(frozen=True)
class Recording:
    """The outputs and manifests of real runs of RECIPES."""

    folder: Path
    model: Path
    rows: Path
    recipes: dict[str, str]
    manifests: dict[str, bytes]

    def replayer(self, name: str, before: str = "") -> Path:
        """The interpreter that writes what recipe `name` gave; `before` is a line of shell."""
        place = self.folder / name
        program = place / f"python-{abs(hash(before))}"
        if not program.exists():
            text = REPLAY.replace("BEFORE", before or ":").replace("RECORDED", str(place))
            program.write_text(text)
            program.chmod(0o755)
        return program

    def computed(self, name: str) -> list[str]:
        """The stages that were computed so far, in order, by runs of recipe `name`."""
        log = self.folder / name / "computed"
        return log.read_text().split() if log.exists() else []

    def forget_computed(self) -> None:
        for name in self.recipes:
            (self.folder / name / "computed").unlink(missing_ok=True)


def record(checkout: Checkout, folder: Path) -> Recording:
    """Run the tiny recipes for real, once, and keep what their stages wrote."""
    write_tiny_chain(checkout)
    text = (checkout.folder / "tiny.yaml").read_text()
    recipes = {name: text.replace("merge: {}\n", merge) for name, merge in RECIPES.items()}
    manifests = {}
    for name, recipe in recipes.items():
        (checkout.folder / "tiny.yaml").write_text(recipe)
        result = checkout.recipe("run", "tiny.yaml")
        assert result.returncode == 0, result.stderr
        run = checkout.folder / "runs" / "tiny" / "latest"
        manifests[name] = (run / "manifest.json").read_bytes()
        _keep(folder / name, Path(checkout.env["SPARK_RECIPES_STORE"]), run)
    files = checkout.folder / "model", checkout.folder / "rows.jsonl"
    return Recording(folder, *files, recipes, manifests)


def _keep(folder: Path, store: Path, run: Path) -> None:
    folder.mkdir(parents=True)
    for stage in json.loads((run / "run.json").read_text())["stages"]:
        name = stage["name"]
        shutil.copytree(store / name / stage["key"], folder / name)
        (folder / name / ".stage.json").unlink()
        event = {
            "time": 0.0,
            "stage": name,
            "event": "measure",
            "values": stage["measures"],
        }
        (folder / f"{name}.events").write_text(json.dumps(event) + "\n")


@dataclass(frozen=True)
class Ending:
    """How a run in a fork ended: its exit code, or minus the signal; `said` is all its words."""

    code: int
    said: str
    noted: str  # what the fork told of itself


@dataclass
class Scene:
    """A project, a cache and a store below `root`, in which runs are damaged."""

    root: Path
    recording: Recording
    earlier: bool  # has the other recipe been run to its end before?
    waits: bool = False  # for the disk, or does fsync return at once?

    @property
    def project(self) -> Path:
        return self.root / "project"

    @property
    def runs(self) -> Path:
        return self.project / "runs" / "tiny"

    @property
    def store(self) -> Store:
        return Store(self.root / "cache" / "store", paranoid=True)

    def prepare(self) -> None:
        """The scene as it was before the run that is to be damaged."""
        template = self._template()
        for name in ("project/runs", "cache"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            if (template / name).exists():
                # Copies have other inodes: a run finds a store that was moved, and stamps it again.
                shutil.copytree(template / name, self.root / name, symlinks=True)

    def _template(self) -> Path:
        template = self.root.with_name(f"{self.root.name}-template")
        if not template.exists():
            project = self.project
            project.mkdir(parents=True)
            shutil.copytree(self.recording.model, project / "model")
            shutil.copy(self.recording.rows, project / "rows.jsonl")
            for name, text in self.recording.recipes.items():
                (project / FILES[name]).write_text(text)
            (self.root / "home").mkdir()
            if self.earlier:
                ending = self.run("other")
                assert ending.code == 0, ending.said
            shutil.copytree(self.root, template, symlinks=True)
        return template

    def run(self, name: str = "first", **options: Any) -> Ending:
        """`recipe run` of recipe `name` in a fork, to its end."""
        return self.start(name, **options).wait()

    def start(
        self,
        name: str = "first",
        *,
        mode: str | None = None,
        due: Callable[[Operation], bool] = lambda operation: False,
        before: str = "",
        in_fork: Callable[[], None] = lambda: None,
        options: tuple[str, ...] = (),
        file: str | None = None,
    ) -> Fork:
        """The same, without waiting: with a fault of `mode` at the operation that is `due`.

        `in_fork` is called in the fork before all.
        """
        python = self.recording.replayer(name, before)

        def job(note: Callable[[str], None]) -> int:
            in_fork()
            self._settle(python)
            if mode is not None:
                hit = Injector(mode, due, lambda each: note("\n".join(self.kind(each))))
                self._open_doors(hit.handle)
            from runner.cli.main import main

            sys.argv = ["recipe", "run", file or FILES[name]]
            return main([*sys.argv[1:], *options])

        return Fork(job)

    def operations(self) -> list[Operation]:
        """Every operation of a run that nothing disturbs, in order."""
        seen: list[Operation] = []

        def job(note: Callable[[str], None]) -> int:
            self._settle(self.recording.replayer("first"))

            def see(operation: Operation, call: Any, half: Any) -> Any:
                seen.append(operation)
                return call()

            self._open_doors(see)
            from runner.cli.main import main

            code = main(["run", "tiny.yaml"])
            note(json.dumps([asdict(each) for each in seen]))
            return code

        ending = Fork(job).wait()
        assert ending.code == 0, ending.said
        return [Operation(**each) for each in json.loads(ending.noted)]

    def _settle(self, python: Path) -> None:
        from runner.store import known_digests
        from runner.system import environments, process

        os.chdir(self.project)
        for variable in ("HF_TOKEN", "OLLAMA_HOST", "OLLAMA_MODELS", "XDG_CACHE_HOME"):
            os.environ.pop(variable, None)
        os.environ |= {
            "HOME": str(self.root / "home"),
            "SPARK_RECIPES_CACHE": str(self.root / "cache"),
            "SPARK_RECIPES_STORE": str(self.store.root),
        }
        if not self.waits:  # a kill takes nothing from the disk: fsync is counted, and fails
            os.fsync = lambda descriptor: None
        process._start_supervisor = fork_supervisor  # type: ignore[assignment]
        known_digests.WORTH, known_digests.SETTLED = WORTH, -1
        environments.ensure = lambda role, cache, say: environments.Environment(  # type: ignore[assignment]
            role, python, environments.identity(role)
        )

    def _open_doors(self, handle: Handler) -> None:
        base = f"{self.root}/"

        def inside(operation: Operation, call: Any, half: Any) -> Any:
            return handle(operation, call, half) if operation.path.startswith(base) else call()

        open_files_by_doors()
        open_doors(inside, (*DOORS, "read"))

    def kind(self, operation: Operation) -> tuple[str, str]:
        """Name and kind of path: what stays the same from run to run and from stage to stage."""
        return operation.name, path_kind(operation.path.removeprefix(f"{self.root}/"))

    # What must be true

    def intact(self) -> set[tuple[str, str]]:
        """Every entry of the store; fails when one is not whole, every byte of it read."""
        found = set()
        for stage in STAGES:
            folder = self.store.root / stage
            for entry in folder.iterdir() if folder.is_dir() else []:
                inspection = self.store.inspect(stage, entry.name)
                assert inspection.state is State.OK, f"{stage}: {inspection.detail}"
                found.add((stage, entry.name))
        return found

    def check_runs(self) -> None:
        """Every run with a manifest is whole; `latest` is one of them; the earlier is there."""
        finished = 0
        folders = [path for path in self.runs.glob("2*") if path.is_dir()]
        for run in folders:
            if (run / "manifest.json").exists():
                finished += 1
                check_run(run, self.recording.manifests.values())
        assert finished >= self.earlier, "the earlier run is lost"
        latest = self.runs / "latest"
        if self.earlier or latest.is_symlink():
            assert latest_run(self.runs) in folders, "`latest` leads nowhere"

    def check_done(self) -> None:
        """The newest run is done and has the manifest of a run that nothing disturbed."""
        manifest = (self.runs / "latest" / "manifest.json").read_bytes()
        assert manifest == self.recording.manifests["first"]

    def computed_again(self, kept: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Of these entries of the store, those that the newest run computed all the same."""
        record = json.loads((self.runs / "latest" / "run.json").read_text())
        ran = {(s["name"], s["key"]) for s in record["stages"] if s["action"] != "reuse"}
        return ran & kept

    def collect_garbage(self) -> None:
        collect(self.store, dry_run=False, notes=self.root / "cache" / "digests")

    def leftovers(self, undisturbed: set[str]) -> list[str]:
        """Files in store and cache that an undisturbed run leaves not, and hidden ones in runs."""
        kinds = self.kinds()
        runs = {kind for kind in kinds if kind.startswith("project/runs/")}
        hidden = {kind for kind in runs if "/." in kind}
        return sorted((kinds - runs - undisturbed) | hidden)

    def kinds(self) -> set[str]:
        """Every file below the root by its kind, but with the stage's name and key."""
        return {
            re.sub(r"\.roots/[0-9a-f]{64}", ".roots/RUN", str(path.relative_to(self.root)))
            for path in self.root.rglob("*")
            if not path.is_dir() or path.is_symlink()
        }

    def processes(self) -> list[int]:
        """Processes that work in the scene and have not ended."""
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if self._in(path)]

    def _in(self, process: Path) -> bool:
        try:
            folder = str((process / "cwd").readlink())
        except OSError:  # ended, also as a zombie
            return False
        return folder.removesuffix(" (deleted)").startswith(f"{self.root}/")


class Fork:
    """`job` in a forked process whose exit code is what it returns; it may note something."""

    def __init__(self, job: Callable[[Callable[[str], None]], int]) -> None:
        # A pipe, since a limit of the size of files is among what is tried.
        self._said, self._speaks = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self._speaks, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._noted = os.memfd_create("noted")
        self.pid = os.fork()
        if self.pid == 0:
            self._become(job)
        os.close(self._speaks)

    def _become(self, job: Callable[[Callable[[str], None]], int]) -> None:
        code = 70
        try:
            for number in (1, 2):
                os.dup2(self._speaks, number)
            sys.stdout, sys.stderr = (
                io.TextIOWrapper(io.FileIO(number, "w", closefd=False), write_through=True)
                for number in (1, 2)
            )
            code = job(self._note)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _note(self, text: str) -> None:
        os.pwrite(self._noted, text.encode(), 0)

    def wait(self, seconds: float = 120.0) -> Ending:
        """The end; the process is killed and the test fails when it takes longer."""
        deadline = time.monotonic() + seconds
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"the run did not end in {seconds} s:\n{_read(self._said)}")
            time.sleep(0.002)
        said = _read(self._said)
        noted = os.pread(self._noted, os.fstat(self._noted).st_size, 0).decode()
        os.close(self._said)
        os.close(self._noted)
        return Ending(os.waitstatus_to_exitcode(ended[1]), said, noted)


def fork_supervisor(fds: Sequence[int], err: IO[bytes]) -> ForkedSupervisor:
    """What `process._start_supervisor` does, without the start of another Python."""
    order, control = os.pipe2(os.O_CLOEXEC)
    told, report = os.pipe2(os.O_CLOEXEC)
    runner_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            for number, place in ((order, 0), (report, 1), (err.fileno(), 2)):
                os.dup2(number, place)
            kept = {0, 1, 2, *fds}
            for number in {int(path.name) for path in Path("/proc/self/fd").iterdir()} - kept:
                with contextlib.suppress(OSError):
                    os.close(number)
            Supervisor(runner_pid).main()
        finally:
            os._exit(0)
    os.close(order)
    os.close(report)
    return ForkedSupervisor(pid, os.fdopen(control, "wb"), os.fdopen(told, "rb"))


@dataclass(frozen=True)
class ForkedSupervisor:
    """What `process._Tree` uses of a Popen."""

    pid: int
    stdin: IO[bytes]
    stdout: IO[bytes]

    def wait(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def communicate(self) -> None:
        self.stdin.close()
        self.stdout.close()
        self.wait()


def _read(pipe: int) -> str:
    """What is in the pipe by now."""
    words = b""
    try:
        while part := os.read(pipe, 1 << 20):
            words += part
    except BlockingIOError:
        pass
    return words.decode(errors="replace")


def path_kind(path: str) -> str:
    """A path of a scene without what varies: keys, times, random parts, the stage's name."""
    for pattern, word in (
        (r"[0-9a-f]{64}", "KEY"),
        (r"\d{8}-\d{6}(-\d+)?", "RUN"),
        (r"\.[0-9a-f]{8}\.partial$", ".partial"),
        (r"-[0-9a-f]{16}-[0-9a-f]{8}", "-KEY"),
        (rf"\b({'|'.join(STAGES)})\b", "STAGE"),
        (r"(STAGE/KEY/(?:out/)?)(?!\.stage|\.\.stage|out$|scratch).+", r"\1OUTPUT"),
        (r"(runs/tiny/RUN/logs/).+\.(\w+)(\.partial)?$", r"\1LOG.\2\3"),
        (
            r"(runs/tiny/RUN/)(?!logs|events|run\.json|manifest|recipe|SHA|"
            r"\.run|\.manifest|\.recipe|\.latest)[^.].*/\.[^/]+\.partial$",
            r"\1RESULT.partial",
        ),
        (
            r"(runs/tiny/RUN/)(?!logs|events|run\.json|manifest|recipe|SHA|"
            r"\.run|\.manifest|\.recipe|\.latest|RESULT).+",
            r"\1RESULT",
        ),
        (r"project/model/.+", "project/model/FILE"),
    ):
        path = re.sub(pattern, word, path)
    return path


def check_run(run: Path, manifests: Iterable[bytes]) -> None:
    """A run with a manifest has its record, and every file that it shows, byte for byte."""
    manifest = (run / "manifest.json").read_bytes()
    assert manifest in list(manifests), f"{run} has a manifest that no undisturbed run has"
    assert json.loads((run / "run.json").read_text())["state"] == "done", run
    for stage, files in json.loads(manifest)["stages"].items():
        if stage in SHOWN_AS:
            for path, entry in files.items():
                file = run / SHOWN_AS[stage] / path
                assert file_sha256(file) == entry["sha256"], f"{file} is not what the manifest says"


def import_the_runner() -> None:
    """Everything but the scripts, so that a fork has nothing left to import."""
    for module in pkgutil.walk_packages(runner.__path__, "runner."):
        if not module.name.startswith(("runner.scripts", "runner.__main__")):
            importlib.import_module(module.name)
    more = ("rich.console", "rich.table", "rich.progress", "rich._emoji_codes", "yaml")
    for name in (
        *more,
        "runner.scripts.training.checkpoints",
        "runner.scripts.weights.safetensors_stream",
    ):
        importlib.import_module(name)


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Look until it is so; fails when it is not after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.005)
