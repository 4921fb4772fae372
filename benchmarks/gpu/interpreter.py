"""Which interpreter measures: the project's locked environment, or a stack that is there already.

Asked in this order; the first whose torch sees a GPU is taken, and it is said which and why:
EVIDENCE_PYTHON, the locked environment `native`, the pythons on PATH.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import RecipeToolError

PROBE = Path(__file__).with_name("probe.py")
PROBE_SECONDS = 180
NAMED = "EVIDENCE_PYTHON"
_NAMES = ("python3", "python")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Chosen:
    """`locked`: is it the project's own environment? `stack`: what probe.py says of it."""

    python: Path
    locked: bool
    stack: dict[str, Any]


class NoGpu(Exception):
    """No interpreter that was asked has a torch that sees a GPU."""


def choose(named: str, locked: Callable[[], Path | None], path: str, say: Say) -> Chosen:
    """The interpreter. `named`: one to ask first, or empty. `locked`: finds or makes the project's
    own, None where it cannot be. `path`: as PATH. Raises NoGpu."""
    asked: list[Path] = []
    if named:
        asked.append(Path(named).expanduser().absolute())
        if stack := probed(asked[0]):
            say(f"measured with {asked[0]}, as {NAMED} says: not the locked environment")
            return Chosen(asked[0], False, stack)
        say(f"{NAMED}: the torch of {asked[0]} sees no GPU")
    if (own := locked()) is not None:
        asked.append(own)
        if stack := probed(own):
            say("measured with the locked environment `native`")
            return Chosen(own, True, stack)
        say("the torch of the locked environment `native` sees no GPU")
    for python in on_path(path):
        if python not in asked and (stack := probed(python)):
            say(f"measured with {python}, which is installed here: not the locked environment")
            return Chosen(python, False, stack)
    raise NoGpu


def probed(python: Path, env: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """Its device and libraries; None where it has no torch, or one that sees no GPU in `env`."""
    try:
        done = subprocess.run(
            [str(python), "-W", "ignore", str(PROBE)],
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            env=env,
            check=False,
        )
        told = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return None
    return told if isinstance(told, dict) and told.get("device") else None


def on_path(path: str) -> Iterator[Path]:
    """Every python of PATH, in its order."""
    for folder in path.split(os.pathsep):
        for name in _NAMES:
            python = Path(folder).absolute() / name
            if folder and os.access(python, os.X_OK) and python.is_file():
                yield python


def locked_environment(has_gpu: bool, say: Say) -> Path | None:
    """The environment `native`: the one that is built, or, where there is a GPU, built now."""
    from runner.system import environments
    from runner.system.folders import cache_folder

    try:
        cache = cache_folder()
        if found := environments.find("native", cache):
            return found.python
        return environments.ensure("native", cache, say).python if has_gpu else None
    except (RecipeToolError, ImportError) as error:
        say(f"the locked environment cannot be made: {str(error).splitlines()[0]}")
        return None
