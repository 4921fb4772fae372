"""Turn the data files into token ids and label masks by the model's own tokenizer and template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.recipe.methods import METHODS
from runner.stages.contract import Class, Context, Upstream
from runner.stages.fetch_data import output_name
from runner.stages.rows.cluster import by_cluster, loss_is_told
from runner.stages.rows.columns import read_columns
from runner.stages.rows.measuring import (
    asked_by_evaluation,
    asked_splits,
    given,
    measured_by,
    needs_tasks,
    task_digests,
)
from runner.stages.rows.plain import ENVIRONMENT as PARQUET
from runner.stages.rows.plain import Given, borrowed_for, plain
from runner.stages.templates import shipped_templates

if TYPE_CHECKING:
    from runner.recipe.model import DataFile, MeasuredFile, Recipe

NAME = "prepare"
VERSION = 5
PATTERNS = 2  # raise when the steps of cleaning that go by patterns find other things
_BY_PATTERNS = {"secrets", "personal_data", "refusals"}
OUTPUTS = {
    "train.tokens.safetensors": Class.PORTABLE,
    "validation.tokens.safetensors": Class.PORTABLE,
    "validation.jsonl": Class.PORTABLE,
    "validation.txt": Class.PORTABLE,
    "prompts.jsonl": Class.PORTABLE,
    "chat_template.jinja": Class.PORTABLE,  # the one in use: the model's own or the recipe's
}
NEEDS = ("fetch", "fetch_data", "fetch_tasks")
ENVIRONMENT = "data"
TOOLS: tuple[str, ...] = ()
DEVICE = False

# Files of the model that decide tokens; weights do not.
_TOKENIZER_FILES = (
    "model/*token*",
    "model/vocab.json",
    "model/merges.txt",
    "model/chat_template.jinja",
    "model/generation_config.json",
    "model/config.json",
)


def wanted(recipe: Recipe) -> bool:
    """Every recipe has data."""
    return True


def needs(recipe: Recipe) -> tuple[str, ...]:
    """Of NEEDS: the rows of tasks only where rows to train on are held against them."""
    return NEEDS if needs_tasks(recipe) else ("fetch", "fetch_data")


def borrowed(recipe: Recipe) -> tuple[str, ...]:
    """The environment that reads Parquet, where a file takes it; splits of the hub are such."""
    return (PARQUET,) if asked_splits(recipe) else borrowed_for(recipe, measured_by(recipe))


def snapshot(recipe: Recipe) -> dict[str, Any]:
    """Digests of the data files, in order, and of the chat template when it is a file; what reads
    them, where that is another environment than the stage's."""
    from runner.store.known_digests import known_sha256
    from runner.system import environments

    def digest(file: DataFile | MeasuredFile) -> str | None:
        """None for a file of the hub: it is an output of `fetch_data`."""
        return None if file.path is None else known_sha256(recipe.resolve(file.path))

    digests: dict[str, Any] = {
        "train": [digest(file) for file in recipe.data.train],
        "validation": [digest(file) for file in recipe.data.validation.files],
    }
    if recipe.data.chat_template != "model":
        digests["chat_template"] = known_sha256(template_file(recipe))
    if measured := measured_by(recipe):
        digests["measured_by"] = [digest(file) for file in measured]
    if roles := borrowed(recipe):
        digests["read_by"] = {role: environments.identity(role) for role in roles}
    return digests


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """The settings, the formats of the files (`snapshot` has their bytes) and the tokenizer."""
    data = recipe.data
    key: dict[str, Any] = {
        "tokenizer": [upstream["fetch"].digest(pattern) for pattern in _TOKENIZER_FILES],
        "train": [file.format for file in data.train],
        "validation": [file.format for file in data.validation.files],
        "system": data.system,
        "own_template": data.chat_template == "model",
        "max_length": data.max_length,
        "too_long": data.too_long,
        "packing": data.packing,
    }
    key |= _answers(recipe)
    columns = [file.columns for file in (*data.train, *data.validation.files)]
    if any(columns):
        key["columns"] = columns
    if "fetch_data" in upstream:
        key["data"] = upstream["fetch_data"].digest()
    key |= data.systems
    if data.system_variants:
        key["seed"] = recipe.seed
    if data.cleaning:
        key["clean"] = cleaning(recipe)
    if _BY_PATTERNS & data.cleaning.keys():
        key["patterns"] = PATTERNS
    if needs_tasks(recipe):
        key["tasks"] = task_digests(recipe, upstream)
    if data.validation.settings:
        key["split"] = data.validation.settings
    if any(file.mix for file in data.train):
        key |= {"mix": [file.mix for file in data.train], "seed": recipe.seed}
    if not data.validation.files:
        key |= {"fraction": data.validation.fraction, "seed": recipe.seed}
    return key


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write the tokens into `folder`. Raises StageFailed naming file and line of bad rows."""
    measured = given(recipe, inputs)
    files = {f"measured-{number}": file for number, file in enumerate(measured)}
    named = plain(rows_of(recipe, inputs) | files, context)
    if recipe.data.chat_template != "model":
        named["template"] = template_file(recipe)
    clean: dict[str, Any] = {}
    if recipe.data.cleaning:
        clean = {"clean": cleaning(recipe), "measured": [file.name for file in measured]}
        clean |= {"measured_tasks": asked_by_evaluation(recipe, inputs)}
    with loss_is_told():
        context.run_script(
            _script(recipe),
            reading(recipe) | clean | _counted(recipe),
            inputs={"model": inputs["fetch"].folder / "model", **named},
            folder=folder,
            **by_cluster(),
        )


def _counted(recipe: Recipe) -> dict[str, Any]:
    """What is counted of the rows, and decides no byte: held-out rows that are nearly trained on,
    unless the recipe's author wants them, or the split has no such rows."""
    held = recipe.data.validation
    wanted = recipe.origin("/data/validation/on_leak") is not None
    if wanted or not held.holds_out or (held.settings and not held.files):
        return {}
    return {"near": True}


def _script(recipe: Recipe) -> str:
    method = METHODS[recipe.train.method]
    if method.generates:
        return "prepare_prompts"
    return "prepare_preferences" if method.compares else "prepare"


def _answers(recipe: Recipe) -> dict[str, Any]:
    """Of a method that answers itself: room for an answer, and what rewards read of a row's.

    Nothing of other methods.
    """
    if not METHODS[recipe.train.method].generates:
        return {}
    from runner.scripts.rewards.functions import REWARDS

    read = {REWARDS[each.name].reads for each in recipe.train.rewards or ()}
    return {
        "max_completion_length": recipe.train.max_completion_length,
        "reads": sorted(read - {""}),
    }


def cleaning(recipe: Recipe) -> dict[str, Any]:
    """The steps of `data.clean`, in their order. Where files lie is no part of them. Pure."""
    steps = recipe.data.cleaning
    if "decontaminate" in steps:
        kept = ("ngram", "validation")
        steps["decontaminate"] = {name: steps["decontaminate"][name] for name in kept}
    return steps


def reading(recipe: Recipe) -> dict[str, Any]:
    """How the rows are read, split and turned into tokens: the script's settings. Pure."""
    data = recipe.data
    return {
        "seed": recipe.seed,
        "system": data.system,
        **data.systems,
        "max_length": data.max_length,
        "too_long": data.too_long,
        "packing": data.packing,
        "fraction": data.validation.fraction,
        "template": None if data.chat_template == "model" else data.chat_template,
        "train": _described("train", data.train),
        "validation": _described("validation", data.validation.files),
        **({"split": data.validation.settings} if data.validation.settings else {}),
        **_answers(recipe),
    }


def rows_of(recipe: Recipe, inputs: Upstream) -> dict[str, Given]:
    """The files of rows, by the names that `reading` gives them; `plain` makes paths of them."""
    return {
        **_named(recipe, inputs, "train", recipe.data.train),
        **_named(recipe, inputs, "validation", recipe.data.validation.files),
    }


def template_file(recipe: Recipe) -> Path:
    """The recipe's own .jinja file, or the shipped one that it names."""
    given = recipe.data.chat_template
    if shipped_templates.is_path(given):
        return recipe.resolve(given)
    return shipped_templates.path_of(given)


def _described(kind: str, files: Sequence[DataFile]) -> list[dict[str, Any]]:
    return [
        {"name": file.name, "format": file.format, "input": f"{kind}-{number}"}
        | ({"columns": file.columns} if file.columns else {})
        | file.mix
        for number, file in enumerate(files)
    ]


def _named(
    recipe: Recipe, inputs: Upstream, kind: str, files: Sequence[DataFile]
) -> dict[str, Given]:
    def path(number: int, file: DataFile) -> Path:
        if file.path is not None:
            return recipe.resolve(file.path)
        return inputs["fetch_data"].path(output_name(kind, number, file))

    return {
        f"{kind}-{number}": Given(path(number, file), file.name, read_columns(file, recipe))
        for number, file in enumerate(files)
    }
