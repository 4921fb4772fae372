"""A crosscheck as a write-up: script and web UI side by side, grounded in one measured run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.report.crosscheck_text import (
    FIGURES,
    comparison_lines,
    figures,
    own_words,
    recipe_words,
    telling,
    verdict,
)
from runner.report.markdown import block, code, table

WORKFLOW = {
    "native": (
        "Write the recipe, `recipe validate`, `recipe run`. The recipe is a file: it is reviewed "
        "in a pull request, and the run can be repeated from it.",
        "Loss, gradient norm, speed and memory of every step, as a bar on the terminal and as "
        "JSON lines in `events.jsonl`; `trace.jsonl` also has a digest of the weights.",
    ),
    "llamafactory": (
        "The same recipe with `--backend llamafactory`. It becomes a LLaMA Factory configuration; "
        "what LLaMA Factory would ignore is an error before anything runs.",
        "The same as with the TRL script.",
    ),
    "cli": (
        "A YAML file in LLaMA Factory's own terms, `llamafactory-cli train FILE`.",
        "A progress bar and a line of loss on the terminal, `trainer_log.jsonl`, and "
        "`training_loss.png` at the end. Losses are logged with four decimals.",
    ),
    "webui": (
        "Open LLaMA Board, choose model and data set, load or fill in the arguments, type what "
        "the form does not know (seed, optimiser, steps) into its extra arguments, press Start.",
        "A progress bar and a loss curve in the page, redrawn every two seconds, and the log "
        "below. They are gone when the page is closed; the training goes on.",
    ),
}
PROS = {
    "script": (
        "one file says everything that decides the result; a change to it can be reviewed",
        "typing mistakes and impossible combinations are errors with a line number, before the run",
        "the result is addressed by its inputs: asked for twice, it is trained once",
        "runs unattended, and goes on after an interruption",
    ),
    "gui": (
        "nothing to write: every setting that the form knows can be seen, with an explanation",
        "the loss curve is there while it trains",
        "good for trying settings, and for showing somebody what fine-tuning is",
        "the same engine also chats with the result, evaluates and exports it",
    ),
}
CONS = {
    "script": (
        "the names of the settings have to be known, or looked up",
        "no picture while it trains, but numbers",
    ),
    "gui": (
        "seed, optimiser, number of steps and weight decay are not in the form: without extra "
        "arguments a run cannot be repeated to the byte",
        "the form has defaults of its own (see above), which nobody chose and nobody reviews",
        "Start, pressed again on an output folder with a checkpoint, goes on from it and may train "
        "nothing, unless its extra arguments say `overwrite_output_dir`",
        "no log-in of its own: who reaches the port can start programs, so `recipe webui` keeps it "
        "on this machine",
    ),
}


def as_markdown(data: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The whole page. `pictures`: a screenshot's file name -> where the page finds it."""
    lines = [
        f"# {data['recipe']}: one recipe, {len(data['ways'])} ways to train it",
        "",
        f"**{verdict(data)}.** Measured on {code(data['platform'])} with "
        + ", ".join(code(way["name"]) for way in data["ways"])
        + ".",
        "",
        "## Measured",
        "",
        *table(
            ("way", "what it is", *FIGURES),
            [(code(way["name"]), way["title"], *figures(way)) for way in data["ways"]],
        ),
        "",
        "`in steps` is the time of the training loop alone; `with start-up` is from the start of "
        "the program to its last file, and for the web UI also that of the server and the browser.",
        *_curve(pictures),
        "",
        "## Equal?",
        "",
    ]
    for found in data["comparisons"]:
        lines += [*block(comparison_lines(found), most=12), ""]
    lines += [*_defaults(data), *_workflow(data, pictures), *_judgement(data)]
    return "\n".join(lines).rstrip() + "\n"


def _curve(pictures: Mapping[str, str]) -> list[str]:
    found = pictures.get("loss.svg")
    return ["", f"![loss by step, all ways]({found})"] if found else []


def _defaults(data: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            code(row["setting"]),
            code(recipe_words(row)),
            *(code(words) for words in own_words(row, data["columns"])),
        )
        for row in telling(data)
    ]
    return [
        "## What each would have done by itself",
        "",
        "All ways were given the recipe's values. Where a recipe, a script or a form is silent, "
        "the program's own default decides, and those differ; read from the installed programs:",
        "",
        *table(("setting", "all ways used", *data["columns"].values()), rows),
        "",
    ]


def _workflow(data: Mapping[str, Any], pictures: Mapping[str, str]) -> list[str]:
    lines = ["## Workflow and monitoring", ""]
    for way in data["ways"]:
        workflow, monitoring = WORKFLOW[way["name"]]
        lines += [f"**{way['title']}.** {workflow}", "", f"Monitoring: {monitoring}", ""]
        for picture in map(Path, way["screenshots"]):
            if picture.name in pictures:
                title = picture.stem.split("-", 1)[-1]
                lines += [f"![LLaMA Board: {title}]({pictures[picture.name]})", ""]
    return lines


def _judgement(data: Mapping[str, Any]) -> list[str]:
    kinds = {"script": "A script"}
    if any(way["name"] == "webui" for way in data["ways"]):
        kinds["gui"] = "The web UI"
    lines = ["## For and against", ""]
    for kind, title in kinds.items():
        lines += [f"{title}:", ""]
        lines += [f"- for: {words}" for words in PROS[kind]]
        lines += [f"- against: {words}" for words in CONS[kind]]
        lines.append("")
    return lines
