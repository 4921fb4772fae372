"""Write a model whose weights are in parts: one is put together at a time, and written at once.

Transformers decides, of tensors without memory, what goes into which file, as for a model that is
whole; so the files are those that it would write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import modeling_utils

from runner.scripts.training.tensor_reader import STORED
from runner.scripts.training.together.team import Team, whole
from runner.scripts.training.trained_files import write_model
from runner.scripts.weights.floats import Array
from runner.scripts.weights.safetensors_stream import SafetensorsWriter, TensorSpec

_NAMES = {dtype: name for name, dtype in STORED.items()}


def write_parted_model(model: Any, folder: Path, inputs: dict[str, Path], team: Team) -> None:
    """As `write_model`, by the first process; every process sends its parts.

    Where names or shapes in files are not those of the model, all is put together at first: what
    becomes what is then found out from the numbers.
    """
    weights = dict(model.named_parameters())
    if getattr(model, "_weight_conversions", None):
        found = {name: _gathered(weight) for name, weight in weights.items()}
        if team.is_first:
            write_model(model, folder, inputs, found)
        return
    if not team.is_first:
        while name := team.agreed(""):
            whole(weights[name].detach())
        return
    bare = {name: torch.empty_like(weight, device="meta") for name, weight in weights.items()}
    with _writing(lambda name: _gathered(weights[team.agreed(name)])):
        write_model(model, folder, inputs, bare)
    team.agreed("")


def _gathered(weight: torch.Tensor) -> torch.Tensor:
    """All of it, in the processor's memory; every process must ask at once."""
    return whole(weight.detach()).cpu()


def _bytes(weight: torch.Tensor) -> Array:
    return weight.contiguous().reshape(-1).view(torch.uint8).numpy()


@contextmanager
def _writing(weight: Callable[[str], torch.Tensor]) -> Iterator[None]:
    """While entered, Transformers writes tensors as `weight` gives them by name.

    It has no public way to be given a writer, so what it writes with is replaced.
    """

    def save(tensors: Mapping[str, torch.Tensor], path: str, metadata: dict[str, str]) -> None:
        specs = [
            TensorSpec(name, _NAMES[each.dtype], tuple(each.shape))
            for name, each in tensors.items()
        ]
        with SafetensorsWriter(Path(path), specs, metadata) as file:
            for spec in specs:
                file.write(spec.name, _bytes(weight(spec.name)))

    before = modeling_utils.safe_save_file
    modeling_utils.safe_save_file = save
    try:
        yield
    finally:
        modeling_utils.safe_save_file = before
