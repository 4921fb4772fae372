"""The sandbox in which chat templates are rendered: transformers' own, with bounded operators.

What transformers gives templates (filters, functions, tags, how blanks are trimmed) is taken from
its sandbox, so that they write the same here. Three operators can keep a processor or the memory
busy within one step, where no signal is looked at: they are looked at before they are done. A
template that is harmless has no use for numbers of thousands of digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils.chat_template_utils import _compile_jinja_template

BITS = 1 << 16  # of a whole number
ITEMS = 64 << 20  # of a text or a list that is repeated
WIDTH = 1 << 16  # of a number or a text that `%` fills up
_WIDTHS = re.compile(r"%[^a-zA-Z%]*?(\d{3,})")


class TooLarge(ArithmeticError):
    """An operator that would give more than any conversation needs."""


@lru_cache(maxsize=8)
def compiled(text: str) -> Template:
    """The template, to be rendered by `render(messages=…, tools=…, …)`.

    Raises what Jinja and Python raise of a text that is no template.
    """
    template = _sandbox().from_string(text)
    template.globals = dict(template.globals)  # a copy of a ChainMap for every row takes its time
    return template


@lru_cache(maxsize=1)
def _sandbox() -> BoundedSandbox:
    given = _compile_jinja_template("").environment
    extensions = [type(each) for each in given.extensions.values()]
    own = BoundedSandbox(
        trim_blocks=given.trim_blocks, lstrip_blocks=given.lstrip_blocks, extensions=extensions
    )
    own.filters.update(given.filters)
    own.globals.update(given.globals)
    return own


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which no single step of `*`, `**` and `%` is endless."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Raises TooLarge, before anything is done."""
        _CHECKS[operator](left, right)
        return super().call_binop(context, operator, left, right)


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > BITS:
            raise TooLarge("it multiplies numbers of thousands of digits")
        return
    times, repeated = (left, right) if isinstance(left, int) else (right, left)
    if isinstance(times, int) and hasattr(repeated, "__len__") and len(repeated) * times > ITEMS:
        raise TooLarge(f"it repeats something {_short(times)} times")


def _check_power(left: Any, right: Any) -> None:
    if not (isinstance(left, int) and isinstance(right, int)):
        return
    if right > 0 and left.bit_length() * right > BITS and left not in (-1, 0, 1):
        raise TooLarge(f"it raises a number to the power of {_short(right)}")


def _check_filled(left: Any, right: Any) -> None:
    if not isinstance(left, str | bytes):
        return
    form = left if isinstance(left, str) else left.decode("latin-1")
    widths = [int(found[1][:20]) for found in _WIDTHS.finditer(form)]
    if "*" in form:
        values = right if isinstance(right, tuple) else (right,)
        widths += [abs(value) for value in values if isinstance(value, int)]
    if any(width > WIDTH for width in widths):
        raise TooLarge(f"it fills something up to {_short(max(widths))} characters")


def _short(number: int) -> str:
    return str(number) if number.bit_length() < 64 else "a very large number"


_CHECKS: Mapping[str, Callable[[Any, Any], None]] = MappingProxyType(
    {"*": _check_product, "**": _check_power, "%": _check_filled}
)
