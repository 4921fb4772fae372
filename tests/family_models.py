"""Tiny models with the special tokens of a family of chat templates, and variants of its template.

The variants do what published models of the family do, in words of our own: refuse a system turn,
write the date, move the system prompt to the last turn, drop the thinking of former answers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from runner.stages.templates import shipped_templates
from tests.tiny_model import write_tiny_model

_LLAMA3 = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
_CHATML = ("<|endoftext|>", "<|im_end|>", "<|im_start|>")
_GEMMA = ("<bos>", "<end_of_turn>", "<start_of_turn>", "<eos>")
_MISTRAL = ("<s>", "</s>", "[INST]", "[/INST]")
_DEEPSEEK = tuple(
    f"<\uff5c{name}\uff5c>"
    for name in ("begin\u2581of\u2581sentence", "end\u2581of\u2581sentence", "User", "Assistant")
)


@dataclass(frozen=True)
class Kind:
    """A model: its special tokens (BOS first, then the end of a turn), template and what is found.

    `adds_bos`: does llama.cpp add the BOS? `system`: the recipe's. `left_out`: hard cases that the
    template refuses. `documents`: a conversation of three exchanges is one document, or three.
    `architecture` is the GGUF file's: Ollama treats the messages of Qwen3 in its own way.
    """

    name: str
    special: tuple[str, ...]
    template: str
    family: str
    adds_bos: bool = False
    system: str | None = None
    left_out: int = 0
    documents: int = 1
    architecture: str = "llama"


def _shipped(name: str) -> str:
    return shipped_templates.path_of(name).read_text(encoding="utf-8")


_ALTERNATE = (
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)
_SPLIT_SYSTEM = (
    "{% set ns = namespace(system=none) %}{% set turns = messages %}"
    "{% if messages[0].role == 'system' %}{% set ns.system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% endif %}"
)

_GEMMA_REFUSING = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% set turns = messages %}"
    + _ALTERNATE
    + "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else 'user') + '\n' "
    "+ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_LLAMA_WITH_TODAY = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}{{ bos_token }}"
    + _SPLIT_SYSTEM
    + "{{ '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{ 'Cutting Knowledge Date: December 2023\nToday Date: ' + date_string + '\n\n' }}"
    "{{ (ns.system or '') | trim + '<|eot_id|>' }}{% for m in turns %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim "
    "+ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_MISTRAL_LAST = (
    "{{ bos_token }}"
    + _SPLIT_SYSTEM
    + "{% set ns.last = 0 %}{% for m in turns %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    + _ALTERNATE
    + "{% if m.role == 'user' %}{% if ns.system is not none and loop.index0 == ns.last %}"
    "{{ '[INST] ' + ns.system + '\n\n' + m.content + '[/INST]' }}{% else %}"
    "{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}{% else %}"
    "{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
_MISTRAL_OLD = (
    "{{ bos_token }}"
    + _SPLIT_SYSTEM
    + _ALTERNATE
    + "{% if m.role == 'user' %}{% if loop.first and ns.system is not none %}"
    "{{ ' [INST] ' + ns.system + '\n\n' + m.content + ' [/INST]' }}{% else %}"
    "{{ ' [INST] ' + m.content + ' [/INST]' }}{% endif %}{% else %}"
    "{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
_QWEN_WITH_TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_THINKING = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set words = m.content %}{% set thought = '' %}"
    "{% if m.role == 'assistant' and '</think>' in words %}"
    "{% set thought = words.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set words = words.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}"
    "{% set words = '<think>\n' + thought + '\n</think>\n\n' + words %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + words + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_UNKNOWN = (
    "{{ bos_token }}{% for m in messages %}{{ '@@ ' + m.role | upper + ': ' + m.content "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '@@ ASSISTANT: ' }}{% endif %}"
)

_MERGED = {"adds_bos": True, "left_out": 1}  # a late system turn is refused

KINDS: tuple[Kind, ...] = (
    Kind("chatml", _CHATML, _shipped("chatml"), "chatml"),
    Kind("chatml-system", _CHATML, _shipped("chatml"), "chatml", system="You are terse. "),
    Kind("chatml-empty-system", _CHATML, _shipped("chatml"), "chatml", system=""),
    Kind("llama2", _MISTRAL, _shipped("llama2"), "llama2", **_MERGED),
    Kind("llama2-system", _MISTRAL, _shipped("llama2"), "llama2", system="Be terse.", **_MERGED),
    Kind("llama2-empty", _MISTRAL, _shipped("llama2"), "llama2", system="", **_MERGED),
    Kind("llama3", _LLAMA3, _shipped("llama3"), "llama3", adds_bos=True),
    Kind("llama3-bos-by-template", _LLAMA3, _shipped("llama3"), "llama3"),
    Kind("llama3.1", _LLAMA3, _shipped("llama3.1"), "llama3.1", adds_bos=True),
    Kind("llama3-today", _LLAMA3, _LLAMA_WITH_TODAY, "llama3.1", adds_bos=True, system="Hm."),
    Kind("mistral", _MISTRAL, _shipped("mistral"), "mistral", **_MERGED),
    Kind(
        "mistral-last",
        _MISTRAL,
        _MISTRAL_LAST,
        "mistral",
        system="Be kind.",
        documents=3,
        **_MERGED,
    ),
    Kind("mistral-old", _MISTRAL, _MISTRAL_OLD, "mistral", **_MERGED),
    Kind("gemma", _GEMMA, _shipped("gemma"), "gemma", **_MERGED),
    Kind("gemma-system", _GEMMA, _shipped("gemma"), "gemma", system="Be terse.", **_MERGED),
    Kind("gemma-refusing", _GEMMA, _GEMMA_REFUSING, "gemma", adds_bos=True, left_out=8),
    Kind("phi3", ("<s>", "<|end|>", "<|user|>", "<|assistant|>"), _shipped("phi3"), "phi3"),
    Kind("phi4", (*_CHATML, "<|im_sep|>"), _shipped("phi4"), "phi4"),
    Kind("zephyr", ("<s>", "</s>"), _shipped("zephyr"), "zephyr"),
    Kind("qwen2.5", _CHATML, _QWEN_WITH_TOOLS, "chatml"),
    Kind("qwen3", _CHATML, _shipped("qwen3"), "qwen3", documents=3),
    Kind("qwen3-thinking", _CHATML, _THINKING, "qwen3", documents=3, architecture="qwen3"),
    Kind(
        "command-r",
        (
            "<BOS_TOKEN>",
            "<|END_OF_TURN_TOKEN|>",
            "<|START_OF_TURN_TOKEN|>",
            "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
            "<|SYSTEM_TOKEN|>",
        ),
        _shipped("command-r"),
        "command-r",
        **_MERGED,
    ),
    Kind("deepseek", _DEEPSEEK, _shipped("deepseek"), "deepseek", **_MERGED),
    Kind("unknown", _CHATML, _UNKNOWN, "", adds_bos=True, system="Be terse."),
)


def write_family_model(folder: Path, kind: Kind) -> Path:
    """A tiny Llama with the kind's special tokens and chat template; returns the folder."""
    write_tiny_model(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    old = tokenizer["model"]["vocab"]
    taken = {token["content"] for token in tokenizer["added_tokens"]} | {"<|unused|>"}
    signs = [sign for sign in sorted(old, key=old.__getitem__) if sign not in taken]
    vocab = [*kind.special, *signs, "ÿÿ"]  # llama.cpp wants a merge; 0xFF never stands in UTF-8
    tokenizer["model"]["vocab"] = {sign: number for number, sign in enumerate(vocab)}
    tokenizer["model"]["merges"] = [["ÿ", "ÿ"]]
    tokenizer["added_tokens"] = [
        tokenizer["added_tokens"][0] | {"id": number, "content": token}
        for number, token in enumerate(kind.special)
    ]
    _write(folder / "tokenizer.json", tokenizer)
    config = json.loads((folder / "config.json").read_text())
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    _write(folder / "config.json", config | ends | {"vocab_size": len(vocab)})
    _write(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    bos, end = kind.special[:2]
    settings |= {"bos_token": bos, "eos_token": end, "pad_token": end, "unk_token": None}
    _write(folder / "tokenizer_config.json", settings)
    weights = load_file(folder / "model.safetensors")
    rows = np.random.default_rng(3).standard_normal((len(vocab), config["hidden_size"]))
    weights["model.embed_tokens.weight"] = (rows * 0.05).astype(np.float32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "chat_template.jinja").write_text(kind.template, encoding="utf-8")
    return folder


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
