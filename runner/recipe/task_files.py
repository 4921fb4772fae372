"""Task files of lm-evaluation-harness, as far as they are data: nothing in them is ever run.

The harness reads its YAML with a tag that imports Python, fetches metrics and data sets by name,
and loads classes. Here a file is read as a recipe is (no tags, no anchors, each key once), every
key is known by name, and what remains is plain JSON that a stage puts into its key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import RecipeInvalid
from runner.recipe.source import Source, read_source

METRICS = {"multiple_choice": ("acc", "acc_norm"), "generate_until": ("exact_match",)}
MOST_FEWSHOT = 100
MOST_TOKENS = 4096  # of one answer
# Where rows come from and how the harness files a task: the recipe says the first, nobody needs
# the second.
IGNORED = frozenset(
    {
        *("dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split"),
        *("test_split", "fewshot_split", "tag", "group", "task_alias", "metadata"),
        *("should_decontaminate", "doc_to_decontamination_query"),
    }
)
# What runs Python, or reads further files or pictures.
CODE = frozenset(
    {
        *("process_docs", "process_results", "custom_dataset", "class", "use_prompt", "include"),
        *("unsafe_code", "doc_to_image", "doc_to_audio"),
    }
)
_PAGE = "docs/evaluation.md shows a task"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
_FILTERS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "regex": {
        "regex_pattern": lambda value: isinstance(value, str) and _is_pattern(value),
        "group_select": lambda value: type(value) is int,
        "fallback": lambda value: isinstance(value, str),
    },
    "remove_whitespace": {},
    "lowercase": {},
    "uppercase": {},
    "take_first": {},
}
_EXACT_MATCH: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("ignore_case", "ignore_punctuation", "ignore_numbers"), lambda v: v in (True, False)
    ),
    "regexes_to_ignore": lambda value: _texts(value) and all(map(_is_pattern, value)),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong: a code, where in the file (a pointer), words, and what to do."""

    code: str
    pointer: str
    message: str
    hint: str = ""


def read_task(path: Path) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """The configuration in the file at `path`, and what is wrong: code, `LINE:COLUMN: words`, hint.

    The configuration is complete: no default of the harness decides anything.
    """
    try:
        source = read_source(path)
    except RecipeInvalid as error:
        return {}, [
            ("E270", _place(each.line, each.column, each.message), "")
            for each in error.diagnostics[:1]
        ]
    if source.problems:
        first = source.problems[0]
        hint = "write out what the function would give" if "!function" in _text(path) else ""
        return {}, [("E270", _place(first.line, first.column, first.message), hint)]
    if not isinstance(source.data, dict):
        return {}, [("E270", "it is no mapping of keys to values", _PAGE)]
    problems = list(_problems(source.data))
    if problems:
        return {}, [(each.code, _at(source, each), each.hint) for each in problems]
    return _configuration(source.data), []


def at_key(path: Path, key: str, message: str) -> str:
    """`LINE:COLUMN: message`, of the value of a key in a task file that `read_task` takes."""
    return _at(read_source(path), Problem("E285", f"/{key}", message))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _place(line: int | None, column: int | None, message: str) -> str:
    return f"{line}:{column}: {message}" if line else message


def _at(source: Source, problem: Problem) -> str:
    at = "key" if problem.code == "E271" else "value"
    found = source.diagnostic(problem.code, problem.pointer, problem.message, hint="", at=at)
    return _place(found.line, found.column, problem.message)


def _problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    for key in sorted(data.keys() - IGNORED, key=str):
        if key in CODE and data[key] is not False and data[key] is not None:
            message = f'"{key}" runs code or reads other files, which a task here must not'
            yield Problem("E271", f"/{key}", message, "write its result into the rows")
        elif key not in CODE and key not in _VALUES:
            yield Problem("E271", f"/{key}", f'"{key}" is not a key of a task', "remove it")
    for key, (words, fits) in _VALUES.items():
        if key in data and not fits(data[key]):
            yield Problem("E272", f"/{key}", f"{key} must be {words}", _PAGE)
    for key in ("task", "output_type", "doc_to_text", "doc_to_target"):
        if key not in data:
            yield Problem("E272", "", f'the task lacks "{key}"', f"add {key}")
    if data.get("output_type") == "multiple_choice" and "doc_to_choice" not in data:
        yield Problem("E272", "", 'the task lacks "doc_to_choice"', "add the list of choices")
    yield from _metric_problems(data)
    yield from _filter_problems(data)
    yield from _generation_problems(data)


def _metric_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    known = METRICS.get(str(data.get("output_type")), ())
    for number, each in enumerate(_list(data.get("metric_list"))):
        pointer = f"/metric_list/{number}"
        if not isinstance(each, dict) or each.get("metric") not in known:
            message = "a metric here is one of " + (", ".join(known) or "those of an output_type")
            yield Problem(
                "E272", pointer, message, "no other metric is measured example by example"
            )
            continue
        rest = {key: value for key, value in each.items() if key != "metric"}
        if (
            rest.pop("aggregation", "mean") != "mean"
            or rest.pop("higher_is_better", True) is not True
        ):
            yield Problem("E272", pointer, "its aggregation is mean, and higher is better", _PAGE)
        options = _EXACT_MATCH if each["metric"] == "exact_match" else {}
        for key, value in rest.items():
            if key not in options or not options[key](value):
                yield Problem("E272", pointer, f"{key} is no setting of {each['metric']}", _PAGE)


def _filter_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    for number, each in enumerate(_list(data.get("filter_list"))):
        pointer = f"/filter_list/{number}"
        if not isinstance(each, dict) or each.keys() != {"name", "filter"}:
            yield Problem("E272", pointer, "a filter has a name, and a list filter", _PAGE)
            continue
        steps = each["filter"]
        if (
            not _is_name(each["name"])
            or not isinstance(steps, list)
            or not all(map(_is_step, steps))
        ):
            hint = f"known functions: {', '.join(_FILTERS)}"
            yield Problem("E272", pointer, "a step of this filter is not known", hint)


def _is_step(step: Any) -> bool:
    if not isinstance(step, dict) or step.get("function") not in _FILTERS:
        return False
    options = _FILTERS[step["function"]]
    rest = {key: value for key, value in step.items() if key != "function"}
    return all(key in options and options[key](value) for key, value in rest.items())


def _generation_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    given = data.get("generation_kwargs")
    if not isinstance(given, dict):
        return
    fits: Mapping[str, Callable[[Any], bool]] = {
        "until": lambda value: _texts(value) or (isinstance(value, str) and bool(value)),
        "max_gen_toks": lambda value: type(value) is int and 1 <= value <= MOST_TOKENS,
        "do_sample": lambda value: value is False,
        "temperature": lambda value: value == 0 and not isinstance(value, bool),
    }
    for key, value in given.items():
        if key not in fits or not fits[key](value):
            message = f"generation_kwargs.{key} cannot be honoured: answers are greedy"
            hint = f"until: a list of texts, max_gen_toks: 1 to {MOST_TOKENS}, do_sample: false"
            yield Problem("E272", "/generation_kwargs", message, hint)


def _configuration(data: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decides the result, written out."""
    kind = data["output_type"]
    metrics = _list(data.get("metric_list")) or [{"metric": name} for name in METRICS[kind]]
    made: dict[str, Any] = {
        "task": data["task"],
        "output_type": kind,
        "doc_to_text": data["doc_to_text"],
        "doc_to_target": data["doc_to_target"],
        "description": data.get("description", ""),
        "target_delimiter": data.get("target_delimiter", " "),
        "fewshot_delimiter": data.get("fewshot_delimiter", "\n\n"),
        "num_fewshot": data.get("num_fewshot", 0),
        "metric_list": [
            {**each, "aggregation": "mean", "higher_is_better": True} for each in metrics
        ],
    }
    made |= {
        key: data[key] for key in ("doc_to_choice", "gen_prefix", "filter_list") if key in data
    }
    if kind == "generate_until":
        given = dict(data.get("generation_kwargs", {}))
        until = given.get("until", [made["fewshot_delimiter"]])
        made["generation_kwargs"] = {
            "until": [until] if isinstance(until, str) else until,
            "max_gen_toks": given.get("max_gen_toks", 256),
            "do_sample": False,
        }
    return made


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(e, str) and e for e in value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


_VALUES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "task": ("a name of letters, digits, _, - and .", _is_name),
    "output_type": (
        " or ".join(METRICS),
        lambda value: isinstance(value, str) and value in METRICS,
    ),
    "doc_to_text": ("a text", _is_text),
    "doc_to_target": ("a text or a number", lambda v: _is_text(v) or type(v) is int),
    "doc_to_choice": ("a list of texts, or a text", lambda v: _texts(v) or _is_text(v)),
    "description": ("a text", _is_text),
    "target_delimiter": ("a text", _is_text),
    "fewshot_delimiter": ("a text", lambda value: _is_text(value) and bool(value)),
    "gen_prefix": ("a text", _is_text),
    "generation_kwargs": ("a mapping", lambda value: isinstance(value, dict)),
    "metric_list": ("a list", lambda value: isinstance(value, list) and bool(value)),
    "filter_list": ("a list", lambda value: isinstance(value, list) and bool(value)),
    "num_fewshot": (
        f"a number from 0 to {MOST_FEWSHOT}",
        lambda value: type(value) is int and 0 <= value <= MOST_FEWSHOT,
    ),
    "repeats": ("1: answers are greedy", lambda value: type(value) is int and value == 1),
}
