"""A shrunken model: the same architecture and kind, small, the same bytes, real in transformers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.store.digest import file_sha256
from tests import shrunken as models
from tests.shrunken import FOLDER, NAMES, PUBLISHED, public_config, write_source
from tests.tiny_model import write_tiny_model
from tests.training_runs import Finished, WarmInterpreter

TRY = Path(__file__).resolve().parents[1] / "try_models.py"
# One factor for each of the 48 frequencies of a head of 96, as Phi-3's long contexts have.
LONG = {
    "type": "longrope",
    "short_factor": [1.0 + n / 100 for n in range(48)],
    "long_factor": [1.0 + n for n in range(48)],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in NAMES},
    "phi-3-mini-128k": ("phi-3-mini-4k", {"max_position_embeddings": 131072, "rope_scaling": LONG}),
    "qwen3-8b-yarn": ("qwen3-8b", {"max_position_embeddings": 131072, "rope_scaling": YARN}),
    "qwen2.5-7b-windows": ("qwen2.5-7b", {"use_sliding_window": True, "max_window_layers": 20}),
    "qwen3-8b-quantised": ("qwen3-8b", {"quantization_config": {"quant_method": "fp8"}}),
}

Shrink = Callable[..., Finished]


@pytest.fixture(scope="module")
def shrink(
    warm: WarmInterpreter,
    environment_python: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Shrink:
    def run(source: Path, seed: int = 0) -> Finished:
        place = tmp_path_factory.mktemp("shrink") / "run"
        return models.shrink(warm, environment_python("native"), source, place, seed)

    return run


@pytest.fixture(scope="module")
def shrunken(shrink: Shrink, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    """Every variant, made from its config alone."""
    sources = tmp_path_factory.mktemp("sources")
    runs = {
        name: shrink(write_source(public, sources / name, **changes))
        for name, (public, changes) in VARIANTS.items()
    }
    assert [(name, run.log) for name, run in runs.items() if run.status] == []
    return runs


@pytest.fixture(scope="module")
def tried(
    shrunken: dict[str, Finished],
    environment_python: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What transformers says of the published configs and of the shrunken folders."""
    asked = {
        "published": {name: str(FOLDER / f"{name}.json") for name in NAMES},
        "folders": {name: str(run.folder / "model") for name, run in shrunken.items()},
    }
    file = tmp_path_factory.mktemp("asked") / "asked.json"
    file.write_text(json.dumps(asked))
    result = subprocess.run(
        [str(environment_python("native")), str(TRY), str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def config_of(run: Finished) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run.folder / "model" / "config.json").read_text())
    return loaded


@pytest.mark.parametrize("name", NAMES)
def test_a_public_config_has_the_published_number_of_parameters(
    tried: dict[str, Any], name: str
) -> None:
    assert tried["published"][name] == PUBLISHED[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_transformers_runs_a_shrunken_model(tried: dict[str, Any], name: str) -> None:
    seen = tried["folders"][name]
    assert (seen["missing"], seen["unexpected"]) == ([], [])
    assert seen["finite"]
    assert 0.05 < seen["spread"] < 5
    assert seen["new_tokens"] == 3
    assert seen["tokenizer_size"] == seen["vocab"]
    assert "na\u00efve" in seen["decoded"]
    assert all(rows % 256 == 0 for rows in seen["linear_rows"]), "K-quants take rows of 256"


@pytest.mark.parametrize("name", VARIANTS)
def test_the_kind_is_kept_and_the_size_is_not(
    shrunken: dict[str, Finished], tried: dict[str, Any], name: str
) -> None:
    public, changes = VARIANTS[name]
    before, after = public_config(public) | changes, config_of(shrunken[name])
    ratios = [c["num_attention_heads"] // c["num_key_value_heads"] for c in (before, after)]
    # No width up to 1024 that K-quants take can be split into a multiple of 7 heads.
    assert ratios[1] == (8 if ratios[0] == 7 else ratios[0])
    assert (after["num_key_value_heads"] == 1) == (before["num_key_value_heads"] == 1)
    for key in ("architectures", "hidden_act", "rms_norm_eps", "tie_word_embeddings", "rope_theta"):
        assert after.get(key) == before.get(key)
    assert tried["folders"][name]["tied"] is before["tie_word_embeddings"]
    assert shrunken[name].measures()["parameters"] < 10_000_000
    assert after["max_position_embeddings"] == before["max_position_embeddings"]
    assert "quantization_config" not in after


def test_every_kind_of_layer_is_there_in_the_order_of_the_original(
    shrunken: dict[str, Finished],
) -> None:
    kinds = {name: config_of(run).get("layer_types") for name, run in shrunken.items()}
    assert kinds["gemma-2-2b"] == ["sliding_attention", "full_attention"]
    assert kinds["gemma-3-1b"] == ["sliding_attention"] * 5 + ["full_attention"]
    assert kinds["qwen2.5-7b-windows"] == ["full_attention", "sliding_attention"]
    assert config_of(shrunken["qwen2.5-7b-windows"])["max_window_layers"] == 1
    assert kinds["llama-3.1-8b"] is None
    assert config_of(shrunken["gemma-3-1b"])["sliding_window"] == 128


def test_rope_scalings_keep_their_lengths_and_fit_the_smaller_heads(
    shrunken: dict[str, Finished],
) -> None:
    llama = config_of(shrunken["llama-3.1-70b"])["rope_scaling"]
    assert llama == public_config("llama-3.1-70b")["rope_scaling"]
    assert config_of(shrunken["qwen3-8b-yarn"])["rope_scaling"] == YARN
    phi = config_of(shrunken["phi-3-mini-128k"])
    scaling = phi["rope_scaling"]
    width = phi["hidden_size"] // phi["num_attention_heads"]
    for part in ("short_factor", "long_factor"):
        assert len(scaling[part]) == width // 2
        assert (scaling[part][0], scaling[part][-1]) == (LONG[part][0], LONG[part][-1])
    assert phi["original_max_position_embeddings"] == 4096


def test_norms_begin_where_the_architecture_begins_them(tried: dict[str, Any]) -> None:
    for name, centre in (("llama-3.1-8b", 1.0), ("gemma-2-2b", 0.0), ("gemma-3-1b", 0.0)):
        norms = tried["folders"][name]["norms"]
        assert norms
        assert all(abs(value - centre) < 0.02 for value in norms.values()), name
    assert any("q_norm" in name for name in tried["folders"]["qwen3-8b"]["norms"])


@pytest.mark.parametrize(
    ("name", "special", "begins"),
    [
        ("llama-3.1-8b", ["<|begin_of_text|>", "<|eot_id|>"], "<|begin_of_text|><|start_header"),
        ("qwen3-8b", [None, "<|im_end|>"], "<|im_start|>user\n"),
        ("mistral-7b-v0.3", ["<s>", "</s>"], "<s>[INST] "),
        ("gemma-3-1b", ["<bos>", "<eos>"], "<bos><start_of_turn>user\n"),
        ("phi-3-mini-4k", ["<s>", "<|endoftext|>"], "<|user|>\n"),
        ("phi-4", ["<|endoftext|>", "<|im_end|>"], "<|im_start|>user<|im_sep|>"),
    ],
)
def test_a_trained_tokenizer_has_its_familys_tokens_and_template(
    tried: dict[str, Any], name: str, special: list[str | None], begins: str
) -> None:
    seen = tried["folders"][name]
    assert seen["special"][:2] == special
    assert seen["text"].startswith(begins)


def test_the_same_config_gives_the_same_bytes_and_another_seed_others(
    shrink: Shrink, shrunken: dict[str, Finished], tmp_path: Path
) -> None:
    for name in ("qwen3-0.6b", "gemma-2-2b"):
        source = write_source(name, tmp_path / name)
        again, other = shrink(source), shrink(source, seed=1)
        first, second, third = (
            {path.name: file_sha256(path) for path in sorted((run.folder / "model").iterdir())}
            for run in (shrunken[name], again, other)
        )
        assert first == second
        assert {key for key in first if first[key] != third[key]} == {"model.safetensors"}


def test_the_weights_are_these_on_every_machine(shrunken: dict[str, Finished]) -> None:
    digest = file_sha256(shrunken["llama-3.1-8b"].folder / "model" / "model.safetensors")
    assert digest == "aa0f5a96dad0767c0b30e4c828f601725de79f9b70e9114cb715bd5403cbceba"
    tokenizer = file_sha256(shrunken["gemma-2-2b"].folder / "model" / "tokenizer.model")
    assert tokenizer == "45c52b458b31c914c0185657bba78e49ae91364c24838b2cb198492bef53e3ff"


def test_the_models_own_tokenizer_is_kept_with_its_vocabulary(
    shrink: Shrink, tmp_path: Path
) -> None:
    source = write_source("llama-3.2-1b", tmp_path / "source", vocab_size=260)
    tiny = write_tiny_model(tmp_path / "tiny")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tiny / name, source / name)
    run = shrink(source)
    assert run.status == 0, run.log
    assert config_of(run)["vocab_size"] == 260
    assert config_of(run)["bos_token_id"] == public_config("llama-3.2-1b")["bos_token_id"]
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (run.folder / "model" / name).read_bytes() == (tiny / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"model_type": "bloom"}, "E330", "cannot be shrunk"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": "x"}}, "E331", "refuses"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "E313", "run code of its own"),
    ],
)
def test_what_cannot_be_shrunk_is_an_error(
    shrink: Shrink, tmp_path: Path, changes: dict[str, Any], code: str, words: str
) -> None:
    run = shrink(write_source("llama-3.1-8b", tmp_path / "source", **changes))
    assert run.status == 1
    assert run.error()["code"] == code, run.log
    assert words in run.error()["message"]
