"""The types that llama-quantize writes, and what it does where a tensor's shape does not fit.

As in llama.cpp's src/llama-quant.cpp (`llama_ftype_get_default_type`, `tensor_requires_imatrix`,
`tensor_type_fallback`); tests hold both tables to the pinned program's own answers. Left out are
MXFP4_MOE (its dense tensors are Q8_0), Q1_0 and Q2_0 (for models trained in them), and aliases.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

BLOCK = 256  # values that a K-quant or an I-quant packs together, all from one row
UNQUANTISED = frozenset({"F32", "F16", "BF16"})


class Matrix(enum.Enum):
    """What an importance matrix is to a type."""

    UNUSED = "unused"  # the same bytes with and without it
    HELPS = "helps"
    NEEDED = "needed"  # llama-quantize writes no such file without one


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of file. `tensors`: ggml's type of most of its weights; `bits`: about, a weight."""

    tensors: str
    bits: float
    matrix: Matrix = Matrix.HELPS


KINDS = {
    "F32": Kind("F32", 32, Matrix.UNUSED),
    "F16": Kind("F16", 16, Matrix.UNUSED),
    "BF16": Kind("BF16", 16, Matrix.UNUSED),
    "Q8_0": Kind("Q8_0", 8.5, Matrix.UNUSED),
    "Q6_K": Kind("Q6_K", 6.6),
    "Q5_K_M": Kind("Q5_K", 5.7),
    "Q5_K_S": Kind("Q5_K", 5.6),
    "Q5_1": Kind("Q5_1", 6),
    "Q5_0": Kind("Q5_0", 5.6),
    "Q4_K_M": Kind("Q4_K", 4.9),
    "Q4_K_S": Kind("Q4_K", 4.7),
    "Q4_1": Kind("Q4_1", 5.1),
    "Q4_0": Kind("Q4_0", 4.7),
    "IQ4_NL": Kind("IQ4_NL", 4.7),
    "IQ4_XS": Kind("IQ4_XS", 4.5),
    "Q3_K_L": Kind("Q3_K", 4.3),
    "Q3_K_M": Kind("Q3_K", 4.0),
    "Q3_K_S": Kind("Q3_K", 3.7),
    "IQ3_M": Kind("IQ3_S", 3.8),
    "IQ3_S": Kind("IQ3_S", 3.7),
    "IQ3_XS": Kind("IQ3_S", 3.5, Matrix.NEEDED),
    "IQ3_XXS": Kind("IQ3_XXS", 3.3, Matrix.NEEDED),
    "Q2_K": Kind("Q2_K", 3.2),
    "Q2_K_S": Kind("Q2_K", 3.0, Matrix.NEEDED),
    "IQ2_M": Kind("IQ2_S", 2.9, Matrix.NEEDED),
    "IQ2_S": Kind("IQ2_XS", 2.7, Matrix.NEEDED),
    "IQ2_XS": Kind("IQ2_XS", 2.6, Matrix.NEEDED),
    "IQ2_XXS": Kind("IQ2_XXS", 2.4, Matrix.NEEDED),
    "TQ2_0": Kind("TQ2_0", 2.4, Matrix.UNUSED),
    "IQ1_M": Kind("IQ1_M", 2.1, Matrix.NEEDED),
    "TQ1_0": Kind("TQ1_0", 2.0, Matrix.UNUSED),
    "IQ1_S": Kind("IQ1_S", 2.0, Matrix.NEEDED),
}

# What a tensor becomes whose rows are no multiple of BLOCK; what is not here has blocks of 32.
FALLBACK = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S"), "IQ4_NL"),
    **dict.fromkeys(("IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
_SMALL_BLOCK = 32
# Given to some tensors on purpose, where there is an importance matrix.
_WITH_MATRIX = {"Q4_0": "Q4_1", "Q5_0": "Q5_1"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a GGUF file. `columns`: length of a row; `rows`: 1 for a vector."""

    name: str
    type: str  # ggml's name in capitals: Q4_K
    columns: int
    rows: int


def takes_matrix(kind: str) -> bool:
    """Do the bytes of a file of this type depend on an importance matrix?"""
    return KINDS[kind].matrix is not Matrix.UNUSED


def fallback(kind: str, columns: int) -> str | None:
    """What most weights become in rows of `columns` values; None where the type fits.

    >>> fallback("Q4_K_M", 576), fallback("Q4_K_M", 1536), fallback("Q8_0", 100)
    ('Q5_0', None, 'F16')
    """
    wanted = KINDS[kind].tensors
    if wanted in UNQUANTISED:
        return None
    if columns % _SMALL_BLOCK:
        return "F16"
    return FALLBACK.get(wanted) if columns % BLOCK else None


def is_weight(tensor: Tensor) -> bool:
    """Does llama-quantize consider it? Norms, biases and other vectors stay as they are."""
    return tensor.rows > 1 and tensor.name.endswith(".weight") and "_norm." not in tensor.name


def fallen_back(kind: str, tensors: Iterable[Tensor]) -> dict[str, int]:
    """How many weights of a written file have which type because their rows do not fit.

    Read off the file: in rows that are no multiple of 256 values nothing has the type that was
    wanted, except where a type with small blocks was wanted in the first place.
    """
    wanted = KINDS[kind].tensors
    if wanted in UNQUANTISED:
        return {}
    on_purpose = {wanted, _WITH_MATRIX.get(wanted)} | (UNQUANTISED - {"F16"})
    counts = Counter(
        tensor.type
        for tensor in tensors
        if is_weight(tensor)
        and tensor.columns % BLOCK
        and tensor.type not in on_purpose
        and (tensor.type != "F16" or tensor.columns % _SMALL_BLOCK)
    )
    return dict(sorted(counts.items()))
