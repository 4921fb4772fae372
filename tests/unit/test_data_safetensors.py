"""Our streaming safetensors files, beside the library's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file, save

from runner.scripts.weights.floats import STORAGE
from runner.scripts.weights.safetensors_stream import (
    INDEX,
    DamagedFileError,
    ModelFolder,
    SafetensorsFile,
    SafetensorsWriter,
    TensorSpec,
    natural_order,
    open_shards,
    plan_shards,
    row_blocks,
)

_NAMES = {np.dtype(stored): name for name, stored in STORAGE.items() if name not in ("BF16",)}


def specs_of(tensors: dict[str, np.ndarray]) -> list[TensorSpec]:
    return [TensorSpec(name, _NAMES[one.dtype], one.shape) for name, one in tensors.items()]


@given(
    st.dictionaries(
        st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=8).filter(
            lambda name: name != "__metadata__"
        ),
        st.sampled_from([name for name in STORAGE if name != "BF16"]).flatmap(
            lambda name: arrays.arrays(
                STORAGE[name], arrays.array_shapes(min_dims=0, max_dims=3, max_side=4)
            )
        ),
        max_size=6,
    ),
    st.sampled_from([None, {"format": "pt"}]),
)
def test_the_bytes_are_those_of_the_library(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, np.ndarray],
    metadata: dict[str, str] | None,
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "ours.safetensors"
    with SafetensorsWriter(path, specs_of(tensors), metadata) as writer:
        for name, values in tensors.items():
            writer.write(name, values)
    assert path.read_bytes() == bytes(save(tensors, metadata))


def test_bfloat16_is_ordered_as_the_library_orders_it(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.uint16)
    single = np.arange(3, dtype=np.float32)
    half = np.arange(2, dtype=np.float16)
    kinds = {"z": ("bfloat16", values), "a": ("float32", single), "b": ("float16", half)}
    library = safetensors.serialize(
        {
            name: safetensors.TensorSpec(
                dtype=kind,
                shape=array.shape,
                data_ptr=array.ctypes.data,
                data_len=array.nbytes,
            )
            for name, (kind, array) in kinds.items()
        }
    )
    specs = [
        TensorSpec("z", "BF16", (6,)),
        TensorSpec("a", "F32", (3,)),
        TensorSpec("b", "F16", (2,)),
    ]
    with SafetensorsWriter(tmp_path / "x", specs) as writer:
        for name, (_, array) in kinds.items():
            writer.write(name, array)
    assert (tmp_path / "x").read_bytes() == bytes(library)


def test_blocks_written_one_by_one_come_back_in_any_blocks(tmp_path: Path) -> None:
    values = np.arange(7 * 5, dtype=np.float32).reshape(7, 5)
    spec = TensorSpec("w", "F32", values.shape)
    path = tmp_path / "x.safetensors"
    with SafetensorsWriter(path, [spec]) as writer:
        for first, last in row_blocks(spec, 45):
            writer.write("w", values[first:last])
    assert np.array_equal(load_file(path)["w"], values)
    with SafetensorsFile(path) as file:
        again = [file.read("w", first, last) for first, last in row_blocks(spec, 1, multiple=3)]
    assert [len(rows) for rows in again] == [3, 3, 1]
    assert np.array_equal(np.concatenate(again), values)


def test_an_incomplete_tensor_is_not_a_file(tmp_path: Path) -> None:
    spec = TensorSpec("w", "F32", (4,))
    with (
        pytest.raises(AssertionError, match="incomplete"),
        SafetensorsWriter(tmp_path / "x", [spec]) as writer,
    ):
        writer.write("w", np.zeros(3, np.float32))


def test_a_tensor_in_two_shards_is_damage(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        with SafetensorsWriter(tmp_path / name, [TensorSpec("w", "U8", (0,))]):
            pass
    (tmp_path / INDEX).write_text(
        json.dumps({"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}})
    )
    with pytest.raises(DamagedFileError, match="in another shard too"):
        ModelFolder(tmp_path)


def test_shards_and_their_index_are_read_as_one_model(tmp_path: Path) -> None:
    tensors = {f"layers.{number}.w": np.full(100, number, np.float32) for number in (10, 9, 2)}
    with open_shards(tmp_path, specs_of(tensors), max_bytes=850) as writer:
        for name, values in tensors.items():
            writer.write(name, values)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"] == {"total_size": 1200}
    assert set(index["weight_map"].values()) == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    with ModelFolder(tmp_path) as model:
        assert list(model.tensors) == ["layers.2.w", "layers.9.w", "layers.10.w"]
        assert all(np.array_equal(model.read(name), tensors[name]) for name in tensors)


def test_a_tensor_larger_than_a_shard_gets_its_own() -> None:
    sizes = [3, 9, 1, 1, 8]
    specs = [TensorSpec(str(number), "U8", (size,)) for number, size in enumerate(sizes)]
    plan = plan_shards(specs, 4)
    assert [[spec.nbytes for spec in shard] for shard in plan] == [[3], [9], [1, 1], [8]]


def test_layers_are_ordered_by_number() -> None:
    names = ["a.10.x", "a.9.x", "b", "a.9", "1"]
    assert sorted(names, key=natural_order) == ["1", "a.9", "a.9.x", "a.10.x", "b"]


def _with_header(header: object, data: bytes) -> bytes:
    text = (header if isinstance(header, bytes) else json.dumps(header).encode()).ljust(8)
    return len(text).to_bytes(8, "little") + text + data


_W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "too short"),
        (b"\xff" * 40, "cut off inside its header"),
        (_with_header(b"{nonsense", b""), "damaged header"),
        (_with_header([1], b""), "damaged header"),
        (_with_header(b'{"w":{},"w":{}}', b""), "twice"),
        (_with_header({"w": _W}, b"1234567"), "announces"),
        (_with_header({"w": _W}, b"123456789"), "announces"),
        (_with_header({"w": {**_W, "shape": [3]}}, b"12345678"), "not where"),
        (_with_header({"w": {**_W, "shape": [-2]}}, b"12345678"), "damaged shape"),
        (_with_header({"w": {**_W, "data_offsets": [1, 9]}}, b"123456789"), "not where"),
        (_with_header({"w": {**_W, "dtype": "F3"}}, b"12345678"), "unsupported dtype F3"),
        (_with_header({"v": _W, "w": _W}, b"12345678"), "not where"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(DamagedFileError, match=words):
        SafetensorsFile(tmp_path / "m.safetensors")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_file_or_a_damaged_one(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "m.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    try:
        SafetensorsFile(path).close()
    except DamagedFileError:
        return


@pytest.mark.parametrize("name", ["../m.safetensors", "/etc/passwd", "a/b.safetensors", "m.bin"])
def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(DamagedFileError, match="no file beside it"):
        ModelFolder(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"w": []}}'])
def test_a_broken_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(DamagedFileError, match="index"):
        ModelFolder(tmp_path)
