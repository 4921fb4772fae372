"""Rebuild a tokenizer from a GGUF file's own metadata, so that it gives llama.cpp's ids.

Only what the file says counts: nothing is patched per model. The pre-tokenizer is chosen by
`tokenizer.ggml.pre`; to add one is a line in PRE_TOKENIZERS. Source of the expressions:
llama.cpp's src/llama-vocab.cpp, which quotes the original of each in its comments.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.scripts.gguf_model import GgufFile
from runner.scripts.spec import ScriptError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's token types

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _WORDS % "{1,3}"
_QWEN2 = _WORDS % ""


@dataclass(frozen=True)
class PreTokenizer:
    """Regular expressions that split the text one after another, before byte-level BPE.

    `ignore_merges`: a whole word that is a token is taken as it is. `add_bos`: llama.cpp's default
    where the file has no `tokenizer.ggml.add_bos_token`.
    """

    splits: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_DIGITS_THEN_GPT2 = PreTokenizer((r"\p{N}", _GPT2))
_LLAMA_BPE = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais"), PreTokenizer((_GPT2,))),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
        _DIGITS_THEN_GPT2,
    ),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3"), _LLAMA_BPE),
    **dict.fromkeys(("dbrx", "smaug-bpe"), PreTokenizer((_LLAMA3,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), PreTokenizer((_QWEN2,))),
}


def write_tokenizer(source: GgufFile, folder: Path) -> dict[str, Any]:
    """Write tokenizer.json, tokenizer_config.json and, where given, chat_template.jinja.

    Returns the special token ids for config.json and generation_config.json.
    Raises ScriptError E315 for a tokenizer that is not understood.
    """
    _write_json(folder / "tokenizer.json", tokenizer_json(source), indent=None)
    _write_json(folder / "tokenizer_config.json", tokenizer_config(source))
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
    """All ids at which a generation ends: eos, then end-of-turn where it is another one."""
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    found = [source.value(key, None) for key in keys]
    return list(dict.fromkeys(value for value in found if value is not None))


def pre_tokenizer_of(source: GgufFile) -> PreTokenizer:
    """Raises ScriptError E315 when the file's tokenizer is not byte-level BPE of a known kind."""
    model = source.value("tokenizer.ggml.model")
    name = source.value("tokenizer.ggml.pre", "default")
    if model != "gpt2" or name not in PRE_TOKENIZERS:
        raise ScriptError(
            f"the tokenizer {model}/{name} of {source.path.name} cannot be rebuilt",
            hint=f"known: gpt2 with {', '.join(sorted(PRE_TOKENIZERS))}; "
            "or start from a safetensors model, which brings its tokenizer.json",
            code="E315",
        )
    return PRE_TOKENIZERS[name]


def tokenizer_json(source: GgufFile) -> dict[str, Any]:
    """The tokenizer in the form of the `tokenizers` library."""
    pre = pre_tokenizer_of(source)
    tokens = source.value("tokenizer.ggml.tokens")
    types = source.value("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if len(set(tokens)) != len(tokens):
        raise ScriptError(f"{source.path.name} has two tokens of the same text", code="E315")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(index, tokens[index], kind)
            for index, kind in enumerate(types)
            if kind in (UNKNOWN, CONTROL, USER_DEFINED)
        ],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer_json(pre),
        "post_processor": _post_processor_json(source, tokens, pre),
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.ignore_merges,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [_merge(text) for text in source.value("tokenizer.ggml.merges")],
        },
    }


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
    return config


def _added_token(index: int, text: str, kind: int) -> dict[str, Any]:
    return {
        "id": index,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": kind != USER_DEFINED,
    }


def _pre_tokenizer_json(pre: PreTokenizer) -> dict[str, Any]:
    splits = [
        {
            "type": "Split",
            "pattern": {"Regex": expression},
            "behavior": "Isolated",
            "invert": False,
        }
        for expression in pre.splits
    ]
    bytes_only = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {"type": "Sequence", "pretokenizers": [*splits, bytes_only]}


def _post_processor_json(
    source: GgufFile, tokens: list[str], pre: PreTokenizer
) -> dict[str, Any] | None:
    """Add bos and eos where llama.cpp would add them to plain text."""
    bos = _edge_token(source, tokens, "bos", pre.add_bos)
    eos = _edge_token(source, tokens, "eos", False)
    if not bos and not eos:
        return None
    single = [*bos, {"Sequence": {"id": "A", "type_id": 0}}, *eos]
    pair = [*single, *bos, {"Sequence": {"id": "B", "type_id": 1}}, *eos]
    names = [part["SpecialToken"]["id"] for part in (*bos, *eos)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": {
            name: {"id": name, "ids": [tokens.index(name)], "tokens": [name]} for name in names
        },
    }


def _edge_token(
    source: GgufFile, tokens: list[str], key: str, default: bool
) -> list[dict[str, Any]]:
    if not source.value(f"tokenizer.ggml.add_{key}_token", default):
        return []
    name = tokens[source.value(f"tokenizer.ggml.{key}_token_id")]
    return [{"SpecialToken": {"id": name, "type_id": 0}}]


def _merge(text: str) -> list[str]:
    """`a b` as its two halves; llama.cpp splits at the first space after the first character."""
    middle = text.index(" ", 1)
    return [text[:middle], text[middle + 1 :]]


def _write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    path.write_bytes(text.encode() + b"\n")
