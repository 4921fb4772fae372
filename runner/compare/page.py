"""The comparison of runs as files in a folder: compare.html to read, compare.json for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.system.regular import NotReadable, read_regular

PAGE, DATA = "compare.html", "compare.json"
MAX_BYTES = 1 << 30  # of compare.json


def as_text(data: Mapping[str, Any]) -> str:
    """The content of DATA."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_page(folder: Path, data: Mapping[str, Any]) -> None:
    """Both files, each as a whole or not at all. The page comes last."""
    from runner.report.compare_html import as_html
    from runner.store.atomic import disk_errors, make_folders, write_atomic

    with disk_errors("writing the comparison", folder):
        make_folders(folder)
        write_atomic(folder / DATA, as_text(data))
        write_atomic(folder / PAGE, as_html(data))


def read_page(folder: Path, runs: Sequence[Path]) -> dict[str, Any] | None:
    """What lies in `folder` already, where it is a whole comparison of these runs and no others."""
    try:
        data = json.loads(read_regular(folder / DATA, MAX_BYTES))
        compared = {str(model["run"]) for model in data["models"]}
    except (OSError, NotReadable, ValueError, KeyError, TypeError, RecursionError):
        return None
    whole = (folder / PAGE).is_file() and compared == set(map(str, runs))
    return dict(data) if whole else None


def compared(runs: Sequence[Path]) -> dict[str, Any]:
    """The comparison of these runs, in this order. Raises UsageError."""
    from runner.compare.candidates import candidates
    from runner.compare.result import as_data
    from runner.verify.run import open_run

    return as_data(candidates([open_run(path) for path in runs]))
