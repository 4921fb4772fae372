"""What each step did, counted, with the first rows that it did it to. No secret is in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from runner.scripts.data.cleaning.masks import Mark, covered, hinted, masked
from runner.scripts.data.files.rows import Place

# What is wrong with a row that cannot be trained on -> the step that leaves such rows out.
STEP_FOR = {"E323": "min_answer_chars", "E334": "min_answer_chars", "E333": "exact_duplicates"}
SHOWN = 3  # rows of each kind that are shown
EXCERPT = 90  # characters of a row that are shown
_BEFORE = 20  # of them, in front of what changed


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a row is left out, and the text that says so."""

    why: str
    text: str


@dataclass
class Told:
    """One step's counts. `why`: reason -> rows dropped for it. `at`: the row of each example."""

    step: str
    changed: int = 0
    why: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, str]] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    files: Counter[str] = field(default_factory=Counter)  # rows dropped of each

    @property
    def dropped(self) -> int:
        """Rows that the step left out."""
        return self.why.total()

    def drop(self, place: Place, drop: Drop, reason: str = "", position: int = 0) -> None:
        """Count a row that is left out; `reason`: what it is counted as, if not `drop.why`.

        `position`: the how many-th row it is, where steps of several chunks are added up.
        """
        self.why[reason or drop.why] += 1
        self.files[place.file] += 1
        if self.dropped <= SHOWN:
            example = {"place": str(place), "what": "dropped", "why": drop.why}
            self.examples.append(example | {"text": excerpt(drop.text)})
            self.at.append(position)

    def change(self, place: Place, before: str, after: str, position: int = 0) -> None:
        """Count a row that is changed, by the first of its texts that is."""
        self.changed += 1
        if self.changed <= SHOWN:
            old, new = difference(before, after)
            example = {"place": str(place), "what": "changed", "text": old, "now": new}
            self.examples.append(example)
            self.at.append(position)

    def add(self, other: Told, offset: int = 0) -> None:
        """Count other rows too, whose positions are `offset` higher here. The first are shown."""
        self.changed += other.changed
        self.why += other.why
        self.files += other.files
        at = [*self.at, *(position + offset for position in other.at)]
        both = sorted(zip(at, [*self.examples, *other.examples], strict=True), key=lambda e: e[0])
        left = {"dropped": SHOWN, "changed": SHOWN}
        self.at, self.examples = [], []
        for position, example in both:
            left[example["what"]] -= 1
            if left[example["what"]] >= 0:
                self.at.append(position)
                self.examples.append(example)

    def measures(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "step": self.step,
            "changed": self.changed,
            "dropped": dict(sorted(self.why.items())),
            "examples": self.examples,
        }


def excerpt(text: str) -> str:
    """The beginning of a text, secrets and personal data masked."""
    return _cut(_hidden(text), 0)


def difference(before: str, after: str) -> tuple[str, str]:
    """Both texts around the first place where they differ, secrets and personal data masked.

    Where it is a mask that `after` has and `before` has not, `before` tells what lies under it.
    """
    old, new = _hidden(before), _hidden(after)
    same = _shared(old, new)
    if old == new:
        old, new = _hidden(before, hinted), _hidden(after, hinted)
        same = old.rfind("[", 0, _shared(old, new) + 1)  # where the mask begins
    start = max(0, same - _BEFORE)
    return _cut(old, start), _cut(new, start)


def _shared(one: str, other: str) -> int:
    """Characters that both texts begin with: by halves, since texts may be long."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _hidden(text: str, mark: Mark = covered) -> str:
    from runner.scripts.data.cleaning.personal import personal_data_in
    from runner.scripts.data.cleaning.repair import without_invisible
    from runner.scripts.data.cleaning.secret import secrets_in

    return masked(masked(without_invisible(text), (secrets_in,), mark), (personal_data_in,), mark)


def _cut(text: str, start: int) -> str:
    end = start + EXCERPT
    return f"{'…' if start else ''}{text[start:end]}{'…' if len(text) > end else ''}"
