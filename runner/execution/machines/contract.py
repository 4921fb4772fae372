"""What a training asks of the machines that take part, and where this one stands among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from runner.errors import UsageError


class Machines(Protocol):
    """One attempt: `begin`, then `poll` while it goes on, `blame` when it failed, `end`."""

    def begin(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """Wait until all machines are there and have the same `plan`; where this one stands.

        The answer: `machine` (from 0), `machines`, `address`, `port`, `own_address`.
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

    def begin(self, plan: Mapping[str, Any]) -> dict[str, Any]:
        """There is nobody to wait for."""
        raise NO_ADDRESS

    def poll(self) -> None:
        """Nobody can be lost."""

    def blame(self) -> None:
        """Nobody else can have failed."""

    def end(self, error: BaseException | None) -> None:
        """Nobody has to know."""
