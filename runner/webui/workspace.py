"""The folder that LLaMA Board works in, and a recipe put there: model, tokens, rows, form.

    models/NAME/           the recipe's base model, as LLaMA Factory loads it
    tokens/NAME/           the recipe's rows as `prepare` made them into tokens
    tokens/NAME.json       where they come from: what `recipe capture` reads
    data/                  the rows themselves, and dataset_info.json
    llamaboard_config/     NAME.yaml: the form's values; NAME-rows.yaml: for the rows themselves
    saves/                 what was trained

Everything in it is a file of its own, so that it can be mounted elsewhere. It is LLaMA Factory's
layout; all paths in the form start there.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError
from runner.store.atomic import disk_errors, write_atomic
from runner.webui import data_sets
from runner.webui.form import Form, form_of

if TYPE_CHECKING:
    from runner.recipe.model import Recipe
    from runner.stages.contract import Outputs

DEFAULT = Path("webui")
FORMS = "llamaboard_config"
LAYOUT = 1  # raise when a workspace of before must be prepared again
_CACHE = "llamaboard_cache"  # where LLaMA Board keeps the model that was chosen last

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder, made when it is not there."""

    folder: Path

    def make(self) -> None:
        """Raises UsageError (E883) where the place is taken, MachineCannot where it cannot be."""
        if self.folder.exists() and not self._is_ours():
            raise UsageError(
                f"{self.folder} holds something else than a workspace of the web UI",
                hint="name an empty folder, or one that does not exist, with --workspace",
                code="E883",
            )
        with disk_errors(f"making the workspace {self.folder}", self.folder):
            for name in ("data", "models", "tokens", "saves", FORMS, _CACHE, ".cache"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            if not (self.folder / ".gitignore").exists():
                write_atomic(self.folder / ".gitignore", "*\n")

    def _is_ours(self) -> bool:
        return self.folder.is_dir() and (
            (self.folder / FORMS).is_dir()
            or {path.name for path in self.folder.iterdir()} <= {".cache"}  # a home, made before
        )

    def form(self, name: str) -> dict[str, Any]:
        """The saved form `name`; {} without one."""
        import yaml

        path = self.folder / FORMS / f"{name}.yaml"
        if not path.is_file():
            return {}
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")))

    def newest(self) -> str | None:
        """Name of the recipe that was prepared last."""
        found = sorted(self.folder.glob("tokens/*.json"), key=lambda path: path.stat().st_mtime_ns)
        return found[-1].stem if found else None


def prepare(recipe: Recipe, workspace: Workspace, say: Say) -> None:
    """Put the recipe into the workspace. What lies there of the same inputs is kept.

    `recipe` has backend llamafactory. Model and tokens come from the store, by the stages of a run
    up to `prepare`. Raises what these raise, and UsageError (E884, E533).
    """
    from runner.backends.llamafactory import require_shared_tokens
    from runner.store.clean_place import passing_runs
    from runner.store.store import Store
    from runner.system.folders import cache_folder, store_folder

    require_shared_tokens(recipe)
    with passing_runs(cache_folder(), Store(store_folder())) as place:
        outputs = _run_stages(recipe, place)
        key = _key(recipe, outputs)
        origin = workspace.folder / "tokens" / f"{recipe.name}.json"
        if _key_of(origin) != key:
            say("preparing model and tokens for LLaMA Factory")
            _put(recipe, outputs, workspace, place, key)
    _choose(recipe.name, workspace)
    os.utime(origin)  # the newest one is what the form shows


def _run_stages(recipe: Recipe, place: Path) -> dict[str, Outputs]:
    """The outputs of the stages up to `prepare`, from the store or made now."""
    from runner.execution.chain import ensure_base, runner_of
    from runner.execution.execute import Execution
    from runner.execution.run_folder import RunFolder
    from runner.plan.snapshot import read_surroundings
    from runner.report.progress import Progress
    from runner.stages import stages_of
    from runner.store.store import Store
    from runner.system.folders import cache_folder, store_folder

    stages = stages_of(recipe, "prepare")
    store = Store(store_folder())
    base = ensure_base(recipe, store, runner_of(store, cache_folder()))
    run = RunFolder(place / "runs")
    with Progress(run.events, [stage.NAME for stage in stages], sys.stderr) as progress:
        results = Execution(
            recipe=recipe,
            stages=stages,
            surroundings=read_surroundings(recipe, stages),
            store=store,
            run=run,
            cache=cache_folder(),
            on_poll=progress.poll,
            say=progress.say,
            until="prepare",
            base=base,
        ).execute()
    return {result.name: result.outputs for result in results}


def _key(recipe: Recipe, outputs: Mapping[str, Outputs]) -> str:
    """What the recipe's part of the workspace was made of."""
    from runner.store.digest import canonical_sha256
    from runner.system import environments

    inputs = {stage: made.digest() for stage, made in outputs.items()}
    role = environments.identity("llamafactory")
    return canonical_sha256([LAYOUT, recipe.resolved(), inputs, role])


def _key_of(origin: Path) -> str:
    try:
        return str(json.loads(origin.read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _put(
    recipe: Recipe, outputs: Mapping[str, Outputs], workspace: Workspace, place: Path, key: str
) -> None:
    """Model, tokens, rows and forms; the origin last, so that half of it is made again."""
    folder, name = workspace.folder, recipe.name
    with disk_errors(f"preparing the workspace {folder}", folder):
        (folder / "tokens" / f"{name}.json").unlink(missing_ok=True)
        made = _llamafactorys_inputs(recipe, outputs, place)
        _replace(made / "workspace" / "model", folder / "models" / name)
        _replace(made / "workspace" / "tokens", folder / "tokens" / name)
        names = _put_rows(recipe, outputs, folder / "data")
        told = json.loads((made / "configuration.json").read_text(encoding="utf-8"))
        told |= {
            "model_name_or_path": f"models/{name}",
            "tokenized_path": f"tokens/{name}",
            "dataset_dir": "data",
            "dataset": ",".join(names),
            "full_determinism": True,
            "overwrite_output_dir": True,  # or Start, pressed again, would train nothing
            "save_steps": recipe.train.save_steps,
        }
        _save_form(folder / FORMS / f"{name}.yaml", form_of(told))
        _save_form(folder / FORMS / f"{name}-rows.yaml", form_of(of_rows(told, recipe)))
        write_atomic(folder / "tokens" / f"{name}.json", origin_text(recipe, folder, told, key))


def of_rows(told: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The same training, with LLaMA Factory's own reading of the rows by the model's template."""
    rows = {name: value for name, value in told.items() if name != "tokenized_path"}
    system = {} if recipe.data.system is None else {"default_system": recipe.data.system}
    return {**rows, "template": None, "cutoff_len": recipe.data.max_length, **system}


def _llamafactorys_inputs(recipe: Recipe, outputs: Mapping[str, Outputs], place: Path) -> Path:
    """Where the script `webui_inputs` has left model, tokens and configuration."""
    from runner.backends import load_backend
    from runner.execution.context import StageContext
    from runner.execution.events import EventLog
    from runner.stages import load_stage
    from runner.system import platforms
    from runner.system.folders import cache_folder

    backend = load_backend("llamafactory")
    work = place / "inputs"
    for each in ("logs", "out"):
        (work / each).mkdir(parents=True)
    context = StageContext(
        stage=load_stage("train"),
        project_root=recipe.project_root,
        recipe_folder=recipe.folder,
        log_folder=work / "logs",
        scratch=work,
        cache=cache_folder(),
        platform=platforms.current_platform(),
        events=EventLog(work / "events.jsonl"),
    )
    context.run_script(
        "webui_inputs",
        {"settings": backend.spec(recipe)},
        inputs={
            "model": outputs["fetch"].folder / "model",
            "tokens": outputs["prepare"].path("train.tokens.safetensors"),
            "template": outputs["prepare"].path("chat_template.jinja"),
        },
        folder=work / "out",
        environment=backend.ENVIRONMENT,
    )
    context.events.close()
    return work


def _replace(made: Path, target: Path) -> None:
    """Put the folder in place, each link in it as the file that it leads to."""
    from runner.store.publish import publish

    shutil.rmtree(target, ignore_errors=True)
    for above, _, names in os.walk(made, followlinks=True):
        for name in names:
            source = Path(above) / name
            goal = target / source.relative_to(made)
            if source.is_symlink() or Path(above).is_symlink():
                publish(source.resolve(), goal)
            else:
                goal.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(source, goal)


def _put_rows(recipe: Recipe, outputs: Mapping[str, Outputs], folder: Path) -> list[str]:
    """Copies of the files of rows, registered; their names."""
    from runner.stages.fetch_data import output_name

    files = [
        data_sets.Rows(
            recipe.resolve(file.path)
            if file.path is not None
            else outputs["fetch_data"].path(output_name("train", number, file)),
            file.format,
            file.columns or {},
        )
        for number, file in enumerate(recipe.data.train)
    ]
    new = {}
    for name, entry, path in data_sets.entries(recipe.name, files):
        shutil.copyfile(path, folder / entry["file_name"])
        new[name] = entry
    data_sets.register(folder, new)
    return list(new)


def _save_form(path: Path, form: Form) -> None:
    import yaml

    write_atomic(path, yaml.safe_dump(form.saved(), sort_keys=True, allow_unicode=True))


def origin_text(recipe: Recipe, folder: Path, told: Mapping[str, Any], key: str) -> str:
    """What `recipe capture` needs to write the recipe again."""
    content = {
        "schema": 1,
        "key": key,
        "recipe": recipe.resolved(),
        "recipe_folder": os.path.relpath(recipe.folder, folder),
        "settings": dict(told),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _choose(name: str, workspace: Workspace) -> None:
    """Have LLaMA Board find the model behind "Custom", which a change of the choice asks for."""
    import yaml

    from runner.webui.form import MODEL

    chosen = {
        "lang": "en",
        "hub_name": "huggingface",
        "last_model": MODEL,
        "path_dict": {MODEL: f"models/{name}"},
        "cache_dir": None,
    }
    write_atomic(workspace.folder / _CACHE / "user_config.yaml", yaml.safe_dump(chosen))
