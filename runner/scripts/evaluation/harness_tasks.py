"""Tasks that come with lm-evaluation-harness: what their YAML says of data set, splits and metrics.

Used where the list of them is made (list_harness_tasks.py), and where one is measured (harness.py):
what is fetched for a task and what the task then reads are decided by the same lines.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import lm_eval.tasks
from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY, get_metric_aggregation, is_higher_better
from lm_eval.tasks._yaml_loader import load_yaml

FOLDER = Path(lm_eval.tasks.__file__).parent
KINDS = ("multiple_choice", "generate_until")
# Asks the model for more than the choices behind the question.
_OTHER_REQUESTS = "acc_mutual_info"
_HARMLESS = frozenset({"trust_remote_code"})  # arguments of load_dataset that change no row
_LOADERS = frozenset({"json", "csv", "parquet", "text", "arrow", "xml", "webdataset"})
# Scores texts, and has no wheel. Modules of choices import it for their neighbours of answers.
_ROUGE = ("rouge_score", "rouge_score.rouge_scorer", "rouge_score.scoring")


def load(file: Path) -> dict[str, Any]:
    """What the YAML file of a task says, with the Python that it names imported.

    Raises whatever that Python raises. A task of choices scores no text, so it lacks no ROUGE.
    """
    kind = load_yaml(file, resolve_func=False).get("output_type")
    if kind == "multiple_choice" and importlib.util.find_spec(_ROUGE[0]) is None:
        _stand_in_for_rouge()
    found: dict[str, Any] = load_yaml(file)
    return found


def _stand_in_for_rouge() -> None:
    whole, *parts = (ModuleType(name) for name in _ROUGE)
    for part in parts:
        setattr(whole, part.__name__.rpartition(".")[2], part)
    whole.__spec__ = importlib.util.spec_from_loader(_ROUGE[0], None)
    sys.modules |= {module.__name__: module for module in (whole, *parts)}


def asked_split(config: Mapping[str, Any]) -> str | None:
    """The split whose rows are asked."""
    return config.get("test_split") or config.get("validation_split") or None


def fewshot_split(config: Mapping[str, Any]) -> str | None:
    """The split that examples are drawn from; None: they stand in the task itself."""
    given = config.get("fewshot_config") or {}
    if split := given.get("split") or config.get("fewshot_split"):
        return str(split)
    if given.get("samples") is not None:
        return None
    order = ("training_split", "validation_split", "test_split")
    return next((str(config[key]) for key in order if config.get(key)), None)


def shots(config: Mapping[str, Any], wanted: int | None) -> int:
    """Examples before each question. A task that says 0 has a prompt of its own, and keeps it."""
    own = config.get("num_fewshot")
    return int(own or 0) if wanted is None or own == 0 else wanted


def metrics(config: Mapping[str, Any]) -> list[str]:
    """Names of the metrics that are means over the rows, and of which more is better."""
    given = config.get("metric_list")
    if given is None:
        given = [{"metric": name} for name in DEFAULT_METRIC_REGISTRY[config["output_type"]]]
    return [_name(each["metric"]) for each in given if _is_mean(each) and _more_is_better(each)]


def _name(metric: Any) -> str:
    return metric.__name__ if callable(metric) else str(metric)


def _is_mean(each: Mapping[str, Any]) -> bool:
    if "aggregation" in each:
        return bool(each["aggregation"] == "mean")
    default = get_metric_aggregation(_name(each["metric"]))
    return default is not None and default is get_metric_aggregation("acc")


def _more_is_better(each: Mapping[str, Any]) -> bool:
    if "higher_is_better" in each:
        return bool(each["higher_is_better"])
    return bool(is_higher_better(_name(each["metric"])))


def unfit(config: Mapping[str, Any]) -> str:
    """Why the task cannot be measured here, in words that follow its name; "" when it can."""
    path, how = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    generated = config.get("generation_kwargs") or {}
    listed = config.get("metric_list") or []
    reasons = {
        "is a class in Python, not a file": "class" in config,
        "makes its rows itself": bool(config.get("custom_dataset")) or not path,
        "has rows that are no data set of the hub": path in _LOADERS
        or str(path).count("/") > 1
        or str(path).startswith((".", "/")),
        "asks for parts of its data set in a way of its own": bool(how.keys() - _HARMLESS),
        "is about pictures or sound": any(
            config.get(key) for key in ("doc_to_image", "doc_to_audio")
        ),
        "runs what the model writes": bool(config.get("unsafe_code")),
        "takes its prompt from another package": bool(config.get("use_prompt")),
        "measures neither choices nor answers": config.get("output_type", "generate_until")
        not in KINDS,
        "draws answers at random": bool(generated.get("do_sample"))
        or bool(generated.get("temperature"))
        or config.get("repeats", 1) != 1,
        "asks for likelihoods without the question": any(
            each.get("metric") == _OTHER_REQUESTS for each in listed
        ),
        "names no split to ask": asked_split(config) is None,
    }
    if found := next((words for words, holds in reasons.items() if holds), ""):
        return found
    return "" if metrics(config) else "has no metric that is a mean over rows, more being better"
