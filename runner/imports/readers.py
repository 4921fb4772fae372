"""Values of other tools as a recipe writes them. Each reader raises Unreadable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from runner.capture.optimizers import optimizer_named
from runner.imports.sheet import Read, Unreadable

_TRUE = ("true", "yes", "on", "y")
_FALSE = ("false", "no", "off", "n")
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
_DTYPES = {
    **{word: word for word in ("float32", "bfloat16", "float16")},
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
}


def number(value: Any) -> Read:
    """A finite number; text that spells one counts, as it does for these tools."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Unreadable("it is no number")
    try:
        read = float(value)
    except (ValueError, OverflowError):
        raise Unreadable("it is no number") from None
    if not math.isfinite(read):
        raise Unreadable("it is no finite number")
    return Read(read)


def whole(value: Any) -> Read:
    """A whole number; 2.0 is one."""
    read = number(value).value
    if not read.is_integer() or abs(read) >= 2**63:
        raise Unreadable("it is no whole number")
    return Read(int(read))


def flag(value: Any) -> Read:
    """True or false; YAML 1.1's words for them count."""
    if isinstance(value, bool):
        return Read(value)
    word = str(value).lower()
    if word not in _TRUE + _FALSE:
        raise Unreadable("it is neither true nor false")
    return Read(word in _TRUE)


def text(value: Any) -> Read:
    """Text as it is."""
    if not isinstance(value, str):
        raise Unreadable("it is no text")
    return Read(value)


def names(value: Any) -> Read:
    """Names of modules: a list, or one text as a regular expression or a name."""
    if isinstance(value, str) and value:
        return Read(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return Read(list(dict.fromkeys(value)))
    raise Unreadable("it is no list of names")


def numbers_by_name(value: Any) -> Read:
    """A whole number for each pattern of names."""
    if not isinstance(value, dict):
        raise Unreadable("it is no mapping of names to numbers")
    return Read({str(key): whole(each).value for key, each in value.items()})


def one_of(words: Mapping[str, Any], otherwise: Any, why: str) -> Callable[[Any], Read]:
    """A reader of one word among several; any other is lost, and `otherwise` taken."""

    def read(value: Any) -> Read:
        word = str(value).lower()
        return Read(words[word]) if word in words else Read(otherwise, why, lost=True)

    return read


schedule = one_of(
    {word: word for word in SCHEDULES},
    "cosine",
    f"a recipe has {', '.join(SCHEDULES)}",
)


def optimizer(value: Any) -> Read:
    """One that a recipe has; other ways of AdamW are near, other optimizers are not."""
    name, why, lost = optimizer_named(str(value))
    return Read(name, why, lost=lost)


def dtype(value: Any) -> Read:
    """A number type by any of its usual names."""
    word = str(value).lower().removeprefix("torch.")
    if word not in _DTYPES:
        raise Unreadable("it is no number type of a recipe")
    return Read(_DTYPES[word])


def attention(value: Any) -> Read:
    """sdpa or eager; kernels of other packages compute nearly what sdpa does."""
    word = str(value).lower()
    if word in ("sdpa", "eager"):
        return Read(word)
    return Read("sdpa", "a recipe has sdpa and eager; last bits differ")


def checkpointing(value: Any) -> Read:
    """On, off, or one tool's own way of it, which computes the same."""
    if isinstance(value, str) and value.lower() not in _TRUE + _FALSE:
        return Read(True, "by PyTorch, which keeps no activations on the disk or the processor")
    return flag(value)
