"""Run a script for `recipe data`, outside of any run."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner.errors import StageFailed
from runner.report.printable import lines_escaped
from runner.store.atomic import disk_errors


@contextmanager
def written_by(
    script: str,
    environment: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Path],
    made: str = "rows.jsonl",
) -> Iterator[Path]:
    """The file `made` that `script` writes; removed at the end of the block.

    Raises StageFailed in the script's words, and MachineCannot.
    """
    from runner.execution.context import StageContext
    from runner.execution.events import EventLog
    from runner.stages import load_stage
    from runner.system import platforms
    from runner.system.folders import cache_folder

    cache = cache_folder()
    with disk_errors("looking at rows", cache):
        cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rows-", dir=cache) as name:
        place = Path(name)
        (place / "out").mkdir()
        context = StageContext(
            stage=load_stage("prepare"),
            project_root=place,
            recipe_folder=place,
            log_folder=place,
            scratch=place,
            cache=cache,
            platform=platforms.current_platform(),
            events=EventLog(place / "events.jsonl"),
            say=_say,
        )
        try:
            context.run_script(
                script, settings, inputs=inputs, folder=place / "out", environment=environment
            )
        except StageFailed as error:
            _keep_log(error, cache / "rows.log")
            raise
        finally:
            context.events.close()
        yield place / "out" / made


def _keep_log(error: StageFailed, kept: Path) -> None:
    """The log goes with its folder: of a script that gave no reason it is put at `kept`; one that
    did said all that its log says."""
    if error.code == StageFailed.default_code:
        with disk_errors("keeping the log", kept):
            shutil.copyfile(error.log, kept)
        error.hint = error.hint.replace(error.log, str(kept))
        error.log = str(kept)
    else:
        error.log = ""


def _say(message: str) -> None:
    print(lines_escaped(message), file=sys.stderr, flush=True)
