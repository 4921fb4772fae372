"""A base model from a GGUF file or a folder: same weights, same tokenizer, nothing left out."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file, save_file

from runner.scripts.weights import floats
from runner.scripts.weights.safetensors_stream import INDEX, ModelFolder, SafetensorsFile
from tests.gguf_files import write_gguf_of_model, write_gguf_of_tokenizer
from tests.script_runs import ScriptRun, run_script
from tests.tiny_model import write_tiny_model

Fetch = Callable[..., ScriptRun]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The tiny model, with one merge (two spaces): llama.cpp wants one."""
    model = write_tiny_model(tmp_path / "tiny")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    bpe = tokenizer["model"]
    bpe["vocab"]["\u0120\u0120"] = bpe["vocab"].pop("<|unused|>")
    bpe["merges"] = [["\u0120", "\u0120"]]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    return model


@pytest.fixture
def fetch(
    environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Fetch:
    """Fetch from a GGUF file or a model folder."""
    python = environment_python("data")

    def run(source: Path, dtype: str = "float32", file: str | None = None) -> ScriptRun:
        is_gguf = source.suffix == ".gguf" or file is not None
        hashed = {
            "kind": "gguf" if is_gguf else "folder",
            "file": file or (source.name if is_gguf else None),
            "dtype": dtype,
        }
        folder = source.parent if source.suffix == ".gguf" else source
        return run_script(
            python, "fetch", hashed, {"source": folder}, tmp_path_factory.mktemp("fetch") / "run"
        )

    return run


def weights(run: ScriptRun) -> dict[str, np.ndarray]:
    """Stored values of a fetched model."""
    assert run.returncode == 0, run.log
    with ModelFolder(run.folder / "model") as model:
        return {name: model.read(name) for name in model.tensors}


def config(run: ScriptRun, name: str = "config.json") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run.folder / "model" / name).read_text())
    return loaded


# --- from a GGUF file


def test_a_model_that_went_to_gguf_and_back_is_the_same(
    fetch: Fetch, tiny: Path, tmp_path: Path
) -> None:
    run = fetch(write_gguf_of_model(tiny, tmp_path / "t.gguf"))
    original = load_file(tiny / "model.safetensors")
    found = weights(run)
    assert found.keys() == original.keys()
    assert all(np.array_equal(found[name], original[name]) for name in original)
    before = json.loads((tiny / "config.json").read_text())
    after = config(run)
    differing = {key for key in before if before[key] != after.get(key)}
    assert differing == {"torch_dtype"}
    assert after["dtype"] == "float32"
    assert config(run, "generation_config.json") == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    assert config(run, "tokenizer_config.json") == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }
    template = (run.folder / "model" / "chat_template.jinja").read_text()
    assert template == (tiny / "chat_template.jinja").read_text()


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_weights_are_dequantised_and_rounded_once(
    fetch: Fetch, tiny: Path, tmp_path: Path, kind: str
) -> None:
    stored = gguf.GGMLQuantizationType[kind]
    run = fetch(write_gguf_of_model(tiny, tmp_path / "t.gguf", stored), "bfloat16")
    for name, found in weights(run).items():
        original = load_file(tiny / "model.safetensors")[name]
        exact = dequantize(quantize(original, stored), stored) if original.ndim == 2 else original
        # q and k were permuted by rows, and every row is quantised for itself
        assert np.array_equal(found, floats.f32_to_bf16(exact)), name


def test_an_untied_head_is_its_own_weight(fetch: Fetch, tiny: Path, tmp_path: Path) -> None:
    head = np.random.default_rng(1).standard_normal((260, 64)).astype(np.float32)
    path = write_gguf_of_model(tiny, tmp_path / "t.gguf", extra={"output.weight": head})
    run = fetch(path)
    assert np.array_equal(weights(run)["lm_head.weight"], head)
    assert config(run)["tie_word_embeddings"] is False


def test_a_tensor_that_is_not_understood_is_never_left_out(
    fetch: Fetch, tiny: Path, tmp_path: Path
) -> None:
    extra = {"blk.0.attn_rot_embd.weight": np.ones(8, np.float32)}
    run = fetch(write_gguf_of_model(tiny, tmp_path / "t.gguf", extra=extra))
    assert run.error["code"] == "E314"
    assert "attn_rot_embd.weight" in run.error["message"]


def test_a_rope_scaling_is_never_ignored(fetch: Fetch, tiny: Path, tmp_path: Path) -> None:
    metadata = {"llama.rope.scaling.type": "yarn"}
    run = fetch(write_gguf_of_model(tiny, tmp_path / "t.gguf", metadata=metadata))
    assert run.error["code"] == "E314"
    assert "yarn" in run.error["message"]


@pytest.mark.parametrize("cut", [0, 3, 100, 3000, -1000])
def test_a_damaged_gguf_is_an_error_and_leaves_no_weights(
    fetch: Fetch, tiny: Path, tmp_path: Path, cut: int
) -> None:
    path = write_gguf_of_model(tiny, tmp_path / "t.gguf")
    path.write_bytes(path.read_bytes()[:cut])
    run = fetch(path)
    assert run.returncode == 1
    assert run.error["code"] == "E312", run.log


@pytest.mark.parametrize("file", ["missing.gguf", "../tiny/config.json", "/etc/hostname"])
def test_a_file_outside_or_missing_is_an_error(
    fetch: Fetch, tiny: Path, tmp_path: Path, file: str
) -> None:
    folder = tmp_path / "below"
    folder.mkdir()
    write_gguf_of_model(tiny, folder / "real.gguf")
    run = fetch(folder, file=file)
    assert run.error["code"] == "E311"
    assert "real.gguf" in run.error["hint"]


# --- the tokenizer of a GGUF file

_TRAIN = """
import json, sys
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
splits, text = json.load(sys.stdin)
tokenizer = Tokenizer(models.BPE())
parts = [pre_tokenizers.Split(Regex(split), "isolated") for split in splits]
parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(
    vocab_size=700, special_tokens=["<|end|>", "<|x|>"], initial_alphabet=alphabet,
    show_progress=False,
)
tokenizer.train_from_iterator([text] * 3, trainer)
print(json.dumps(json.loads(tokenizer.to_str())["model"]))
"""
_ENCODE = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], local_files_only=True)
texts = json.load(sys.stdin)
print(json.dumps([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]))
"""

HARD = [
    "Hello world, don't we'll I'VE it's",
    "1234567890 3.14 ٣٤٥ ²³ Ⅷ x2y 12,345",
    "  two  spaces   three\n\n\nlines\r\n\ttab \t ",
    " \n x\n  y \n\n z  ",
    "Grüße 你好 こんにちは שלום नमस्ते ไทย",
    "e\u0301 \u0928\u093f \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \ufb01",
    "\u00a0nbsp\u2028line\u3000wide\u200bzero\ufeffbom",
    "<|x|>a<|end|> <|x |> <|x|",
    'def f(x):\n\treturn x["k"] != 0  # {{ y }}\n\n\n    pass',
    "a!!! ?!… \u2014\u2013- ... $€ @#%^&*()_+={}[]|\\:;\"'<>,./~`",
    "'s 'S 'Re 'LL 'd's''",
    "\x01\x02\x7f\x80",
]


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2", "dbrx"])
def test_every_pre_tokenizer_gives_llama_cpps_ids(
    fetch: Fetch,
    environment_python: Callable[[str], Path],
    llama_cpp: Path,
    tmp_path: Path,
    pre: str,
) -> None:
    from runner.scripts.from_gguf.gguf_tokenizer import PRE_TOKENIZERS

    python = environment_python("data")
    text = "\n".join(HARD) * 3
    trained = json.loads(
        subprocess.run(
            [str(python), "-c", _TRAIN],
            input=json.dumps([PRE_TOKENIZERS[pre].splits, text]),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    tokens = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
    special = ["<|end|>", "<|x|>"]
    path = write_gguf_of_tokenizer(tmp_path / "t.gguf", tokens, special, trained["merges"], pre)
    ours = encode(python, rebuilt(python, path, tmp_path / "tokenizer"), HARD)
    assert ours == [llama_cpp_ids(llama_cpp, path, text, tmp_path) for text in HARD]


_REBUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from runner.scripts.from_gguf.gguf_model import GgufFile
from runner.scripts.from_gguf.gguf_tokenizer import write_tokenizer
Path(sys.argv[2]).mkdir()
write_tokenizer(GgufFile(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def rebuilt(python: Path, path: Path, folder: Path) -> Path:
    root = Path(__file__).resolve().parents[2]
    subprocess.run([str(python), "-c", _REBUILD, str(path), str(folder), str(root)], check=True)
    return folder


def encode(python: Path, tokenizer: Path, texts: list[str]) -> list[list[int]]:
    result = subprocess.run(
        [str(python), "-c", _ENCODE, str(tokenizer)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    ids: list[list[int]] = json.loads(result.stdout)
    return ids


def llama_cpp_ids(root: Path, model: Path, text: str, folder: Path) -> list[int]:
    prompt = folder / "prompt.txt"
    prompt.write_bytes(text.encode())
    result = subprocess.run(
        [
            str(root / "bin" / "llama-tokenize"),
            *("--model", str(model), "--file", str(prompt), "--ids", "--no-escape"),
            "--log-disable",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    ids: list[int] = json.loads(result.stdout.strip().splitlines()[-1])
    return ids


def test_an_unknown_pre_tokenizer_is_an_error(fetch: Fetch, tiny: Path, tmp_path: Path) -> None:
    path = write_gguf_of_model(tiny, tmp_path / "t.gguf")
    content = path.read_bytes()
    assert content.count(b"gpt-2") == 1
    path.write_bytes(content.replace(b"gpt-2", b"gpt-9"))
    run = fetch(path)
    assert run.error["code"] == "E315"
    assert "gpt2/gpt-9" in run.error["message"]


# --- from a folder


def test_a_folder_is_cast_and_only_its_needed_files_are_copied(fetch: Fetch, tiny: Path) -> None:
    (tiny / "README.md").write_text("secret")
    (tiny / "evil.py").write_text("print()")
    (tiny / "pytorch_model.bin").write_bytes(b"pickle")
    run = fetch(tiny, "bfloat16")
    original = load_file(tiny / "model.safetensors")
    found = weights(run)
    assert found.keys() == original.keys()
    assert all(np.array_equal(found[n], floats.f32_to_bf16(original[n])) for n in original)
    assert sorted(path.name for path in (run.folder / "model").iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert config(run)["dtype"] == "bfloat16"
    assert "torch_dtype" not in config(run)
    tokenizer = (run.folder / "model" / "tokenizer.json").read_bytes()
    assert tokenizer == (tiny / "tokenizer.json").read_bytes()


def test_shards_and_their_order_do_not_matter(fetch: Fetch, tiny: Path) -> None:
    whole = fetch(tiny)
    tensors = load_file(tiny / "model.safetensors")
    (tiny / "model.safetensors").unlink()
    names = sorted(tensors, reverse=True)
    shards = {"b.safetensors": names[:5], "a.safetensors": names[5:]}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, tiny / shard)
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    (tiny / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    sharded = fetch(tiny)
    assert weights(sharded).keys() == tensors.keys()
    assert files(whole.folder) == files(sharded.folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "model").iterdir()}


def test_a_template_inside_the_tokenizer_config_becomes_a_file(fetch: Fetch, tiny: Path) -> None:
    text = (tiny / "chat_template.jinja").read_text()
    (tiny / "chat_template.jinja").unlink()
    settings = json.loads((tiny / "tokenizer_config.json").read_text())
    (tiny / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": text}))
    run = fetch(tiny)
    assert (run.folder / "model" / "chat_template.jinja").read_text() == text
    assert "chat_template" not in config(run, "tokenizer_config.json")


def test_a_normaliser_that_llama_cpp_lacks_is_left_out(
    fetch: Fetch, tiny: Path, environment_python: Callable[[str], Path]
) -> None:
    """Composed and decomposed, an é is two texts for the deployed model, and so for training."""
    content = json.loads((tiny / "tokenizer.json").read_text())
    (tiny / "tokenizer.json").write_text(json.dumps(content | {"normalizer": {"type": "NFC"}}))
    run = fetch(tiny)
    assert config(run, "tokenizer.json") == content | {"normalizer": None}
    model = run.folder / "model"
    composed, decomposed = encode(environment_python("data"), model, ["\u00e9", "e\u0301"])
    assert composed != decomposed


def break_weights(tiny: Path) -> None:
    path = tiny / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def only_pickles(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")


def with_code(tiny: Path) -> None:
    settings = json.loads((tiny / "config.json").read_text())
    (tiny / "config.json").write_text(json.dumps(settings | {"auto_map": {"AutoModel": "x.Y"}}))


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (break_weights, "E312", "announces"),
        (only_pickles, "E311", "holds no model.safetensors"),
        (with_code, "E313", "run code of its own"),
        (lambda tiny: (tiny / "config.json").unlink(), "E311", "holds no config.json"),
        (lambda tiny: (tiny / "config.json").write_text("{"), "E312", "is not JSON"),
        (lambda tiny: (tiny / "tokenizer.json").unlink(), "E311", "holds no tokenizer.json"),
    ],
)
def test_a_folder_that_cannot_be_used_is_an_error(
    fetch: Fetch, tiny: Path, damage: Callable[[Path], object], code: str, words: str
) -> None:
    damage(tiny)
    run = fetch(tiny)
    assert run.returncode == 1
    assert run.error["code"] == code
    assert words in run.error["message"]


_PEAK = """
import json, pathlib, runpy, sys
sys.argv = [sys.argv[1], "fetch", sys.argv[2]]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    # Not getrusage: its peak survives exec, and so begins at the size of pytest.
    status = pathlib.Path("/proc/self/status").read_text()
    print("peak", status.split("VmHWM:")[1].split()[0])
"""


def test_memory_does_not_grow_with_the_model(
    environment_python: Callable[[str], Path], tiny: Path, tmp_path: Path
) -> None:
    """Three times the weights, the same peak: nothing holds a tensor longer than its block."""
    peaks = []
    for count in (1, 4):
        folder = tmp_path / f"big-{count}"
        folder.mkdir()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            os.link(tiny / name, folder / name)
        big = {f"w.{n}": np.zeros((8192, 4096), np.float32) for n in range(count)}  # 128 MiB each
        save_file(big, folder / "model.safetensors")
        run = run_script(
            environment_python("data"),
            "fetch",
            {"kind": "folder", "file": None, "dtype": "bfloat16"},
            {"source": folder},
            tmp_path / f"warm-{count}",
        )
        assert run.returncode == 0, run.log
        again = tmp_path / f"again-{count}"
        again.mkdir()
        spec = json.loads((tmp_path / f"warm-{count}" / "spec.json").read_text())
        (tmp_path / f"spec-{count}.json").write_text(json.dumps(spec))
        script = Path(__file__).resolve().parents[2] / "runner" / "scripts" / "__main__.py"
        result = subprocess.run(
            [
                *(str(environment_python("data")), "-c", _PEAK, str(script)),
                str(tmp_path / f"spec-{count}.json"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(result.stdout.split("peak")[-1]))  # KiB
    assert peaks[1] - peaks[0] < 16 * 1024
    assert peaks[1] < 400 * 1024


def test_memory_does_not_grow_with_a_gguf_file(
    environment_python: Callable[[str], Path], tiny: Path, tmp_path: Path
) -> None:
    python, peaks = environment_python("data"), []
    script = Path(__file__).resolve().parents[2] / "runner" / "scripts" / "__main__.py"
    for count in (1, 4):
        big = {
            f"blk.{n}.ffn_up.weight": np.zeros((8192, 4096), np.float16)
            for n in range(9, 9 + count)
        }
        source = tmp_path / f"big-{count}"
        source.mkdir()
        write_gguf_of_model(tiny, source / "t.gguf", extra=big)  # 64 MiB each
        hashed = {"kind": "gguf", "file": "t.gguf", "dtype": "bfloat16"}
        run = run_script(python, "fetch", hashed, {"source": source}, tmp_path / f"run-{count}")
        assert run.returncode == 0, run.log
        result = subprocess.run(
            [str(python), "-c", _PEAK, str(script), str(tmp_path / f"run-{count}" / "spec.json")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(result.stdout.split("peak")[-1]))  # KiB
    assert peaks[1] - peaks[0] < 16 * 1024
    assert peaks[1] < 400 * 1024


def test_the_header_has_one_metadata_key(fetch: Fetch, tiny: Path) -> None:
    run = fetch(tiny)
    with SafetensorsFile(run.folder / "model" / "model.safetensors") as file:
        assert file.metadata == {"format": "pt"}
