"""Train by `llamafactory-cli train` itself, in a process of its own.

spec.hashed: `settings` (runner/backends/llamafactory.py), `save_steps` and `device`. spec.inputs:
model (folder of `fetch`), tokens (of `prepare`), template. Writes `adapter/` or `model/`, and
`trace.jsonl` with what LLaMA Factory logged.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from runner.scripts.process_memory import PeakMemory
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.training.llamafactory.llamafactory_run import (
    collect,
    lay_out,
    write_configuration,
)


def train(spec: Spec, events: Events) -> None:
    """Lay out, train, collect."""
    saved = spec.scratch / "saves"
    shutil.rmtree(saved, ignore_errors=True)
    file = spec.scratch / "configuration.yaml"
    write_configuration({**lay_out(spec, events), "output_dir": str(saved)}, file)
    command = Path(sys.executable).with_name("llamafactory-cli")
    process = subprocess.Popen([str(command), "train", str(file)], cwd=spec.scratch)
    with PeakMemory(process.pid, "train") as peak:
        status = process.wait()
    if status != 0:
        raise ScriptError(
            f"llamafactory-cli train ended with status {status}",
            hint=f"read the log; its configuration is {file}",
            code="E891",
        )
    collect(saved, spec, events)
    if spec.hashed["device"] == "cpu":  # on a GPU its own memory is what counts
        events.measure(peak_memory=peak.bytes)


if __name__ == "__main__":
    main(train)
