"""Do one thing to each of many chunks in several processes, and get the results in their order.

How many processes there are decides no byte. Workers are forked, so they have what was loaded
before. They leave Ctrl-C to the process that started them, and end when it does, however that was.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing.process import BaseProcess
from types import MappingProxyType
from typing import TypeVar

from runner.scripts.data.tokens import last_rendered
from runner.scripts.spec import ScriptError

ADDRESS = "SPARK_RECIPES_RAY"  # HOST:PORT of a cluster; in no recipe, no key and no file
AHEAD = 3  # chunks a worker that wait for it or for their turn: what memory is taken by
_PR_SET_PDEATHSIG = 1
T = TypeVar("T")
U = TypeVar("U")


def is_address(text: str) -> bool:
    """Is it HOST:PORT?

    >>> is_address("head:6379"), is_address("head"), is_address(":6379"), is_address("head:99999")
    (True, False, False, False)
    """
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdecimal() and int(port[:6]) <= 65535


def worker_count() -> int:
    """As many as scripts may keep busy: the threads that they are given, else all processors."""
    available = len(os.sched_getaffinity(0))
    return max(1, min(available, int(os.environ.get("OMP_NUM_THREADS", available))))


class Workers:
    """`count` processes that are started when there is work for more than one."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ProcessPoolExecutor | None = None
        self._processes: list[BaseProcess] = []

    def each(self, work: Callable[[T], U], chunks: Iterable[T]) -> Iterator[U]:
        """`work` of every chunk, in the order of the chunks. Chunks are taken as they are needed.

        Raises what `work` raises; ScriptError E365 when a worker ends by itself, E326 when a chat
        template kept it from ending.
        """
        waiting = iter(chunks)
        first = list(islice(waiting, 2))
        if self.count == 1 or len(first) < 2:
            yield from map(work, chain(first, waiting))
            return
        pool = self._started()
        under_way: deque[Future[U]] = deque()
        try:
            for chunk in chain(first, waiting):
                under_way.append(pool.submit(work, chunk))
                if len(under_way) >= AHEAD * self.count:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool as error:
            raise _a_worker_ended(self._ended()) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("fork")
            self._pool = ProcessPoolExecutor(self.count, context, _be_a_worker, (os.getpid(),))
            with _interrupts_waiting():
                self._pool.submit(int)  # the first call forks all of them
            self._processes = list((getattr(self._pool, "_processes", None) or {}).values())
        return self._pool

    def _ended(self) -> list[BaseProcess]:
        """The processes of a pool that is broken, once all of them have ended."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        return self._processes

    def close(self, *, at_once: bool) -> None:
        """End the processes; `at_once`: whatever they are doing."""
        if self._pool is None:
            return
        if at_once:
            for process in self._processes:
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def workers(
    count: int | None = None, environ: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Workers]:
    """Workers that are gone afterwards; the machines of a cluster where the variable names one.

    `environ`: the variables of this process that decide bytes, which are set there too.
    """
    if count is None and (address := os.environ.get(ADDRESS)):
        from runner.scripts.data.chunks.cluster import cluster

        with cluster(address, environ) as machines:
            yield machines
        return
    made = Workers(worker_count() if count is None else count)
    try:
        yield made
    except BaseException:
        made.close(at_once=True)
        raise
    made.close(at_once=False)


def chunked(
    items: Iterable[T], count: int, size: int, size_of: Callable[[T], int]
) -> Iterator[list[T]]:
    """Lists of at most `count` items, and of at most `size` together where one is not larger."""
    chunk: list[T] = []
    filled = 0
    for item in items:
        own = size_of(item)
        if chunk and (len(chunk) == count or filled + own > size):
            yield chunk
            chunk, filled = [], 0
        chunk.append(item)
        filled += own
    if chunk:
        yield chunk


@contextmanager
def _interrupts_waiting() -> Iterator[None]:
    """A Ctrl-C that comes meanwhile comes afterwards. What is forked begins life like this."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_a_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it could be told of
        os._exit(1)


def _a_worker_ended(processes: Sequence[BaseProcess]) -> ScriptError:
    for process in processes:
        if process.exitcode == -last_rendered.KILLED_BY and process.pid is not None:
            return last_rendered.of_worker(process.pid)
    return ScriptError(
        "a process that prepares rows has ended without a word; it was killed, or a library in it "
        "failed",
        hint="see whether the machine ran out of memory (dmesg); with fewer processors "
        "(taskset -c 0 before the command) there are fewer such processes",
        code="E365",
    )
