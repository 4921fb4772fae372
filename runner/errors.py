"""Everything that ends a command early, with its exit code.

Exit codes are a contract (docs/errors.md): 0 done; 1 a stage failed; 2 recipe or usage; 3 our bug;
4 this machine cannot; 5 the lock is stale; 6 busy; 7 not reproduced; 130/143 interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.report.diagnostic import Diagnostic


class RecipeToolError(Exception):
    """An error meant for the person at the terminal: what, where, and what to type next.

    `hint` is the next thing to do, ideally a command; `code` is stable, see docs/errors.md.
    """

    exit_code = 1
    default_code = "E001"

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.default_code


class StageFailed(RecipeToolError):
    """A stage could not finish. `log` names the file with the child's own words."""

    exit_code = 1
    default_code = "E500"

    def __init__(
        self, message: str, *, hint: str = "", code: str = "", stage: str = "", log: str = ""
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.stage = stage
        self.log = log


class RecipeInvalid(RecipeToolError):
    """The recipe is wrong; every diagnostic is carried, not only the first."""

    exit_code = 2
    default_code = "E100"

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        super().__init__(f"{len(diagnostics)} problem(s) in the recipe")
        self.diagnostics = tuple(diagnostics)


class UsageError(RecipeToolError):
    """The command line is wrong."""

    exit_code = 2
    default_code = "E002"


class MachineCannot(RecipeToolError):
    """This machine lacks something that the recipe needs: memory, disk, a compiler, the network."""

    exit_code = 4
    default_code = "E400"


class LockStale(RecipeToolError):
    """The lock pins something that is otherwise now; `entries` has one line for each."""

    exit_code = 5
    default_code = "E802"

    def __init__(
        self, message: str, *, hint: str = "", code: str = "", entries: Sequence[str] = ()
    ) -> None:
        super().__init__("\n  ".join([message, *entries]), hint=hint, code=code)
        self.entries = tuple(entries)


class NotReproduced(RecipeToolError):
    """Other bytes than expected; `entries` names what differs, one line each."""

    exit_code = 7
    default_code = "E700"

    def __init__(
        self, message: str, *, hint: str = "", code: str = "", entries: Sequence[str] = ()
    ) -> None:
        super().__init__("\n  ".join([message, *entries]), hint=hint, code=code)
        self.entries = tuple(entries)


class Busy(RecipeToolError):
    """Another process holds the lock, and the caller asked not to wait."""

    exit_code = 6
    default_code = "E600"


class Interrupted(RecipeToolError):
    """SIGINT (130) or SIGTERM (143) arrived; children are gone and staging is kept for resume."""

    default_code = "E130"

    def __init__(
        self,
        signal_number: int,
        message: str = "interrupted",
        hint: str = "run the same command again: what was finished before is reused, and a "
        "training goes on from its last checkpoint",
    ) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = 128 + signal_number
