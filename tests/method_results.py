"""Train each method's shipped recipe and its control, and write down how far both moved.

usage: python -m tests.method_results [METHOD ...]    train, and write the record and the page
       python -m tests.method_results --page          write the page from the record

The control of a recipe is the same recipe with the same held-out rows, but nothing to learn in its
training rows: what was called better and worse is exchanged in half of the pairs, labels and right
answers are dealt out anew, words are shuffled, each at random with a fixed seed.
docs/course/10.5/results.json is the record: no clock, and the digests of the files that the numbers
came from. SPARK_RECIPES_STORE keeps what was trained: a second call trains what has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.report.markdown import table
from runner.scripts.data.conversation import Conversation, message
from runner.scripts.data.dividing.split import held_out
from runner.scripts.evaluation.intervals import estimate
from runner.store.atomic import write_atomic
from tests.chain import ROOT, Checkout, copy_checkout
from tests.method_curves import curves
from tests.method_scores import judged

RECORD = ROOT / "docs" / "course" / "10.5" / "results.json"
PICTURE = RECORD.with_name("curves.svg")
PAGE = ROOT / "docs" / "course" / "10.5-results.md"
PICTURE_LINK = "10.5/curves.svg"
BEGIN = "<!-- from here on by python -m tests.method_results -->"
END = "<!-- by hand again -->"
COURSE, DATA = "recipes/course", "recipes/data"
SEED = 42  # of the recipes, by which rows are held out
FRACTION = 0.25  # of most recipes
EXCHANGED = 7  # seed of the controls
OTHER_SEED = 7  # of a control's reward model
POINTS = 6  # of a curve in the page
HELD_OUT = "prepared/validation.tokens.safetensors"

Row = dict[str, Any]
Change = Callable[[list[Row], random.Random], list[Row]]


# --- controls


def exchange_sides(rows: list[Row], dice: random.Random) -> list[Row]:
    """The sides of half of the pairs, exchanged."""
    chosen = {*dice.sample(range(len(rows)), len(rows) // 2)}
    return [
        {"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]}
        if number in chosen
        else row
        for number, row in enumerate(rows)
    ]


def deal_labels(rows: list[Row], dice: random.Random) -> list[Row]:
    """The same answers and as many good ones, but which of them are good is chance."""
    labels = [row["label"] for row in rows]
    dice.shuffle(labels)
    return [row | {"label": label} for row, label in zip(rows, labels, strict=True)]


def deal_answers(rows: list[Row], dice: random.Random) -> list[Row]:
    """The same questions and right answers, but which belongs to which is chance."""
    answers = [row["answer"] for row in rows]
    dice.shuffle(answers)
    return [row | {"answer": answer} for row, answer in zip(rows, answers, strict=True)]


def shuffle_words(rows: list[Row], dice: random.Random) -> list[Row]:
    """The same words in each text, in any order."""
    made = []
    for row in rows:
        words = row["text"].split()
        dice.shuffle(words)
        made.append({"text": " ".join(words)})
    return made


@dataclass(frozen=True)
class Method:
    """A recipe that works: what it optimises, measured on held-out rows.

    `neutral`: the measure's value where nothing was learned. `traced`: what its curve is of.
    """

    name: str  # of the recipe
    data: str  # file in recipes/data
    format: str
    change: Change  # what makes a control of its training rows
    measure: str
    words: str
    neutral: float
    traced: str = "rewards/margins"
    lower: bool = False  # is a lower value better?
    fraction: float = FRACTION  # of the rows that is held out
    scorer: str = ""  # of PPO: the recipe of its reward model, whose rows the control changes
    start: tuple[str, ...] = ()  # recipe of the model that it starts from, and that one's rows

    @property
    def file(self) -> str:
        return f"{COURSE}/10.5-{self.name}.yaml"


_GROWTH = ("preference_margin_change", "growth of the margin, nats")
_GROWTH_MEAN = ("preference_margin_change", "growth of the margin, nats a token")
_PAIRS = ("committed-answers.jsonl", "preference", exchange_sides)
METHODS = {
    method.name: method
    for method in (
        Method("dpo", *_PAIRS, *_GROWTH, neutral=0.0),
        Method("orpo", *_PAIRS, *_GROWTH_MEAN, neutral=0.0),
        Method("simpo", *_PAIRS, *_GROWTH_MEAN, neutral=0.0),
        Method("kto", "judged-answers.jsonl", "kto", deal_labels, *_GROWTH, neutral=0.0),
        Method(
            "reward",
            *_PAIRS,
            "preference_accuracy_tuned",
            "better answer has the higher score",
            neutral=0.5,
        ),
        Method(
            "pretraining",
            "glossary.jsonl",
            "text",
            shuffle_words,
            "loss_change",
            "change of the loss, nats a token",
            neutral=0.0,
            traced="loss",
            lower=True,
        ),
        Method(
            *("grpo", "small-sums.jsonl", "prompt", deal_answers),
            *("reward_change", "growth of the reward"),
            neutral=0.0,
            traced="reward",
            fraction=0.5,
        ),
        Method(
            *("ppo", "spark-faq.jsonl", "alpaca", exchange_sides),
            *("reward_change", "growth of the reward model's score"),
            neutral=0.0,
            traced="objective/scores",
            scorer="reward",
            start=(f"{COURSE}/10.5-ppo-sft.yaml", f"{DATA}/judged-answers.jsonl"),
        ),
    )
}


def prompt_digest(row: Row) -> str:
    """What rows are held out by: the digest of a text, or of the question of an answer."""
    if "text" in row:
        return Conversation(text=row["text"]).digest()
    return Conversation(messages=(message("user", row["prompt"]),)).digest()


def divided(rows: Sequence[Row], fraction: float = FRACTION) -> tuple[list[Row], list[Row]]:
    """(to train on, held out) as the recipes divide them."""
    sides = held_out([prompt_digest(row) for row in rows], fraction, SEED)
    kept = [row for row, out in zip(rows, sides, strict=True) if not out]
    return kept, [row for row, out in zip(rows, sides, strict=True) if out]


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_control(method: Method, project: Path, **more: Any) -> str:
    """Write the control's recipe and rows into `project`; the recipe's path there.

    `more`: what else its recipe says. A control's reward model has a seed of its own: two that
    begin with the same random head share what that one likes, and the control would learn it too.
    """
    name = f"{method.name}-control"
    if method.scorer:
        scorer = write_control(METHODS[method.scorer], project, seed=OTHER_SEED)
        changed = {"reward": {"recipe": Path(scorer).name}}
        return write_recipe(method, project, changed)
    train, validation = divided(read_rows(project / DATA / method.data), method.fraction)
    train = method.change(train, random.Random(EXCHANGED))
    files = {}
    for part, rows in (("train", train), ("held-out", validation)):
        files[part] = {"path": f"../data/{name}-{part}.jsonl", "format": method.format}
        write_rows(project / DATA / f"{name}-{part}.jsonl", rows)
    held_out = {"fraction": None, "files": [files["held-out"]]}
    changed = {"data": {"train": [files["train"]], "validation": held_out}, **more}
    return write_recipe(method, project, changed)


def write_recipe(method: Method, project: Path, changed: dict[str, Any]) -> str:
    """Write the recipe of the control, which `changed` is not what the method's own has."""
    name = f"{method.name}-control"
    recipe = {"extends": f"10.5-{method.name}.yaml", "name": name, **changed}
    file = f"{COURSE}/{name}.yaml"
    (project / file).write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    return file


# --- runs


def train(checkout: Checkout, file: str, name: str) -> Path:
    """Run the recipe until its evaluation; the run's folder. Raises RuntimeError."""
    done = checkout.recipe("run", file, "--until", "evaluate")
    if done.returncode:
        raise RuntimeError(f"{file} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return (checkout.folder / "runs" / name / "latest").resolve()


def measured(method: Method, run: Path, found: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a run says: the measure with its 95% interval, held-out rows, and the curve by step.

    `found`: its measures, where another evaluation than its own is asked.
    """
    if found is None:
        record = json.loads((run / "run.json").read_text())
        stages = {each["name"]: each for each in record["stages"]}
        found = stages["evaluate"]["measures"]
    if method.measure == "loss_change":
        found = {**found} | loss_change(run / "evaluation" / "examples.jsonl")
    trace = [json.loads(line) for line in (run / "trace.jsonl").read_text().splitlines()]
    return {
        "value": rounded(found[method.measure]),
        "low": rounded(found[f"{method.measure}_low"]),
        "high": rounded(found[f"{method.measure}_high"]),
        "held_out": found.get("pairs", found["validation_rows"]),
        "curve": [
            [point["step"], rounded(point[method.traced])]
            for point in trace
            if point.get(method.traced) is not None
        ],
    }


def loss_change(examples: Path) -> dict[str, float]:
    """By how much the loss of a held-out token has changed, texts drawn again for its interval."""
    lines = [json.loads(line) for line in examples.read_text(encoding="utf-8").splitlines()[1:]]
    rows = [line for line in lines if line["kind"] == "row"]
    changes = [row["tuned"]["loss"] - row["base"]["loss"] for row in rows]
    found = estimate(changes, [row["tokens"] for row in rows])
    assert found.low is not None
    assert found.high is not None
    return {
        "loss_change": found.value,
        "loss_change_low": found.low,
        "loss_change_high": found.high,
    }


def rounded(number: float) -> float:
    """Four digits after the point: more say nothing of held-out rows."""
    return round(float(number), 4)


def results_of(method: Method, checkout: Checkout) -> dict[str, Any]:
    """Train the recipe and its control, one after the other, and compare what they were asked."""
    run = train(checkout, method.file, method.name)
    control = train(checkout, write_control(method, checkout.folder), f"{method.name}-control")
    if (run / HELD_OUT).read_bytes() != (control / HELD_OUT).read_bytes():
        raise RuntimeError(f"{method.name}: recipe and control were measured on other rows")
    found = judged(control, run, checkout) if method.scorer else None
    return {
        "recipe": measured(method, run),
        "control": measured(method, control, found),
        "platform": json.loads((run / "run.json").read_text())["platform"],
        "sources": sources(method),
    }


def sources(method: Method, root: Path = ROOT) -> dict[str, str]:
    """File -> sha256 of what decides the numbers, as far as it is ours to change."""
    names = [method.file, f"{DATA}/{method.data}", *method.start]
    if method.scorer:
        scorer = METHODS[method.scorer]
        names += [scorer.file, f"{DATA}/{scorer.data}"]
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names}


# --- the record and the page


def read_record() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def write_record(record: Mapping[str, Mapping[str, Any]]) -> None:
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"  {json.dumps(name)}: {json.dumps(record[name])}" for name in METHODS if name in record
    ]
    write_atomic(RECORD, "{\n" + ",\n".join(lines) + "\n}\n")


def tables(record: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of what the page has between BEGIN and END."""
    lines = ["", *results_table(record), "", f"![curves of all recipes]({PICTURE_LINK})"]
    for name, found in record.items():
        lines += ["", *curve_table(METHODS[name], found)]
    return [*lines, ""]


def results_table(record: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = []
    for name, found in record.items():
        method = METHODS[name]
        recipe, control = found["recipe"], found["control"]
        rows.append(
            (
                f"[{name}](../../{method.file})",
                f"{method.words} ({shown(method, method.neutral)} if nothing is learned)",
                str(recipe["held_out"]),
                *(with_interval(method, each) for each in (recipe, control)),
            )
        )
    return table(("recipe", "measure", "held out", "recipe", "control"), rows)


def with_interval(method: Method, found: Mapping[str, Any]) -> str:
    value, low, high = (shown(method, found[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def shown(method: Method, number: float) -> str:
    if method.neutral == 0.5:  # a part of the pairs
        return f"{number:.0%}"
    return f"{number:+.2f}" if number else "0"


def curve_table(method: Method, found: Mapping[str, Any]) -> list[str]:
    """Means over as many steps each: single ones are of two pairs, and jump."""
    steps = curve_points(found["recipe"]["curve"])
    heads = [f"{first} to {last}" for first, last, _ in steps]
    rows = [
        (which, *(f"{mean:.3f}" for _, _, mean in curve_points(found[which]["curve"])))
        for which in ("recipe", "control")
    ]
    return table((f"{method.name}: {method.traced}, steps", *heads), rows)


def curve_points(curve: Sequence[Sequence[float]]) -> list[tuple[int, int, float]]:
    """(first step, last step, mean) of POINTS parts of the training."""
    last = int(curve[-1][0])
    found = []
    for part in range(POINTS):
        low, high = last * part // POINTS, last * (part + 1) // POINTS
        values = [value for step, value in curve if low < step <= high]
        found.append((low + 1, high, sum(values) / len(values)))
    return found


def write_page(record: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the tables into the page, in the place of those that are there, and draw the picture."""
    write_atomic(PICTURE, picture(record))
    write_atomic(PAGE, with_tables(PAGE.read_text(encoding="utf-8"), record))


def with_tables(page: str, record: Mapping[str, Mapping[str, Any]]) -> str:
    """`page` with what is between BEGIN and END written anew. Raises ValueError without them."""
    lines = page.split("\n")
    first, last = lines.index(BEGIN), lines.index(END)
    return "\n".join([*lines[: first + 1], *tables(record), *lines[last:]])


def picture(record: Mapping[str, Mapping[str, Any]]) -> str:
    panels = [
        (f"{name}: {METHODS[name].traced}", found["recipe"]["curve"], found["control"]["curve"])
        for name, found in record.items()
    ]
    return curves(panels)


def main(arguments: list[str]) -> int:
    """Train what is asked for, all methods if nothing is."""
    record = read_record() if RECORD.exists() else {}
    if arguments != ["--page"]:
        with tempfile.TemporaryDirectory() as place:
            store = Path(os.environ.get("SPARK_RECIPES_STORE") or Path(place) / "store")
            cache = Path(
                os.environ.get("SPARK_RECIPES_CACHE") or Path.home() / ".cache" / "spark-recipes"
            )
            checkout = copy_checkout(
                Path(place) / "checkout", cache=cache, store=store, home=Path(place) / "home"
            )
            for name in arguments or METHODS:
                record[name] = results_of(METHODS[name], checkout)
                write_record(record)
                print(*results_table({name: record[name]})[2:], flush=True)
    write_page({name: record[name] for name in METHODS if name in record})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
