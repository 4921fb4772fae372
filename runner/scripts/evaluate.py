"""Held-out loss, and greedy answers of base and tuned model to the same questions.

spec.hashed: loss, samples, max_new_tokens, questions (name of the file, or null), trained
("adapter" or "model"), system, dtype, attn_implementation. spec.inputs: model (folder of `fetch`),
trained (folder of `train`), tokens, prompts and template (of `prepare`), questions.
Writes `answers.jsonl` (one line a question, in order) and `evaluation.json` (the measures).
"""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from runner.scripts.data.questions import Question, questions_of, samples_of, score
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.training.base_model import read_model
from runner.scripts.training.token_rows import IGNORED, Row, read_token_rows
from runner.scripts.training.torch_setup import check_still_set_up, peak_memory, set_up_torch

BATCH = 16  # questions answered at once; part of what decides an answer's last bits


class Progress:
    """One count over both models and both kinds of work."""

    def __init__(self, events: Events, total: int) -> None:
        self._events, self._total, self._done = events, total, 0

    def add(self, count: int, message: str) -> None:
        """`count` more rows or questions are done."""
        self._done += count
        self._events.progress(self._done, self._total, message=message)


def evaluate(spec: Spec, events: Events) -> None:
    """Ask the base, then the tuned model, and write what they said."""
    device = set_up_torch()
    settings = spec.hashed
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    template = spec.inputs["template"].read_text(encoding="utf-8")
    rows = list(read_token_rows(spec.inputs["tokens"]).rows) if settings["loss"] else []
    questions = []
    if settings["questions"] is not None:
        questions = questions_of(
            spec.inputs["questions"],
            settings["questions"],
            lambda messages: prompt_ids(tokenizer, template, messages),
            settings["system"],
        )
    asked = [*questions, *samples_of(spec.inputs["prompts"], settings["samples"])]
    progress = Progress(events, 2 * (len(rows) + len(asked)))

    losses: dict[str, float] = {}
    answers: dict[str, list[str]] = {}
    model = load_model(spec.inputs["model"], settings, device)
    for name in ("base", "tuned"):
        if rows:
            losses[name] = mean_loss(model, rows, name, device, progress)
        answers[name] = answer(
            model, tokenizer, asked, settings["max_new_tokens"], name, device, progress
        )
        if name == "base" and settings["trained"] == "adapter":
            model = PeftModel.from_pretrained(model, spec.inputs["trained"]).eval()
        elif name == "base":
            del model  # room for the other one
            gc.collect()
            model = load_model(spec.inputs["trained"], settings, device)

    check_still_set_up()
    measures = summary(losses, questions, answers) | {"validation_rows": len(rows)}
    write_answers(spec.folder / "answers.jsonl", asked, answers)
    text = json.dumps(measures, indent=2, sort_keys=True, allow_nan=False)
    (spec.folder / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    events.measure(**measures, peak_memory=peak_memory(device))


def load_model(
    folder: Path,
    settings: dict[str, Any],
    device: torch.device,
    family: Any = AutoModelForCausalLM,
    **changes: Any,
) -> Any:
    """A model as it is trained, to be asked. `changes`: to its configuration."""
    model = read_model(folder, settings, device, family, **changes)
    if "quantization" in settings:  # it lies there already, and may not be moved
        return model.eval()
    return model.to(device).eval()


@torch.inference_mode()
def mean_loss(
    model: Any, rows: list[Row], name: str, device: torch.device, progress: Progress
) -> float:
    """Mean negative log-likelihood, in nats, of the supervised tokens of all rows together.

    Logits in the model's dtype, the rest in float32, the sum in float64. Raises ScriptError E522.
    """
    total, count = 0.0, 0
    for row in rows:
        ids = torch.from_numpy(row.input_ids)[None].to(device)
        labels = torch.from_numpy(row.labels)[1:].to(device)
        logits = model(ids, use_cache=False).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="none"
        )
        total += losses.double().sum().item()
        count += int((labels != IGNORED).sum())
        progress.add(1, f"held-out loss, {name}")
    if not math.isfinite(total):
        raise ScriptError(
            f"the {name} model's held-out loss is not a number",
            hint="lower train.learning_rate, or set model.dtype to float32",
            code="E522",
        )
    return total / count


@torch.inference_mode()
def answer(
    model: Any,
    tokenizer: Any,
    asked: list[Question],
    max_new_tokens: int,
    name: str,
    device: torch.device,
    progress: Progress,
) -> list[str]:
    """Greedy answers, BATCH at once, prompts padded on the left."""
    texts: list[str] = []
    ends = end_ids(model, tokenizer)
    for first in range(0, len(asked), BATCH):
        prompts = [question.ids for question in asked[first : first + BATCH]]
        length = max(len(ids) for ids in prompts)
        pads = [length - len(ids) for ids in prompts]
        padded = [
            [tokenizer.pad_token_id] * pad + ids for pad, ids in zip(pads, prompts, strict=True)
        ]
        seen = [[0] * pad + [1] * (length - pad) for pad in pads]
        output = model.generate(
            input_ids=torch.tensor(padded, device=device),
            attention_mask=torch.tensor(seen, device=device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts += [until_end(tokenizer, line, ends) for line in output[:, length:].tolist()]
        progress.add(len(prompts), f"answers, {name}")
    return texts


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the model's own list, else the tokenizer's."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    return list(ends) if isinstance(ends, list) else [ends]


def until_end(tokenizer: Any, ids: list[int], ends: list[int]) -> str:
    """The text before the first end token."""
    stop = next((index for index, token in enumerate(ids) if token in ends), len(ids))
    return str(tokenizer.decode(ids[:stop], skip_special_tokens=True)).strip()


def prompt_ids(tokenizer: Any, template: str, messages: list[dict[str, str]]) -> list[int]:
    """What the model sees, generation prompt included."""
    ids = tokenizer.apply_chat_template(
        messages,
        chat_template=template,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    return list(ids)


def summary(
    losses: dict[str, float], questions: list[Question], answers: dict[str, list[str]]
) -> dict[str, Any]:
    """The measures by name. A perplexity too large for a float is null."""
    found: dict[str, Any] = {"questions": len(questions)}
    for name, loss in losses.items():
        found[f"loss_{name}"] = loss
        found[f"perplexity_{name}"] = math.exp(loss) if loss < 700 else None
    if questions:
        for name, texts in answers.items():
            found[f"score_{name}"] = score(questions, texts)
    return found


def write_answers(path: Path, asked: list[Question], answers: dict[str, list[str]]) -> None:
    """One JSON line a question: question, expect (where there is one), base, tuned."""
    lines = []
    for index, question in enumerate(asked):
        line: dict[str, Any] = {"question": question.text}
        if question.expect:
            line["expect"] = list(question.expect)
        line |= {name: texts[index] for name, texts in answers.items()}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    path.write_bytes("".join(lines).encode())


if __name__ == "__main__":
    main(evaluate)
