"""How far training has moved the model on text that has nothing to do with what it was trained on.

On every token of a few passages of our own: the negative log-likelihood of both models, and the
Kullback-Leibler divergence of the tuned model's next-token distribution from the base's, in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runner.scripts.evaluation.examples import Example, content_id, cut
from runner.scripts.spec import ScriptError

TEXTS = Path(__file__).with_name("neutral.txt")


class NeutralTexts:
    """The passages, measured for the base first. Its distributions wait in `scratch`, as files:
    passages times tokens times vocabulary are too many numbers to hold beside a large model."""

    def __init__(self, tokenizer: Any, scratch: Path) -> None:
        self.texts = TEXTS.read_text(encoding="utf-8").strip().split("\n\n")
        self._ids = [list(tokenizer(text).input_ids) for text in self.texts]
        self._scratch = scratch
        self._results: list[dict[str, dict[str, float]]] = [{} for _ in self.texts]

    @torch.inference_mode()
    def measure(
        self, model: Any, name: str, device: torch.device, done: Callable[[], None]
    ) -> None:
        """Loss of `name`, and of the tuned model the divergence. Raises ScriptError E370."""
        for number, ids in enumerate(self._ids):
            inputs = torch.tensor([ids], device=device)
            logits = model(inputs, use_cache=False).logits[0, :-1].float()
            logs = torch.log_softmax(logits, dim=-1)
            chosen = logs.gather(1, inputs[0, 1:, None]).double()
            found = {"loss": -chosen.sum().item()}
            place = self._scratch / f"neutral-{number}.npy"
            if name == "base":
                np.save(place, logs.cpu().numpy())
                found["kl"] = 0.0
            else:
                before = torch.from_numpy(np.load(place)).to(device)
                found["kl"] = divergence(before, logs)
                place.unlink()
            if not all(map(math.isfinite, found.values())):
                raise ScriptError(
                    f"the {name} model's probabilities of neutral text are no numbers",
                    hint="lower train.learning_rate, or set model.dtype to float32",
                    code="E370",
                )
            self._results[number][name] = found
            done()

    def examples(self) -> list[Example]:
        """One a passage; its id is that of its tokens, since loss and divergence count by them."""
        return [
            Example(
                "neutral",
                content_id([text, ids]),
                {"prompt": cut(text)},
                results,
                tokens=len(ids) - 1,
            )
            for text, ids, results in zip(self.texts, self._ids, self._results, strict=True)
        ]


def divergence(before: torch.Tensor, after: torch.Tensor) -> float:
    """Sum over rows of the divergence of `after` from `before`, both log-probabilities.

    A token that was impossible adds nothing. Rounding may end below 0, which no divergence is.
    """
    each = torch.where(before.isneginf(), 0.0, before.exp() * (before - after))
    total = each.double().sum().item()
    return 0.0 if total < 0 else total
