"""The tensors that learn: those of an adapter and of modules trained as a whole, or all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from runner.plan.optimizers import Tensor
from runner.plan.shapes import Kind, Shapes, Weight, in_layer

if TYPE_CHECKING:
    from runner.recipe.model import Adapter


def trained_parameters(shapes: Shapes, adapter: Adapter) -> int:
    """Numbers that learn: of the adapter and the modules trained as a whole, or all."""
    return sum(tensor.size for tensor in trained_tensors(shapes, adapter))


def trained_tensors(shapes: Shapes, adapter: Adapter) -> Iterator[Tensor]:
    """The tensors that learn, as the optimizer is given them."""
    if adapter.type == "none":
        learning = (weight for weight in shapes.weights if _learns(weight, shapes, adapter))
        for weight in learning:
            yield from () if weight.tied else _whole(weight)
        return
    for weight in adapted_weights(shapes, adapter):
        yield from _adapter_tensors(weight, adapter)
    for weight in _saved(shapes, adapter):
        yield from _whole(weight)


def _whole(weight: Weight) -> Iterator[Tensor]:
    yield Tensor(weight.rows, weight.columns, embedding=weight.kind is Kind.EMBEDDING)
    if weight.bias:
        yield Tensor(weight.rows)


def _learns(weight: Weight, shapes: Shapes, adapter: Adapter) -> bool:
    """Without an adapter: does it lie in the layers that learn, as adapter_targets.py has it?"""
    count, place = adapter.trainable_layers, in_layer(weight.module)
    if count is None:
        return True
    if place is None:
        return False
    chosen = place[0] >= shapes.layers - count if count > 0 else place[0] < -count
    return chosen and (not adapter.trainable_modules or place[1] in adapter.trainable_modules)


def adapted_weights(shapes: Shapes, adapter: Adapter) -> list[Weight]:
    """The weights that get an adapter, chosen as scripts/training/adapter_targets.py does."""
    saved = {weight.module for weight in _saved(shapes, adapter)}
    return [
        weight
        for weight in shapes.weights
        if weight.kind is not Kind.VECTOR
        and weight.module not in saved
        and _is_target(weight, adapter.target_modules)
        and not _names(adapter.exclude_modules, weight.module)
    ]


def _is_target(weight: Weight, targets: str | Iterable[str]) -> bool:
    if targets == "all-linear":
        return weight.kind is Kind.LINEAR
    if targets == "all-attention":
        return weight.kind is Kind.LINEAR and ".self_attn." in weight.module
    return _names(targets, weight.module)


def _names(wanted: str | Iterable[str], module: str) -> bool:
    """A text is a regular expression for the whole name; a list has ends of names."""
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(_ends_with(module, end) for end in wanted)


def _ends_with(module: str, end: str) -> bool:
    return module == end or module.endswith(f".{end}")


def _saved(shapes: Shapes, adapter: Adapter) -> list[Weight]:
    """Weights trained as a whole: those that `modules_to_save` names, and those inside of them."""
    if not adapter.modules_to_save:
        return []
    return [
        weight
        for weight in shapes.weights
        if any(
            _ends_with(above, end) for above in _above(weight) for end in adapter.modules_to_save
        )
    ]


def _above(weight: Weight) -> list[str]:
    """The module and every module around it."""
    parts = weight.module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _adapter_tensors(weight: Weight, adapter: Adapter) -> Iterator[Tensor]:
    rank = next(
        (
            value
            for pattern, value in adapter.rank_pattern.items()
            if re.match(rf"(.*\.)?({pattern})$", weight.module)
        ),
        adapter.r,
    )
    yield Tensor(rank, weight.columns)
    yield Tensor(weight.rows, rank)
    if adapter.use_dora:
        yield Tensor(weight.rows)
    if adapter.lora_bias:
        yield Tensor(weight.rows)
