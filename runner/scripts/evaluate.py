"""Held-out loss, and greedy answers of base and tuned model to the same questions.

spec.hashed: loss, samples, max_new_tokens, questions (name of the file, or null), trained
("adapter" or "model"), system, dtype, attn_implementation; metrics and forgetting where they are
true. spec.inputs: model (folder of `fetch`), trained (folder of `train`), tokens, prompts and
template (of `prepare`), questions. Writes `answers.jsonl` (one line a question, in order),
`evaluation.json` (the measures) and, with metrics or forgetting, `examples.jsonl`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from runner.scripts.data.questions import Question, score
from runner.scripts.evaluation.asked import Asked, answer_examples, asked_of, special_ids
from runner.scripts.evaluation.batches import in_batches
from runner.scripts.evaluation.examples import FILE, Example, write_examples
from runner.scripts.evaluation.form import Reply
from runner.scripts.evaluation.held_out import RowLoss, row_examples
from runner.scripts.evaluation.measures import summary_of
from runner.scripts.evaluation.neutral import NeutralTexts
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.training.base_model import read_model
from runner.scripts.training.token_rows import IGNORED, Row, read_token_rows
from runner.scripts.training.torch_setup import (
    SHORTER_QUESTIONS,
    check_still_set_up,
    peak_memory,
    set_up_torch,
    told_of_gpu,
)


class Progress:
    """One count over both models and all kinds of work."""

    def __init__(self, events: Events, total: int) -> None:
        self._events, self._total, self._done = events, total, 0

    def add(self, count: int, message: str) -> None:
        """`count` more rows or questions are done."""
        self._done += count
        self._events.progress(self._done, self._total, message=message)


class Answering:
    """Everything that both models are asked, and what they said: questions, samples, and with
    `forgetting` the general prompts and neutral texts."""

    def __init__(self, spec: Spec, tokenizer: Any, good: Sequence[Row]) -> None:
        self._spec, self._tokenizer = spec, tokenizer
        template = spec.inputs["template"].read_text(encoding="utf-8")
        self.asked, self.general = asked_of(spec, tokenizer, template, good)
        forgetting = spec.hashed.get("forgetting")
        self._neutral = NeutralTexts(tokenizer, spec.scratch) if forgetting else None
        self._replies: dict[str, list[Reply]] = {}
        self._general_replies: dict[str, list[Reply]] = {}

    @property
    def total(self) -> int:
        """Questions and passages for one model."""
        passages = len(self._neutral.texts) if self._neutral else 0
        return len(self.asked) + len(self.general) + passages

    def ask(self, model: Any, name: str, device: torch.device, progress: Progress) -> None:
        """Everything, of one model."""
        limit = self._spec.hashed["max_new_tokens"]
        for asked, replies in ((self.asked, self._replies), (self.general, self._general_replies)):
            questions = [each.question for each in asked]
            replies[name] = []
            if questions:  # a reward model cannot be asked any
                replies[name] = answer(
                    model, self._tokenizer, questions, limit, name, device, progress
                )
        if self._neutral:
            self._neutral.measure(
                model, name, device, lambda: progress.add(1, f"neutral text, {name}")
            )

    def write(self) -> dict[str, Any]:
        """Write answers.jsonl. Measures of the questions."""
        texts = {name: [each.text for each in said] for name, said in self._replies.items()}
        write_answers(self._spec.folder / "answers.jsonl", self.asked, texts)
        questions = [each.question for each in self.asked if each.kind == "question"]
        scores = {f"score_{name}": score(questions, said) for name, said in texts.items()}
        return {"questions": len(questions), **(scores if questions else {})}

    def write_examples(self, others: Sequence[Example]) -> dict[str, Any]:
        """Write examples.jsonl, where it is asked for, with `others` in it. Measures of all."""
        settings = self._spec.hashed
        if not (settings.get("metrics") or settings.get("forgetting")):
            return {}
        special = special_ids(self._tokenizer)
        examples = [
            *others,
            *answer_examples(self.asked, self._replies, settings, special),
            *answer_examples(self.general, self._general_replies, settings, special),
            *(self._neutral.examples() if self._neutral else ()),
        ]
        write_examples(self._spec.folder / FILE, settings["max_new_tokens"], examples)
        return {"examples": summary_of(examples)}


def evaluate(spec: Spec, events: Events) -> None:
    """Ask the base, then the tuned model, and write what they said."""
    device = set_up_torch()
    settings = spec.hashed
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    wanted = settings["loss"] or settings.get("metrics")
    held_out = list(read_token_rows(spec.inputs["tokens"]).rows) if wanted else []
    rows = held_out if settings["loss"] else []
    answering = Answering(spec, tokenizer, held_out)
    progress = Progress(events, 2 * (len(rows) + answering.total))

    losses: dict[str, list[RowLoss]] = {}
    model = load_model(spec.inputs["model"], settings, device)
    for name in ("base", "tuned"):
        if rows:
            losses[name] = row_losses(model, rows, name, device, progress)
        answering.ask(model, name, device, progress)
        if name == "base":
            model = tuned_model(model, spec, device)

    check_still_set_up()
    measures = loss_measures(losses) | {"validation_rows": len(rows)} | answering.write()
    measures |= answering.write_examples(row_examples(rows, losses, tokenizer))
    write_measures(spec, events, measures, device)


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


def tuned_model(
    base: Any,
    spec: Spec,
    device: torch.device,
    family: Any = AutoModelForCausalLM,
    **changes: Any,
) -> Any:
    """The model that was trained from `base`, which is used up. `changes`: as of `load_model`.

    An adapter is laid on the base, which is read where it is None. Of a model of its own, there is
    room for one at a time: the base gives its memory back, whoever still holds it.
    """
    if spec.hashed["trained"] == "adapter":
        if base is None:
            base = load_model(spec.inputs["model"], spec.hashed, device, family, **changes)
        return PeftModel.from_pretrained(base, spec.inputs["trained"]).eval()
    if base is not None:
        base.to("meta")
    return load_model(spec.inputs["trained"], spec.hashed, device, family, **changes)


@torch.inference_mode()
def row_losses(
    model: Any, rows: Sequence[Row], name: str, device: torch.device, progress: Progress
) -> list[RowLoss]:
    """Negative log-likelihood of each row's supervised tokens, summed, and their number.

    Logits in the model's dtype, the rest in float32, the sum in float64. Raises ScriptError E522.
    """
    found: list[RowLoss] = []
    for row in rows:
        ids = torch.from_numpy(row.input_ids)[None].to(device)
        labels = torch.from_numpy(row.labels)[1:].to(device)
        logits = model(ids, use_cache=False).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="none"
        )
        found.append((losses.double().sum().item(), int((labels != IGNORED).sum())))
        progress.add(1, f"held-out loss, {name}")
    if not all(math.isfinite(total) for total, _ in found):
        raise ScriptError(
            f"the {name} model's held-out loss is not a number",
            hint="lower train.learning_rate, or set model.dtype to float32",
            code="E522",
        )
    return found


@torch.inference_mode()
def answer(
    model: Any,
    tokenizer: Any,
    asked: list[Question],
    max_new_tokens: int,
    name: str,
    device: torch.device,
    progress: Progress,
) -> list[Reply]:
    """Greedy answers, a batch at once, prompts padded on the left."""
    replies: list[Reply] = []
    ends = end_ids(model, tokenizer)
    for prompts in in_batches([question.ids for question in asked]):
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
        replies += [until_end(tokenizer, line, ends) for line in output[:, length:].tolist()]
        progress.add(len(prompts), f"answers, {name}")
    return replies


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the model's own list, else the tokenizer's."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    return list(ends) if isinstance(ends, list) else [ends]


def until_end(tokenizer: Any, ids: list[int], ends: list[int]) -> Reply:
    """What stands before the first end token."""
    stop = next((index for index, token in enumerate(ids) if token in ends), len(ids))
    text = str(tokenizer.decode(ids[:stop], skip_special_tokens=True)).strip()
    return Reply(text, tuple(ids[:stop]), ended=stop < len(ids))


def loss_measures(losses: Mapping[str, Sequence[RowLoss]]) -> dict[str, Any]:
    """The mean over the tokens of all rows together. A perplexity too large for a float is null."""
    found: dict[str, Any] = {}
    for name, rows in losses.items():
        total, tokens = 0.0, 0
        for each, count in rows:  # not `sum`, which rounds otherwise from Python 3.12 on
            total, tokens = total + each, tokens + count
        loss = total / tokens
        found[f"loss_{name}"] = loss
        found[f"perplexity_{name}"] = math.exp(loss) if loss < 700 else None
    return found


def write_answers(path: Path, asked: Sequence[Asked], answers: Mapping[str, Sequence[str]]) -> None:
    """One JSON line a question: question, expect (where there is one), base, tuned."""
    lines = []
    for index, each in enumerate(asked):
        line: dict[str, Any] = {"question": each.question.text}
        if each.question.expect:
            line["expect"] = list(each.question.expect)
        line |= {name: texts[index] for name, texts in answers.items()}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    path.write_bytes("".join(lines).encode())


def write_measures(
    spec: Spec, events: Events, measures: dict[str, Any], device: torch.device
) -> None:
    """evaluation.json, and the same with the memory as measures of the run."""
    text = json.dumps(measures, indent=2, sort_keys=True, allow_nan=False)
    (spec.folder / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    events.measure(**measures, peak_memory=peak_memory(device))


if __name__ == "__main__":
    main(told_of_gpu(evaluate, SHORTER_QUESTIONS))
