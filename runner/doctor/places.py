"""Disk, cache, store and Ollama."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from runner.doctor.check import Check, State, ok
from runner.errors import MachineCannot
from runner.execution.lacks import gb
from runner.system import environments, hardware, ollama, tools
from runner.system.folders import CACHE, STORE

LEAST_FREE = 20_000_000_000  # bytes: environments, tools and a small model
LEAST_ROOM = 1_000_000  # bytes: file systems like /proc have none, and a full one takes no file
ROLES = ("data", "native", "llamafactory")


def folders(cache: Path, store: Path) -> Iterator[Check]:
    """Room and rights where the tool writes."""
    for name, folder, variable in (
        ("cache", cache, CACHE),
        ("store", store, STORE),
    ):
        above = folder
        while not above.exists():
            above = above.parent
        free = hardware.disk_free(folder)
        found = f"{folder}, where {gb(free)} are free"
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            why, fix = "nothing can be built or kept there", f"set {variable} to a folder of yours"
            yield Check(name, State.PROBLEM, f"{above} cannot be written by you", why, fix)
        elif free < LEAST_ROOM:
            why, fix = "nothing can be built or kept there", f"set {variable} to a larger disk"
            yield Check(name, State.PROBLEM, f"{folder}, where nothing is free", why, fix)
        elif free < LEAST_FREE:
            why = "environments take about 10 GB, an 8B model and its GGUF files about 50 GB"
            fix = f"recipe gc --dry-run shows what can go; or set {variable} to a larger disk"
            yield Check(name, State.WARNING, found, why, fix)
        else:
            yield ok(name, found)


def builds(cache: Path) -> Iterator[Check]:
    """Environments and tools that are there already."""
    built = [role for role in ROLES if environments.find(role, cache)]
    built += [name for name in ("llama.cpp", "ollama") if tools.find_tool(name, cache)]
    yield ok("builds", ", ".join(built) or "nothing yet: the first run builds what it needs")


def _answering(url: str) -> Check:
    """A server that answers, and the models that it keeps in memory."""
    models = ollama.loaded(url)
    if not models:
        return ok("ollama", f"one answers at {url}")
    held = ", ".join(f"{name} with {gb(size)}" for name, size in models)
    found, fix = f"one answers at {url} and holds {held}", f"ollama stop {models[0][0]}"
    why = "what it holds a training cannot have; it lets go of a model some minutes after its use"
    return Check("ollama", State.WARNING, found, why, fix)


def servers(cache: Path) -> Check:
    """Which Ollama a run would use."""
    try:
        url, named = ollama.server_url(), os.environ.get("OLLAMA_HOST", "").strip()
    except MachineCannot as error:
        why = "the stages ollama and benchmark need it"
        return Check("ollama", State.PROBLEM, error.message, why, error.hint)
    if ollama.may_be_asked_while_planning(url) and ollama.answers(url):
        return _answering(url)
    if named:
        return Check(
            "ollama",
            State.PROBLEM,
            f"OLLAMA_HOST names {url}, and nothing answers there",
            "the stages ollama and benchmark need it",
            "ollama serve, or: unset OLLAMA_HOST",
        )
    program = ollama.find_program() or tools.find_tool("ollama", cache)
    if program:
        return ok("ollama", f"{program}; a run starts it while it needs it")
    return ok("ollama", "none: a run that deploys builds the pinned one, once, in minutes")
