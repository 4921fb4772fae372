"""The Ray cluster that prepares rows, where a machine setting names one; it decides no byte."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runner.errors import StageFailed
from runner.scripts.data.chunks.workers import ADDRESS

ENVIRONMENT = "ray"
CONNECT_SECONDS = 10


def address() -> str:
    """Of the cluster; "" where this machine works alone."""
    return os.environ.get(ADDRESS, "").strip()


def by_cluster() -> dict[str, Any]:
    """What `Context.run_script` is told beside its script."""
    if not (where := address()):
        return {}
    return {"environment": ENVIRONMENT, "outside": {ADDRESS: where}}


@contextmanager
def loss_is_told() -> Iterator[None]:
    """Raises StageFailed E376 for a script that ended without a word where the cluster is gone.

    Ray ends the process that asked, a minute after the head did, and leaves it nothing to say.
    """
    try:
        yield
    except StageFailed as error:
        where = address()
        if not where or error.code != StageFailed.default_code or _answers(where):
            raise
        raise StageFailed(
            f"the Ray cluster at {where} was lost while rows were prepared",
            hint=f"start it again, then run the same command; without {ADDRESS} this machine does "
            "it alone",
            code="E376",
            stage=error.stage,
            log=error.log,
        ) from error


def _answers(where: str) -> bool:
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True
