"""Tasks of lm-evaluation-harness with base and tuned model, example by example.

spec.hashed: tasks (configurations of task files, see runner/recipe/task_files.py, then those of the
harness's own: {task, file, splits: {SPLIT: ROWS}}), perhaps groups (see evaluation/examples.py),
limit and num_fewshot (or null), apply_chat_template, system, seed, trained ("adapter" or "model"),
dtype, attn_implementation.
spec.inputs: model (folder of `fetch`), trained (folder of `train`), template (of `prepare`), of
task file N its rows, data-N and perhaps fewshot-N, and of a split all files, ROWS-00000.parquet.
Writes `examples.jsonl` and `results.json` (means with intervals). The harness builds prompts and
scores answers; rows come from these files alone, and templates in tasks are rendered in a sandbox.
Python code of a task is run for the harness's own alone: it lies in the pinned package.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
from jinja2 import StrictUndefined
from lm_eval import utils as harness_utils
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate as run_tasks
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerFast

from runner.scripts.data.tokens.template_sandbox import BoundedSandbox
from runner.scripts.evaluate import load_model, tuned_model
from runner.scripts.evaluation import fitting, harness_tasks
from runner.scripts.evaluation.examples import (
    FILE,
    Example,
    Group,
    content_id,
    cut,
    write_examples,
)
from runner.scripts.evaluation.measures import GROUP, group_measures, summary_of, task_measures
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.training.torch_setup import (
    SHORTER_QUESTIONS,
    check_still_set_up,
    peak_memory,
    set_up_torch,
    told_of_gpu,
)

BATCH = 8  # prompts at once; part of what decides the last bits
MAX_ROWS = 1_000_000
MAX_TOLD = 20  # tasks that do not fit
ROWS, EXAMPLES = "rows", "examples"  # names of the two splits
_HINTS = {  # is it one of the harness's own?
    False: "look at doc_to_text, doc_to_target and doc_to_choice: each name in them is a key of "
    "the rows",
    True: "the harness's version expects other rows: choose another revision of the data set",
}
Results = dict[tuple[str, int], dict[str, Any]]  # (task, number of the row) -> what came out


def measure(spec: Spec, events: Events) -> None:
    """Ask the base, then the tuned model, and write what came out."""
    device = set_up_torch()
    _render_in_a_sandbox()
    settings = spec.hashed
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    tokenizer.chat_template = spec.inputs["template"].read_text(encoding="utf-8")
    _require_fitting(spec)
    found: dict[str, Results] = {}
    shown: Results = {}
    model = load_model(spec.inputs["model"], settings, device)
    for number, name in enumerate(("base", "tuned")):
        events.progress(number, 2, message=f"tasks, {name}")
        found[name] = _asked(model, tokenizer, spec, shown)
        if name == "base":
            model = tuned_model(model, spec, device)
    events.progress(2, 2, message="tasks")
    check_still_set_up()
    _write(spec, events, found, shown, device)


def _render_in_a_sandbox() -> None:
    """Templates of tasks get no access to Python's own objects, and no number without an end."""
    sandbox = BoundedSandbox(undefined=StrictUndefined, keep_trailing_newline=True)
    sandbox.filters.update(harness_utils.env.filters)
    harness_utils.env = sandbox


def _require_fitting(spec: Spec) -> None:
    """Build the tasks without a model, and look at their rows. Raises ScriptError with all that do
    not fit, by the code of the first."""
    found: list[ScriptError] = []
    with fitting.same_chance():
        for number, configuration in enumerate(spec.hashed["tasks"]):
            try:
                _require_fit(spec, number, configuration)
            except ScriptError as error:
                found.append(error)
    if len(found) == 1:
        raise found[0]
    if found:
        lines = "\n  ".join(str(each) for each in found[:MAX_TOLD])
        more = f"\n  and {len(found) - MAX_TOLD} more" if len(found) > MAX_TOLD else ""
        raise ScriptError(
            f"{len(found)} tasks cannot be asked:\n  {lines}{more}",
            hint=found[0].hint,
            code=found[0].code,
        )


def _require_fit(spec: Spec, number: int, configuration: Mapping[str, Any]) -> None:
    """Raises ScriptError E925, and what is wrong with a task or its rows."""
    own, name = "file" in configuration, configuration["task"]
    task = (_own_task if own else _task)(spec, number, configuration)
    try:
        found = fitting.misfit(task, spec.hashed["limit"], every=not own)
        key = "data"
        if found is None:
            found, key = fitting.misfit_of_examples(task, every=not own), "fewshot"
    except Exception as error:  # of the code that makes the rows
        raise _unfit(name, error, _HINTS[own]) from error
    if found is not None:
        split = _split_read(task, key)
        where = _place(task, split) if own else _file_of(spec, key, number)
        fields = task.dataset[split].column_names if split in task.dataset else ()
        raise _does_not_fit(name, found.text(where, fields), own)


def _file_of(spec: Spec, key: str, number: int) -> str:
    return spec.inputs.get(f"{key}-{number}", spec.inputs[f"data-{number}"]).name


def _split_read(task: ConfigurableTask, key: str) -> str:
    if key == "data":
        return harness_tasks.asked_split(vars(task.config)) or ""
    return str(task.config.fewshot_config.split or "")


def _place(task: ConfigurableTask, split: str) -> str:
    """The rows of one of the harness's own tasks, as a reader knows them."""
    about = f" ({task.DATASET_NAME})" if task.DATASET_NAME else ""
    return f"{task.DATASET_PATH}{about}, split {split}"


def _asked(model: Any, tokenizer: Any, spec: Spec, shown: Results) -> Results:
    """Every task of one model; `shown` gets what was asked."""
    settings = spec.hashed
    lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=BATCH)
    found: Results = {}
    for number, configuration in enumerate(settings["tasks"]):
        name = configuration["task"]
        own = "file" in configuration
        task = (_own_task if own else _task)(spec, number, configuration)
        try:
            results = run_tasks(
                lm,
                {"tasks": {name: task}, "groups": {}},
                limit=settings["limit"],
                bootstrap_iters=0,
                system_instruction=settings["system"],
                apply_chat_template=settings["apply_chat_template"],
                fewshot_as_multiturn=settings["apply_chat_template"],
            )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a template or a row makes the harness raise
            raise _unfit(name, error, _HINTS[own]) from error
        _check_lengths(lm, task, name)
        for sample in results["samples"][name]:
            key = (name, sample["doc_id"])
            found.setdefault(key, {}).update(_scores(sample, name, task))
            shown[key] = _shown(sample, _identity(configuration, task), task)
    return found


def _task(spec: Spec, number: int, configuration: Mapping[str, Any]) -> ConfigurableTask:
    """The task as the harness wants it: with rows of ours, and no data set of its own."""
    name = configuration["task"]
    splits = {ROWS: _rows(spec.inputs[f"data-{number}"], name)}
    if (examples := spec.inputs.get(f"fewshot-{number}")) is not None:
        splits[EXAMPLES] = _rows(examples, name)
    shots = spec.hashed["num_fewshot"]
    shots = configuration["num_fewshot"] if shots is None else shots
    if shots and len(splits[EXAMPLES]) <= shots:
        raise ScriptError(
            f"task {name} wants {shots} examples, and its file has {len(splits[EXAMPLES])} rows",
            hint="more rows than examples are needed, so that each question can have its own",
            code="E924",
        )
    wanted = {**configuration, "num_fewshot": shots, "test_split": ROWS}
    wanted["fewshot_split"] = EXAMPLES if EXAMPLES in splits else ROWS
    try:
        task = ConfigurableTask(config={**wanted, "custom_dataset": lambda **_: splits})
    except Exception as error:  # of the first row
        where = _file_of(spec, "data", number)
        raise _unfit_first(name, error, where, splits[ROWS], own=False) from error
    task.set_fewshot_seed(seed=spec.hashed["seed"])
    return task


def _own_task(spec: Spec, number: int, own: Mapping[str, Any]) -> ConfigurableTask:
    """A task of the harness's own, with rows that were fetched. Raises ScriptError E925."""
    name = own["task"]
    try:
        config = harness_tasks.load(harness_tasks.FOLDER / own["file"])
    except (Exception, SystemExit) as error:  # of the Python beside it, which is imported here
        raise ScriptError(
            f"the code of task {name} cannot be loaded: {_words(error)}",
            hint="it may need a package that environment harness has not: choose another task, or "
            "write a task file of your own",
            code="E925",
        ) from error
    shots = harness_tasks.shots(config, spec.hashed["num_fewshot"])
    rows = {split: _split(spec, place, name) for split, place in own["splits"].items()}
    for key in ("tag", "group", "task_list"):
        config.pop(key, None)
    if not shots:  # so that no rows for examples are needed
        config.pop("fewshot_config", None)
        config["fewshot_split"] = harness_tasks.asked_split(config)
    about = config.get("metadata")
    config["metadata"] = about if isinstance(about, dict) else {}
    wanted = {**config, "num_fewshot": shots, "custom_dataset": lambda **_: rows}
    try:
        task = ConfigurableTask(config=wanted)
    except Exception as error:  # of the first row
        split = harness_tasks.asked_split(config) or ""
        where = f"{config.get('dataset_path')}, split {split}"
        raise _unfit_first(name, error, where, rows[split], own=True) from error
    task.set_fewshot_seed(seed=spec.hashed["seed"])
    return task


def _split(spec: Spec, place: str, name: str) -> datasets.Dataset:
    """All files of a split, in order. Raises ScriptError E924."""
    paths = [str(path) for key, path in sorted(spec.inputs.items()) if key.startswith(f"{place}-")]
    read = datasets.Dataset.from_parquet if paths[0].endswith(".parquet") else None
    try:
        rows = (read or datasets.Dataset.from_json)(paths, cache_dir=str(spec.scratch / "rows"))
    except Exception as error:  # pyarrow's and the reader's, of whatever the files hold
        raise _bad_rows(name, error, "choose another revision of the data set") from error
    if not 0 < len(rows) <= MAX_ROWS:
        error = ValueError(f"they are {len(rows)}, and not 1 to {MAX_ROWS:,}")
        raise _bad_rows(name, error, "choose another revision of the data set")
    return rows


def _rows(path: Path, name: str) -> datasets.Dataset:
    """Rows of JSON lines. Raises ScriptError E924."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line.strip()]
        if not rows or len(rows) > MAX_ROWS or not all(isinstance(row, dict) for row in rows):
            raise ValueError("it is no list of 1 to 1,000,000 JSON objects")
        return datasets.Dataset.from_list(rows)
    except (
        ValueError,
        TypeError,
        RecursionError,
    ) as error:  # pyarrow's errors are of the first two
        hint = "write one JSON object a line, all with the same keys, each of one type"
        raise _bad_rows(name, error, hint) from error


def _bad_rows(name: str, error: Exception, hint: str) -> ScriptError:
    words = " ".join(str(error).split())[:200]
    return ScriptError(f"the rows of task {name} cannot be used: {words}", hint=hint, code="E924")


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _unfit(name: str, error: Exception, hint: str) -> ScriptError:
    message = f"task {name} does not fit its rows: {_words(error)}"
    return ScriptError(message, hint=hint, code="E925")


def _unfit_first(
    name: str, error: Exception, where: str, rows: datasets.Dataset, *, own: bool
) -> ScriptError:
    """Of a task that cannot be made: the harness tries its first row."""
    return _does_not_fit(
        name, fitting.Misfit(fitting.why(error), 1).text(where, rows.column_names), own
    )


def _does_not_fit(name: str, words: str, own: bool) -> ScriptError:
    return ScriptError(f"task {name} does not fit its rows: {words}", hint=_HINTS[own], code="E925")


def _check_lengths(lm: HFLM, task: ConfigurableTask, name: str) -> None:
    """Raise ScriptError E926 where a prompt was cut: the harness leaves out its beginning."""
    for instance in task.instances:
        prompt, more = instance.args[:2]
        room = lm.max_length
        if isinstance(more, dict):
            room -= more.get("max_gen_toks", lm.max_gen_toks)
        else:
            room -= len(lm.tok_encode(more)) - 1
        length = len(lm.tok_encode(prompt))
        if length > room:
            raise ScriptError(
                f"a prompt of task {name} has {length} tokens, and the model has room for {room}: "
                f"row {instance.doc_id + 1}",
                hint="fewer examples (num_fewshot), a smaller max_gen_toks, or shorter rows",
                code="E926",
            )


def _scores(sample: Mapping[str, Any], name: str, task: ConfigurableTask) -> dict[str, Any]:
    """The answer, and every metric; of a named filter with its name. Raises ScriptError E927."""
    label = "" if sample["filter"] == "none" else f",{sample['filter']}"
    wanted = harness_tasks.metrics(vars(task.config))
    found: dict[str, Any] = {}
    for metric in (each for each in sample["metrics"] if each in wanted):
        try:
            value = float(sample[metric])
        except (TypeError, ValueError) as error:  # of the task's own code
            raise _unfit(name, error, _HINTS[True]) from error
        if not math.isfinite(value):
            raise _no_number(name, metric)
        found[f"{metric}{label}"] = value
    if task.OUTPUT_TYPE == "multiple_choice":
        likelihoods = [float(each[0]) for each in sample["filtered_resps"]]
        if not all(map(math.isfinite, likelihoods)):
            raise _no_number(name, "log-likelihood")
        choices = task.doc_to_choice(sample["doc"])
        found["answer"] = str(choices[likelihoods.index(max(likelihoods))])
    else:
        found["answer"] = str(sample["resps"][0][0])
    return found


def _no_number(name: str, what: str) -> ScriptError:
    return ScriptError(
        f"task {name}: a {what} is not a number",
        hint="lower train.learning_rate, or set model.dtype to float32",
        code="E927",
    )


def _identity(configuration: Mapping[str, Any], task: ConfigurableTask) -> Mapping[str, Any]:
    """What makes rows of two runs rows of the same task: how many examples it has does not."""
    if "file" in configuration:
        return {"task": configuration["task"], "version": str(task.VERSION)}
    return {key: value for key, value in configuration.items() if key != "num_fewshot"}


def _shown(
    sample: Mapping[str, Any], identity: Mapping[str, Any], task: ConfigurableTask
) -> dict[str, Any]:
    """What a person sees of an example, and what makes two examples the same."""
    target = sample["target"]
    if task.config.doc_to_choice is not None and isinstance(target, int):
        choices = task.doc_to_choice(sample["doc"])
        target = choices[target] if target < len(choices) else target
    prompt = sample["arguments"][0][0]
    row = json.loads(json.dumps(sample["doc"], default=str))  # Parquet has dates and bytes
    return {
        "id": content_id([identity, row, prompt]),
        "task": identity["task"],
        "prompt": cut(str(prompt)),
        "expected": cut(str(target)),
    }


def _write(
    spec: Spec,
    events: Events,
    found: Mapping[str, Results],
    shown: Results,
    device: torch.device,
) -> None:
    examples = []
    for key, what in shown.items():
        results = {name: each[key] for name, each in found.items()}
        rest = {name: value for name, value in what.items() if name != "id"}
        examples.append(Example("task", what["id"], rest, results))
    groups = [Group.of(each) for each in spec.hashed.get("groups", [])]
    write_examples(spec.folder / FILE, 0, examples, groups)
    results = {"tasks": summary_of(examples, task_measures(examples))}
    if of_groups := summary_of(examples, group_measures(groups, examples)):
        results["groups"] = {name.removeprefix(GROUP): each for name, each in of_groups.items()}
    text = json.dumps(results, indent=2, sort_keys=True, allow_nan=False)
    (spec.folder / "results.json").write_text(text + "\n", encoding="utf-8")
    events.measure(**results, peak_memory=peak_memory(device))


if __name__ == "__main__":
    main(told_of_gpu(measure, SHORTER_QUESTIONS))
