"""What of a recipe decides how much memory it takes, and memory as a list of its parts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runner.plan.two_machines import can_be_parted
from runner.recipe.methods import METHODS
from runner.scripts.evaluation.batches import MOST
from runner.stages import constants, fidelity

if TYPE_CHECKING:
    from runner.recipe.model import Adapter, Quantization, Recipe

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOAT32 = 4  # bytes; what is trained is float32, whatever lies below it (scripts/train_native.py)


@dataclass(frozen=True, slots=True)
class Item:
    """One part of the memory, in bytes."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Parts whose sum is the peak; what is in memory at another moment is not among them."""

    items: tuple[Item, ...]

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(item.bytes for item in self.items)


@dataclass(frozen=True, slots=True)
class Job:
    """What of a recipe decides how much memory it takes; `of` reads it from one."""

    dtype: str
    quantization: Quantization | None
    attn_implementation: str
    adapter: Adapter
    optim: str
    bf16: bool
    gradient_checkpointing: bool
    batch: int  # rows in one forward pass
    accumulation: int  # forward passes of one step
    length: int  # tokens of the longest row
    new_tokens: int  # of the longest answer in the evaluation
    questions: int  # answered at once, at most
    loss: bool  # is the held-out loss measured?
    reference: bool = False  # is there a second, frozen copy of the model?
    scored: bool = False  # are there a reward model, and a value model that learns?
    answer: int = 0  # tokens that are sampled behind the longest row
    sides: int = 1  # rows of a forward pass for one of the recipe's batch: a pair has two
    answers: int = 0  # that are drawn at once while training
    processes: int = 1  # that hold a part of the model each, on all machines
    here: int = 1  # of them on a machine
    tasks: bool = False  # of lm-evaluation-harness: are there any?
    merged: bool = False  # is the result merged into its base?
    merged_dtype: str = "bfloat16"
    rebuilt: bool = False  # is the base that it is merged into rebuilt from its 4 bits?
    compared: bool = False  # is the merged model held against the trained one?
    converted: bool = False  # into a GGUF file?
    parted: bool = False  # may two machines train it, each with a part of the model?
    pages: bool = False  # has the host memory of its own, to page states to?

    @classmethod
    def of(cls, recipe: Recipe) -> Job:
        """The job of `recipe`. Questions in a file are not counted: they may fill a batch."""
        train, evaluate = recipe.train, recipe.evaluate
        return cls(
            dtype=recipe.model.dtype,
            quantization=recipe.model.quantization,
            attn_implementation=recipe.model.attn_implementation,
            adapter=train.adapter,
            optim=train.optim,
            bf16=train.bf16,
            gradient_checkpointing=train.gradient_checkpointing,
            batch=METHODS[train.method].rows * train.per_device_train_batch_size,
            sides=METHODS[train.method].rows,
            accumulation=train.gradient_accumulation_steps,
            length=recipe.data.max_length + (train.response_length or 0),
            new_tokens=max(evaluate.max_new_tokens, train.max_completion_length or 0)
            if evaluate
            else 0,
            questions=_questions(recipe),
            loss=bool(evaluate and evaluate.loss and not METHODS[train.method].generates),
            answers=_answers(recipe),
            # with an adapter, the model without it is the reference
            reference=train.method in ("dpo", "kto", "grpo", "ppo")
            and train.adapter.type == "none",
            scored=train.method == "ppo",
            answer=train.response_length or 0,
            processes=train.all_processes,
            here=train.processes,
            tasks=bool(evaluate and evaluate.harness),
            merged=recipe.merge is not None and train.adapter.type != "none",
            merged_dtype=recipe.merge.dtype if recipe.merge else "bfloat16",
            rebuilt=recipe.model.quantization is not None and constants.wanted(recipe),
            compared=fidelity.wanted(recipe),
            converted=recipe.gguf is not None,
            parted=can_be_parted(recipe),
        )

    def within(self, stages: Collection[str]) -> Job:
        """Of a run of these stages: the others take no memory. The training is always one."""
        measured = "evaluate" in stages
        return replace(
            self,
            questions=self.questions if measured else 0,
            loss=self.loss and measured,
            tasks=self.tasks and "harness" in stages,
            merged=self.merged and "merge" in stages,
            rebuilt=self.rebuilt and "constants" in stages,
            compared=self.compared and "fidelity" in stages,
            converted=self.converted and "gguf" in stages,
        )

    @property
    def computed(self) -> int:
        """Bytes of a number that the layers compute with."""
        return 2 if self.bf16 else DTYPE_BYTES[self.stream]

    @property
    def stream(self) -> str:
        """Dtype of what flows from layer to layer: that of the embeddings."""
        return "float32" if self.adapter.type == "none" else self.dtype


def memory_of(items: Iterable[Item]) -> Memory:
    return Memory(tuple(item for item in items if item.bytes))


def _questions(recipe: Recipe) -> int:
    """Answers at once in the evaluation."""
    evaluate = recipe.evaluate
    if evaluate is None:
        return 0
    rewarded = evaluate.loss and METHODS[recipe.train.method].generates
    if evaluate.questions or evaluate.forgetting or rewarded:
        return MOST
    return min(MOST, evaluate.samples)


def _answers(recipe: Recipe) -> int:
    """Answers that are drawn at once while training: all of a step."""
    train = recipe.train
    if not METHODS[train.method].generates:
        return 0
    return train.per_device_train_batch_size * train.gradient_accumulation_steps
