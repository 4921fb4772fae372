"""Make the list of the harness's own tasks anew: `python -m tests.harness_list`, some minutes.

After a new version in environments/harness.in. Read the diff: a name that is gone breaks recipes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from runner.execution.context import SCRIPTS
from runner.recipe.named_tasks import FILE
from runner.system import environments
from runner.system.folders import cache_folder, shipped


def main() -> None:
    python = environments.ensure("harness", cache_folder(), print).python
    with tempfile.TemporaryDirectory() as made:
        where = {"inputs": {}, "folder": made, "scratch": made, "events": f"{made}/events.jsonl"}
        spec = {"stage": "harness", "hashed": {}, "where": where}
        (Path(made) / "spec.json").write_text(json.dumps(spec))
        argv = [str(python), str(SCRIPTS), "list_harness_tasks", f"{made}/spec.json"]
        subprocess.run(argv, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        shutil.copyfile(Path(made) / "tasks.json", shipped("environments") / FILE)


if __name__ == "__main__":
    main()
