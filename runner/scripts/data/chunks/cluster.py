"""Do one thing to each of many chunks on the machines of a Ray cluster, in the order of the chunks.

The same as `workers.Workers` by other means: which machines there are, how many, and whether one is
lost on the way decides no byte. Nothing is taken from a machine but its processors and the packages
of the environment `ray`, whose versions are compared first: this package's code, the tokenizer's
files and the rows are brought along. Ray Data gives a chunk to another machine when one dies.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import secrets
import socket
import sys
import types
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import runner
from runner.scripts.data.chunks.chunk import Making
from runner.scripts.data.chunks.spool import Part
from runner.scripts.data.chunks.workers import ADDRESS, Workers, is_address
from runner.scripts.spec import ScriptError

GROUP = 16  # chunks that go to a machine together
AHEAD = 4  # groups a processor that are under way: what the cluster's memory is taken by
BLOCK_BYTES = 16 << 20  # what Ray Data expects a group to give
CONNECT_SECONDS = 10
# What decides the bytes of rows, beside this package: the same everywhere, or nothing is done.
COMPARED = ("ftfy", "jinja2", "numpy", "phonenumberslite", "py3langid", "rensa", "tokenizers")
COMPARED += ("transformers", "ray")
_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".safetensors.index.json")
T = TypeVar("T")
U = TypeVar("U")


# --- what is brought along


@dataclass(frozen=True)
class Records:
    """Some records of a spool, brought along; they are read as a Part is."""

    records: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.records)

    def rows(self) -> list[Any]:
        """The objects that were pickled into it."""
        return [pickle.loads(each) for each in self.records]


@lru_cache(maxsize=1)
def package() -> bytes:
    """The code of the scripts, as an archive whose bytes depend on nothing else."""
    (root,) = runner.__path__
    files = sorted(Path(root).glob("scripts/**/*.py"))
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (Path(root, "__init__.py"), *files):
            name = zipfile.ZipInfo(f"runner/{path.relative_to(root)}")
            archive.writestr(name, path.read_bytes())
    return held.getvalue()


@lru_cache(maxsize=4)
def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """Everything in the folder of a model but its weights."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: path.read_bytes() for path in files if not path.name.endswith(_WEIGHTS)}


def digest_of(files: Mapping[str, bytes]) -> str:
    """Of names and contents."""
    return hashlib.sha256(pickle.dumps(sorted(files.items()), protocol=4)).hexdigest()


class _Packer(pickle.Pickler):
    """Takes along what a path on this machine leads to. `models`: folders that it has met."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.models: dict[str, Mapping[str, bytes]] = {}

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Part):
            return Records, (value.records(),)
        if isinstance(value, Making):
            files = tokenizer_files(value.model)
            digest = digest_of(files)
            self.models[digest] = files
            told = value.template, dict(value.settings), value.keeps_rows
            return making_elsewhere, (digest, *told)
        if isinstance(value, types.FunctionType) and value.__module__ == "__main__":
            return function_named, (_own_name(), value.__qualname__)
        return NotImplemented


def packed(value: Any) -> tuple[bytes, dict[str, Mapping[str, bytes]]]:
    """What can be unpickled on another machine, and the models that it needs there."""
    held = io.BytesIO()
    packer = _Packer(held)
    packer.dump(value)
    return held.getvalue(), packer.models


def _own_name() -> str:
    """Of the script that runs as the main program."""
    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "a script is run as a module"
    return spec.name


# --- on the other machine


def making_elsewhere(
    digest: str, template: str | None, settings: Mapping[str, Any], keeps_rows: bool
) -> Making:
    """With the tokenizer's files that came along."""
    model = Path(os.environ["SPARK_RECIPES_LUGGAGE"], "models", digest)
    return Making(model, template, settings, keeps_rows)


def function_named(module: str, name: str) -> Any:
    """One of a script that is the main program elsewhere."""
    from importlib import import_module

    return getattr(import_module(module), name)


def answers(work: Callable[[Any], Any], payload: bytes) -> bytes:
    """What `work` makes of each chunk of a group, or what a ScriptError says of one, pickled."""
    made: list[Any] = []
    for chunk in pickle.loads(payload):
        try:
            made.append(work(chunk))
        except ScriptError as error:
            made.append(_Refused(error.message, error.hint, error.code))
            break
    return pickle.dumps(made, pickle.HIGHEST_PROTOCOL)


@dataclass(frozen=True)
class _Refused:
    message: str
    hint: str
    code: str


def _remote(luggage: Any, models: Mapping[str, Any], work: bytes) -> Callable[[Any], Any]:
    """What Ray Data calls for each group. It stands alone: where it runs, nothing else is known.

    `luggage`, and of `models` by their digests the files: references into the cluster's memory.
    """

    def unpacked() -> None:
        import atexit
        import io
        import os
        import shutil
        import sys
        import tempfile
        import zipfile
        from pathlib import Path

        import ray

        if "SPARK_RECIPES_LUGGAGE" not in os.environ:
            brought = ray.get(luggage)
            folder = tempfile.mkdtemp(prefix=brought["prefix"])
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            os.environ.update(brought["environ"])
            with zipfile.ZipFile(io.BytesIO(brought["package"])) as archive:
                archive.extractall(folder)
            sys.path.insert(0, folder)
            os.environ["SPARK_RECIPES_LUGGAGE"] = folder
        for digest, files in models.items():
            place = Path(os.environ["SPARK_RECIPES_LUGGAGE"], "models", digest)
            if not place.exists():
                place.mkdir(parents=True)
                for name, content in ray.get(files).items():
                    (place / name).write_bytes(content)

    def group(item: dict[str, Any]) -> dict[str, Any]:
        import pickle

        unpacked()
        from runner.scripts.data.chunks.cluster import answers

        return {"number": item["number"], "made": answers(pickle.loads(work), item["chunks"])}

    return group


# --- the cluster


class Cluster(Workers):
    """The machines of a Ray cluster that this one belongs to. Imported late: only `ray` has it."""

    def __init__(self, address: str, environ: Mapping[str, str]) -> None:
        import ray

        super().__init__(max(1, int(ray.cluster_resources().get("CPU", 1))))
        self._ray, self._address = ray, address
        self._prefix = f"spark-recipes-{secrets.token_hex(8)}-"
        brought = {"package": package(), "environ": dict(environ), "prefix": self._prefix}
        self._luggage = ray.put(brought)
        self._models: dict[str, Any] = {}

    def each(self, work: Callable[[T], U], chunks: Iterable[T]) -> Iterator[U]:
        """`work` of every chunk, in the order of the chunks. Chunks are taken as they are needed.

        Raises the ScriptError that `work` raises; E376 when the cluster is lost.
        """
        waiting = iter(chunks)
        while window := list(islice(waiting, GROUP * AHEAD * self.count)):
            if len(window) == 1:
                yield work(window[0])
                continue
            yield from self._of_window(work, window)

    def sweep(self) -> None:
        """Remove what was unpacked on the machines, whose processes end without a last word."""
        try:
            on_machines(self._ray, _swept(), self._prefix, seconds=30)
        except self._ray.exceptions.RayError:
            return  # a machine that is lost takes it along

    def _of_window(self, work: Callable[[T], U], window: Sequence[T]) -> Iterator[U]:
        told, models = packed(work)
        size = max(1, min(GROUP, len(window) // (2 * self.count)))
        groups = [window[begin : begin + size] for begin in range(0, len(window), size)]
        items = []
        for number, group in enumerate(groups):
            chunks, more = packed(list(group))
            models |= more
            items.append({"number": number, "chunks": chunks})
        for digest in models.keys() - self._models.keys():
            self._models[digest] = self._ray.put(dict(models[digest]))
        known = {digest: self._models[digest] for digest in models}
        for made in self._answers(_remote(self._luggage, known, told), items):
            for each in pickle.loads(made):
                if isinstance(each, _Refused):
                    raise ScriptError(each.message, hint=each.hint, code=each.code)
                yield each

    def _answers(self, group: Callable[[Any], Any], items: list[dict[str, Any]]) -> Iterator[bytes]:
        data = self._ray.data.from_items(items, override_num_blocks=len(items))
        rows = data.map(group, num_cpus=1).iter_rows()
        try:
            for number, row in enumerate(rows):
                assert row["number"] == number, "Ray Data keeps the order of rows"
                yield row["made"]
        except self._ray.exceptions.RayTaskError:
            raise  # of our own making
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            said = " ".join(str(error).split())[:200]
            raise ScriptError(
                f"the Ray cluster at {self._address} was lost: {said}",
                hint="see `ray status`, then run the same command again; without "
                f"{ADDRESS} this machine does it alone",
                code="E376",
            ) from error


@contextmanager
def cluster(address: str, environ: Mapping[str, str]) -> Iterator[Cluster]:
    """The cluster at HOST:PORT, whose machines work with the variables that decide bytes here.

    Raises ScriptError E372 to E375 where it cannot be used.
    """
    _must_answer(address)
    ray = _library()
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        said = " ".join(str(error).split())[:300]
        raise ScriptError(
            f"this machine is not taken into the Ray cluster at {address}: {said}",
            hint=f"join it: ray start --address={address}, by the `ray` of the environment `ray` "
            "(docs/data.md)",
            code="E374",
        ) from error
    try:
        _compare_machines(ray)
        context = ray.data.DataContext.get_current()
        context.target_max_block_size = BLOCK_BYTES
        context.op_resource_reservation_enabled = False  # there is one operation
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        machines = Cluster(address, environ)
        try:
            yield machines
        finally:
            machines.sweep()
    finally:
        ray.shutdown()


def _must_answer(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not is_address(address):
        raise ScriptError(
            f"{ADDRESS} is {address!r}, not HOST:PORT",
            hint=f"export {ADDRESS}=HOST:6379",
            code="E372",
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ScriptError(
            f"there is no Ray cluster at {address}: {error.strerror or error}",
            hint=f"start it (docs/data.md), or unset {ADDRESS}: this machine does it alone",
            code="E372",
        ) from None


def _library() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ScriptError(
            f"Ray cannot be loaded: {error}",
            hint="build the environment `ray` again: remove it, then run the same command",
            code="E373",
        ) from None
    return ray


def _compare_machines(ray: Any) -> None:
    """Raises ScriptError E375 where a machine has other packages than this one."""
    tell = versions()
    own = tell(COMPARED)
    for host, theirs in on_machines(ray, tell, COMPARED, seconds=300):
        for name in own:
            if theirs[name] != own[name]:
                raise ScriptError(
                    f"{host} has {name} {theirs[name] or 'not'}, this machine has {own[name]}",
                    hint="start Ray there from the environment `ray` of the same version of Spark "
                    "Recipes (docs/data.md)",
                    code="E375",
                )


def on_machines(
    ray: Any, work: Callable[[Any], Any], told: Any, seconds: float
) -> list[tuple[str, Any]]:
    """What `work`, which stands alone, says of `told` on each machine that is alive."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]
    hosts = sorted((node["NodeManagerAddress"], node["NodeID"]) for node in alive)
    asked = []
    for _, number in hosts:
        there = NodeAffinitySchedulingStrategy(number, soft=False)
        task = ray.remote(work).options(num_cpus=0, scheduling_strategy=there)
        asked.append(task.remote(told))
    answers = ray.get(asked, timeout=seconds)
    return [(host, answer) for (host, _), answer in zip(hosts, answers, strict=True)]


def _swept() -> Callable[[str], None]:
    """What removes folders by how their names begin. It stands alone."""

    def swept(prefix: str) -> None:
        import shutil
        import tempfile
        from pathlib import Path

        for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            shutil.rmtree(folder, ignore_errors=True)

    return swept


def versions() -> Callable[[Sequence[str]], dict[str, str]]:
    """What tells the versions of packages, and of Python; "" for one that is missing. It stands
    alone, as `_remote` does."""

    def found(names: Sequence[str]) -> dict[str, str]:
        import platform
        from importlib import metadata

        told = {"python": ".".join(platform.python_version_tuple()[:2])}
        for name in names:
            try:
                told[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                told[name] = ""
        return told

    return found
