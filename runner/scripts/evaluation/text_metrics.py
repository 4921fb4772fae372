"""Exact match, token F1 and ROUGE-L of an answer against the expected one, by torchmetrics.

Exact match and F1 are SQuAD's: without case, ASCII punctuation and English articles, words between
spaces. ROUGE-L is the F-measure of the longest common subsequence of words (runs of letters and
digits of any script, without case).
"""

from __future__ import annotations

import re
from typing import Any

from torchmetrics.functional.text import rouge_score, squad


def text_metrics(answer: str, expected: str) -> dict[str, float]:
    """`exact_match` (0 or 1), `f1` and `rouge_l` (0 to 1)."""
    scores: Any = squad(
        [{"prediction_text": answer, "id": "0"}],
        [{"answers": {"answer_start": [0], "text": [expected]}, "id": "0"}],
    )
    overlap: Any = rouge_score(
        answer, expected, rouge_keys="rougeL", normalizer=str.casefold, tokenizer=_words
    )
    return {
        "exact_match": round(float(scores["exact_match"]) / 100, 6),
        "f1": round(float(scores["f1"]) / 100, 6),
        "rouge_l": round(float(overlap["rougeL_fmeasure"]), 6),
    }


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)
