"""A model folder and rows of a case, made on the spot: no download, and hardly any disk.

The files of weights are holes of the right size. While `drawn_weights` is entered, what is read
from them are random numbers, one tensor at a time, so that the 70B is never whole in 16 bits. What
becomes of a tensor (its place, its dtype, its 4 bits) is the product's and Transformers' own.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import Case
from runner.plan.shapes import Kind, Shapes, Weight
from runner.scripts.training import base_model, tensor_reader
from runner.scripts.weights.safetensors_stream import SINGLE
from tests.tiny_model import write_tiny_model
from tests.training_runs import Document, chat, write_preferences, write_tokens

BFLOAT16 = 2  # bytes
BLOCK = (1 << 22) + 1  # random numbers that all tensors are cut from
SPREAD = 0.02  # of weights, as initializer_range


def write_model(folder: Path, case: Case) -> Path:
    """The tiny model's tokenizer, and the case's own shapes. The folder must not exist."""
    write_tiny_model(folder)
    own = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    (folder / "config.json").write_text(json.dumps(case.config | own))
    _write_holes(folder / SINGLE, case.shapes)
    return folder


def _write_holes(path: Path, shapes: Shapes) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in tensors(shapes):
        begin, end = end, end + BFLOAT16 * _count(size)
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def tensors(shapes: Shapes) -> Iterator[tuple[str, list[int]]]:
    """Name and size of every tensor in the files."""
    for weight in shapes.weights:
        if not weight.tied:
            yield f"{weight.module}.weight", _size(weight)
            if weight.bias:
                yield f"{weight.module}.bias", [weight.rows]


def _size(weight: Weight) -> list[int]:
    return [weight.rows] if weight.kind is Kind.VECTOR else [weight.rows, weight.columns]


def _count(size: list[int]) -> int:
    return size[0] if len(size) == 1 else size[0] * size[1]


def write_rows(path: Path, case: Case) -> Path:
    """As many rows as the steps take, or pairs of them, each of exactly the case's length."""
    if case.method != "dpo":
        rows = [[_row(case.length, "a")] for _ in range(case.batch * case.steps)]
        return write_tokens(path, rows, packed=False)
    pair = [(_row(case.length, "a"), 1), (_row(case.length, "B"), 0)]
    return write_preferences(path, pair * (case.batch * case.steps))


def _row(length: int, letter: str) -> Document:
    """A question, and an answer that fills the row."""
    ids, _ = chat(("user", "Q"), ("assistant", ""))
    answer = letter * (length - len(ids) + 1)
    ids, mask = chat(("user", "Q"), ("assistant", answer))
    return ids[:-1], mask[:-1]  # without the line end behind the answer


def place_of(case: Case, device: torch.device) -> torch.device:
    """Where numbers are drawn: where a weight that is quantised at once would be copied to first.

    Else, and where the device shares the host's memory, on the host, as files are read.
    """
    apart = device.type == "cuda" and not base_model.shares_memory(device)
    return device if apart and case.method == "qlora" else torch.device("cpu")


@contextmanager
def drawn_weights(place: torch.device) -> Iterator[None]:
    """While entered, models are loaded through the product's readers, which are given numbers.

    Also one that the product would map: the same tensors reach the device, one by one.
    """
    block = torch.empty(BLOCK, dtype=torch.bfloat16)
    block.normal_(0, SPREAD, generator=torch.Generator().manual_seed(0))
    block = block.to(place)

    def drawn(reader: Any, _: Any) -> torch.Tensor:
        spec = reader._spec
        reader._heap.grown(spec.nbytes)
        return draw(spec.name, tuple(spec.shape), block)

    reader, chooses = tensor_reader._Reader.__getitem__, base_model.reads_by_tensor
    tensor_reader._Reader.__getitem__ = drawn
    base_model.reads_by_tensor = lambda *_: True
    try:
        yield
    finally:
        tensor_reader._Reader.__getitem__ = reader
        base_model.reads_by_tensor = chooses


def draw(name: str, size: tuple[int, ...], block: torch.Tensor) -> torch.Tensor:
    """Numbers of tensor `name`, bfloat16, where `block` lies: ones for a norm, else `block` over
    and over from some place in it that is the name's own."""
    if name.endswith("norm.weight"):
        return torch.ones(size, dtype=torch.bfloat16, device=block.device)
    made = torch.empty(size, dtype=torch.bfloat16, device=block.device)
    flat, place, begin = made.view(-1), 0, zlib.crc32(name.encode()) % len(block)
    while place < len(flat):
        piece = block[begin : begin + len(flat) - place]
        flat[place : place + len(piece)] = piece
        place, begin = place + len(piece), 0
    return made
