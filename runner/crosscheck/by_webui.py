"""Way `webui`: the stage `train`, done by a browser that fills in LLaMA Board and presses Start."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.backends import llamafactory
from runner.crosscheck import by_cli
from runner.errors import MachineCannot
from runner.execution.context import SCRIPTS
from runner.stages import train
from runner.stages.contract import Class, Context, Upstream
from runner.system.folders import cache_folder
from runner.webui import board
from runner.webui.form import EXTRA, MODEL, form_of
from runner.webui.workspace import Workspace, prepare

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = train.NAME
VERSION = 1
OUTPUTS = {
    **train.OUTPUTS,
    "screenshots/*": Class.MEASURED,  # clocks and speeds are to be seen on them
    "clicked.json": Class.MEASURED,
}
NEEDS = train.NEEDS
ENVIRONMENT = by_cli.ENVIRONMENT
TOOLS: tuple[str, ...] = ()
DEVICE = True
WAY = "webui"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OUTPUT_DIR = "crosscheck"  # below saves/Custom/lora/

wanted = train.wanted
snapshot = train.snapshot


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """Those of backend llamafactory, and the way: the browser decides no byte."""
    return {**train.key_inputs(recipe, upstream), "way": WAY}


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write what the stage `train` writes, and screenshots. Raises MachineCannot (E893) without a
    browser, StageFailed (E892, E894)."""
    chromium = find_browser()
    space = _workspace(recipe, context)
    form = space.form(recipe.name)
    spec = by_cli.spec_of(recipe, context)
    context.run_script(
        "drive_webui",
        {
            "config": f"{recipe.name}.yaml",
            "model_path": f"models/{recipe.name}",
            "stage": form["train.training_stage"],
            "datasets": form["train.dataset"],
            "extra_args": json.loads(form[EXTRA]) | by_cli.count_tokens(recipe),
            "output_dir": OUTPUT_DIR,
            "sandbox": os.geteuid() != 0,  # Chromium has none for root
            "device": spec["device"],
        },
        inputs={"board": space.folder, "start": _start(space, context), "chromium": chromium},
        folder=folder,
        environment="browser",
    )
    places = by_cli.inputs_of(inputs) | {
        "saved": space.folder / "saves" / MODEL / form["top.finetuning_type"] / OUTPUT_DIR,
        "read": space.folder / "tokens" / recipe.name,
    }
    context.run_script("collect_webui", spec, inputs=places, folder=folder)


def _workspace(recipe: Recipe, context: Context) -> Workspace:
    """A new one, prepared as `recipe webui` does it: what an earlier try left would be resumed."""
    space = Workspace(context.scratch / "board")
    shutil.rmtree(space.folder, ignore_errors=True)
    space.make()
    prepare(recipe, space, lambda message: None)
    return space


def _start(space: Workspace, context: Context) -> Path:
    """How the Board is started, in a file: command and environment, as `recipe webui` does it."""
    python = context.environment_python(ENVIRONMENT)
    content = {
        "argv": [str(python), str(SCRIPTS), "webui_llamafactory"],
        "env": board.environment(python, space.folder, cache_folder()),
    }
    path = context.scratch / "board-start.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def require_possible(recipe: Recipe) -> None:
    """What this way needs. Raises MachineCannot (E893), and UsageError (E884) where the form has no
    place for a value."""
    find_browser()
    form_of(llamafactory.configuration(recipe) | {"dataset": recipe.name})


def find_browser() -> Path:
    """The Chromium on PATH. Raises MachineCannot (E893)."""
    for name in BROWSERS:
        if found := shutil.which(name):
            return Path(found)
    raise MachineCannot(
        "the way webui needs Chromium, and none of " + ", ".join(BROWSERS) + " is on PATH",
        hint="sudo apt-get install chromium, or leave webui out of --with",
        code="E893",
    )
