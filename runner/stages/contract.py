"""What a stage is: the words that stages, planner, store and executor share.

A stage is a module with `NAME`, `VERSION`, `OUTPUTS`, `NEEDS`, `ENVIRONMENT`, `TOOLS`,
`key_inputs(recipe, upstream)` (pure) and `run(recipe, inputs, folder, context)`.
"""

from __future__ import annotations

import enum
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from runner.recipe.model import Recipe


class Class(enum.StrEnum):
    """On what the bytes of an output depend (docs/reproducibility.md)."""

    PORTABLE = "portable"  # the same bytes on every machine
    PLATFORM = "platform"  # the same bytes per platform
    MEASURED = "measured"  # numbers that vary; never in the manifest
    EFFECT = "effect"  # changes something outside the store; probed, never assumed


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One output file. `path` is relative to the stage's folder, with forward slashes."""

    path: str
    size: int  # bytes
    sha256: str  # hex
    cls: Class


@dataclass(frozen=True, slots=True)
class Outputs:
    """A finished stage: what lies in the store under its key."""

    stage: str
    key: str
    folder: Path
    files: Mapping[str, FileEntry]
    measures: Mapping[str, Any] = field(default_factory=dict)

    def digest(self, pattern: str = "*") -> str:
        """Sha256 over path, size and sha256 of the files that match, in order of path.

        This is what later stages put into their keys, so an upstream stage that runs again and
        gives the same bytes does not make them run. Measured files never count.
        """
        from runner.store.digest import canonical_sha256

        return canonical_sha256(
            [
                [entry.path, entry.size, entry.sha256]
                for path, entry in sorted(self.files.items())
                if fnmatch.fnmatchcase(path, pattern) and entry.cls is not Class.MEASURED
            ]
        )

    def path(self, name: str) -> Path:
        """Absolute path of the output file `name`. Raises KeyError when it is not an output."""
        return self.folder / self.files[name].path


Upstream = Mapping[str, Outputs]


class Context(Protocol):
    """What a running stage may ask of its surroundings: see execution/context.py."""

    project_root: Path  # relative paths of the recipe resolve to files below it
    recipe_folder: Path  # folder of the recipe file: where its relative paths start
    log_folder: Path  # logs of this stage's children
    # Handed to the next try where the stage offers `resumable`; else it goes when the stage ends.
    scratch: Path
    platform: Mapping[str, Any]  # what a claim of equal bytes depends on
    # Deploy to a server of our own with this models folder, never to the user's (verification).
    ollama_models: Path | None

    def run_script(
        self,
        name: str,
        spec: Mapping[str, Any],
        *,
        folder: Path,
        inputs: Mapping[str, Path] | None = None,
        environment: str | None = None,
        outside: Mapping[str, str] | None = None,
        processes: int = 1,
        machines: int = 1,
    ) -> dict[str, Any]:
        """Run runner/scripts/NAME.py in `environment` (default: the stage's) under the supervisor.

        `spec` is the hashed part; `inputs` says where things lie. `outside` are variables that
        decide no byte (a token, an address): this child alone gets them, and no file. With more
        than one of `processes` (on this machine) or `machines` it is started several times, as
        one training. Returns the measures the script reported. Raises StageFailed (with the log's
        path) or Interrupted.
        """
        ...

    def run_program(
        self,
        argv: list[str],
        *,
        log: str,
        env: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> str:
        """Run a program under the supervisor and return its stdout; stderr goes to `log`."""
        ...

    def environment_python(self, role: str) -> Path:
        """The interpreter of the hash-locked environment `role`, built now if it is missing."""
        ...

    def tool(self, name: str) -> Path:
        """The root folder of a pinned tool (`llama.cpp`, `ollama`), built now if it is missing."""
        ...

    def progress(self, step: int, total: int, **fields: Any) -> None:
        """Append a progress event of this stage."""
        ...

    def measure(self, name: str, value: Any) -> None:
        """Record a measure (perplexity, count, speed): shown in run.json, never in the manifest."""
        ...


def environment_of(stage: Stage, recipe: Recipe) -> str | None:
    """Role of the environment the stage's scripts run in; one may offer to say it by the recipe."""
    chosen = getattr(stage, "environment", None)
    return stage.ENVIRONMENT if chosen is None else str(chosen(recipe))


def needed_by(stage: Stage, recipe: Recipe) -> tuple[str, ...]:
    """The stages of NEEDS that it waits for; one that does not for every recipe offers `needs`."""
    needs = getattr(stage, "needs", None)
    return stage.NEEDS if needs is None else tuple(needs(recipe))


def borrowed_by(stage: Stage, recipe: Recipe) -> tuple[str, ...]:
    """Roles of the environments that it uses beside its own; a stage that does offers `borrowed`.

    Their identities are in what its `snapshot` gives.
    """
    borrowed = getattr(stage, "borrowed", None)
    return () if borrowed is None else tuple(borrowed(recipe))


class Stage(Protocol):
    """The module-level names of a stage; `runner.stages.REGISTRY` lists the modules."""

    NAME: str
    VERSION: int  # raise when the same inputs may give other bytes
    OUTPUTS: Mapping[str, Class]  # glob over relative paths -> class; first match wins
    NEEDS: tuple[str, ...]  # names of the stages whose outputs it reads
    ENVIRONMENT: str | None  # role of the environment its scripts run in
    TOOLS: tuple[str, ...]  # pinned tools it uses
    DEVICE: bool  # holds the compute device while it runs

    def key_inputs(self, recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
        """What decides the bytes, as plain JSON data. Pure."""
        ...

    def run(self, recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
        """Write the outputs into `folder`. Raises StageFailed with what to type next."""
        ...

    def wanted(self, recipe: Recipe) -> bool:
        """Is the stage part of this recipe? Pure."""
        ...
