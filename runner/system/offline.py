"""`--offline`: nothing of this process, or of its children, uses the network.

Set once, at the start of a command. Whoever is about to ask the hub, a package index or a Go proxy
asks here first; uv and Go are told by their own settings, so that what they have cached still does.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.errors import MachineCannot

_state = {"forbidden": False}


def forbid() -> None:
    """From now on nothing may use the network."""
    _state["forbidden"] = True


def is_forbidden() -> bool:
    """Was it forbidden?"""
    return _state["forbidden"]


def require_network(what: str) -> None:
    """Raises MachineCannot (E829) when `what`, in words, would have to be got and must not be."""
    if is_forbidden():
        raise missing([what])


def missing(things: Sequence[str], get: str = "") -> MachineCannot:
    """The error that names everything that is not here; `get` is the command that gets it."""
    listed = "".join(f"\n  {thing}" for thing in things)
    return MachineCannot(
        f"--offline, and this is not on this machine:{listed}",
        hint=f"while the network is up: {get or 'the same command with --get, not --offline'}",
        code="E829",
    )


def uv_settings() -> dict[str, str]:
    """Variables for uv."""
    return {"UV_OFFLINE": "1"} if is_forbidden() else {}


def go_settings() -> dict[str, str]:
    """Variables for Go."""
    return {"GOPROXY": "off"} if is_forbidden() else {}
