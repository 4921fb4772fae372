"""What the canary's numbers mean. Standard library only; measured in docs/decisions/0018-canary.md.

A base is `trained`, `untrained` (random weights: nothing is expected of it), `small` (too few
weights for any expectation), `unread` (it predicts no tokens), or not sane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.scripts.spec import ScriptError

# Bits per byte. Guessing bytes takes 8; SmolLM2-135M needs 1.1 for the text, larger models less.
MOST_BITS = 2.0
# Nats per token of a passage that was just read: a sane model copies, at a fraction of the first.
COPIES = 0.5
SMALLEST = 10_000_000  # weights outside of the embeddings from which something is expected
# Of embeddings that a random generator drew both are about 1; training drives them far apart.
DRAWN = 1.5
LARGEST_NORM = 1e4  # of a gradient; sane ones are 0.1 to 100
FIRST = 3  # steps after which some gradient must have been there
_OFF = "or, if the model is no model of text, set train.canary: false"


@dataclass(frozen=True)
class Findings:
    """`text_bits`, `data_bits`: bits per byte of our text and of the recipe's rows. `once`,
    `again`: nats per token of a passage and of its repetition. None: not measured. `body`: weights
    outside of the embeddings. `random`: the embeddings look drawn."""

    text_bits: float | None
    data_bits: float | None
    once: float | None
    again: float | None
    body: int
    random: bool

    def rounded(self) -> dict[str, Any]:
        """For run.json: plain numbers, four decimals."""
        found = asdict(self)
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in found.items()
        }


def judge(found: Findings) -> str:
    """What kind of base it is. Raises ScriptError E941, E945."""
    measured = [found.text_bits, found.data_bits, found.once, found.again]
    if any(each is not None and not math.isfinite(each) for each in measured):
        raise ScriptError(
            "the base model computes numbers that are none (NaN), before any training",
            hint="model.dtype: bfloat16 or float32 (float16 overflows in many models); else the "
            "weights are damaged: delete the stored result of `fetch` and run again",
            code="E945",
        )
    if found.text_bits is None or found.once is None or found.again is None:
        return "unread"
    if found.body < SMALLEST:
        return "small"
    if found.random:
        return "untrained"
    _check_reading(found)
    _check_copying(found.once, found.again)
    return "trained"


def _check_reading(found: Findings) -> None:
    """One of the two may be strange to a sane model: English, or the recipe's data."""
    assert found.text_bits is not None
    data = math.inf if found.data_bits is None else found.data_bits
    if min(found.text_bits, data) > MOST_BITS:
        raise ScriptError(
            f"the base model cannot read: it needs {found.text_bits:.2f} bits for a byte of plain "
            f"English and {data:.2f} for one of your data, where sane models of its size need at "
            f"most {MOST_BITS}",
            hint="look at the model's config.json (rope_parameters, norms), its dtype, and whether "
            f"the tokenizer is its own; {_OFF}",
            code="E941",
        )


def _check_copying(once: float, again: float) -> None:
    if again > COPIES * once:
        raise ScriptError(
            "the base model does not find again what it has just read: it needs "
            f"{again:.2f} nats for a token of a passage that it reads for the second time, and "
            f"{once:.2f} the first time",
            hint="look at the rope_parameters in the model's config.json: a factor or a rope_theta "
            f"that the model was not trained with; {_OFF}",
            code="E941",
        )


def looks_drawn(lengths: float, drift: float) -> bool:
    """Of embeddings: the spread of the vectors' lengths and the length of their mean, each divided
    by what independent normal draws give."""
    return lengths < DRAWN and drift < DRAWN


def check_gradient(norms: Sequence[float], step: int) -> None:
    """Raise ScriptError E942 unless the norms of the gradients so far, up to `step`, are sane."""
    newest = norms[-1]
    if not math.isfinite(newest) or newest > LARGEST_NORM:
        raise ScriptError(
            f"the norm of the gradient is {newest:.3g} at step {step}",
            hint="lower train.learning_rate, raise train.warmup_steps, or set model.dtype to "
            "bfloat16 or float32",
            code="E942",
        )
    if len(norms) == FIRST and not any(norms):
        raise ScriptError(
            f"the gradient was zero in all of the first {FIRST} steps: nothing learns",
            hint="look at train.adapter (which layers learn) and at the dtype of what is trained",
            code="E942",
        )
