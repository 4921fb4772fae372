"""The Ray cluster that prepares rows, where a machine setting names one; it decides no byte."""

from __future__ import annotations

import os
from typing import Any

from runner.scripts.data.workers import ADDRESS

ENVIRONMENT = "ray"


def address() -> str:
    """Of the cluster; "" where this machine works alone."""
    return os.environ.get(ADDRESS, "").strip()


def by_cluster() -> dict[str, Any]:
    """What `Context.run_script` is told beside its script."""
    if not (where := address()):
        return {}
    return {"environment": ENVIRONMENT, "outside": {ADDRESS: where}}
