"""The harness's own tasks by name: its real YAML and code, a few rows, two tiny models.

What comes out is held against the harness's own `simple_evaluate` on the same rows.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.recipe.named_tasks import FILE, Known, catalogue, known_tasks
from tests.chain import ROOT
from tests.tiny_model import write_tiny_model
from tests.training_runs import Finished, ScriptRun, WarmInterpreter

ROOM = {"config.json": "max_position_embeddings", "tokenizer_config.json": "model_max_length"}
Rows = Sequence[Mapping[str, Any]]
SETTINGS: dict[str, Any] = {
    "limit": None,
    "num_fewshot": None,
    "apply_chat_template": False,
    "system": None,
    "seed": 42,
    "trained": "model",
    "dtype": "float32",
    "attn_implementation": "sdpa",
}


def arc(number: int) -> dict[str, Any]:
    choices = {
        "text": ["ink", "silver", "wool"][: 2 + number % 2],
        "label": list("ABC")[: 2 + number % 2],
    }
    return {
        "id": f"x{number}",
        "question": f"what is {number}",
        "choices": choices,
        "answerKey": "AB"[number % 2],
    }


def boolq(number: int) -> dict[str, Any]:
    return {
        "question": f"is {number} even",
        "passage": f"of {number}",
        "idx": number,
        "label": number % 2,
    }


def gsm8k(number: int) -> dict[str, Any]:
    return {"question": f"{number} and 1", "answer": f"so\n#### {number + 1}"}


def winogrande(number: int) -> dict[str, Any]:
    return {
        "sentence": f"Ann {number} met Eve as _ ran",
        "option1": "Ann",
        "option2": "Eve",
        "answer": "12"[number % 2],
    }


def truthful(number: int) -> dict[str, Any]:
    targets = {"choices": ["yes", "no way", "perhaps"], "labels": [1, 0, number % 2]}
    return {"question": f"is it {number}", "mc1_targets": targets, "mc2_targets": targets}


def hellaswag(number: int) -> dict[str, Any]:
    return {
        "ind": number,
        "activity_label": "Rowing",
        "ctx_a": f"A boat {number} turns.",
        "ctx_b": "it",
        "endings": ["sinks", "[title] floats away", "sings", "rests"],
        "label": str(number % 4),
    }


def mmlu(number: int) -> dict[str, Any]:
    return {
        "question": f"which {number}",
        "subject": "x",
        "choices": ["a", "b", "c", "d"],
        "answer": number % 4,
    }


MADE: dict[str, Callable[[int], dict[str, Any]]] = {
    "arc_easy": arc,
    "boolq": boolq,
    "gsm8k": gsm8k,
    "winogrande": winogrande,
    "truthfulqa_mc2": truthful,
    "hellaswag": hellaswag,
    "mmlu_anatomy": mmlu,
}
# The harness's own way, with the same rows in place of what it would fetch.
BY_THE_HARNESS = """
import json, pathlib, sys
import datasets, lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager, _index
from runner.scripts.evaluation.harness_tasks import _stand_in_for_rouge

given = json.loads(sys.argv[1])
_stand_in_for_rouge()  # the harness asks for all its packages

def local(path, name=None, **_):
    files = given["rows"][f"{path}|{name or ''}"]
    read = {split: datasets.Dataset.from_parquet(each, cache_dir=given["cache"])
            for split, each in files.items()}
    return datasets.DatasetDict(read)

datasets.load_dataset = local
# reading all 14,000 files takes minutes
_index.TaskIndex._iter_yaml_files = staticmethod(
    lambda root: [pathlib.Path(root) / file for file in given["files"]])
found = []
for model in given["models"]:
    out = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, dtype="float32", batch_size=8, device="cpu"),
        tasks=given["tasks"], task_manager=TaskManager(), num_fewshot=given["num_fewshot"],
        fewshot_random_seed=42, bootstrap_iters=0)
    found.append(out["results"])
print("\\n" + json.dumps(found, default=str))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """With room for the examples that stand in the tasks."""
    folder = tmp_path_factory.mktemp("models")
    made = write_tiny_model(folder / "base"), write_tiny_model(folder / "tuned", seed=8)
    for model in made:
        for name, key in ROOM.items():
            settings = json.loads((model / name).read_bytes()) | {key: 1024}
            (model / name).write_text(json.dumps(settings))
    return made


@pytest.fixture(scope="module")
def rows(
    environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, list[str]]]:
    """Task -> split -> Parquet files, two of what is asked."""
    folder = tmp_path_factory.mktemp("rows")
    wanted: dict[str, list[dict[str, Any]]] = {}
    found: dict[str, dict[str, list[str]]] = {}
    for name, make in MADE.items():
        (known,) = known_tasks(name)
        for split in known.splits(3):
            first, count = (100, 6) if split == known.asked else (200, 9)
            many = [make(number) for number in range(first, first + count)]
            files = [str(folder / f"{name}-{split}-{number}.parquet") for number in range(2)]
            wanted |= dict(zip(files, [many[:4], many[4:]], strict=True))
            found.setdefault(name, {})[split] = files
    write_parquet(environment_python("harness"), wanted, folder)
    return found


def write_parquet(python: Path, wanted: Mapping[str, Any], folder: Path) -> None:
    """Path -> rows."""
    (folder / "wanted.json").write_text(json.dumps(wanted))
    write = (
        "import json, sys, pyarrow as pa, pyarrow.parquet as pq\n"
        "for path, rows in json.load(open(sys.argv[1])).items():\n"
        "    pq.write_table(pa.Table.from_pylist(rows), path)\n"
    )
    subprocess.run([str(python), "-c", write, str(folder / "wanted.json")], check=True)


@pytest.fixture
def measured(
    environment_python: Callable[[str], Path],
    warm_harness: WarmInterpreter,
    models: tuple[Path, Path],
    rows: dict[str, dict[str, list[str]]],
    tmp_path: Path,
) -> Callable[..., Finished]:
    """Run the script on tasks by name; `given` replaces the files of a split."""

    def run(*names: str, given: Mapping[str, list[str]] | None = None, **settings: Any) -> Finished:
        inputs = {"model": models[0], "trained": models[1]}
        inputs["template"] = models[0] / "chat_template.jinja"
        tasks, many = [], settings.pop("rows", rows)
        for name in names:
            (known,) = known_tasks(name)
            splits = {}
            for split in known.splits(settings.get("num_fewshot")):
                place = splits[split] = f"rows-{len(inputs)}"
                for number, path in enumerate((given or many[name])[split]):
                    inputs[f"{place}-{number:05}{Path(path).suffix}"] = Path(path)
            tasks.append({"task": name, "file": known.file, "splits": splits})
        hashed = SETTINGS | settings | {"tasks": tasks}
        place = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        run = ScriptRun(environment_python("harness"), "harness", hashed, inputs, place)
        return run.finish(warm_harness)

    return run


def by_the_harness(
    python: Path,
    models: Sequence[Path],
    rows: Mapping[str, Mapping[str, list[str]]],
    tasks: Sequence[str],
    cache: Path,
    num_fewshot: int | None,
    files: Sequence[str] = (),
) -> list[dict[str, dict[str, Any]]]:
    """`files`: of groups among the tasks."""
    known: list[Known] = [task for name in tasks for task in known_tasks(name)]
    given = {
        "rows": {f"{each.repository}|{each.config or ''}": rows[each.name] for each in known},
        "files": [*files, *(each.file for each in known)],
        "tasks": list(tasks),
        "models": list(map(str, models)),
        "num_fewshot": num_fewshot,
        "cache": str(cache),
    }
    argv = [str(python), "-c", BY_THE_HARNESS, json.dumps(given)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(argv, capture_output=True, check=False, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, dict[str, Any]]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("names", "num_fewshot", "metrics"),
    [
        (tuple(MADE), None, 10),
        (("arc_easy", "boolq", "mmlu_anatomy", "truthfulqa_mc2", "winogrande"), 3, 6),
    ],
    ids=["with the tasks' own number of examples", "with three examples"],
)
def test_every_score_is_the_one_of_the_harness_itself(
    names: tuple[str, ...],
    num_fewshot: int | None,
    metrics: int,
    measured: Callable[..., Finished],
    environment_python: Callable[[str], Path],
    models: tuple[Path, Path],
    rows: dict[str, dict[str, list[str]]],
    tmp_path: Path,
) -> None:
    """Choices, answers, metrics in Python, two prompts a row, examples in order and drawn."""
    result = measured(*names, num_fewshot=num_fewshot)
    assert result.status == 0, result.log
    summary = result.measures()["tasks"]
    assert len(summary) == metrics
    assert {each["count"] for each in summary.values()} == {6}
    python = environment_python("harness")
    theirs = by_the_harness(python, models, rows, names, tmp_path / "cache", num_fewshot)
    for side, found in zip(("base", "tuned"), theirs, strict=True):
        for key, each in summary.items():
            name, _, metric = key.partition("/")
            metric = metric if "," in metric else f"{metric},none"
            assert each[side]["value"] == pytest.approx(found[name][metric], abs=1e-9), key


def test_a_group_as_a_whole_is_what_the_harness_itself_says(
    measured: Callable[..., Finished],
    environment_python: Callable[[str], Path],
    models: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    """Tasks of unlike size; one group weighs them by their rows, the other does not."""
    given, wanted = {}, {}
    for group, make in (("wmdp", mmlu), ("bhs_hindi", bhs)):
        for number, known in enumerate(known_tasks(group)):
            path = str(tmp_path / f"{known.name}.parquet")
            given[known.name] = {known.asked: [path]}
            wanted[path] = [make(7 * number + row) for row in range(2 + 3 * number)]
    write_parquet(environment_python("harness"), wanted, tmp_path)
    groups = [
        {"group": name, "tasks": list(catalogue().leaves(name)), "metrics": metrics}
        for name in ("wmdp", "bhs_hindi")
        if (metrics := catalogue().figures[name])
    ]
    result = measured(*given, rows=given, groups=groups)
    assert result.status == 0, result.log
    python = environment_python("harness")
    files = ["wmdp/_wmdp.yaml", "bhs/bhs_hindi.yaml"]
    names = ["wmdp", "bhs_hindi"]
    theirs = by_the_harness(python, models, given, names, tmp_path / "cache", None, files)
    ours = result.measures()["groups"]
    assert sorted(ours) == ["bhs_hindi/acc", "wmdp/acc"]
    plain = result.measures()["tasks"]
    for group in names:
        known = [plain[f"{task}/acc"] for task in catalogue().leaves(group)]
        found = ours[f"{group}/acc"]
        assert found["count"] == sum(each["count"] for each in known)
        for side, of_them in zip(("base", "tuned"), theirs, strict=True):
            assert found[side]["value"] == pytest.approx(of_them[group]["acc,none"], abs=1e-9)
        assert found["base"]["low"] <= found["base"]["value"] <= found["base"]["high"]
    sizes = [plain[f"{task}/acc"] for task in catalogue().leaves("bhs_hindi")]
    by_rows = sum(each["base"]["value"] * each["count"] for each in sizes) / sum(
        each["count"] for each in sizes
    )
    assert ours["bhs_hindi/acc"]["base"]["value"] != pytest.approx(by_rows, abs=1e-6), (
        "rows that weigh the same either way prove little"
    )
    written = json.loads(result.files()["results.json"])
    assert written["groups"] == ours
    head = json.loads(result.files()["examples.jsonl"].splitlines()[0])
    assert head["groups"] == groups


def bhs(number: int) -> dict[str, Any]:
    """A model of chance takes the shorter ending, which is the good one of every third row."""
    good = "up" if number % 3 == 0 else f"sings as well as the other {number}"
    return {"context": f"she {number}", "ending_good": good, "ending_bad": "sing it now"}


def test_rows_that_do_not_fit_and_damaged_ones_are_told_of(
    measured: Callable[..., Finished],
    rows: dict[str, dict[str, list[str]]],
    tmp_path: Path,
) -> None:
    other = measured("boolq", given={"validation": rows["gsm8k"]["test"]})
    assert (other.status, other.error()["code"]) == (1, "E925"), other.log
    assert re.search(
        r'task boolq does not fit its rows: doc_to_\w+ wants "passage": row 1 of '
        r"\S+( \(boolq\))?, split validation; its rows have answer, question$",
        other.error()["message"],
    )
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(Path(rows["boolq"]["validation"][0]).read_bytes()[:200])
    broken = measured("boolq", given={"validation": [str(damaged)]})
    assert (broken.status, broken.error()["code"]) == (1, "E924"), broken.log


def test_labels_that_are_kept_secret_are_no_measure_and_a_bad_one_is_the_harnesss_own(
    measured: Callable[..., Finished], tmp_path: Path
) -> None:
    """As in the test sets of some benchmarks, whose labels are all -1."""

    def rows(*labels: int) -> dict[str, list[str]]:
        path = tmp_path / f"rows-{len(list(tmp_path.iterdir()))}.jsonl"
        many = [boolq(number) | {"label": label} for number, label in enumerate(labels)]
        path.write_text("".join(json.dumps(row) + "\n" for row in many))
        return {"validation": [str(path)]}

    secret = measured("boolq", given=rows(-1, -1, -1))
    assert (secret.status, secret.error()["code"]) == (1, "E925"), secret.log
    words = "the right answer is -1, which is none of the 2 choices: row 1 (and 2 more) of"
    assert words in secret.error()["message"]
    one = measured("boolq", given=rows(1, 0, 5))
    assert one.status == 0, one.log
    assert one.measures()["tasks"]["boolq/acc"]["count"] == 3


def test_rows_may_be_json_lines(measured: Callable[..., Finished], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(boolq(number)) + "\n" for number in range(4)))
    result = measured("boolq", given={"validation": [str(path)]}, limit=3)
    assert result.status == 0, result.log
    assert result.measures()["tasks"]["boolq/acc"]["count"] == 3


LISTED = """
import json, sys
from lm_eval.tasks import TaskManager, _index
from lm_eval.tasks._yaml_loader import load_yaml
from runner.scripts import list_harness_tasks
from runner.scripts.evaluation import harness_tasks

found = {}
for name, file in json.loads(sys.argv[1]).items():
    path = harness_tasks.FOLDER / file
    config = load_yaml(path, resolve_func=False)
    shelf, own = list_harness_tasks.place_of(name, config, path)
    found[name] = [config["task"], harness_tasks.unfit(config), shelf, own]
groups = [path for path in harness_tasks.FOLDER.rglob("*.yaml")
          if b"\\ngroup:" in b"\\n" + path.read_bytes()]
_index.TaskIndex._iter_yaml_files = staticmethod(lambda root: sorted(groups))
figures = {name: list_harness_tasks.figures_of(entry.cfg or {})
           for name, entry in TaskManager().task_index.items() if entry.kind is _index.Kind.GROUP}
print(json.dumps([list_harness_tasks.sources_digest(), found, figures]))
"""


def test_the_list_of_tasks_says_what_the_installed_package_says(
    environment_python: Callable[[str], Path],
) -> None:
    """The very files that the list was made from, every group, every hundredth of the tasks."""
    some = list(catalogue().tasks.values())[::100]
    files = {each.name: each.file for each in some}
    argv = [str(environment_python("harness")), "-c", LISTED, json.dumps(files)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, capture_output=True, check=True, text=True, env=env)
    digest, found, figures = json.loads(done.stdout.splitlines()[-1])
    listed = json.loads((ROOT / "environments" / FILE).read_bytes())
    assert digest == listed["sources"], "make the list anew: python -m tests.harness_list"
    assert {
        name: given for name, given in figures.items() if given and name in listed["groups"]
    } == listed["figures"]
    assert len(found) > 100
    for each in some:
        name, unfit, shelf, own = found[each.name]
        assert (name, unfit) == (each.name, "")
        folder, data, asked, examples, shots = shelf
        config, file = own if isinstance(own, list) else (own, f"{name}.yaml")
        assert Known(name, f"{folder}/{file}", data, config, asked, examples, shots) == each
