"""What a training asks of the machines that take part, and where this one stands among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from runner.errors import UsageError
from runner.store.locks import Holder


class Turn(Protocol):
    """What a training needs of its machine for itself alone: the device, first of all.

    `wait`: may it be waited for? `taken`: is it this training's now? `token`: what it is known by
    in the locks that it takes; `holder`: who had one of them when `take` last found it busy.
    """

    wait: bool
    taken: bool
    token: str
    holder: Holder

    def take(self) -> str:
        """Try once, without waiting; "" when it was free, else what is busy and who has it.

        Raises what keeps the training from beginning on this machine.
        """
        ...

    def give_back(self) -> None:
        """Let others have it."""
        ...

    def waits(self, what: str) -> None:
        """Hear what the training waits for before it can have its turn, in words."""
        ...


class NoTurn:
    """Of a script that needs nothing for itself, or has it already."""

    wait = True
    taken = True
    token = ""
    holder = Holder()

    def take(self) -> str:
        """There is nothing to take."""
        return ""

    def give_back(self) -> None:
        """There is nothing to give back."""

    def waits(self, what: str) -> None:
        """Nobody asks."""


class Machines(Protocol):
    """One attempt: `begin`, then `poll` while it goes on, `blame` when it failed, `end`."""

    def begin(self, plan: Mapping[str, Any], turn: Turn) -> dict[str, Any]:
        """Wait until all machines are there, have the same `plan`, and each has its turn.

        The answer is where this one stands: `machine` (from 0), `machines`, `address`, `port`,
        `own_address`. Raises Busy (E964) when a machine would have to wait for its turn, and
        it or the first one was told not to; UsageError (E956) when two of them take the same locks.
        """
        ...

    def poll(self) -> None:
        """Raise StageFailed (E377) when another machine has ended or is lost."""
        ...

    def blame(self) -> None:
        """Of a training that failed here: raise what another machine says of its own failure."""
        ...

    def end(self, error: BaseException | None) -> None:
        """Tell the others how it ended here."""
        ...


NO_ADDRESS = UsageError(
    "train.nodes asks for more machines, and none can join: no address was given",
    hint="give the address of this machine that the others reach: --rendezvous HOST:PORT",
    code="E952",
)


class NoMachines:
    """A run that was told of no others."""

    def begin(self, plan: Mapping[str, Any], turn: Turn) -> dict[str, Any]:
        """There is nobody to wait for."""
        raise NO_ADDRESS

    def poll(self) -> None:
        """Nobody can be lost."""

    def blame(self) -> None:
        """Nobody else can have failed."""

    def end(self, error: BaseException | None) -> None:
        """Nobody has to know."""
