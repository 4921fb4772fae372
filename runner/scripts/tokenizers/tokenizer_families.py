"""What the tokenizers of the known families have in common: special tokens and chat template.

Used where a shrunken model has a config and no tokenizer: the one that is then trained on the spot
has these special tokens, in this order, and this template. A new family is one entry in FAMILIES
and a line in `family_of`. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Family:
    """`pre`: the pre-tokenizer of a byte-level BPE; None: pieces with byte fallback.

    `end`: the token that ends a turn. `prefix`: pieces begin with a space of their own. `stripped`:
    special tokens that swallow the white space on their right.
    """

    special: tuple[str, ...]
    template: str
    end: str
    eos: str
    bos: str | None = None
    pad: str | None = None
    unk: str | None = None
    add_bos: bool = False
    pre: str | None = None
    prefix: bool = False
    stripped: frozenset[str] = frozenset()
    tokenizer_class: str = "PreTrainedTokenizerFast"


_TURNS = (
    "{%% for message in messages %%}%s{%% endfor %%}{%% if add_generation_prompt %%}%s{%% endif %%}"
)
_CHATML = _TURNS % (
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}",
    "{{ '<|im_start|>assistant\n' }}",
)
_LLAMA3 = "{{ bos_token }}" + _TURNS % (
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}",
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
)
_PHI3 = _TURNS % (
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}",
    "{{ '<|assistant|>\n' }}",
)
_PHI4 = _TURNS % (
    "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}",
    "{{ '<|im_start|>assistant<|im_sep|>' }}",
)
# Families without a system role: its text stands at the beginning of the first question.
_SYSTEM_FIRST = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}" + _SYSTEM_FIRST + "{% for message in turns %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}"
    "{{ message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_MISTRAL = (
    "{{ bos_token }}" + _SYSTEM_FIRST + "{% for message in turns %}"
    "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (first if loop.first else '') + message['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)

FAMILIES = {
    "chatml": Family(
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        template=_CHATML,
        end="<|im_end|>",
        eos="<|im_end|>",
        bos="<|im_start|>",
        pad="<|im_end|>",
        unk="<|endoftext|>",
        pre="smollm",
    ),
    "qwen": Family(
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        template=_CHATML,
        end="<|im_end|>",
        eos="<|im_end|>",
        pad="<|endoftext|>",
        pre="qwen2",
    ),
    "llama3": Family(
        special=(
            *("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"),
            *("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"),
        ),
        template=_LLAMA3,
        end="<|eot_id|>",
        eos="<|eot_id|>",
        bos="<|begin_of_text|>",
        pad="<|finetune_right_pad_id|>",
        add_bos=True,
        pre="llama-bpe",
    ),
    "mistral": Family(
        special=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        template=_MISTRAL,
        end="</s>",
        eos="</s>",
        bos="<s>",
        pad="<unk>",
        unk="<unk>",
        add_bos=True,
        prefix=True,
    ),
    "gemma": Family(
        special=("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        template=_GEMMA,
        end="<end_of_turn>",
        eos="<eos>",
        bos="<bos>",
        pad="<pad>",
        unk="<unk>",
        add_bos=True,
    ),
    "phi3": Family(
        special=(
            *("<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>"),
            *("<|system|>", "<|end|>", "<|user|>"),
        ),
        template=_PHI3,
        end="<|end|>",
        eos="<|endoftext|>",
        bos="<s>",
        pad="<|endoftext|>",
        unk="<unk>",
        prefix=True,
        stripped=frozenset({"</s>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"}),
    ),
    "phi4": Family(
        special=("<|endoftext|>", "<|dummy_85|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>"),
        template=_PHI4,
        end="<|im_end|>",
        eos="<|im_end|>",
        bos="<|endoftext|>",
        pad="<|dummy_85|>",
        pre="dbrx",
        tokenizer_class="GPT2Tokenizer",  # by which llama.cpp's converter knows a Phi-4
    ),
}
_BY_TYPE = {
    "mistral": "mistral",
    "qwen2": "qwen",
    "qwen3": "qwen",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
}
_LLAMA3_VOCABULARY = 128256
_PHI4_VOCABULARY = 100352


def family_of(config: dict[str, Any]) -> Family:
    """The family by the config's type and, for Llama and Phi, its vocabulary; else ChatML."""
    kind, size = config.get("model_type"), config.get("vocab_size")
    if kind == "phi3":
        return FAMILIES["phi4" if size == _PHI4_VOCABULARY else "phi3"]
    if kind == "llama" and size == _LLAMA3_VOCABULARY:
        return FAMILIES["llama3"]
    return FAMILIES[_BY_TYPE.get(str(kind), "chatml")]
