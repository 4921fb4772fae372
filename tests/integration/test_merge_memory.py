"""The merge's memory: not the depth of a model, nor its width, nor its size; and under a limit."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runner.scripts.merging.lora_adapter import Adapter
from runner.scripts.merging.lora_arithmetic import LoraPair, merge_rows
from runner.scripts.weights.safetensors_stream import ModelFolder, TensorSpec
from tests.lora_files import write_adapter
from tests.script_runs import SCRIPTS
from tests.sparse_model import BETWEEN, HIDDEN, llama_70b, write_sparse_model

MIB = 1 << 20
_PEAK = """
import pathlib, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    # Not getrusage: its peak survives exec, and so begins at the size of pytest.
    status = pathlib.Path("/proc/self/status").read_text()
    print("peak", status.split("VmHWM:")[1].split()[0])
"""
# What a merge does that loads a tensor before it works on it: all of it at once.
_WHOLE = """
import pathlib, sys
import numpy as np
parts = [np.fromfile(path, np.uint16) for path in pathlib.Path(sys.argv[1]).glob("*.safetensors")]
"""
# Beside the merge itself, an address space holds what numpy maps and what malloc sets aside for
# threads and never touches.
_THRIFTY = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True)
class Merged:
    """What a merge left behind."""

    folder: Path
    peak: int  # bytes


Merge = Callable[..., Merged]


@pytest.fixture(scope="module")
def python(environment_python: Callable[[str], Path]) -> Path:
    return environment_python("export")


@pytest.fixture
def merge(python: Path, tmp_path: Path) -> Merge:
    """Merge in a process of its own, whose address space may have a limit in bytes."""
    places = iter(range(100))

    def run(model: Path, adapter: Path, limit: int | None = None) -> Merged:
        out = tmp_path / f"out-{next(places)}"
        (out / "scratch").mkdir(parents=True)
        inputs = {"model": model, "adapter": adapter, "template": model / "chat_template.jinja"}
        where = {
            "inputs": {name: str(path) for name, path in inputs.items()},
            "folder": str(out),
            "scratch": str(out / "scratch"),
            "events": str(out / "events"),
        }
        spec = {"stage": "merge", "hashed": {"dtype": "bfloat16"}, "where": where}
        (out / "spec.json").write_text(json.dumps(spec))
        argv = ["-c", _PEAK, str(SCRIPTS / "__main__.py"), "merge", str(out / "spec.json")]
        result = limited(python, argv, limit)
        assert result.returncode == 0, result.stderr[-2000:]
        return Merged(out / "model", int(result.stdout.split("peak")[-1]) << 10)

    return run


def limited(python: Path, argv: list[str], limit: int | None) -> subprocess.CompletedProcess[str]:
    """Run `python` with at most `limit` bytes of address space: files that are mapped count too."""

    def cap() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return subprocess.run(
        [str(python), *argv],
        preexec_fn=cap,
        env={**os.environ, **_THRIFTY},
        capture_output=True,
        text=True,
        check=False,
    )


def modules_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """The linear layers among `shapes`."""
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in shapes.items()
        if name.endswith("_proj.weight")
    }


def with_magnitudes(adapter: Path, shapes: Mapping[str, tuple[int, int]]) -> Path:
    """The adapter as one of DoRA."""
    path, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    vectors = {
        f"base_model.model.{name}.lora_magnitude_vector": np.full(rows, 1.5, np.float32)
        for name, (rows, _) in shapes.items()
    }
    save_file({**load_file(path), **vectors}, path)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    return adapter


def check_rows(base: Path, adapter: Path, merged: Path, per_tensor: int = 3) -> int:
    """Some rows of every merged tensor against the arithmetic on these rows alone; how many."""
    checked = 0
    with (
        ModelFolder(base) as old,
        ModelFolder(merged) as new,
        closing(Adapter(adapter)) as lora,
    ):
        assert list(new.tensors.values()) == list(old.tensors.values())
        for name, spec in new.tensors.items():
            module = name.removesuffix(".weight")
            for row in {0, *range(spec.rows // per_tensor, spec.rows, spec.rows // per_tensor)}:
                before, after = (folder.read(name, row, row + 1) for folder in (old, new))
                if module in lora.pairs:
                    pair = lora.pair(module, transposed=False)
                    before = merge_rows(before, "BF16", [cut(pair, row)], 0, "BF16")
                assert np.array_equal(before, after), (name, row)
                checked += 1
    return checked


def cut(pair: LoraPair, row: int) -> LoraPair:
    """The pair for one row of the weight."""
    return replace(pair, b=pair.b[row : row + 1])


# --- curves


def test_memory_does_not_grow_with_the_depth(merge: Merge, tmp_path: Path) -> None:
    peaks = []
    for depth in (2, 16):
        shapes = {f"layers.{layer}.up_proj.weight": (4096, 2048) for layer in range(depth)}
        model = write_sparse_model(tmp_path / f"model-{depth}", shapes, shard_bytes=64 * MIB)
        adapter = write_adapter(model / "adapter", modules_of(shapes), rank=4)
        peaks.append(merge(model, adapter).peak)
    print(f"2 layers: {peaks[0] // MIB} MiB, 16 layers: {peaks[1] // MIB} MiB")
    assert peaks[1] - peaks[0] < 8 * MIB  # 14 more tensors of 16 MiB


@pytest.mark.parametrize("kind", ["LoRA", "DoRA"])
def test_memory_does_not_grow_with_the_width(merge: Merge, tmp_path: Path, kind: str) -> None:
    """Tensors of 16, 64 and 256 MiB: only the adapter's two matrices grow, with one side."""
    peaks = []
    for width in (2048, 4096, 8192):
        shapes = {"layers.0.up_proj.weight": (2 * width, width)}
        model = write_sparse_model(tmp_path / f"model-{width}", shapes)
        adapter = write_adapter(model / "adapter", modules_of(shapes), rank=4)
        if kind == "DoRA":
            with_magnitudes(adapter, modules_of(shapes))
            fill(model, width)
        peaks.append(merge(model, adapter).peak)
    print(f"{kind}: 16, 64, 256 MiB a tensor: {[peak // MIB for peak in peaks]} MiB")
    assert peaks[1] - peaks[0] < 24 * MIB
    assert peaks[2] - peaks[0] < 24 * MIB  # the tensor has 240 MiB more


def fill(model: Path, width: int) -> None:
    """Give every row a weight, since DoRA refuses rows of zeros."""
    with ModelFolder(model) as folder:
        (spec,) = folder.tensors.values()
        path = folder.shards[0].path
    start = path.stat().st_size - spec.nbytes
    column = np.memmap(path, np.uint16, "r+", start, (2 * width, width))
    column[:, 0] = 0x3F80  # 1.0
    column.flush()


# --- limits


def test_the_70bs_widths_pass_a_limit_that_one_of_its_tensors_does_not(
    python: Path, merge: Merge, tmp_path: Path
) -> None:
    """Two matrices of the 70B's MLP, 470 MB each, in 400 MiB of address space, Python included."""
    limit = 400 * MIB
    shapes = {
        "model.layers.0.mlp.up_proj.weight": (BETWEEN, HIDDEN),
        "model.layers.0.mlp.down_proj.weight": (HIDDEN, BETWEEN),
    }
    model = write_sparse_model(tmp_path / "model", shapes, shard_bytes=500_000_000)
    adapter = write_adapter(tmp_path / "adapter", modules_of(shapes), rank=16)
    whole = limited(python, ["-c", _WHOLE, str(model)], limit)
    assert "MemoryError" in whole.stderr  # the control: one tensor alone is too much
    merged = merge(model, adapter, limit)
    print(f"peak {merged.peak // MIB} MiB of {limit // MIB} MiB")
    assert check_rows(model, adapter, merged.folder) >= 2 * 3
    shutil.rmtree(merged.folder)


@pytest.mark.full
def test_eight_layers_of_a_70b_merge_in_half_a_gibibyte(
    python: Path, merge: Merge, tmp_path: Path
) -> None:
    """18 GB in, 18 GB out: both embeddings and 8 of the 80 layers, at their true widths."""
    limit = 512 * MIB
    shapes = llama_70b(8)
    model = write_sparse_model(tmp_path / "model", shapes)
    size = sum(TensorSpec(name, "BF16", shape).nbytes for name, shape in shapes.items())
    assert size > 17e9
    assert shutil.disk_usage(tmp_path).free > size + 2e9, "this test needs 20 GB of disk"
    adapter = write_adapter(tmp_path / "adapter", modules_of(shapes), rank=16)
    whole = limited(python, ["-c", _WHOLE, str(model)], limit)
    assert "MemoryError" in whole.stderr
    merged = merge(model, adapter, limit)
    print(f"peak {merged.peak // MIB} MiB of {limit // MIB} MiB, for {size / 1e9:.1f} GB")
    assert check_rows(model, adapter, merged.folder) > 3 * 8 * 9
    shutil.rmtree(merged.folder)
