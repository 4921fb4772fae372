"""Look at a training before hours are spent on it: does the base model read text at all, do
template and labels belong to it, are the first gradients sane, and when will it be done.

A callback of Transformers' trainers, so that both backends and all methods have the same one. The
base is looked at when the training begins: everything lies where it will be computed, and the
adapter still changes nothing. No random number is drawn and no mode is left changed, so that no
byte of the result depends on whether it looked. What the numbers mean is in canary_limits.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from runner.scripts.spec import Events, Spec
from runner.scripts.training.canary import canary_limits
from runner.scripts.training.canary.canary_limits import Findings
from runner.scripts.training.canary.canary_template import (
    check_generation_prompt,
    check_marks,
    check_prompts_are_free,
)
from runner.scripts.training.canary.canary_text import TEXT
from runner.scripts.training.together.team import whole
from runner.scripts.training.token_rows import TokenRows

TEXT_TOKENS = 128  # at most; of a tokenizer with one token a byte, a fourth of the text
ROWS, ROW_TOKENS = 2, 128  # of the recipe's data: so many rows, so many tokens of each
AGAIN_TOKENS = 48  # of the passage that stands twice
TIMED = range(2, 5)  # steps that the finish is reckoned from: the first is slower than the others
_SAMPLED = 4096  # rows of a matrix of weights that are looked at
# GRPO's log, 1 in a step whose gradient is zero by right: all answers to a prompt earned the same,
# which rewards/signs.py looks at over more steps.
_NOTHING_TO_LEARN = "frac_reward_zero_std"


def canary_of(spec: Spec, events: Events, data: TokenRows) -> list[TrainerCallback]:
    """The callbacks that look at a training on `data`; none where the recipe wants none."""
    if not spec.hashed.get("canary", True):
        return []
    if spec.hashed["settings"].get("has_prompts"):
        check_prompts_are_free(data, spec.inputs["tokens"].name)
    return [Canary(events, [text_of(row) for row in sample(data.rows, ROWS)], _template(spec))]


def canary_of_prompts(
    spec: Spec, events: Events, prompts: Sequence[Sequence[int]]
) -> list[TrainerCallback]:
    """The same of a training on answers that the model draws: there are no labels to look at."""
    if not spec.hashed.get("canary", True):
        return []
    texts = [prompt[:ROW_TOKENS] for prompt in sample(prompts, ROWS)]
    return [Canary(events, texts, _template(spec))]


def _template(spec: Spec) -> str | None:
    """What the rows were written by; None for texts, and for a template of the backend's own."""
    settings = spec.hashed["settings"]
    if not settings.get("has_prompts") or "own_template" in settings:
        return None
    return spec.inputs["template"].read_text(encoding="utf-8")


class Canary(TrainerCallback):
    """Ends a training whose beginning is not sane. Raises ScriptError E941 to E945."""

    def __init__(
        self, events: Events, texts: Sequence[Sequence[int]], template: str | None
    ) -> None:
        """`texts`: beginnings of the recipe's rows, in ids. `template`: which the rows were
        written by; None when there is none to look at."""
        self._events, self._texts, self._template = events, texts, template
        self._found: dict[str, Any] = {}
        self._began = 0.0
        self._seconds: list[float] = []
        self._norms: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the base. A training that goes on was looked at when it began."""
        if state.global_step > 0:
            return
        # PPO trains the policy and the model of its answers' values as one
        model = getattr(kwargs["model"], "policy", kwargs["model"])
        tokenizer = kwargs["processing_class"]
        if self._template is not None:
            check_marks(tokenizer, self._template)
            check_generation_prompt(tokenizer, self._template)
        with untouched(model):
            findings = look(model, tokenizer, self._texts)
        kind = canary_limits.judge(findings)
        self._found = {"base": kind, **findings.rounded()}
        self._events.measure(canary=self._found)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Of every step the gradient; of a few early ones how long all will take."""
        if "loss" not in logs:
            return
        newest = float(logs["grad_norm"])
        if logs.get(_NOTHING_TO_LEARN) == 1:
            canary_limits.check_gradient([newest], state.global_step)
        else:
            self._norms.append(newest)
            canary_limits.check_gradient(self._norms, state.global_step)
        if not self._found or state.global_step not in TIMED:
            return
        self._seconds.append(time.perf_counter() - self._began)
        if state.global_step == TIMED[-1] and state.max_steps > TIMED[-1]:
            step = sum(self._seconds) / len(self._seconds)
            left = step * (state.max_steps - state.global_step)
            self._events.measure(
                canary={**self._found, "seconds_per_step": step, "seconds_left": left}
            )


# --- looking


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Compute with `model` as after training; modes and random numbers are as before again."""
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    model.eval()
    for module, _ in modes:
        if type(module).__module__.startswith("bitsandbytes."):
            # Else it lays its weights out anew on a processor, and rounds otherwise from then on.
            module.training = True
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def look(model: Any, tokenizer: Any, texts: Sequence[Sequence[int]]) -> Findings:
    """What is measured of the base; `texts`: of the recipe."""
    body, random = parameters_outside_of_embeddings(model), is_as_drawn(model)
    if model.get_output_embeddings() is None:  # a model that scores answers predicts no tokens
        return Findings(None, None, None, None, body, random)
    text = tokenizer(TEXT)["input_ids"][:TEXT_TOKENS]
    passage = text[-AGAIN_TOKENS:]
    again = nats(model, [*passage, *passage])
    return Findings(
        text_bits=bits_per_byte(model, tokenizer, [text]),
        data_bits=bits_per_byte(model, tokenizer, texts),
        once=float(again[: len(passage) - 1].mean()),
        again=float(again[len(passage) :].mean()),
        body=body,
        random=random,
    )


def sample(rows: Sequence[Any], count: int) -> list[Any]:
    """`count` of `rows`, evenly spread, or all."""
    step = max(1, len(rows) // count)
    return list(rows[::step][:count])


def text_of(row: Any) -> list[int]:
    """The first tokens of the first document of a row."""
    return [int(each) for each in row.input_ids[row.documents == 1][:ROW_TOKENS]]


def bits_per_byte(model: Any, tokenizer: Any, texts: Sequence[Sequence[int]]) -> float | None:
    """Of all tokens but the first of each; None when they stand for no bytes."""
    bits, size = 0.0, 0
    for ids in texts:
        if len(ids) > 1:
            bits += float(nats(model, ids).sum()) / math.log(2)
            size += len(tokenizer.decode(ids[1:]).encode())
    return bits / size if size else None


def nats(model: Any, ids: Sequence[int]) -> np.ndarray:
    """-ln of the probability of every token but the first, float64 [len(ids) - 1]."""
    device = model.get_input_embeddings().weight.device
    tokens = torch.tensor([list(ids)], device=device)
    mask = torch.ones_like(tokens)
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[0, :-1]
    logarithms = torch.log_softmax(logits.float(), dim=-1)
    found = -logarithms.gather(1, tokens[0, 1:, None])[:, 0]
    return np.asarray(found.double().cpu())


def parameters_outside_of_embeddings(model: Any) -> int:
    """Weights of the base; two of 4 bits count as one."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    apart = {id(weight) for end in ends if end is not None for weight in end.parameters()}
    return sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if id(weight) not in apart and "lora_" not in name
    )


def is_as_drawn(model: Any) -> bool:
    """Do the embeddings look as a random generator draws them: is no direction preferred, and is
    every token's vector as long as any other's?"""
    weight = model.get_input_embeddings().weight
    if not weight.is_floating_point():
        return False
    step = max(1, len(weight) // _SAMPLED)
    rows = whole(weight.detach())[::step].float()
    squares = rows.pow(2).sum(1)
    if not bool(torch.isfinite(squares).all()) or float(squares.sum()) == 0:
        return False
    lengths = float(squares.std() / squares.mean()) / math.sqrt(2 / rows.shape[1])
    drift = float(rows.mean(0).norm()) * math.sqrt(len(rows)) / float(squares.mean().sqrt())
    return canary_limits.looks_drawn(lengths, drift)
