"""Read what `prepare_prompts` wrote: prompts, and their right answers. Needs numpy."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from runner.scripts.spec import ScriptError

_TENSORS = ("input_ids", "offsets", "answers", "answer_offsets", "answered")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids up to where the answer begins; `answer`: what it is held against."""

    ids: list[int]
    answer: str | None


def read_prompts(path: Path) -> list[Prompt]:
    """Every prompt of a tokens file. Raises ScriptError E528 when it holds something else."""
    tensors = load_file(path)
    missing = [name for name in _TENSORS if name not in tensors]
    if missing:
        raise _damaged(path.name, f"it has no {missing[0]}")
    ids, offsets, answers, ends, answered = (tensors[name] for name in _TENSORS)
    if not len(offsets) == len(ends) == len(answered) + 1:
        raise _damaged(path.name, "it has not as many answers as prompts")
    _check_offsets(path.name, offsets, len(ids), strict=True)
    _check_offsets(path.name, ends, len(answers), strict=False)
    try:
        texts = [answers[begin:end].tobytes().decode() for begin, end in pairwise(ends.tolist())]
    except UnicodeDecodeError:
        raise _damaged(path.name, "an answer is not UTF-8") from None
    spans = pairwise(offsets.tolist())
    return [
        Prompt(ids[begin:end].tolist(), text if known else None)
        for (begin, end), text, known in zip(spans, texts, answered.tolist(), strict=True)
    ]


def check_vocabulary(prompts: list[Prompt], vocabulary: int) -> None:
    """Raise ScriptError E514 when the model has no such tokens."""
    highest = max(max(prompt.ids) for prompt in prompts)
    if highest >= vocabulary:
        raise ScriptError(
            f"token id {highest} is beyond the model's {vocabulary} tokens",
            hint="the tokenizer does not belong to the model: look at model and data.chat_template",
            code="E514",
        )


def _check_offsets(name: str, offsets: NDArray[np.int64], end: int, *, strict: bool) -> None:
    """They begin at 0, rise (`strict`: no row is empty), and end at the last."""
    steps = np.diff(offsets)
    rising = (steps > 0).all() if strict else (steps >= 0).all()
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != end or not rising:
        raise _damaged(name, "its offsets do not fit what they divide")


def _damaged(name: str, what: str) -> ScriptError:
    return ScriptError(
        f"{name} is damaged: {what}",
        hint="delete the stored result of `prepare` and run again",
        code="E528",
    )
