"""Held-out loss and greedy answers, of the base and of the tuned model.

spec.hashed: loss, samples, max_new_tokens, system, dtype, attn_implementation. spec.inputs: base
(model folder); adapter or model (what was trained); tokens, prompts, references and template of
`prepare`; questions (optional: JSON lines of {"question", "expect"}).

Writes answers.jsonl, one line a question: kind, question, base, tuned, and either `expect` with
`base_right` and `tuned_right`, or `reference`. A question counts as right when every expected
string appears in the answer, whatever its case. Writes evaluation.json with the figures.

The loss is the mean negative log-likelihood over all supervised held-out tokens, so long answers
weigh more than short ones; perplexity is its exponential.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.token_rows import IGNORED, Row, read_token_rows
from runner.scripts.torch_setup import peak_memory, set_up_torch

BATCH = 8  # prompts answered at once


def evaluate(spec: Spec, events: Events) -> None:
    """Measure the base, then the tuned model, and write both files."""
    device = set_up_torch()
    tokenizer = AutoTokenizer.from_pretrained(spec.inputs["base"])
    tokenizer.chat_template = spec.inputs["template"].read_text(encoding="utf-8")
    asked = questions(spec, tokenizer) + samples(spec)
    rows = documents(spec) if spec.hashed["loss"] else []
    steps = 2 * (len(rows) + len(asked))

    figures: dict[str, Any] = {}
    done = 0
    for name in ("base", "tuned"):
        model = load_model(spec, name).to(device)
        model.eval()
        if rows:
            loss = held_out_loss(model, rows, device)
            figures |= {f"loss_{name}": loss, f"perplexity_{name}": math.exp(min(loss, 700.0))}
            done += len(rows)
            events.progress(done, steps, message=f"{name}: held-out loss {loss:.3f}")
        for begin in range(0, len(asked), BATCH):
            batch = asked[begin : begin + BATCH]
            ids = [question["ids"] for question in batch]
            texts = answer(model, tokenizer, ids, spec.hashed["max_new_tokens"], device)
            for question, text in zip(batch, texts, strict=True):
                question[name] = text
            done += len(batch)
            events.progress(done, steps, message=f"{name}: answers")
        del model

    figures |= score(asked)
    figures["held_out_tokens"] = sum(int((row.labels[1:] != IGNORED).sum()) for row in rows)
    write_answers(spec.folder / "answers.jsonl", asked)
    text = json.dumps(figures, indent=2, sort_keys=True, allow_nan=False)
    (spec.folder / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    events.measure(**figures, peak_memory=peak_memory(device))


def load_model(spec: Spec, name: str) -> Any:
    """The base, or what was trained: the base under its adapter, or a model of its own."""
    own = name == "tuned" and "model" in spec.inputs
    model = AutoModelForCausalLM.from_pretrained(
        spec.inputs["model" if own else "base"],
        dtype=getattr(torch, spec.hashed["dtype"]),
        attn_implementation=spec.hashed["attn_implementation"],
    )
    if name == "tuned" and "adapter" in spec.inputs:
        return PeftModel.from_pretrained(model, spec.inputs["adapter"])
    return model


def documents(spec: Spec) -> list[Row]:
    """The held-out documents, each a row of its own, packed or not."""
    return [
        Row(
            *(part[row.documents == number] for part in (row.input_ids, row.labels)),
            row.positions[row.documents == number],
            row.documents[row.documents == number],
        )
        for row in read_token_rows(spec.inputs["tokens"]).rows
        for number in range(1, int(row.documents[-1]) + 1)
    ]


def held_out_loss(model: Any, rows: list[Row], device: torch.device) -> float:
    """Mean negative log-likelihood, in nats, of the supervised tokens of all rows together."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.from_numpy(row.input_ids)[None].to(device)
        labels = torch.from_numpy(row.labels)[1:].to(device)
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        total += (
            torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
            .double()
            .item()
        )
        count += int((labels != IGNORED).sum())
    if count == 0:
        raise ScriptError(
            "no held-out token is supervised, so there is no loss to measure",
            hint="raise data.validation.fraction, or set evaluate.loss to false",
            code="E520",
        )
    return total / count


def answer(
    model: Any, tokenizer: Any, prompts: list[list[int]], tokens: int, device: torch.device
) -> list[str]:
    """Greedy answers to prompts of token ids, padded on the left, without special tokens."""
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=pad,
        )
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in output[:, longest:]]


def questions(spec: Spec, tokenizer: Any) -> list[dict[str, Any]]:
    """The questions of the recipe's file, as the deployed model would be asked them."""
    if "questions" not in spec.inputs:
        return []
    system = spec.hashed["system"]
    before = [] if system is None else [{"role": "system", "content": system}]
    asked = []
    for number, line in json_lines(spec.inputs["questions"]):
        place = f"{spec.inputs['questions'].name}:{number}"
        text, expect = line.get("question"), line.get("expect")
        if not isinstance(text, str) or not is_list_of_strings(expect):
            raise ScriptError(
                f'{place}: a line must be {{"question": "...", "expect": ["...", ...]}}',
                hint="correct the line; expect lists the strings that a right answer contains",
                code="E521",
            )
        ids = tokenizer.apply_chat_template(
            [*before, {"role": "user", "content": text}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        asked.append({"kind": "question", "question": text, "expect": expect, "ids": list(ids)})
    return asked


def samples(spec: Spec) -> list[dict[str, Any]]:
    """The first held-out prompts, with what their rows answer."""
    rows = [line["messages"] for _, line in json_lines(spec.inputs["references"])]
    held_out = [
        line for _, line in json_lines(spec.inputs["prompts"]) if line["kind"] == "validation"
    ]
    return [
        {
            "kind": "sample",
            "question": prompt["messages"][-1]["content"],
            "reference": answer_after_last_question(rows[row_of(prompt["id"])]),
            "ids": prompt["ids"],
        }
        for prompt in held_out[: spec.hashed["samples"]]
    ]


def row_of(prompt_id: str) -> int:
    """`validation-00003` was made of the third held-out row: 2."""
    return int(prompt_id.rpartition("-")[2]) - 1


def answer_after_last_question(messages: list[dict[str, str]]) -> str:
    """What stands behind the last user turn."""
    last = max(index for index, turn in enumerate(messages) if turn["role"] == "user")
    return messages[last + 1]["content"]


def score(asked: list[dict[str, Any]]) -> dict[str, int]:
    """Mark every question right or wrong for both models, and count."""
    scored = [question for question in asked if question["kind"] == "question"]
    for question in scored:
        for name in ("base", "tuned"):
            said = question[name].casefold()
            question[f"{name}_right"] = all(e.casefold() in said for e in question["expect"])
    if not scored:
        return {}
    return {
        "questions": len(scored),
        "score_base": sum(question["base_right"] for question in scored),
        "score_tuned": sum(question["tuned_right"] for question in scored),
    }


def write_answers(path: Path, asked: list[dict[str, Any]]) -> None:
    """One line a question, without its token ids."""
    lines = [
        json.dumps({name: q[name] for name in q if name != "ids"}, ensure_ascii=False) + "\n"
        for q in asked
    ]
    path.write_text("".join(lines), encoding="utf-8")


def is_list_of_strings(value: Any) -> bool:
    """Is it a list of strings with at least one in it, none of them empty?"""
    return bool(value) and isinstance(value, list) and all(isinstance(v, str) and v for v in value)


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank. Raises ScriptError E521."""
    # Not splitlines: texts hold U+2028, which it takes for the end of a line.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ScriptError(f"{path.name}:{number}: not JSON: {error}", code="E521") from None
        if not isinstance(value, dict):
            raise ScriptError(f"{path.name}:{number}: not a JSON object", code="E521")
        yield number, value


if __name__ == "__main__":
    main(evaluate)
