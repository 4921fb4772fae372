"""Which language a row is in, by py3langid's table, in whole numbers: the same on every machine."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from runner.scripts.data.cleaning.report import Drop
from runner.scripts.data.cleaning.texts import SAID, Row, texts_of
from runner.scripts.data.cleaning.words import folded, nfc, words_of

LOOKED_AT = 4000  # characters of a row
LEAST = 24  # letters; in fewer there is no telling
_SCALE = 1 << 16  # of a logarithm, and of a weight of the table
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{1,400}`|https?://\S{1,500}", re.DOTALL)


def only(languages: Sequence[str]) -> Callable[[Row], Row | Drop]:
    """Drops rows in another language than these. A row of few words is kept, and so is code."""

    def check(row: Row) -> Row | Drop:
        text = "\n".join(texts_of(row, SAID))
        found = language_of(text)
        return row if found in ("", *languages) else Drop(f"is {found}", text)

    return check


def language_of(text: str) -> str:
    """Its ISO 639 code; "" where there are too few letters to tell, or no language in them."""
    prose = _CODE.sub(" ", text[: 4 * LOOKED_AT])[:LOOKED_AT]
    if sum(map(len, words_of(prose))) < LEAST:
        return ""
    scores = _scores(nfc(folded(prose) if _is_loud(prose) else prose))
    best = _labels()[int(scores.argmax())]
    return "" if best == "zxx" else best


def _is_loud(text: str) -> bool:
    return text.isascii() and text.isupper()


def _scores(text: str) -> np.ndarray[Any, Any]:
    """int64, one a column of the table: as `classify` of py3langid, in whole numbers."""
    from py3langid.langid import visit_counts

    told, table, prior = _model()
    seen = visit_counts(told.tk_nextmove, told._rowbase, told.tk_output, text.encode()) or {}
    rows = sorted(seen)
    weights = np.array([round(math.log1p(seen[row]) * _SCALE) for row in rows], np.int64)
    if not rows:
        return prior
    columns = (table[rows].astype(np.float64) * _SCALE).round().astype(np.int64)
    return (weights[:, None] * columns).sum(axis=0) + prior


@cache
def _model() -> tuple[Any, Any, Any]:
    """The identifier, its table (float16, features by columns), and its priors in whole numbers."""
    from py3langid.langid import _load_identifier

    told = _load_identifier()
    prior = (told.nb_pc.astype(np.float64) * _SCALE).round().astype(np.int64) * _SCALE
    return told, told.nb_ptc, prior


@cache
def _labels() -> list[str]:
    """Of each column; two columns of one language have the same."""
    return list(_model()[0].nb_classes)


def known() -> list[str]:
    """Every language that can be told."""
    return sorted(set(_labels()) - {"zxx"})
