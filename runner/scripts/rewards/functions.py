"""What an answer earns, by the name of a reward. Standard library only.

`validate`, the training and the evaluation read this one registry; a recipe names a reward and
never imports one. A reward is a pure function of the answer, the row's reference answer and the
reward's parameters, and earns from 0 to 1. To add one is a function and a line in REWARDS; its
parameters are fields of `train.rewards` in schemas/recipe-1.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from runner.scripts.evaluation.form import GRAM

Parameters = Mapping[str, Any]
# JSON Schema's names of kinds -> what `json.loads` makes of them
JSON_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
# Not behind a letter, a digit or a point: 2 in "v2" is no number, and 3 in "5-3" has no sign.
_NUMBER = re.compile(r"(?<![\w.])-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?!\w)")


def exact_answer(answer: str, reference: str, given: Parameters) -> float:
    """1 for the reference, whatever its case, white space and last full stop."""
    said = extracted(answer, given.get("pattern"))
    return float(said is not None and _folded(said) == _folded(reference))


def number_answer(answer: str, reference: str, given: Parameters) -> float:
    """1 when the last number of the answer is that of the reference, give or take `tolerance`."""
    said = extracted(answer, given.get("pattern"))
    found = None if said is None else last_number(said)
    wanted = last_number(reference)
    if found is None or wanted is None:
        return 0.0
    return float(abs(found - wanted) <= Decimal(str(given.get("tolerance", 0))))


def matches(answer: str, reference: str, given: Parameters) -> float:
    """1 when the whole answer is of the form that `pattern` says."""
    return float(compiled(given["pattern"]).fullmatch(answer) is not None)


def json_fields(answer: str, reference: str, given: Parameters) -> float:
    """1 for a JSON object that has exactly `fields`, each of its kind."""
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        return 0.0
    fields = given["fields"]
    if not isinstance(said, dict) or said.keys() != fields.keys():
        return 0.0
    return float(all(_is_kind(said[key], kind) for key, kind in fields.items()))


def length(answer: str, reference: str, given: Parameters) -> float:
    """1 for an answer of `min_words` to `max_words` words, both included."""
    words = len(answer.split())
    most = given.get("max_words")
    return float(given.get("min_words", 0) <= words and (most is None or words <= most))


def contains(answer: str, reference: str, given: Parameters) -> float:
    """Part of `words` that the answer holds as whole words, whatever their case."""
    said = answer.casefold()
    found = [
        re.search(rf"(?<!\w){re.escape(each.casefold())}(?!\w)", said) for each in given["words"]
    ]
    return sum(each is not None for each in found) / len(found)


def no_repetition(answer: str, reference: str, given: Parameters) -> float:
    """1 for an answer whose runs of four words are all different, towards 0 in a loop."""
    words = answer.casefold().split()
    runs = [tuple(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1)]
    return len(set(runs)) / len(runs) if runs else 1.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A reward: `earn(answer, reference, parameters)`, and what it must be given.

    `reads`: what the row's "answer" must be: "" (it is not read), "text" or "number". `needs`:
    parameters without which it is none; `one_of`: of these at least one; `takes`: any others.
    """

    earn: Callable[[str, str, Parameters], float]
    reads: str = ""
    needs: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Everything that it can be given."""
        return (*self.needs, *self.one_of, *self.takes)


REWARDS: Mapping[str, Kind] = {
    "exact-answer": Kind(exact_answer, "text", takes=("pattern",)),
    "number-answer": Kind(number_answer, "number", takes=("pattern", "tolerance")),
    "matches": Kind(matches, needs=("pattern",)),
    "json-fields": Kind(json_fields, needs=("fields",)),
    "length": Kind(length, one_of=("min_words", "max_words")),
    "contains": Kind(contains, needs=("words",)),
    "no-repetition": Kind(no_repetition),
}
PARAMETERS = tuple(sorted({name for kind in REWARDS.values() for name in kind.parameters}))


def earned(answer: str, reference: str | None, rewards: Sequence[Parameters]) -> list[float]:
    """What `answer` earns of each of the recipe's `rewards`, before weights.

    An answer without a word earns nothing: else silence would be a way to short answers and to ones
    without repetition.
    """
    if not answer.strip():
        return [0.0] * len(rewards)
    return [REWARDS[each["name"]].earn(answer, reference or "", each) for each in rewards]


def total(parts: Sequence[float], rewards: Sequence[Parameters]) -> float:
    """The sum of what `earned` gave, each by its weight."""
    return sum(part * each["weight"] for part, each in zip(parts, rewards, strict=True))


# --- parts


@lru_cache(maxsize=64)
def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression. Raises re.error, OverflowError or RecursionError for what is none."""
    return re.compile(pattern)


def extracted(answer: str, pattern: str | None) -> str | None:
    """The last place that `pattern` finds, its first group where it has one; all without one."""
    if pattern is None:
        return answer
    expression = compiled(pattern)
    found = None
    for each in expression.finditer(answer):
        found = each.group(1) if expression.groups else each.group()
    return found


def last_number(text: str) -> Decimal | None:
    """The last number in decimal digits, commas between thousands or not."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def is_number(text: str) -> bool:
    """Is the whole text one number?"""
    return _NUMBER.fullmatch(text.strip()) is not None


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold().removesuffix(".")


def _is_kind(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, JSON_KINDS[kind])
