"""How llama.cpp splits a text before byte-level BPE, by the name in `tokenizer.ggml.pre`.

To add one is a line in PRE_TOKENIZERS. Source of the expressions: llama.cpp's src/llama-vocab.cpp,
which quotes the original of each in its comments. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _WORDS % "{1,3}"
_QWEN2 = _WORDS % ""
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
    r"|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = _CASED % ("", "", "")
_GPT4O = _CASED % (("(?i:'s|'t|'re|'ve|'m|'ll|'d)?",) * 2 + ("{1,3}",))
DIGITS = frozenset({r"\p{N}", r"\p{N}{1,3}"})
# Each begins a part at every space that is between a letter and what is no space: none takes a
# space behind anything else, and behind a space all take the letters that follow.
WORD_BY_WORD = frozenset({_GPT2, _LLAMA3, _QWEN2, _TEKKEN, _GPT4O})


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
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), _LLAMA_BPE),
    **dict.fromkeys(("dbrx", "smaug-bpe"), PreTokenizer((_LLAMA3,))),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), PreTokenizer((_QWEN2,))),
    "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
    "gpt-4o": PreTokenizer((_GPT4O,)),
}

# Texts that every two of them split differently: digits, case, contractions, marks, white space.
PROBES = (
    "I've told HE'LL 1 22 333 4444 55555, don't! \u00c9t\u00e9 na\u00efve x2y 3.14",
    "camelCase HTMLParser ABC abc \u0130stanbul 'S 't \u2019s //path\n/x\r\n\r\n  2\n \n\t\tend   ",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u0e20\u0e32\u0e29\u0e32 a\u0301e\u0302",
    "\u0967\u0968\u0969\u096a \U0001f600\U0001f680!!! ???",
    "if (a != b && c <= d) { return x[0]; }  # __init__  \u00a0 \u00bd\u00b2 _a -b +c",
)


def pre_tokenizer_json(pre: PreTokenizer) -> dict[str, Any]:
    """In the form of the `tokenizers` library."""
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
