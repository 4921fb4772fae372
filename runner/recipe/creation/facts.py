"""What is known of a model, of rows and of a machine, before a recipe is written for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from runner.plan.machines import HERE_USABLE, Hardware, hardware
from runner.plan.shapes import Shapes, shapes_of

GB = 10**9
PROCESSOR_RATE = 0.16e12  # operations a second: SmolLM2-135M on two cores, 200 tokens a second
BYTES_PER_TOKEN = 3  # of text in UTF-8, on the safe side: about 4 in English
_TEMPLATE_TOKENS = 64  # of a chat template around a row

# Sizes of published models: hidden, intermediate, layers, heads, key heads, vocabulary, tied.
_Sizes = tuple[int, int, int, int, int, int, bool]
_PUBLISHED: tuple[tuple[str, _Sizes], ...] = (
    ("SmolLM2-135M", (576, 1536, 30, 9, 3, 49152, True)),
    ("Qwen2.5-0.5B", (896, 4864, 24, 14, 2, 151936, True)),
    ("Llama-3.2-1B", (2048, 8192, 16, 32, 8, 128256, True)),
    ("Llama-3.2-3B", (3072, 8192, 28, 24, 8, 128256, True)),
    ("Llama-3.1-8B", (4096, 14336, 32, 32, 8, 128256, False)),
    ("Qwen2.5-14B", (5120, 13824, 48, 40, 8, 152064, False)),
    ("Qwen2.5-32B", (5120, 27648, 64, 40, 8, 152064, False)),
    ("Llama-3.1-70B", (8192, 28672, 80, 64, 8, 128256, False)),
    ("Llama-3.1-405B", (16384, 53248, 126, 128, 8, 128256, False)),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What trains. `memory` in bytes: a Spark's is shared, a GPU's is its own.

    `title` and `part`, the part of the memory that a training may plan with, are of a machine whose
    facts are known; without them its kind's are taken.
    """

    kind: str  # spark, gpu or cpu
    memory: int
    title: str = ""
    part: float = 0.0

    @classmethod
    def of(cls, known: Hardware, memory: int = 0) -> Machine:
        """One that `recipe plan --hardware` knows; `memory` in place of its own, if not 0."""
        kind = "cpu" if known.device == "cpu" else "spark" if known.unified else "gpu"
        return cls(kind, memory or known.memory, known.title, known.usable)

    @property
    def usable(self) -> int:
        """Bytes that a training may plan with."""
        return int(self.memory * (self.part or usable_part(self.kind)))

    @property
    def device(self) -> str:
        """As torch calls it."""
        return "cpu" if self.kind == "cpu" else "cuda"

    def __str__(self) -> str:
        names = {"spark": "a DGX Spark", "gpu": "a GPU", "cpu": "a machine without GPU"}
        return f"{self.title or names[self.kind]} ({self.memory / GB:.4g} GB)"


# Kind -> the machine of plan/data/machines that stands for it.
_DESCRIBED = {"spark": "dgx-spark", "gpu": "rtx-4090"}


@cache
def usable_part(kind: str) -> float:
    """Which part of a machine's memory a training may plan with."""
    return HERE_USABLE if kind == "cpu" else hardware(_DESCRIBED[kind]).usable


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`shapes` are those of its config, or (`exact` false) of a published model of its size.

    `where`: whose config that is.
    """

    name: str
    shapes: Shapes
    exact: bool
    where: str = "its config"

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        return self.shapes.parameters


@dataclass(frozen=True, slots=True)
class DataFacts:
    """Rows of the files together; sizes in bytes of text. `rows` may be an estimate.

    Parts of the rows: `good` are called good, `answered` have an answer, `numeric` a number as it.
    """

    format: str
    rows: int
    longest: int
    total: int
    good: float = 0.0
    answered: float = 0.0
    numeric: float = 0.0

    @property
    def tokens(self) -> int:
        """About; on the large side for English."""
        return tokens_of_text(self.total)

    def tokens_of_a_row(self, sides: int = 1) -> float:
        """On average, with what a chat template puts around each of its sides."""
        return self.tokens / self.rows + sides * _TEMPLATE_TOKENS


def tokens_of_text(size: int) -> int:
    """Of a text of so many bytes in UTF-8, about; on the large side for English."""
    return size // BYTES_PER_TOKEN


def days_on_a_processor(model: ModelFacts, data: DataFacts, epochs: float) -> float:
    """About how long a training without GPU takes: six operations a number and token."""
    tokens = data.rows * data.tokens_of_a_row() * epochs
    return 6 * model.parameters * tokens / PROCESSOR_RATE / 86_400


def shapes_of_size(parameters: int) -> Shapes:
    """Shapes of a model of about this size: the nearest published one's, with as many layers."""

    def of(sizes: _Sizes, layers: int) -> Shapes:
        return _shapes((*sizes[:2], layers, *sizes[3:]))

    _, nearest = min(
        _PUBLISHED, key=lambda item: abs(math.log(_shapes(item[1]).parameters / parameters))
    )
    one, two = (of(nearest, layers).parameters for layers in (1, 2))
    return of(nearest, max(1, 1 + round((parameters - one) / (two - one))))


def _shapes(sizes: _Sizes) -> Shapes:
    hidden, intermediate, layers, heads, keys, vocabulary, tied = sizes
    return shapes_of(
        {
            "model_type": "llama",
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": keys,
            "vocab_size": vocabulary,
            "tie_word_embeddings": tied,
        }
    )


def longest_tokens(data: DataFacts) -> int:
    """Of the longest row, on the large side for English."""
    return tokens_of_text(data.longest) + _TEMPLATE_TOKENS


def count_in_words(number: int) -> str:
    """A number as people say it: 135M, 8.0B, 12k."""
    for power, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= power:
            value = number / power
            return f"{value:.1f}{letter}" if value < 100 else f"{value:.0f}{letter}"
    return str(number)
