"""GGUF files by the pinned converter and quantiser, and their perplexity by two engines."""

from __future__ import annotations

import json
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

from runner.errors import StageFailed
from runner.scripts.data.tokens.parity_cases import cases
from runner.stages import gguf as stage
from runner.stages.export import conversion, perplexity
from runner.stages.export.gguf_metadata import PromptMetadata
from runner.stages.templates import go_template
from runner.store.digest import file_sha256
from runner.system.llama_server import tokenizer
from tests import tiny_model
from tests.gguf_files import write_gguf_of_model
from tests.integration.conftest import ContextFor, outputs_of, write_prompts
from tests.smollm_models import published_gguf, write_two_layers
from tests.tiny_model import write_tiny_model

K_QUANTS = ("Q4_K_M", "Q6_K", "IQ4_XS", "Q2_K")


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory,
    tokens_of_smollm: Path,
    environment_python: Callable[[str], Path],
) -> Path:
    """SmolLM2 cut down to two layers: a real tokenizer, which the converter knows, and small."""
    folder = tmp_path_factory.mktemp("small")
    return write_two_layers(tokens_of_smollm, environment_python("data"), folder)


@pytest.fixture(scope="module")
def tokens_of_smollm(shared_cache: Path) -> Path:
    """The published GGUF, here for its tokenizer."""
    return published_gguf(shared_cache)


def recipe(*quantize: str, allowed: float = 0.05) -> Any:
    return SimpleNamespace(
        shrink=None,
        model=SimpleNamespace(trust_remote_code=False),
        name="tiny",
        merge=SimpleNamespace(dtype="bfloat16"),
        gguf=SimpleNamespace(
            quantize=quantize,
            max_perplexity_increase=allowed,
            max_kl_divergence=0.05,
            imatrix=None,
        ),
    )


def inputs(model: Path, folder: Path) -> dict[str, Any]:
    """Outputs of merge and prepare."""
    merged = folder / "merge"
    if not merged.exists():
        merged.mkdir(parents=True)
        shutil.copytree(model, merged / "model")
    text = "".join(
        f"The stage number {n} reads what stage {n - 1} wrote, and counts to {n * n}.\n"
        for n in range(1, 120)
    )
    prompts = [
        {"id": name, "kind": "hard", "messages": messages, "text": "x", "ids": [1]}
        for name, messages in cases()[:2]
    ]
    prepared = write_prompts(folder / "prepare", prompts, text)
    return {"merge": outputs_of("merge", merged), "prepare": prepared}


def test_each_file_is_the_merged_model_by_the_same_protocol(
    small: Path, tmp_path: Path, context_for: ContextFor
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    context = context_for(stage)
    stage.run(recipe("Q8_0", "F32"), inputs(small, tmp_path), out, context)
    assert sorted(path.name for path in out.iterdir()) == [
        "tiny-F32.gguf",
        "tiny-Q8_0.gguf",
    ]
    small_file, whole = context.measures["files"]
    # Two engines, one protocol: what is left is float32 in another order.
    assert whole["perplexity"] == pytest.approx(whole["perplexity_merged"], rel=2e-3)
    assert whole["kl_divergence"] < 1e-4 < small_file["kl_divergence"] < 0.05
    assert whole["same_top_token"] > 0.995 > small_file["same_top_token"] > 0.9
    assert abs(small_file["perplexity_increase"]) < 0.05
    assert small_file["tensors"]["Q8_0"] > 10
    assert set(whole["tensors"]) == {"F32"}
    assert small_file["fallback"] is whole["fallback"] is None
    assert small_file["size"] < whole["size"]
    asked = recipe("Q8_0", "F32")
    assert stage.judge(asked, context.measures) == {"ship": "tiny-Q8_0.gguf"}
    asked.gguf.max_kl_divergence = small_file["kl_divergence"] / 2
    assert stage.judge(asked, context.measures) == {"ship": "tiny-F32.gguf"}
    assert sorted(path.name for path in context.scratch.iterdir()) == [
        "metadata.json",
        "perplexity.json",
        "perplexity.txt",
    ]


def test_a_template_of_no_family_is_marked_and_a_needless_bos_is_taken_away(
    small: Path,
    tmp_path: Path,
    llama_cpp: Path,
    context_for: ContextFor,
) -> None:
    """The prompts begin with no BOS, while the tokenizer's settings ask for one."""
    model = tmp_path / "model"
    shutil.copytree(small, model)
    path = model / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"add_bos_token": True}))
    template = (model / "chat_template.jinja").read_text()
    out = tmp_path / "out"
    out.mkdir()
    context = context_for(stage)
    stage.run(recipe("F32"), inputs(model, tmp_path), out, context)
    file = out / "tiny-F32.gguf"
    assert PromptMetadata(file).template == go_template.marked(template)
    assert "no known Ollama template" in context.measures["no_go_template"]
    bos = PromptMetadata(file).bos(llama_cpp, tmp_path / "log")
    assert not bos.added
    with tokenizer(llama_cpp, file, tmp_path / "server.log") as tokens:
        assert bos.id not in tokens.ids("x")
    again = tmp_path / "again.gguf"
    quantize = llama_cpp / "bin" / "llama-quantize"
    subprocess.run([quantize, file, again, "COPY"], check=True, capture_output=True)
    assert file_sha256(again) == file_sha256(file), "Ollama would store another file"


def test_a_damaged_file_is_caught_by_its_perplexity(
    small: Path, tmp_path: Path, context_for: ContextFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a converter forgets to permute the attention: all is well-formed, and wrong."""
    original = stage.quantize

    def damages(source: Path, target: Path, *rest: Any) -> None:
        original(source, target, *rest)
        tensors = {tensor.name: tensor for tensor in library.GGUFReader(target).tensors}
        wrong = tensors["blk.0.ffn_down.weight"]
        with target.open("r+b") as file:
            file.seek(int(wrong.data_offset))
            data = np.frombuffer(file.read(int(wrong.n_bytes)), dtype=np.uint8).reshape(576, -1)
            file.seek(int(wrong.data_offset))
            file.write(np.roll(data, 7, axis=0).tobytes())

    monkeypatch.setattr(stage, "quantize", damages)
    context = context_for(stage)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(StageFailed, match=r"tiny-Q8_0.gguf has perplexity") as caught:
        stage.run(recipe("Q8_0"), inputs(small, tmp_path), out, context)
    assert caught.value.code == "E541"
    left = {path.name for path in context.scratch.iterdir()}
    assert not left & {"converted.gguf", "logits.bin"}


def test_nothing_of_the_folder_gets_into_the_file(
    small: Path, tmp_path: Path, context_for: ContextFor, llama_cpp: Path
) -> None:
    digests = set()
    for number, name in enumerate(("model", "Acme-Llama-3-7B-Instruct-v2.1")):
        folder = tmp_path / str(number) / name
        shutil.copytree(small, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": name}))
        context = context_for(stage, f"context-{number}")
        converted = conversion.convert(recipe("Q8_0"), folder, llama_cpp, context)
        digests.add(file_sha256(converted))
        fields = library.GGUFReader(converted).fields
        assert fields["general.name"].contents() == "tiny"
        general = {key for key in fields if key.startswith("general.")}
        assert general == {
            "general.architecture",
            "general.type",
            "general.name",
            "general.size_label",
            "general.file_type",
            "general.quantization_version",
        }
    assert len(digests) == 1


def test_too_little_text_is_an_error(
    tokens_of_smollm: Path, context_for: ContextFor, llama_cpp: Path
) -> None:
    with pytest.raises(StageFailed, match="perplexity needs at least 64") as caught:
        perplexity.prepare("Only a few words.\n", tokens_of_smollm, llama_cpp, context_for(stage))
    assert caught.value.code == "E542"


def test_without_held_out_text_the_prompts_are_measured(tmp_path: Path) -> None:
    prompts = [{"id": "a", "kind": "hard", "messages": [], "text": "a\u2028b", "ids": [1]}] * 2
    assert perplexity.reference_text(write_prompts(tmp_path, prompts)) == "\na\u2028b\na\u2028b"


# --- the quantiser itself


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 GGUF of width 256, which K-quants accept."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    with pytest.MonkeyPatch.context() as patch:
        for key, value in sizes.items():
            patch.setitem(tiny_model.CONFIG, key, value)
        model = write_tiny_model(folder / "model")
    weights = load_file(model / "model.safetensors")
    random = np.random.default_rng(3)
    for name in weights:
        if ".self_attn." in name:
            rows = 128 if ".k_proj." in name or ".v_proj." in name else 256
            weights[name] = random.standard_normal((rows, 256)).astype(np.float32)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    return write_gguf_of_model(model, folder / "wide.gguf")


def tensor_types(file: Path) -> dict[str, int]:
    return stage.tensor_types(stage.read_tensors(file))


def quantized(llama_cpp: Path, source: Path, target: Path, kind: str, threads: int = 1) -> str:
    program = llama_cpp / "bin" / "llama-quantize"
    command = [program, "--allow-requantize", source, target, kind, str(threads)]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return file_sha256(target)


@pytest.mark.parametrize("kind", [*K_QUANTS, "Q8_0", "F16"])
def test_a_files_bytes_do_not_depend_on_threads_and_pass_ollamas_copy_unchanged(
    llama_cpp: Path, wide: Path, tmp_path: Path, kind: str
) -> None:
    first = quantized(llama_cpp, wide, tmp_path / "1.gguf", kind)
    assert quantized(llama_cpp, wide, tmp_path / "3.gguf", kind, threads=3) == first
    assert quantized(llama_cpp, tmp_path / "1.gguf", tmp_path / "copy.gguf", "COPY") == first


def test_k_quants_fit_a_width_of_256_and_fall_back_on_others(
    llama_cpp: Path, wide: Path, tmp_path: Path
) -> None:
    quantized(llama_cpp, wide, tmp_path / "wide.gguf", "Q4_K_M")
    assert tensor_types(tmp_path / "wide.gguf")["Q4_K"] > 5
    narrow = write_gguf_of_model(write_tiny_model(tmp_path / "model"), tmp_path / "narrow.gguf")
    quantized(llama_cpp, narrow, tmp_path / "fallback.gguf", "Q4_K_M")
    assert "Q4_K" not in tensor_types(tmp_path / "fallback.gguf")


def test_the_tokenizer_can_be_told_to_leave_special_tokens_as_text(
    llama_cpp: Path, tokens_of_smollm: Path, tmp_path: Path
) -> None:
    with tokenizer(llama_cpp, tokens_of_smollm, tmp_path / "log") as it:
        assert it.ids("<|im_end|>") == [2]
        assert len(it.ids("<|im_end|>", parse_special=False)) > 1
        assert it.piece(it.ids("Hello")[0]) == "Hello"
