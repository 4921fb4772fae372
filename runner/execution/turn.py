"""The locks that a training by several machines needs on this one: taken together, or not at all.

Nothing is held while other machines are waited for, and nobody waits for one lock with another in
hand: so no two trainings can wait for each other, on however many machines. A run that waits in
line for a single lock gets it before one that tries.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence

from runner.errors import Busy
from runner.store.locks import Holder, Lock, read_holder

Opened = Callable[[tuple[int, ...]], None]


class Turn:
    """Implements machines.contract.Turn.

    `locks`: what each is for messages, and a fresh lock that does not wait. `opened` is called with
    their descriptors when all are held, and may raise: then none is. `on_wait` hears of every new
    holder, and what else is waited for, with None. `wait`: False for a run that was
    told to end where it would wait. `token` is in the locks while they are held, so that who cannot
    have them knows if it is of the same training.
    """

    def __init__(
        self,
        locks: Sequence[tuple[str, Callable[[], Lock]]],
        opened: Opened,
        on_wait: Callable[[str, Holder | None], None],
        *,
        wait: bool,
    ) -> None:
        self.wait = wait
        self._locks, self._opened, self._on_wait = locks, opened, on_wait
        self._held = contextlib.ExitStack()
        self._told: tuple[str, Holder | None] | None = None
        self.taken = False
        self.token = secrets.token_hex(8)
        self.holder = Holder()

    def take(self) -> str:
        """Try once; "" when all is held now, else what is busy and who has it, in words."""
        if self.taken:
            return ""
        with contextlib.ExitStack() as stack:
            descriptors = []
            for what, make in self._locks:
                lock = make()
                lock.token = self.token
                try:
                    descriptors.append(stack.enter_context(lock).fd)
                except Busy:
                    return self._busy(what, read_holder(lock.path))
            self._opened(tuple(descriptors))
            self._held = stack.pop_all()
        self.taken, self._told = True, None
        return ""

    def give_back(self) -> None:
        """Release everything; a child that got the descriptors keeps the locks while it lives."""
        self.taken = False
        self._held.close()

    def waits(self, what: str) -> None:
        """Hear of something that no lock of this machine decides."""
        if self._told != (what, None):
            self._told = (what, None)
            self._on_wait(what, None)

    def _busy(self, what: str, holder: Holder) -> str:
        self.holder = holder
        if self._told != (what, holder):
            self._told = (what, holder)
            if self.wait:
                self._on_wait(what, holder)
        return f"{what}, held by {holder}"
