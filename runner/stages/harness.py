"""Tasks of lm-evaluation-harness, of base and tuned model: the same prompts, the same scoring.

A task file is data (recipe/task_files.py); what it says goes into the key with its rows' digests.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runner.errors import StageFailed
from runner.recipe.model import quantization_spec
from runner.recipe.named_tasks import figures, members
from runner.recipe.task_files import read_task
from runner.stages import fetch_tasks
from runner.stages.contract import Class, Context, Outputs, Upstream
from runner.stages.rows import plain

if TYPE_CHECKING:
    from runner.recipe.model import Harness, Recipe
    from runner.recipe.named_tasks import Member

NAME = "harness"
VERSION = 1
OUTPUTS = {"examples.jsonl": Class.PLATFORM, "results.json": Class.MEASURED}
NEEDS = ("fetch", "fetch_tasks", "prepare", "train")
ENVIRONMENT = "harness"
TOOLS: tuple[str, ...] = ()
DEVICE = True

PARQUET = ".parquet"
_TRAINED = {"lora": "adapter", "none": "model"}


def wanted(recipe: Recipe) -> bool:
    """Only when the recipe names tasks."""
    return recipe.evaluate is not None and recipe.evaluate.harness is not None


def borrowed(recipe: Recipe) -> tuple[str, ...]:
    """The environment that reads Parquet, where rows of the hub are such."""
    names = [file.file.lower() for file in fetch_tasks.files_of(recipe).values()]
    return (plain.ENVIRONMENT,) if any(name.endswith(PARQUET) for name in names) else ()


def snapshot(recipe: Recipe) -> dict[str, Any]:
    """What the task files say, digests of the project's rows, and how this processor multiplies."""
    from runner.store.digest import file_sha256
    from runner.system import environments
    from runner.system.determinism import bfloat16_path

    facts: dict[str, Any] = {
        "tasks": _configurations(recipe),
        **_groups(recipe),
        "rows": {name: file_sha256(path) for name, path in sorted(_rows(recipe).items())},
    }
    half = recipe.model.dtype != "float32" or recipe.model.quantization is not None
    if half and (path := bfloat16_path()):
        facts["bfloat16_path"] = path
    if roles := borrowed(recipe):
        facts["read_by"] = {role: environments.identity(role) for role in roles}
    return facts


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """The settings, and the contents of both models; `snapshot` has the tasks."""
    trained = _TRAINED[recipe.train.adapter.type]
    return {
        **_settings(recipe),
        "model": upstream["fetch"].digest("model/*"),
        "trained_model": upstream["train"].digest(f"{trained}/*"),
        "template": upstream["prepare"].digest("chat_template.jinja"),
        **({"rows": upstream[fetch_tasks.NAME].digest()} if fetch_tasks.NAME in upstream else {}),
    }


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write results of every example into `folder`. Raises StageFailed."""
    trained = _TRAINED[recipe.train.adapter.type]
    rows = {name: plain.Given(path, path.name) for name, path in _rows(recipe).items()}
    numbers = _file_numbers(recipe)
    for _, number, key, file in recipe.task_files():
        path = inputs[fetch_tasks.NAME].path(fetch_tasks.output_name(key, number, file))
        rows[f"{key}-{numbers[number]}"] = plain.Given(path, file.name)
    fetched = inputs.get(fetch_tasks.NAME)
    context.run_script(
        "harness",
        {**_settings(recipe), "tasks": _configurations(recipe), **_groups(recipe)},
        inputs={
            "model": inputs["fetch"].folder / "model",
            "trained": inputs["train"].folder / trained,
            "template": inputs["prepare"].path("chat_template.jinja"),
            **plain.plain(rows, context),
            **({} if fetched is None else _split_files(recipe, fetched)),
        },
        folder=folder,
    )


def _harness(recipe: Recipe) -> Harness:
    assert recipe.evaluate is not None
    assert recipe.evaluate.harness is not None
    return recipe.evaluate.harness


def _configurations(recipe: Recipe) -> list[dict[str, Any]]:
    """Of every task file, in order, then of every task that has a name, as far as the environment
    does not say it. Raises StageFailed for a file that was changed since."""
    named = [_named(recipe, each) for each in members(recipe)]
    return [*_files(recipe), *named]


def _files(recipe: Recipe) -> Iterator[dict[str, Any]]:
    for task in _harness(recipe).tasks:
        if task.path is None:
            continue
        configuration, problems = read_task(recipe.resolve(task.path))
        if problems:
            code, words, hint = problems[0]
            raise StageFailed(f"{task.path}:{words}", hint=hint, code=code)
        yield configuration


def _named(recipe: Recipe, member: Member) -> dict[str, Any]:
    """The task's file in the harness, and the inputs that its splits are."""
    places = {rows: name for name, rows in fetch_tasks.splits_of(recipe).items()}
    splits = {split: PurePosixPath(places[rows]).name for split, rows in member.rows.items()}
    return {"task": member.known.name, "file": member.known.file, "splits": splits}


def _groups(recipe: Recipe) -> dict[str, Any]:
    """Groups that have figures of their own; nothing where none is named."""
    found = figures(recipe)
    return {"groups": found} if found else {}


def _split_files(recipe: Recipe, fetched: Outputs) -> dict[str, Path]:
    """`rows-0-00000.parquet`, ... -> the file."""
    return {
        PurePosixPath(path).name: fetched.path(path)
        for name in fetch_tasks.splits_of(recipe)
        for path in fetch_tasks.files_below(fetched.files, name)
    }


def _file_numbers(recipe: Recipe) -> dict[int, int]:
    """Number of an item -> its number among the tasks that are files."""
    tasks = _harness(recipe).tasks
    files = [number for number, task in enumerate(tasks) if task.path is not None]
    return {item: number for number, item in enumerate(files)}


def _rows(recipe: Recipe) -> dict[str, Path]:
    """`data-0`, `fewshot-0`, ... -> the file of the project."""
    found = {}
    for item, number in _file_numbers(recipe).items():
        task = _harness(recipe).tasks[item]
        if task.hub is not None:
            continue
        assert task.data is not None, "the checks say so"
        found[f"data-{number}"] = recipe.resolve(task.data)
        if task.fewshot is not None:
            found[f"fewshot-{number}"] = recipe.resolve(task.fewshot)
    return found


def _settings(recipe: Recipe) -> dict[str, Any]:
    harness = _harness(recipe)
    return {
        "limit": harness.limit,
        "num_fewshot": harness.num_fewshot,
        "apply_chat_template": harness.apply_chat_template,
        "system": recipe.data.system if harness.apply_chat_template else None,
        "seed": recipe.seed,
        "trained": _TRAINED[recipe.train.adapter.type],
        "dtype": recipe.model.dtype,
        "attn_implementation": recipe.model.attn_implementation,
        **({"trust_remote_code": True} if recipe.model.trust_remote_code else {}),
        **quantization_spec(recipe.model),
    }
