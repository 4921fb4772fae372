"""What the matrix combines: base models, how they are stored, adapters, and the files made of them.

The whole is `ALL`; `EVERY_DAY` are the few of it in which every pair of values occurs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from tests.covering import covering

ARCHITECTURES = (
    "llama-3.1-8b",
    "mistral-7b-v0.3",
    "qwen2.5-7b",
    "qwen3-8b",
    "gemma-2-2b",
    "gemma-3-1b",
    "phi-3-mini-4k",
)
EMBEDDINGS = ("untied", "tied")
STORAGE = ("single", "sharded")
# rsLoRA comes with ranks and alphas by pattern: what its scaling depends on.
METHODS = ("lora", "rslora-patterns", "dora")
# The linear layers; whole modules beside them; or the embeddings' own matrices too.
REACHES = ("linear", "modules-to-save", "embeddings")
# dtype of the merge -> its own type, in which nothing is lost, and quantised types.
FILES = {
    "float32": ("F32", "Q5_K_M", "IQ4_XS"),
    "float16": ("F16", "Q6_K"),
    "bfloat16": ("BF16", "Q8_0", "Q4_K_M"),
}
# llama.cpp gives Phi-3 no window: beyond it (2047 tokens of the real model) it computes otherwise.
WITHOUT_WINDOW = ("phi-3-mini-4k",)
# llama.cpp computes the output with the embedding, whatever the model's file says (E547).
ALWAYS_TIED = ("gemma-2-2b",)
# What makes two tensors of a tied one, however it is trained.
UNTYING = {("dora", "embeddings")}


@dataclass(frozen=True)
class Case:
    """One model from its base to its GGUF files. `dtype`: what it is merged into."""

    architecture: str
    embeddings: str
    storage: str
    method: str
    reach: str
    dtype: str

    @property
    def tied(self) -> bool:
        """Has the base one tensor for embedding and output?"""
        return self.embeddings == "tied"

    @property
    def files(self) -> tuple[str, ...]:
        """Types of the GGUF files; the first holds the merged weights as they are."""
        return FILES[self.dtype]

    @property
    def name(self) -> str:
        """All dimensions, as the id of a test."""
        what = [self.architecture, self.embeddings, self.storage, self.method, self.reach]
        return "+".join([*what, self.dtype, *self.files])


ALL = [
    Case(*row)
    for row in product(ARCHITECTURES, EMBEDDINGS, STORAGE, METHODS, REACHES, FILES)
    if row[0] not in ALWAYS_TIED or (row[1] == "tied" and row[3:5] not in UNTYING)
]


def row_of(case: Case) -> tuple[str, ...]:
    """The values of a case in the order of its dimensions."""
    return tuple(vars(case).values())


EVERY_DAY = [Case(*row) for row in covering([row_of(case) for case in ALL])]
