"""Which prompts a model is asked at once: part of what decides an answer's last bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import TypeVar

MOST = 16  # prompts
TOKENS = (
    8192  # of all prompts together, padded to the longest: what a layer keeps of them is bounded
)

_Prompt = TypeVar("_Prompt", bound=Sized)


def in_batches(prompts: Sequence[_Prompt], most: int = MOST) -> Iterator[Sequence[_Prompt]]:
    """In order, each batch as long as `most` and TOKENS allow; a longer prompt is one by itself.

    >>> [len(batch) for batch in in_batches([range(4000), range(4096), range(5000), range(9000)])]
    [2, 1, 1]
    """
    first = longest = 0
    for number, prompt in enumerate(prompts):
        longest = max(longest, len(prompt))
        count = number + 1 - first
        if count > 1 and (count > most or count * longest > TOKENS):
            yield prompts[first:number]
            first, longest = number, len(prompt)
    if first < len(prompts):
        yield prompts[first:]


def tokens_at_once(prompts: int, longest: int) -> int:
    """The most tokens of a batch, padding included: of so many prompts, none of them longer."""
    return min(min(prompts, MOST) * longest, max(TOKENS, longest))
