"""A difference planted at any arrow of the chain is found there, and inside of the file."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from runner.stages import ORDER
from runner.store.store import Store
from runner.verify import contents
from runner.verify.compare import compare_runs
from runner.verify.differences import compare_files
from runner.verify.run import Run, open_run
from tests.chain import ROOT

WIDTH = 8


def tokens(path: Path, change: bool = False) -> None:
    ids = np.arange(12, dtype=np.int32)
    ids[7] += 100 * change
    save_file(
        {
            "input_ids": ids,
            "labels_mask": np.ones(12, np.uint8),
            "offsets": np.array([0, 5, 12], np.int64),
        },
        path,
    )


def weights(path: Path, change: bool = False) -> None:
    values = np.linspace(1, 2, WIDTH * WIDTH, dtype=np.float32).reshape(WIDTH, WIDTH)
    if change:
        values[3, 5] = np.nextafter(np.nextafter(values[3, 5], 9), 9)
    save_file({"a": np.zeros(2, np.float32), "layers.0.w": values}, path)


def trace(path: Path, change: bool = False) -> None:
    lines = [{"step": n, "loss": 1 / n, "weights": str(n)} for n in (1, 2, 3)]
    if change:
        lines[1]["weights"] = "other"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def answers(path: Path, change: bool = False) -> None:
    rows = [{"question": "Who?", "tuned": "I" if not change else "You"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def model_file(path: Path, change: bool = False, name: str = "n") -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", name)
    writer.add_tensor("first", np.zeros((2, WIDTH), np.float32))
    writer.add_tensor("second", np.full((2, WIDTH), 1 + change, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def layers(path: Path, change: bool = False) -> None:
    made = {"model": "sha256:1", "template": "sha256:2", "params": {"num_ctx": 7 + change}}
    path.write_text(json.dumps(made))


# stage -> the file that differs, where the run folder shows it, its maker, and what is said of it
ARROWS: dict[str, tuple[str, str, Callable[..., None], str]] = {
    "prepare": (
        "train.tokens.safetensors",
        "prepared",
        tokens,
        "row 2, position 2: token 7 and 107",
    ),
    "train": ("trace.jsonl", ".", trace, 'step 2: /weights is "2" and "other"'),
    "evaluate": (
        "answers.jsonl",
        "evaluation",
        answers,
        'line 1: /tuned is "I" and "You"',
    ),
    "merge": (
        "model/model.safetensors",
        "merged",
        weights,
        "layers.0.w: 1 of 64 elements differ, at most 2 ulp apart, the first is [3, 5]; "
        "1 of 2 tensors differ",
    ),
    "imatrix": ("imatrix.gguf", "imatrix", model_file, "the tensor second (F32) differs"),
    "gguf": ("n-Q8_0.gguf", "gguf", model_file, "the tensor second (F32) differs"),
    "ollama": ("create.json", "ollama", layers, "/params/num_ctx is 7 and 8"),
}
STAGES = [stage for stage in ORDER if stage in ARROWS]


def made_run(folder: Path, parted: str | None) -> Run:
    """A run folder whose results differ from `parted` on, as they would."""
    manifest: dict[str, Any] = {}
    changed = False
    for stage in STAGES:
        changed = changed or stage == parted
        name, place, write, _ = ARROWS[stage]
        path = folder / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, change=changed)
        content = path.read_bytes()
        facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest[stage] = {name: facts | {"class": "portable"}}
    (folder / "manifest.json").write_text(json.dumps({"stages": manifest}))
    stages = [
        {"name": stage, "key": "ab" * 32, "material": {"stage": stage}, "measures": {}}
        for stage in STAGES
    ]
    (folder / "run.json").write_text(json.dumps({"stages": stages}))
    return open_run(folder)


@pytest.mark.parametrize("parted", STAGES)
def test_the_first_arrow_that_differs_is_found_and_the_place_in_its_file(
    parted: str, tmp_path: Path
) -> None:
    first, second = made_run(tmp_path / "a", None), made_run(tmp_path / "b", parted)
    found = compare_runs(first, second, Store(tmp_path / "store"))
    unequal = [stage for stage in found if not stage.equal]
    assert unequal[0].stage == parted
    assert [stage.stage for stage in unequal] == STAGES[STAGES.index(parted) :]
    assert unequal[0].difference is not None
    name, _, _, where = ARROWS[parted]
    assert (unequal[0].difference.file, unequal[0].difference.where) == (name, where)


def test_runs_without_a_difference_are_equal(tmp_path: Path) -> None:
    first, second = made_run(tmp_path / "a", None), made_run(tmp_path / "b", None)
    assert all(stage.equal for stage in compare_runs(first, second, Store(tmp_path / "store")))


# --- inside of files


def test_a_label_mask_is_told_from_a_token(tmp_path: Path) -> None:
    a, b = tmp_path / "a.tokens.safetensors", tmp_path / "b.tokens.safetensors"
    tokens(a)
    mask = np.ones(12, np.uint8)
    mask[1] = 0
    ids, offsets = np.arange(12, dtype=np.int32), np.array([0, 5, 12], np.int64)
    save_file({"input_ids": ids, "labels_mask": mask, "offsets": offsets}, b)
    assert compare_files(a, b) == "row 1, position 1: label mask 1 and 0"


@pytest.mark.parametrize(
    ("pair", "ulps"),
    [
        ((1.0, -1.0), 2 * 0x3F80_0000),
        ((0.0, -0.0), 0),
        ((np.float32(1e-45), np.float32(-1e-45)), 2),
        ((3.0, np.nextafter(np.float32(3.0), np.float32(0))), 1),
    ],
)
def test_distances_are_in_units_in_the_last_place(
    pair: tuple[float, float], ulps: int, tmp_path: Path
) -> None:
    for name, value in zip("ab", pair, strict=True):
        save_file({"w": np.full(4, value, np.float32)}, tmp_path / f"{name}.safetensors")
    said = contents.tensors(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert f"w: 4 of 4 elements differ, at most {ulps} ulp apart, the first is [0]" in said


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"w": np.zeros((2, 3), np.float32)}, "w is F32 [3, 2] and F32 [2, 3]"),
        ({"w": np.zeros((3, 2), np.float16)}, "w is F32 [3, 2] and F16 [3, 2]"),
        ({"v": np.zeros(1, np.float32)}, "the tensor v is only in the second run"),
    ],
)
def test_other_tensors_are_told(other: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_file({"w": np.zeros((3, 2), np.float32)}, tmp_path / "a.safetensors")
    save_file(other, tmp_path / "b.safetensors")
    assert contents.tensors(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == said


def test_a_metadata_key_comes_before_the_tensors(tmp_path: Path) -> None:
    model_file(tmp_path / "a.gguf")
    model_file(tmp_path / "b.gguf", change=True, name="m")
    said = compare_files(tmp_path / "a.gguf", tmp_path / "b.gguf")
    assert said == 'metadata general.name: "n" and "m"'


def test_of_unequal_lengths_the_end_of_the_shorter_is_told(tmp_path: Path) -> None:
    trace(tmp_path / "a.jsonl")
    text = (tmp_path / "a.jsonl").read_text()
    (tmp_path / "b.jsonl").write_text(text + '{"step": 4}\n')
    assert compare_files(tmp_path / "a.jsonl", tmp_path / "b.jsonl") == (
        "the first run has 3 lines, the other has more"
    )


def test_what_cannot_be_read_is_compared_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF, but not really: x")
    (tmp_path / "b.gguf").write_bytes(b"GGUF, but not really: y")
    assert compare_files(tmp_path / "a.gguf", tmp_path / "b.gguf") == "byte 22: 78 and 79"
    (tmp_path / "c.bin").write_bytes(b"ab")
    (tmp_path / "d.bin").write_bytes(b"abc")
    said = compare_files(tmp_path / "c.bin", tmp_path / "d.bin")
    assert said == "2 and 3 bytes, equal up to the end of the shorter one"


def large_tensors(path: Path, change: bool) -> None:
    """512 MiB, of holes but for the last element."""
    header = {"w": {"dtype": "F32", "shape": [1 << 17, 1 << 10], "data_offsets": [0, 1 << 29]}}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        write_hole(file, change)


def large_model_file(path: Path, change: bool) -> None:
    """The same as GGUF: the writer is asked for the header alone."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor_info("w", (1 << 17, 1 << 10), np.dtype(np.float32), 1 << 29)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.seek(0, 2)
        file.write(b"\0" * (-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))
        write_hole(file, change)


def write_hole(file: IO[bytes], change: bool) -> None:
    file.truncate(file.tell() + (1 << 29))
    if change:
        file.seek(-4, 2)
        file.write(np.float32(1e-45).tobytes())


@pytest.mark.parametrize(
    ("ending", "write", "said"),
    [
        (
            ".safetensors",
            large_tensors,
            "w: 1 of 134217728 elements differ, at most 1 ulp apart, the first is [131071, 1023]; "
            "1 of 1 tensors differ",
        ),
        (".gguf", large_model_file, "the tensor w (F32) differs"),
    ],
)
def test_large_tensors_are_compared_in_little_memory(
    ending: str, write: Callable[[Path, bool], None], said: str, tmp_path: Path
) -> None:
    files = [tmp_path / f"{name}{ending}" for name in "ab"]
    write(files[0], False)
    write(files[1], True)
    program = (
        "import sys, pathlib\n"
        "from runner.verify.differences import compare_files\n"
        "print(compare_files(*map(pathlib.Path, sys.argv[1:])))\n"
        "print(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    argv = [sys.executable, "-c", program, *map(str, files)]
    result = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True)
    printed, peak = result.stdout.splitlines()
    assert printed == said
    assert int(peak) << 10 < 150 << 20
