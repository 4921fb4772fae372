"""Every quantisation that llama.cpp's Python package reads is read by blocks of rows as well."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import _type_traits as readable
from gguf.quants import dequantize, quantize

from runner.scripts.from_gguf import gguf_model
from runner.scripts.from_gguf.architectures.base import Architecture
from runner.scripts.from_gguf.gguf_model import GgufFile, blocks_of, plan_tensors

ROWS, COLUMNS = 24, 512
KINDS = sorted((kind.name for kind in readable), key=str)


def test_there_are_as_many_kinds_as_there_should_be() -> None:
    assert {"Q4_K", "Q6_K", "Q8_0", "IQ4_XS", "IQ1_S", "TQ1_0", "MXFP4", "Q2_K"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_what_the_whole_tensor_gives(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_model, "BLOCK", 5 * COLUMNS * 4)  # five rows at a time
    stored = gguf.GGMLQuantizationType[kind]
    data = random_blocks(stored)
    path = tmp_path / "t.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("w", data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    architecture = Architecture(config=lambda file: {}, names={"w": "w"})
    with GgufFile(path) as source:
        (plan,) = plan_tensors(source, architecture, "float32")
        assert plan.spec.shape == (ROWS, COLUMNS)
        blocks = list(blocks_of(source, plan))
    assert len(blocks) == 5
    assert np.array_equal(np.concatenate(blocks), dequantize(data, stored))


def random_blocks(kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """Quantised random numbers; for kinds that the package cannot write, bytes whose scales are
    numbers: uint8 [ROWS, bytes of a row]."""
    random = np.random.default_rng(7)
    values = random.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    try:
        return quantize(values, kind)
    except NotImplementedError:  # gguf-py reads more types than it writes
        block, size = gguf.GGML_QUANT_SIZES[kind]
        # Below 0x40 no two bytes are an infinite or missing float16.
        return random.integers(0, 0x40, (ROWS, COLUMNS // block * size), np.uint8)
