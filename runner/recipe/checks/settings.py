"""Rules that cross fields, one small function each. Pure: what reads the disk is in disk.py.

A check says which sections it reads; it does not run when one of them is invalid in itself. A new
rule is one function here (or there), an entry in docs/errors.md and a pair of recipes in tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from runner.backends import REGISTRY, USUAL, load_backend
from runner.recipe.checks.registry import check
from runner.recipe.finding import Finding, listed
from runner.recipe.model import Recipe, is_commit
from runner.recipe.named_tasks import repository
from runner.recipe.schema import load_schema
from runner.recipe.source import escape_token
from runner.recipe.suggest import nearest
from runner.report.printable import holds_token, quoted


@check("data")
def chat_template_is_known(recipe: Recipe) -> Iterator[Finding]:
    """A name is that of a template we ship."""
    from runner.stages.templates import shipped_templates

    given = recipe.data.chat_template
    known = ["model", *shipped_templates.names()]
    if given in known or shipped_templates.is_path(given):
        return
    close = nearest(given, known)
    message = f"there is no chat template {quoted(given)}; known: {listed(known)}"
    hint = f"did you mean {close}?" if close else "or give the path of a .jinja file"
    yield Finding("E230", "/data/chat_template", message, hint)


# --- the chain: a stage that is asked for has what it needs


@check("train", "merge")
def merge_has_an_adapter(recipe: Recipe) -> Iterator[Finding]:
    """Full fine-tuning leaves nothing to merge."""
    if recipe.merge and recipe.train.adapter.type == "none":
        message = "there is nothing to merge: train.adapter.type is none"
        yield Finding("E201", "/merge", message, "remove the section; gguf takes the model", "key")


@check("model", "merge")
def dequantized_base_was_in_4_bits(recipe: Recipe) -> Iterator[Finding]:
    """What the 4-bit weights say, there must have been some."""
    if recipe.merge and recipe.merge.base == "dequantized" and recipe.model.quantization is None:
        message = "merge.base is dequantized, and the base is not held in 4 bits"
        hint = "write base: original, or add quantization: {load_in_4bit: true} to model"
        yield Finding("E887", "/merge/base", message, hint)


@check("model", "data", "train", "merge")
def merge_of_4_bits_is_measured(recipe: Recipe) -> Iterator[Finding]:
    """Nobody has trained what comes of it; without held-out rows nobody looks at it either."""
    from runner.stages.fidelity import NO_ROWS, unmeasured

    if unmeasured(recipe) == NO_ROWS:
        message = "the base is held in 4 bits, and no held-out rows tell what the merge changes"
        hint = "add validation: {fraction: 0.1} to data, or write fidelity: false"
        yield Finding("W260", "/merge", message, hint, "key")


@check("model", "data", "train")
def backend_can_honour(recipe: Recipe) -> Iterator[Finding]:
    """What the chosen backend cannot do is an error, never ignored."""
    refused = {name: [*load_backend(name).cannot_honour(recipe)] for name in sorted(REGISTRY)}
    usual = sorted(refused, key=lambda name: (name != USUAL, name))
    able = next((name for name in usual if not refused[name]), "")
    for pointer, message in refused[recipe.train.backend]:
        change = _accepted(recipe, pointer)
        hint = f"{change}, or write backend: {able}" if able else change
        yield Finding("E215", pointer, message, hint)


def _accepted(recipe: Recipe, pointer: str) -> str:
    """What to write at `pointer` so that the backend has nothing against it."""
    backend = load_backend(recipe.train.backend)
    before = {*backend.cannot_honour(recipe)}
    parts = pointer.split("/")[1:]
    able = [
        _written(value)
        for value in _others(recipe, parts)
        if {*backend.cannot_honour(_with_value(recipe, parts, value))} < before
    ]
    if able == [""]:
        return f"leave {parts[-1]} out"
    return f"write {parts[-1]}: {' or '.join(able)}" if able else f"change {parts[-1]}"


def _others(recipe: Recipe, parts: Sequence[str]) -> list[Any]:
    """Other values than that at a place of a recipe: all that there are, where they are few.

    Another method is another training, and no way to have this one.
    """
    if parts[-1] == "method":
        return []
    value: Any = recipe
    nodes: list[Mapping[str, Any]] = [load_schema()]
    for part in parts:
        value = getattr(value, part)
        nodes = [inner for node in nodes for inner in _inner(node, part)]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, tuple | Mapping):
        return [type(value)()]
    every = dict.fromkeys(word for node in nodes for word in node.get("enum", ()))
    return [other for other in every if other != value]


def _inner(node: Mapping[str, Any], part: str) -> Iterator[Mapping[str, Any]]:
    """The schemas of a key of an object, of each form that it can have."""
    if part in node.get("properties", {}):
        yield node["properties"][part]
    for kind in ("oneOf", "anyOf", "allOf"):
        for form in node.get(kind, ()):
            yield from _inner(form, part)


def _with_value(section: Any, parts: Sequence[str], value: Any) -> Any:
    """`section`, a recipe or a part of one, with another value at that place."""
    name, *inner = parts
    changed = _with_value(getattr(section, name), inner, value) if inner else value
    return replace(section, **{name: changed})


def _written(value: Any) -> str:
    """As YAML; "" for nothing."""
    if isinstance(value, tuple | Mapping):
        return ""
    return json.dumps(value) if isinstance(value, bool) or value is None else str(value)


@check("train")
def what_a_backend_does_not_promise_is_said(recipe: Recipe) -> Iterator[Finding]:
    """Its machine and its bytes are not those that everything else here is about."""
    backend = recipe.train.backend
    if load_backend(backend).NEEDS_CUDA:
        message = f"backend {backend} trains on an NVIDIA GPU alone and promises no equal bytes"
        hint = "write backend: native, or run with --backend native, where either matters"
        yield Finding("W268", "/train/backend", message, hint)


@check("train")
def own_template_is_known(recipe: Recipe) -> Iterator[Finding]:
    """A name is that of a template of LLaMA Factory."""
    from runner.backends.llamafactory import own_templates

    given = recipe.train.template
    if given == "shared" or recipe.train.backend != "llamafactory":
        return
    known = own_templates()
    if given not in known:
        close = nearest(given, ["shared", *known])
        message = f"LLaMA Factory has no template {quoted(given)}"
        hint = f"did you mean {close}?" if close else "write shared, or a name of docs/templates.md"
        yield Finding("E530", "/train/template", message, hint)


@check("train", "merge", "gguf")
def gguf_has_a_model(recipe: Recipe) -> Iterator[Finding]:
    """llama.cpp converts whole models, not adapters."""
    if recipe.gguf and not recipe.merge and recipe.train.adapter.type != "none":
        message = "gguf needs the merged model, and there is no merge section"
        yield Finding("E202", "/gguf", message, 'add "merge: {}"', "key")


@check("gguf", "ollama")
def ollama_has_a_gguf(recipe: Recipe) -> Iterator[Finding]:
    """Ollama gets a GGUF file."""
    if recipe.ollama and not recipe.gguf:
        message = "ollama needs a GGUF file, and there is no gguf section"
        yield Finding("E203", "/ollama", message, 'add "gguf: {quantize: [Q8_0]}"', "key")


@check("ollama", "benchmark")
def benchmark_has_a_deployed_model(recipe: Recipe) -> Iterator[Finding]:
    """What is measured is the model in Ollama."""
    if recipe.benchmark and not recipe.ollama:
        message = "benchmark measures the model in Ollama, and there is no ollama section"
        hint = f'add "ollama: {{name: {recipe.name}}}"'
        yield Finding("E204", "/benchmark", message, hint, "key")


@check("gguf", "ollama")
def ollama_deploys_a_written_file(recipe: Recipe) -> Iterator[Finding]:
    """`ollama.quantize` names one of `gguf.quantize`."""
    if not (recipe.ollama and recipe.gguf):
        return
    wanted, written = recipe.ollama.quantize, recipe.gguf.quantize
    if wanted not in written:
        message = f"ollama.quantize is {quoted(wanted, 60)}, which gguf.quantize does not write"
        meant = nearest(wanted, written)
        hint = f"did you mean {meant}?" if meant else f"write {listed(list(written))}"
        yield Finding("E205", "/ollama/quantize", message, hint)


_OLLAMA_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}\Z")


@check("ollama")
def ollama_accepts_the_name(recipe: Recipe) -> Iterator[Finding]:
    """By Ollama's own rule, types/model/name.go: [[HOST/]NAMESPACE/]MODEL[:TAG]."""
    if not recipe.ollama:
        return
    *places, model = recipe.ollama.name.split("/")
    model, colon, tag = model.partition(":")
    parts = [model, *([tag] if colon else []), *places]
    good = len(places) <= 2 and all(_OLLAMA_PART.match(part) for part in parts)
    if not good or (places and "." in places[-1]):
        message = f"Ollama refuses the name {quoted(recipe.ollama.name, 60)}"
        hint = (
            'write MODEL, MODEL:TAG or NAMESPACE/MODEL:TAG, each of letters, digits, "_", "-" and '
            '(not in the namespace) ".", at most 80 characters'
        )
        yield Finding("E206", "/ollama/name", message, hint)


@check("data", "evaluate")
def evaluate_has_something_to_compare(recipe: Recipe) -> Iterator[Finding]:
    """Loss and samples come from held-out rows."""
    evaluate = recipe.evaluate
    if not evaluate:
        return
    asked = evaluate.samples or evaluate.questions or evaluate.forgetting
    if not (evaluate.loss or asked):
        message = "evaluate has nothing to do: no loss, no samples, no questions"
        yield Finding("E207", "/evaluate", message, "ask for one of them, or remove it", "key")
    if recipe.data.validation.holds_out:
        return
    for name, wanted in (("loss", evaluate.loss), ("samples", evaluate.samples)):
        if wanted:
            message = f"evaluate.{name} needs held-out rows, and data.validation.fraction is 0"
            off = "false" if name == "loss" else "0"
            hint = f"hold out some, for example 0.1, or write {name}: {off}"
            yield Finding("E207", f"/evaluate/{name}", message, hint)


# --- the importance matrix


@check("gguf")
def low_types_have_a_matrix(recipe: Recipe) -> Iterator[Finding]:
    """llama-quantize refuses them without one, after everything before has run."""
    from runner.stages.export.gguf_types import KINDS, Matrix

    if not recipe.gguf or recipe.gguf.imatrix:
        return
    for index, kind in enumerate(recipe.gguf.quantize):
        if KINDS[kind].matrix is Matrix.NEEDED:
            message = f"{kind} needs an importance matrix, and gguf has no imatrix"
            hint = 'add "imatrix: {}" to gguf, or choose a type with more bits'
            yield Finding("E234", f"/gguf/quantize/{index}", message, hint)


@check("gguf")
def the_matrix_is_used(recipe: Recipe) -> Iterator[Finding]:
    """Otherwise the model runs over the data for nothing."""
    from runner.stages.export.gguf_types import takes_matrix

    gguf = recipe.gguf
    if gguf and gguf.imatrix and not any(takes_matrix(kind) for kind in gguf.quantize):
        message = f"no file uses the importance matrix: {listed(list(gguf.quantize))} takes none"
        yield Finding("W215", "/gguf/imatrix", message, "remove imatrix from gguf", "key")


@check("data", "gguf")
def the_matrix_has_its_own_data(recipe: Recipe) -> Iterator[Finding]:
    """The held-out rows judge the files; what was measured on them is judged too kindly."""
    matrix = recipe.gguf.imatrix if recipe.gguf else None
    if matrix is None or matrix.data != "validation":
        return
    if not recipe.data.validation.holds_out:
        message = "gguf.imatrix.data is validation, and no rows are held out"
        yield Finding("E235", "/gguf/imatrix/data", message, "write data: train, or hold some out")
        return
    message = "the importance matrix is made of the rows that the files are judged by"
    yield Finding("W214", "/gguf/imatrix/data", message, "write data: train")


# --- data


@check("data")
def no_file_is_used_twice(recipe: Recipe) -> Iterator[Finding]:
    """A row seen in training proves nothing when it is held out; given twice, it counts twice."""
    first: dict[tuple[str | None, PurePosixPath], str] = {}
    for pointer, item in recipe.data_files():
        pointer += "/file" if item.path is None else "/path"
        file = (item.hub, PurePosixPath(item.path or item.file or ""))
        if file in first:
            other, span = recipe.source.place(first[file])
            where = f"line {span.line}" if span.line else str(other)
            where += f" of {other.name}" if other in recipe.source.bases else ""
            message = f"{quoted(item.name, 60)} is used in {where} already"
            yield Finding("E211", pointer, message, "use each file once")
        first.setdefault(file, pointer)


@check("model")
def file_stays_inside_the_model(recipe: Recipe) -> Iterator[Finding]:
    """`model.file` is a path inside the wheel, below `model.path` or in the repository."""
    model, file = recipe.model, recipe.model.file
    if file is not None and leads_out(file):
        where = "the wheel" if model.wheel else "the repository" if model.hub else "model.path"
        message = f"{quoted(file, 60)} leads out of {where}"
        yield Finding("E208", "/model/file", message, f"name a file inside {where}")


@check("data")
def data_file_stays_inside_the_repository(recipe: Recipe) -> Iterator[Finding]:
    """`file` of a data set is a path in its repository."""
    for pointer, item in recipe.hub_files():
        if item.file is not None and leads_out(item.file):
            message = f"{quoted(item.file, 60)} leads out of the repository"
            yield Finding("E208", f"{pointer}/file", message, "name a file inside the repository")


@check("evaluate")
def rows_of_tasks_stay_inside_the_repository(recipe: Recipe) -> Iterator[Finding]:
    """As for a data set."""
    for pointer, _, key, item in recipe.task_files():
        if leads_out(item.file):
            message = f"{quoted(item.file, 60)} leads out of the repository"
            yield Finding("E208", f"{pointer}/{key}", message, "name a file inside the repository")


def leads_out(file: str) -> bool:
    """Is `file` no path inside of what it belongs to?"""
    return file.startswith("/") or ".." in PurePosixPath(file).parts


# --- the hub


@check()
def no_token_in_the_recipe(recipe: Recipe) -> Iterator[Finding]:
    """A recipe is shared; a token is not. It is shown in no message (printable.without_tokens)."""
    for pointer, value in _texts(recipe.source.data, ""):
        if holds_token(value):
            message = "this looks like a token of the hub, and a recipe is no place for secrets"
            hint = "remove it, revoke it on the hub, and set HF_TOKEN in your environment instead"
            yield Finding("E216", pointer, message, hint)


def _texts(value: Any, pointer: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, f"{pointer}/{escape_token(key)}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, f"{pointer}/{number}")


@check("model")
def only_a_pinned_repository_is_trusted(recipe: Recipe) -> Iterator[Finding]:
    """Code is run that was read at that commit, not whatever a branch holds tomorrow."""
    model = recipe.model
    if model.trust_remote_code and not is_commit(model.revision):
        message = "trust_remote_code would run whatever code the repository holds at that moment"
        hint = "read its .py files, then pin the commit: revision with 40 hex digits"
        yield Finding("E217", "/model/trust_remote_code", message, hint)


@check("model")
def model_is_pinned(recipe: Recipe) -> Iterator[Finding]:
    """A branch moves; so does what comes out of the recipe."""
    if recipe.model.hub is not None:
        yield from _unpinned("/model", recipe.model.hub, recipe.model.revision)


@check("reward")
def reward_model_is_pinned(recipe: Recipe) -> Iterator[Finding]:
    """As for the model."""
    if recipe.reward is not None and recipe.reward.hub is not None:
        yield from _unpinned("/reward", recipe.reward.hub, recipe.reward.revision)


@check("data")
def data_sets_are_pinned(recipe: Recipe) -> Iterator[Finding]:
    """As for the model."""
    for pointer, item in recipe.hub_files():
        if item.hub is not None:
            yield from _unpinned(pointer, item.hub, item.revision)


@check("evaluate")
def rows_of_tasks_are_pinned(recipe: Recipe) -> Iterator[Finding]:
    """As for the model: a benchmark that moves measures something else."""
    harness = recipe.evaluate.harness if recipe.evaluate else None
    for number, task in enumerate(harness.tasks if harness else ()):
        pointer = f"/evaluate/harness/tasks/{number}"
        if (hub := repository(task)) is not None:
            yield from _unpinned(pointer, hub, task.revision, "hub" if task.hub else "name")
        elif task.revision is not None and task.name is None:
            message = "revision is of a repository, and the rows are files of the project"
            yield Finding("E281", f"{pointer}/revision", message, "add hub, or remove it")


def _unpinned(pointer: str, hub: str, revision: str | None, key: str = "hub") -> Iterator[Finding]:
    """`key`: where the repository is named, below `pointer`."""
    if not is_commit(revision):
        what = f"its {revision}" if revision else "its main branch"
        message = f"{hub} is not pinned: every run asks the hub for {what} and takes what is there"
        hint = "pin it: revision with the 40 hex digits of a commit; run.json names the one taken"
        where = f"{pointer}/revision" if revision else f"{pointer}/{key}"
        yield Finding("W206", where, message, hint)


# --- training: what would be ignored, and what is far from usual


@check("train")
def a_constant_rate_has_no_warmup(recipe: Recipe) -> Iterator[Finding]:
    """Transformers' schedule `constant` ignores warmup_steps without a word."""
    train = recipe.train
    if train.lr_scheduler_type == "constant" and train.warmup_steps:
        message = "train.warmup_steps has no effect with lr_scheduler_type: constant"
        hint = "write lr_scheduler_type: constant_with_warmup, or remove warmup_steps"
        yield Finding("E212", "/train/warmup_steps", message, hint)


@check("data", "train")
def system_turns_are_those_of_the_recipe(recipe: Recipe) -> Iterator[Finding]:
    """Variants stand beside `system`; LLaMA Factory's own template reads the files again."""
    data = recipe.data
    for name in data.systems:
        pointer = f"/data/{name}"
        if data.system is None:
            message = f"{name} is about data.system, and there is none"
            hint = "add the system turn that the model is deployed with: system: …"
            yield Finding("E259", pointer, message, hint, "key")
        elif recipe.train.template != "shared":
            message = "a template of LLaMA Factory's own reads the rows as they are"
            yield Finding("E259", pointer, message, "set train.template: shared", "key")


@check("model")
def wheel_is_pinned_by_content(recipe: Recipe) -> Iterator[Finding]:
    """A version can be uploaded again with other bytes; a digest cannot."""
    if recipe.model.wheel and not recipe.model.sha256:
        message = f"nothing checks the bytes of {recipe.model.wheel}: model.sha256 is not given"
        yield Finding("W201", "/model/wheel", message, "add sha256, the wheel file's digest")


# Warn only far outside. LoRA's best rate is about ten times full fine-tuning's: Schulman et al.,
# "LoRA Without Regret", 2025; 2e-4 for LoRA is also QLoRA's choice (Dettmers et al., 2023). Full
# fine-tuning: 1e-5 to 2e-5 of Llama 2 (Touvron et al., 2023) and Alpaca (Taori et al., 2023).
_SOURCES = {
    "lora": "Schulman et al. 2025, Dettmers et al. 2023",
    "none": "Touvron et al. 2023, Taori et al. 2023",
}
_USUAL_RATES = {"lora": (1e-5, 1e-3), "none": (1e-6, 1e-4)}
_TOLERATED_RATES = {"lora": (1e-6, 5e-3), "none": (1e-7, 1e-4)}


@check("train")
def learning_rate_is_usual(recipe: Recipe) -> Iterator[Finding]:
    """A rate off by a power of ten is mostly a slip of the pen."""
    kind, rate = recipe.train.adapter.type, recipe.train.learning_rate
    if recipe.train.optim == "sgd":  # the sources are about optimizers that scale by themselves
        return
    low, high = _TOLERATED_RATES[kind]
    if not low <= rate <= high:
        what = "LoRA" if kind == "lora" else "full fine-tuning"
        usual = "{} to {}".format(*_USUAL_RATES[kind])
        message = f"train.learning_rate {rate} is far from what is usual for {what}"
        hint = f"usual is {usual} ({_SOURCES[kind]})"
        yield Finding("W202", "/train/learning_rate", message, hint)


@check("train")
def warmup_ends(recipe: Recipe) -> Iterator[Finding]:
    """Otherwise the peak is never reached."""
    train = recipe.train
    if train.max_steps is not None and 0 < train.max_steps <= train.warmup_steps:
        message = f"the learning rate never reaches its peak: training ends at {train.max_steps}"
        yield Finding("W205", "/train/warmup_steps", message, "fewer warm-up or more steps")
