"""A base model of which each process reads its own part, so that no machine need hold all of it.

Transformers makes the model as it always does, but is given a stand-in for every tensor: right
dtype and shape, and one number in memory. So what it does with names, ties, dtypes and buffers is
what it does to real ones, and an adapter is drawn on the processor as over a whole model. Before
the model is laid out, stand-ins become tensors without memory (the meta device); PyTorch cuts
these, and then each process reads of every tensor the rows of its part.

Where Transformers makes something else of a tensor than a weight of the model, or reads files in
a way of their own, every process loads the whole model, and the log says why.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.core_model_loading import WeightConverter

from runner.scripts.training.base_model import arguments, read_model
from runner.scripts.training.tensor_reader import STORED, opening, read_rows, why_not
from runner.scripts.training.together.sharded import parted
from runner.scripts.training.together.team import Team
from runner.scripts.weights.safetensors_stream import SafetensorsFile, TensorSpec


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a weight's numbers are, and the dtype in which the recipe holds the base."""

    file: SafetensorsFile
    spec: TensorSpec
    held: torch.dtype

    def rows(self, first: int, into: torch.Tensor) -> torch.Tensor:
        """`into`, filled with rows from `first` on."""
        read_rows(self.file, self.spec, first, into, self.held)
        return into


class BaseInParts:
    """The base model of one training: `read` makes it, `place` lays it out and fills it."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self._sources: dict[torch.Tensor, _Source] = {}  # by the weight that is without numbers
        self._files: list[SafetensorsFile] = []

    def read(
        self, folder: Path, settings: dict[str, Any], device: torch.device, family: Any
    ) -> Any:
        """As `base_model.read_model`, without a weight in memory; whole where that cannot be."""
        model, reason = None, why_not(folder)
        if not reason:
            model, reason = self._without_weights(folder, settings, device, family)
        if reason:
            print(f"every process loads the whole model: {reason}", file=sys.stderr)
            self._close()
            return read_model(folder, settings, device, family)
        if settings["adapter"]["type"] == "none":  # nothing is drawn, and all become float32
            self._to_meta(model)
        return model

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model`, with all that learns in it, in parts. It stays the same object."""
        self._to_meta(model)
        every = model.named_parameters(remove_duplicate=False)  # a tied weight has two names
        sources = {name: self._sources[each] for name, each in every if each in self._sources}
        parted(model, device, self._team)
        self._fill(model, sources, device)
        self._close()
        return model

    def _close(self) -> None:
        self._sources = {}
        for file in self._files:
            file.close()

    def _without_weights(
        self, folder: Path, settings: dict[str, Any], device: torch.device, family: Any
    ) -> tuple[Any, str]:
        """The model of stand-ins, or the reason why it cannot be one."""
        stand_ins = _StandIns(self._files)
        with opening(stand_ins.open_shard):
            model = family.from_pretrained(folder, **arguments(settings, device))
        placed = _placed(model.parameters(), stand_ins)
        buffers = _placed(model.buffers(), stand_ins)
        found = {source.spec.name for source in (*placed.values(), *buffers.values())}
        if lost := sorted(stand_ins.names - found):
            return model, f"the files' {lost[0]} is no weight of the model as it is"
        if changed := [
            each for each in model._weight_conversions if isinstance(each, WeightConverter)
        ]:
            return model, f"the files' {changed[0].source_patterns[0]} are changed while they load"
        for buffer, source in buffers.items():
            buffer.set_(source.rows(0, torch.empty(buffer.shape, dtype=buffer.dtype)))  # small ones
        self._sources = placed
        return model, ""

    def _to_meta(self, model: nn.Module) -> None:
        """Take the last memory from the weights without numbers."""
        made: dict[torch.Tensor, nn.Parameter] = {}
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                if weight in self._sources:
                    if weight not in made:
                        empty = torch.empty_like(weight, device="meta")
                        made[weight] = nn.Parameter(empty.contiguous(), weight.requires_grad)
                    setattr(module, name, made[weight])
        self._sources = {made[weight]: source for weight, source in self._sources.items()}

    def _fill(self, model: nn.Module, sources: dict[str, _Source], device: torch.device) -> None:
        """Give every weight of the base its rows in this process."""
        filled: dict[torch.Tensor, nn.Parameter] = {}
        state: dict[str, nn.Parameter] = {}
        for name, weight in model.named_parameters(remove_duplicate=False):
            if name in sources:
                if weight not in filled:
                    filled[weight] = self._part(weight, sources[name], device)
                state[name] = filled[weight]
        # this is how PyTorch learns that other tensors are in the places of those that it cut
        model.load_state_dict(state, strict=False, assign=True)

    def _part(self, weight: torch.Tensor, source: _Source, device: torch.device) -> nn.Parameter:
        """The rows of `weight` in this process, as the weight's own kind of tensor."""
        assert isinstance(weight, DTensor)
        local = torch.empty(weight.to_local().shape, dtype=weight.dtype, device=device)
        first = min(self._team.rank * -(-weight.shape[0] // self._team.size), weight.shape[0])
        whole = DTensor.from_local(
            source.rows(first, local),
            weight.device_mesh,
            weight.placements,
            run_check=False,
            shape=weight.shape,
            stride=weight.stride(),
        )
        return nn.Parameter(whole, weight.requires_grad)


def _placed(tensors: Iterable[torch.Tensor], stand_ins: _StandIns) -> dict[torch.Tensor, _Source]:
    """Those of `tensors` that are stand-ins, and what each stands in for."""
    found = ((each, stand_ins.source_of(each)) for each in tensors)
    return {each: source for each, source in found if source is not None}


class _StandIns:
    """Opens files of weights whose tensors are stand-ins."""

    def __init__(self, files: list[SafetensorsFile]) -> None:
        self.names: set[str] = set()  # that were asked for
        self._files = files  # that are open
        self._sources: dict[int, tuple[torch.Tensor, _Source]] = {}  # by place in memory

    def open_shard(self, path: str, **_: Any) -> _Shard:
        """As the safetensors library opens a file."""
        self._files.append(SafetensorsFile(Path(path)))
        return _Shard(self._files[-1], self)

    def made(self, file: SafetensorsFile, spec: TensorSpec, held: torch.dtype) -> torch.Tensor:
        """A new one. All are zeros: two that might be tied are equal, and one of them is missed."""
        number = torch.zeros((), dtype=held)
        self.names.add(spec.name)
        self._sources[number.data_ptr()] = number, _Source(file, spec, held)
        return number.expand(spec.shape)

    def source_of(self, tensor: torch.Tensor) -> _Source | None:
        """What `tensor` stands in for, if it does so as it was made."""
        if tensor.device.type == "meta":
            return None
        _, source = self._sources.get(tensor.data_ptr(), (None, None))
        same = source is not None and (tensor.shape, tensor.dtype) == (
            source.spec.shape,
            source.held,
        )
        return source if same else None


class _Shard:
    """Of the library's open file, what Transformers uses of it while it loads."""

    def __init__(self, file: SafetensorsFile, stand_ins: _StandIns) -> None:
        self._file, self._stand_ins = file, stand_ins

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return [spec.name for spec in self._file.specs]

    def get_slice(self, name: str) -> _Unread:
        """A tensor that is never read here."""
        return _Unread(self._file, self._file.spec(name), self._stand_ins)

    def __exit__(self, *_: object) -> None:
        """Files are closed when every part is read."""


@dataclass(frozen=True)
class _Unread:
    """Stands for one tensor until Transformers says in which dtype it goes into the model."""

    file: SafetensorsFile
    spec: TensorSpec
    stand_ins: _StandIns

    def __getitem__(self, _: Any) -> _Unread:
        return self

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The stand-in. `device` is the processor: what is not quantised is loaded there."""
        return self.stand_ins.made(self.file, self.spec, dtype or STORED[self.spec.dtype])
