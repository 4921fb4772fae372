"""The most memory that another process held, looked at while it runs. Standard library only."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from runner.system.process_tree import members

LOOK_SECONDS = 0.25


class PeakMemory:
    """Follows process `root` and all below it, in a thread, while it is entered.

    `bytes`: the largest resident size of one process whose command line has the word `word`.
    """

    def __init__(self, root: int, word: str) -> None:
        self.bytes = 0
        self._root, self._word = root, word.encode()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            for pid in members(self._root):
                self.bytes = max(self.bytes, self._peak(pid))

    def _peak(self, pid: int) -> int:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # it has ended
            return 0
        if self._word not in words or "VmHWM:" not in status:
            return 0
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
