"""Every type of llama-quantize, its fallbacks, and the importance matrix, by the pinned tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf as library
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runner.errors import MachineCannot, StageFailed
from runner.stages import gguf, imatrix
from runner.stages.contract import Outputs
from runner.stages.export import conversion
from runner.stages.export.gguf_types import (
    FALLBACK,
    KINDS,
    Matrix,
    fallback,
    fallen_back,
    is_weight,
)
from runner.store.digest import file_sha256
from tests import tiny_model
from tests.gguf_files import write_gguf_of_model
from tests.integration.conftest import ContextFor, outputs_of
from tests.script_runs import run_script
from tests.smollm_models import published_gguf, write_cropped, write_two_layers
from tests.talking_model import write_talking_model
from tests.tiny_model import write_tiny_model

FALLING = re.compile(r"warning: (\S+)\s.*falling back to\s+(\S+)")


def run_quantize(
    llama_cpp: Path, source: Path, target: Path, kind: str, matrix: Path | None = None
) -> subprocess.CompletedProcess[str]:
    how = ["--imatrix", matrix.name] if matrix else []
    command = [llama_cpp / "bin" / "llama-quantize", *how, source, target, kind, "1"]
    return subprocess.run(
        [str(part) for part in command],
        cwd=matrix.parent if matrix else None,
        capture_output=True,
        text=True,
        check=False,
    )


# --- the models


@pytest.fixture(scope="module")
def two_layers(
    tmp_path_factory: pytest.TempPathFactory,
    shared_cache: Path,
    environment_python: Callable[[str], Path],
) -> Path:
    """Width 576: no K-quant fits most of its rows."""
    folder = tmp_path_factory.mktemp("two-layers")
    return write_two_layers(published_gguf(shared_cache), environment_python("data"), folder)


@pytest.fixture(scope="module")
def cropped(two_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Width 256: every type fits."""
    return write_cropped(two_layers, tmp_path_factory.mktemp("cropped") / "model")


@pytest.fixture(scope="module")
def prepared(
    two_layers: Path,
    tmp_path_factory: pytest.TempPathFactory,
    environment_python: Callable[[str], Path],
) -> Outputs:
    """Rows through the real `prepare`, a quarter of them held out."""
    place = tmp_path_factory.mktemp("prepared")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What does stage {n} read?"},
                {"role": "assistant", "content": f"What stage {n - 1} wrote, {n * n} lines."},
            ]
        }
        for n in range(1, 120)
    ]
    data = place / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    hashed = {
        "seed": 42,
        "system": None,
        "max_length": 512,
        "too_long": "error",
        "packing": False,
        "fraction": 0.25,
        "template": None,
        "train": [{"name": "rows.jsonl", "format": "messages", "input": "train-0"}],
        "validation": [],
    }
    inputs = {"model": two_layers, "train-0": data}
    run = run_script(environment_python("data"), "prepare", hashed, inputs, place / "run")
    assert run.returncode == 0, run.log
    return outputs_of("prepare", run.folder)


def recipe(*quantize: str, data: str = "train", chunks: int = 8, **limits: float) -> Any:
    limits = {"max_perplexity_increase": 9.0, "max_kl_divergence": 0.05} | limits
    matrix = SimpleNamespace(data=data, chunks=chunks)
    return SimpleNamespace(
        shrink=None,
        model=SimpleNamespace(trust_remote_code=False),
        name="tiny",
        merge=SimpleNamespace(dtype="bfloat16"),
        gguf=SimpleNamespace(quantize=quantize, imatrix=matrix, **limits),
    )


def merged(model: Path, folder: Path) -> Outputs:
    shutil.copytree(model, folder / "model")
    return outputs_of("merge", folder)


@pytest.fixture(scope="module")
def wide_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Width 256, float32, written without the converter."""
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 256,
        "head_dim": 64,
        "num_hidden_layers": 1,
    }
    return write_random(tmp_path_factory.mktemp("wide"), sizes, write_talking_model)


def write_random(folder: Path, sizes: dict[str, int], write: Callable[[Path], Path]) -> Path:
    """A GGUF file of random weights, of other sizes than tests/tiny_model.py's own."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in sizes.items():
            patch.setitem(tiny_model.CONFIG, key, value)
        model = write(folder / "model")
    weights = load_file(model / "model.safetensors")
    random = np.random.default_rng(3)
    heads = 4 * sizes["head_dim"]
    shapes = {
        "q_proj": (heads, sizes["hidden_size"]),
        "k_proj": (heads // 2, sizes["hidden_size"]),
        "v_proj": (heads // 2, sizes["hidden_size"]),
        "o_proj": (sizes["hidden_size"], heads),
    }
    for name in weights:
        if ".self_attn." in name or ".mlp." in name:
            shape = shapes.get(name.split(".")[-2], weights[name].shape)
            weights[name] = random.standard_normal(shape).astype(np.float32)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    return write_gguf_of_model(model, folder / "random.gguf")


@pytest.fixture(scope="module")
def matrix_of_wide(
    wide_gguf: Path, llama_cpp: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    text = "".join(f"Stage {n} reads {n * n} lines.\n" for n in range(100))
    (folder / imatrix.TEXT).write_text(text)
    what = ["-m", str(wide_gguf), "-f", imatrix.TEXT, "-o", imatrix.FILE]
    how = ["-c", "64", "-b", "64", "--chunks", "8", "--no-ppl", "-t", "1"]
    program = str(llama_cpp / "bin" / "llama-imatrix")
    subprocess.run([program, *what, *how], cwd=folder, check=True, capture_output=True)
    return folder / imatrix.FILE


# --- the table of types


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_says_what_llama_quantize_does_on_rows_that_fit(
    kind: str, wide_gguf: Path, matrix_of_wide: Path, llama_cpp: Path, tmp_path: Path
) -> None:
    plain, weighted = tmp_path / "plain.gguf", tmp_path / "weighted.gguf"
    without = run_quantize(llama_cpp, wide_gguf, plain, kind)
    assert (without.returncode != 0) == (KINDS[kind].matrix is Matrix.NEEDED), without.stderr
    done = run_quantize(llama_cpp, wide_gguf, weighted, kind, matrix_of_wide)
    assert done.returncode == 0, done.stderr
    tensors = gguf.read_tensors(weighted)
    types = [tensor.type for tensor in tensors if is_weight(tensor)]
    assert KINDS[kind].tensors in types
    assert fallen_back(kind, tensors) == {}
    if KINDS[kind].matrix is not Matrix.NEEDED:
        assert (weights_of(plain) == weights_of(weighted)) == (KINDS[kind].matrix is Matrix.UNUSED)


def weights_of(file: Path) -> list[bytes]:
    return [tensor.data.tobytes() for tensor in library.GGUFReader(file).tensors]


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16},
        {"hidden_size": 256, "intermediate_size": 288, "head_dim": 64},
        {"hidden_size": 64, "intermediate_size": 120, "head_dim": 16},
    ],
    ids=["no row", "not ffn_down", "ffn_down not even by 32"],
)
def test_the_fallbacks_are_llama_quantizes_own(
    sizes: dict[str, int], llama_cpp: Path, tmp_path: Path
) -> None:
    source = write_random(tmp_path, sizes, write_tiny_model)
    compared = 0
    for kind in KINDS:
        target = tmp_path / f"{kind}.gguf"
        done = run_quantize(llama_cpp, source, target, kind)
        if done.returncode:
            assert KINDS[kind].matrix is Matrix.NEEDED
            continue
        tensors = {tensor.name: tensor for tensor in gguf.read_tensors(target)}
        said = {name: instead.upper() for name, instead in FALLING.findall(done.stderr)}
        # The tensor that serves as the output may get Q8_0 without a word.
        spoken = [tensor for tensor in tensors.values() if tensor.name != "token_embd.weight"]
        found = fallen_back(kind, spoken)
        assert sum(found.values()) == len(said.keys() - {"token_embd.weight"}), kind
        for name, instead in said.items():
            assert tensors[name].type == instead
            assert instead in {*FALLBACK.values(), "F16"}
            if "ffn_up" in name or instead == "F16":  # of the type that most weights have
                assert instead == fallback(kind, tensors[name].columns)
        compared += len(said)
    assert compared > 25


def test_a_files_fallbacks_are_counted_by_what_they_became(
    two_layers: Path, llama_cpp: Path, context_for: ContextFor, tmp_path: Path
) -> None:
    """The example of docs/quantisation.md; ffn_down has rows of 1536, which fit."""
    context, asked = context_for(gguf), recipe("Q4_K_M")
    with conversion.converted(asked, two_layers, llama_cpp, context) as source:
        gguf.quantize(source, tmp_path / "x.gguf", "Q4_K_M", None, llama_cpp, context)
    found = gguf.fallback_of("Q4_K_M", gguf.read_tensors(tmp_path / "x.gguf"))
    assert found == {"to": {"Q5_0": 11, "Q8_0": 2}, "weights": 15, "row_lengths": [576]}


# --- the importance matrix


@pytest.fixture
def chain(cropped: Path, prepared: Outputs, tmp_path: Path) -> dict[str, Outputs]:
    return {"merge": merged(cropped, tmp_path / "merge"), "prepare": prepared}


def collect(chain: dict[str, Outputs], folder: Path, context: Any, **how: Any) -> Outputs:
    folder.mkdir()
    imatrix.run(recipe("IQ2_XS", **how), chain, folder, context)
    return outputs_of("imatrix", folder)


def test_the_same_inputs_give_the_same_files_and_no_path_gets_into_them(
    chain: dict[str, Outputs], context_for: ContextFor, llama_cpp: Path, tmp_path: Path
) -> None:
    kinds = ("IQ2_XS", "Q4_K_M", "Q8_0")
    asked, out = recipe(*kinds), tmp_path / "out"
    first_context = context_for(imatrix, "imatrix")
    first = collect(chain, tmp_path / "matrix", first_context)
    assert list(first.files) == [imatrix.FILE]
    assert [path.name for path in first_context.scratch.iterdir()] == ["metadata.json"]
    out.mkdir()
    context = context_for(gguf, "gguf")
    gguf.run(asked, {**chain, "imatrix": first}, out, context)

    again = tmp_path / "else where" / "a longer folder's name"
    again.mkdir(parents=True)
    second = collect(chain, again / "matrix", context_for(imatrix, f"{again.name}/imatrix"))
    assert second.files == first.files
    elsewhere = context_for(gguf, f"{again.name}/gguf")
    model = chain["merge"].folder / "model"
    with conversion.converted(asked, model, llama_cpp, elsewhere) as source:
        for kind in kinds:
            file = again / f"tiny-{kind}.gguf"
            gguf.quantize(source, file, kind, second.path(imatrix.FILE), llama_cpp, elsewhere)
            assert file_sha256(file) == file_sha256(out / file.name)
            assert str(tmp_path).encode() not in file.read_bytes()
    assert str(tmp_path).encode() not in first.path(imatrix.FILE).read_bytes()
    fields = library.GGUFReader(out / "tiny-IQ2_XS.gguf").fields
    assert fields["quantize.imatrix.file"].contents() == "imatrix.gguf"
    assert fields["quantize.imatrix.dataset"].contents() == "calibration.txt"
    assert fields["quantize.imatrix.chunks_count"].contents() == 8
    unused = library.GGUFReader(out / "tiny-Q8_0.gguf").fields
    assert not [key for key in unused if key.startswith("quantize.imatrix")]

    low, middle, high = context.measures["files"]
    assert (low["imatrix"], middle["imatrix"], high["imatrix"]) == (True, True, False)
    assert low["fallback"] is middle["fallback"] is high["fallback"] is None
    assert middle["tensors"]["Q4_K"] > 5
    assert low["size"] < middle["size"] < high["size"]
    assert low["kl_divergence"] > middle["kl_divergence"] > high["kl_divergence"]


@pytest.mark.parametrize("kind", ["Q4_K_M", "IQ4_XS", "Q3_K_S", "Q4_0"])
def test_the_matrix_makes_the_error_small_where_the_data_looks(
    kind: str, wide_gguf: Path, matrix_of_wide: Path, llama_cpp: Path, tmp_path: Path
) -> None:
    files = {"plain": tmp_path / "plain.gguf", "weighted": tmp_path / "weighted.gguf"}
    run_quantize(llama_cpp, wide_gguf, files["plain"], kind)
    run_quantize(llama_cpp, wide_gguf, files["weighted"], kind, matrix_of_wide)
    source, sums = values_of(wide_gguf), values_of(matrix_of_wide)
    values = {name: values_of(file) for name, file in files.items()}
    found = []
    for name, original in source.items():
        importance = sums.get(f"{name}.in_sum2")
        if importance is not None:
            errors = [
                float(((values[file][name] - original) ** 2 * importance.reshape(-1)).sum())
                for file in ("weighted", "plain")
            ]
            found.append(errors[0] / errors[1])
    assert len(found) == 7  # all matrices of the layer
    assert max(found) < 1.0


def values_of(file: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: library.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in library.GGUFReader(file).tensors
    }


def test_the_rows_become_the_text_that_the_template_made(
    chain: dict[str, Outputs], context_for: ContextFor
) -> None:
    context = context_for(imatrix)
    rows = chain["prepare"].path("validation.tokens.safetensors")
    model = chain["merge"].folder / "model"
    tokens = imatrix.write_text(model, rows, 10**6, context)
    text = (context.scratch / imatrix.TEXT).read_text()
    assert text == chain["prepare"].path("validation.txt").read_text()
    assert tokens == len(load_file(rows)["input_ids"])
    few = imatrix.write_text(model, rows, tokens // 3, context)
    assert tokens // 4 < few < tokens // 2
    assert (context.scratch / imatrix.TEXT).read_text().splitlines()[-2:] != text.splitlines()[:2]


def test_too_little_text_for_a_matrix_is_an_error(
    chain: dict[str, Outputs], context_for: ContextFor, tmp_path: Path
) -> None:
    tokens = {
        "input_ids": np.arange(50, dtype=np.int32),
        "labels_mask": np.ones(50, np.int8),
        "offsets": np.array([0, 50], np.int64),
    }
    (tmp_path / "prepare").mkdir()
    save_file(tokens, tmp_path / "prepare" / "train.tokens.safetensors")
    few = {**chain, "prepare": outputs_of("prepare", tmp_path / "prepare")}
    with pytest.raises(StageFailed, match="the train rows have 50 tokens") as caught:
        collect(few, tmp_path / "matrix", context_for(imatrix))
    assert caught.value.code == "E544"


def test_a_matrix_that_lacks_a_tensor_is_an_error_that_names_it(
    wide_gguf: Path,
    matrix_of_wide: Path,
    llama_cpp: Path,
    context_for: ContextFor,
    tmp_path: Path,
) -> None:
    """As when an expert of a mixture was never asked."""
    lacking = tmp_path / imatrix.FILE
    writer = library.GGUFWriter(lacking, "")
    writer.add_string("general.type", "imatrix")
    reader = library.GGUFReader(matrix_of_wide)
    writer.add_array("imatrix.datasets", ["calibration.txt"])
    for key in ("imatrix.chunk_count", "imatrix.chunk_size"):
        writer.add_uint32(key, reader.fields[key].contents())
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.0.ffn_up"):
            writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    target = tmp_path / "target.gguf"
    with pytest.raises(StageFailed, match=r"says nothing about blk\.0\.ffn_up\.weight") as caught:
        gguf.quantize(wide_gguf, target, "IQ2_XS", lacking, llama_cpp, context_for(gguf))
    assert caught.value.code == "E546"
    assert "gguf.imatrix.chunks" in caught.value.hint


# --- the disk


def test_a_disk_that_is_too_small_is_said_before_anything_is_converted(
    chain: dict[str, Outputs],
    context_for: ContextFor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda place: usage)
    for stage, asked in ((imatrix, recipe("IQ2_XS")), (gguf, recipe("Q8_0"))):
        context = context_for(stage, f"context-{stage.NAME}")
        out = tmp_path / f"out-{stage.NAME}"
        out.mkdir()
        inputs = {**chain, "imatrix": chain["merge"]}
        if stage is gguf:
            asked.gguf.imatrix = None
        with pytest.raises(
            MachineCannot, match=r"need about 0\.\d GB, and 0\.0 GB are free"
        ) as caught:
            stage.run(asked, inputs, out, context)
        assert caught.value.code == "E545"
        assert not list(context.log_folder.glob("*convert*"))


def test_a_source_that_fails_leaves_no_large_file(
    chain: dict[str, Outputs],
    context_for: ContextFor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def fails(source: Path, *rest: Any) -> None:
        seen.append(source.stat().st_size)
        raise StageFailed("planned")

    monkeypatch.setattr(gguf, "quantize", fails)
    asked = recipe("Q8_0")
    asked.gguf.imatrix = None
    context = context_for(gguf)
    with pytest.raises(StageFailed, match="planned"):
        gguf.run(asked, chain, tmp_path, context)
    assert seen[0] > 10**6
    assert [path.name for path in context.scratch.iterdir()] == ["metadata.json"]


def test_the_estimate_of_the_space_is_near_what_is_written(
    chain: dict[str, Outputs], context_for: ContextFor, tmp_path: Path, llama_cpp: Path
) -> None:
    model = chain["merge"].folder / "model"
    asked = recipe("Q8_0", "Q4_K_M", "F32")
    context = context_for(gguf)
    with conversion.converted(asked, model, llama_cpp, context) as source:
        written = source.stat().st_size
        for kind in asked.gguf.quantize:
            target = tmp_path / f"{kind}.gguf"
            gguf.quantize(source, target, kind, None, llama_cpp, context)
            written += target.stat().st_size
    estimate = gguf.space_needed(asked, model) - conversion.weights_size(model)  # the logits
    assert 0.85 * written < estimate < 1.3 * written
