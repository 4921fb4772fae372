"""Held-out preferences: how often, and by how much, base and tuned model prefer the better answer.

As `evaluate`, with this in place of the held-out loss. spec.hashed: what `evaluate` has, `method`,
and `mean` (are scores means over an answer's tokens?). A score is the log-probability of an answer,
in nats, or what a reward model says. Every mean has a 95% interval, by resampling held-out rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from runner.scripts.evaluate import (
    Answering,
    Progress,
    load_model,
    tuned_model,
    write_measures,
)
from runner.scripts.evaluation.examples import Example, content_id
from runner.scripts.evaluation.held_out import row_examples, row_id, shown_of
from runner.scripts.evaluation.intervals import FEW, interval, with_interval
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.training.preferences.preference_losses import answer_logps
from runner.scripts.training.preferences.preference_rows import read_preferred
from runner.scripts.training.token_rows import IGNORED, Row, read_token_rows
from runner.scripts.training.torch_setup import (
    SHORTER_QUESTIONS,
    check_still_set_up,
    set_up_torch,
    told_of_gpu,
)

Scores = NDArray[np.float64]


def evaluate(spec: Spec, events: Events) -> None:
    """Score the held-out answers, ask the questions, and write what came out."""
    device = set_up_torch()
    settings = spec.hashed
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    data = read_token_rows(spec.inputs["tokens"])
    preferred = read_preferred(spec.inputs["tokens"], data)
    rows = list(data.rows) if settings["loss"] else []
    good = [row for row, is_good in zip(data.rows, preferred, strict=True) if is_good]
    answering = Answering(spec, tokenizer, good)
    models = ("tuned",) if settings["method"] == "reward" else ("base", "tuned")
    progress = Progress(events, len(models) * (len(rows) + answering.total))

    scores: dict[str, Scores] = {}
    model = None
    for name in models:
        model = next_model(model, name, spec, device)
        if settings["method"] == "reward":
            model.config.pad_token_id = tokenizer.pad_token_id
        if rows:
            scores[name] = score_rows(model, rows, settings, device, progress, name)
        answering.ask(model, name, device, progress)

    check_still_set_up()
    measures: dict[str, Any] = {"validation_rows": len(rows), **answering.write()}
    examples: list[Example] = []
    if rows:
        if settings["method"] == "kto":
            examples = judged_examples(rows, preferred, scores, settings, tokenizer)
            measures |= judged(scores, preferred)
        else:
            examples = pair_examples(rows, preferred, scores, settings, tokenizer)
            measures |= pairs(examples)
        if settings["method"] != "reward":
            examples += good_rows(rows, preferred, scores, settings["mean"], tokenizer)
    measures |= answering.write_examples(examples)
    write_measures(spec, events, measures, device)


def next_model(before: Any, name: str, spec: Spec, device: torch.device) -> Any:
    """The base, or the tuned model, for which the base's memory is used again or freed."""
    scores = spec.hashed["method"] == "reward"
    family = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    changes = {"num_labels": 1} if scores else {}
    if name == "base":
        return load_model(spec.inputs["model"], spec.hashed, device)
    return tuned_model(before, spec, device, family, **changes)


# --- scores


@torch.inference_mode()
def score_rows(
    model: Any,
    rows: list[Row],
    settings: dict[str, Any],
    device: torch.device,
    progress: Progress,
    name: str,
) -> Scores:
    """What the model gives each answer. Raises ScriptError E522 when that is no number."""
    found = []
    for row in rows:
        ids = torch.from_numpy(row.input_ids)[None].to(device)
        logits = model(ids, use_cache=False).logits.float()
        if settings["method"] == "reward":
            found.append(logits[0, 0].item())
        else:
            total, count = answer_logps(logits, torch.from_numpy(row.labels)[None].to(device))
            found.append((total / count if settings["mean"] else total).item())
        progress.add(1, f"held-out answers, {name}")
    if not all(map(math.isfinite, found)):
        raise ScriptError(
            f"the {name} model's score of a held-out answer is not a number",
            hint="lower train.learning_rate, or set model.dtype to float32",
            code="E522",
        )
    return np.array(found)


def pairs(examples: Sequence[Example]) -> dict[str, Any]:
    """Measures of pairs: `preference_accuracy`, the part whose better answer has the higher score;
    `preference_margin`, by how much; and what of both is new since the base.

    Drawn in the order of the examples' ids, so that `recipe compare` gives the same intervals.
    """
    in_order = sorted(examples, key=lambda each: each.id)
    margins = {
        name: np.array([each.results[name]["margin"] for each in in_order])
        for name in in_order[0].results
    }
    found: dict[str, Any] = {
        "pairs": len(margins["tuned"]),
        "few_pairs": len(margins["tuned"]) < FEW,
    }
    for name, each in margins.items():
        found |= with_interval(f"preference_accuracy_{name}", (each > 0).astype(float))
        found |= with_interval(f"preference_margin_{name}", each)
    if "base" in margins:
        before, after = margins["base"], margins["tuned"]
        found |= with_interval("preference_margin_change", after - before)
        change = (after > 0).astype(float) - (before > 0)
        found |= with_interval("preference_accuracy_change", change)
        found |= with_interval("reward_accuracy", (after > before).astype(float))
    return found


def judged(scores: dict[str, Scores], preferred: NDArray[np.bool_]) -> dict[str, Any]:
    """Measures of judged answers: how far good and bad ones have moved apart since the base."""
    moved = scores["tuned"] - scores["base"]
    good, bad = moved[preferred], moved[~preferred]
    found: dict[str, Any] = {"good_answers": len(good), "bad_answers": len(bad)}
    found["few_pairs"] = min(len(good), len(bad)) < FEW
    if len(good) and len(bad):
        found["preference_margin_change"] = float(good.mean() - bad.mean())
        low, high = None, None
        if len(good) > 1 and len(bad) > 1:
            low, high = interval(lambda draw: draw(good).mean() - draw(bad).mean())
        found["preference_margin_change_low"], found["preference_margin_change_high"] = low, high
    return found


# --- examples


def pair_examples(
    rows: Sequence[Row],
    preferred: NDArray[np.bool_],
    scores: Mapping[str, Scores],
    settings: Mapping[str, Any],
    tokenizer: Any,
) -> list[Example]:
    """One a pair. Margins of sums, of means and of a reward model's scores do not compare."""
    kind = "pair-mean" if settings["mean"] else "pair-sum"
    if settings["method"] == "reward":
        kind = "pair-reward"
    margins = {name: each[preferred] - each[~preferred] for name, each in scores.items()}
    sides = [np.flatnonzero(preferred), np.flatnonzero(~preferred)]
    found = []
    for number, (better, worse) in enumerate(zip(*sides, strict=True)):
        results = {
            name: {"margin": float(each[number]), "preferred": bool(each[number] > 0)}
            for name, each in margins.items()
        }
        shown = shown_of(rows[better], tokenizer)
        shown["rejected"] = shown_of(rows[worse], tokenizer)["expected"]
        key = content_id([row_id(rows[better]), row_id(rows[worse])])
        found.append(Example(kind, key, shown, results))
    return found


def good_rows(
    rows: Sequence[Row],
    preferred: NDArray[np.bool_],
    scores: Mapping[str, Scores],
    mean: bool,
    tokenizer: Any,
) -> list[Example]:
    """The better answers as held-out rows, with the loss that their log-probability is."""
    good = [rows[number] for number in np.flatnonzero(preferred)]
    counts = [int((row.labels[1:] != IGNORED).sum()) for row in good]
    losses = {
        name: [
            (-float(score) * (count if mean else 1), count)
            for score, count in zip(each[preferred], counts, strict=True)
        ]
        for name, each in scores.items()
    }
    return row_examples(good, losses, tokenizer)


def judged_examples(
    rows: Sequence[Row],
    preferred: NDArray[np.bool_],
    scores: Mapping[str, Scores],
    settings: Mapping[str, Any],
    tokenizer: Any,
) -> list[Example]:
    """One a judged answer."""
    return [
        Example(
            "good-answer" if good else "bad-answer",
            row_id(row),
            shown_of(row, tokenizer),
            {name: {"logp": float(each[number])} for name, each in scores.items()},
        )
        for number, (row, good) in enumerate(zip(rows, preferred, strict=True))
    ]


if __name__ == "__main__":
    main(told_of_gpu(evaluate, SHORTER_QUESTIONS))
