"""Rebuild a tokenizer from a GGUF file's own metadata, so that it gives llama.cpp's ids.

Only what the file says counts: nothing is patched per model. Byte-level BPE (`gpt2`) by its
pre-tokenizer's name (pre_tokenizers.py), and SentencePiece's pieces (`llama`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runner.scripts.from_gguf.gguf_model import GgufFile
from runner.scripts.spec import ScriptError
from runner.scripts.tokenizers.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from runner.scripts.tokenizers.sentencepiece_file import sentencepiece_model
from runner.scripts.tokenizers.tokenizer_file import CONTROL, NORMAL, Vocabulary, byte_level, pieces

__all__ = ["PRE_TOKENIZERS", "PreTokenizer", "tokenizer_config", "tokenizer_json"]

ENDS_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>")


def write_tokenizer(source: GgufFile, folder: Path) -> dict[str, Any]:
    """Write tokenizer.json, tokenizer_config.json and, where given, chat_template.jinja.

    Pieces are also written as tokenizer.model, which llama.cpp's converter wants back.
    Returns the special token ids for config.json and generation_config.json.
    Raises ScriptError E315 for a tokenizer that is not understood.
    """
    _write_json(folder / "tokenizer.json", tokenizer_json(source), indent=None)
    _write_json(folder / "tokenizer_config.json", tokenizer_config(source))
    if source.value("tokenizer.ggml.model") == "llama":
        found = special_ids(source)
        (folder / "tokenizer.model").write_bytes(
            sentencepiece_model(
                vocabulary_of(source, add_bos=True),
                source.value("tokenizer.ggml.scores"),
                prefix=has_prefix(source),
                ids={name: found.get(f"{name}_token_id") for name in ("bos", "eos", "pad")},
            )
        )
    template = source.value("tokenizer.chat_template", None)
    if template:
        (folder / "chat_template.jinja").write_bytes(template.encode())
    return special_ids(source)


def special_ids(source: GgufFile) -> dict[str, Any]:
    """`bos_token_id`, `eos_token_id` and `pad_token_id` as the file has them, where it has them."""
    found = {
        name: source.value(f"tokenizer.ggml.{key}_token_id", None)
        for name, key in (
            ("bos_token_id", "bos"),
            ("eos_token_id", "eos"),
            ("pad_token_id", "padding"),
        )
    }
    return {name: value for name, value in found.items() if value is not None}


def end_of_turn_ids(source: GgufFile) -> list[int]:
    """All ids at which a generation ends: eos, then end-of-turn where it is another one.

    Where the file names no end of turn, llama.cpp finds it by its text; so is it here.
    """
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    found = [source.value(key, None) for key in keys]
    if found[1] is None:
        tokens = source.value("tokenizer.ggml.tokens")
        found += [tokens.index(text) for text in ENDS_OF_TURN if text in tokens]
    return list(dict.fromkeys(value for value in found if value is not None))


def pre_tokenizer_of(source: GgufFile) -> PreTokenizer:
    """Raises ScriptError E315 when the file's tokenizer is not byte-level BPE of a known kind."""
    model = source.value("tokenizer.ggml.model")
    name = source.value("tokenizer.ggml.pre", "default")
    if model != "gpt2" or name not in PRE_TOKENIZERS:
        raise ScriptError(
            f"the tokenizer {model}/{name} of {source.path.name} cannot be rebuilt",
            hint=f"known: llama, and gpt2 with {', '.join(sorted(PRE_TOKENIZERS))}; "
            "or start from a safetensors model, which brings its tokenizer.json",
            code="E315",
        )
    return PRE_TOKENIZERS[name]


def tokenizer_json(source: GgufFile) -> dict[str, Any]:
    """The tokenizer in the form of the `tokenizers` library."""
    if source.value("tokenizer.ggml.model") == "llama":
        scores = source.value("tokenizer.ggml.scores")
        return pieces(vocabulary_of(source, add_bos=True), scores, prefix=has_prefix(source))
    pre = pre_tokenizer_of(source)
    merges = [_merge(text) for text in source.value("tokenizer.ggml.merges")]
    return byte_level(vocabulary_of(source, add_bos=pre.add_bos), merges, pre)


def vocabulary_of(source: GgufFile, *, add_bos: bool) -> Vocabulary:
    """The file's tokens. `add_bos`: llama.cpp's default where the file says nothing."""
    tokens = source.value("tokenizer.ggml.tokens")
    types = source.value("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if len(set(tokens)) != len(tokens):
        raise ScriptError(f"{source.path.name} has two tokens of the same text", code="E315")
    return Vocabulary(
        tokens,
        types,
        first=_edge_token(source, tokens, "bos", add_bos),
        last=_edge_token(source, tokens, "eos", False),
        stripped=stripped_tokens(source, tokens, types),
    )


def has_prefix(source: GgufFile) -> bool:
    """Does llama.cpp put a space before a text?"""
    return bool(source.value("tokenizer.ggml.add_space_prefix", True))


def stripped_tokens(source: GgufFile, tokens: list[str], types: list[int]) -> frozenset[str]:
    """The special tokens that swallow white space on their right.

    A file does not say it. llama.cpp goes by the model's name (llama_vocab::impl::load), and so do
    its ids: in a Phi-3 all control tokens do, but for the three that are no part of its template.
    """
    name = str(source.value("general.name", "")).lower()
    if not any(part in name for part in ("phi-3", "phi3")):
        return frozenset()
    control = {token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL}
    return frozenset((control | {"</s>"}) - {"<unk>", "<s>", "<|endoftext|>"})


def tokenizer_config(source: GgufFile) -> dict[str, Any]:
    """What transformers needs beside tokenizer.json. No clean-up: decoding is exact."""
    tokens = source.value("tokenizer.ggml.tokens")
    architecture = source.value("general.architecture")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": source.value(f"{architecture}.context_length"),
    }
    for name, key in (
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("pad_token", "padding"),
        ("unk_token", "unknown"),
    ):
        index = source.value(f"tokenizer.ggml.{key}_token_id", None)
        if index is not None and 0 <= index < len(tokens):
            config[name] = tokens[index]
    if source.value("tokenizer.ggml.model") == "llama":
        # What llama.cpp's converter asks for when the model goes to GGUF again.
        config["add_bos_token"] = bool(source.value("tokenizer.ggml.add_bos_token", True))
        config["add_prefix_space"] = has_prefix(source)
    return config


def _edge_token(source: GgufFile, tokens: list[str], key: str, default: bool) -> str | None:
    """The token that llama.cpp adds to plain text at that edge."""
    if not source.value(f"tokenizer.ggml.add_{key}_token", default):
        return None
    return tokens[source.value(f"tokenizer.ggml.{key}_token_id")]


def _merge(text: str) -> list[str]:
    """`a b` as its two halves; llama.cpp splits at the first space after the first character."""
    middle = text.index(" ", 1)
    return [text[:middle], text[middle + 1 :]]


def _write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    path.write_bytes(text.encode() + b"\n")
