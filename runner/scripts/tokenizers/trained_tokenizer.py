"""Train a small tokenizer on the text below, with the special tokens and template of a family.

The same family gives the same files everywhere: the text is fixed, counts are whole numbers, and
the trainer breaks ties by the tokens themselves.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from runner.scripts.tokenizers.pre_tokenizers import PRE_TOKENIZERS, pre_tokenizer_json
from runner.scripts.tokenizers.sentencepiece_file import sentencepiece_model
from runner.scripts.tokenizers.tokenizer_families import Family
from runner.scripts.tokenizers.tokenizer_file import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    Vocabulary,
    byte_level,
    pieces,
)

SIZE = 768  # tokens, special ones included; the text may be too short for all of them
TEXT = """\
You are a helpful assistant. The user asks a question and the assistant answers it in a few words.
What is the capital of France? The capital of France is Paris. How many legs has a spider? Eight.
Fine-tuning starts from a model that has read a lot and shows it examples of what it should say.
The learning rate says how far each step goes; with a rank of 16 the adapter has few parameters.
A recipe names a base model, the data it learns from, the training, the merge and the deployment.
Don't worry if the loss isn't falling in the first steps: it's the warm-up, and we've seen it often.
def mean(values): return sum(values) / len(values)  # 3.14, 1024, 65536, {"key": ["value", null]}
for (int i = 0; i < 10; ++i) { printf("%d\\n", i); }    if (a != b && c <= d) return "done";
Der schnelle braune Fuchs springt \u00fcber den faulen Hund. \
O\u00f9 est la gare, s'il vous pla\u00eet ?
\u041f\u0440\u0438\u0432\u0435\u0442, \u043a\u0430\u043a \u0434\u0435\u043b\u0430? \
\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u3053\u3093\u306b\u3061\u306f \u4e16\u754c
The model, the data and the machine decide the result; the same recipe gives the same bytes again.
To be or not to be, that is the question: whether it is nobler in the mind to suffer the answer.
"""


def write_trained_tokenizer(family: Family, folder: Path, max_length: int) -> int:
    """Write tokenizer files and the chat template into `folder`; returns the number of tokens."""
    if family.pre is None:
        vocabulary, scores = _train_pieces(family)
        file = pieces(vocabulary, scores, prefix=family.prefix)
        ids = {name: token_id(getattr(family, name), vocabulary) for name in ("bos", "eos", "pad")}
        (folder / "tokenizer.model").write_bytes(
            sentencepiece_model(vocabulary, scores, prefix=family.prefix, ids=ids)
        )
    else:
        vocabulary, merges = _train_bytes(family)
        file = byte_level(vocabulary, merges, PRE_TOKENIZERS[family.pre])
    _write(folder / "tokenizer.json", file, indent=None)
    _write(folder / "tokenizer_config.json", _tokenizer_config(family, max_length))
    (folder / "chat_template.jinja").write_bytes(family.template.encode())
    return len(vocabulary.tokens)


def token_id(token: str | None, vocabulary: Vocabulary) -> int | None:
    """The id of a token's text."""
    return None if token is None else vocabulary.tokens.index(token)


def special_token_ids(family: Family) -> dict[str, Any]:
    """What config.json says: special tokens come first, so their place is their id."""
    named = {"bos": family.bos, "eos": family.eos, "pad": family.pad}
    return {
        f"{name}_token_id": None if token is None else family.special.index(token)
        for name, token in named.items()
    }


def ends(family: Family) -> list[int]:
    """The ids at which a generation ends."""
    return [family.special.index(token) for token in dict.fromkeys((family.eos, family.end))]


def _train_bytes(family: Family) -> tuple[Vocabulary, list[list[str]]]:
    assert family.pre is not None
    tokenizer = Tokenizer(models.BPE())
    empty = byte_level(Vocabulary([], []), [], PRE_TOKENIZERS[family.pre])
    empty["pre_tokenizer"] = pre_tokenizer_json(PRE_TOKENIZERS[family.pre])
    tokenizer = Tokenizer.from_str(json.dumps(empty))
    trained = _train(tokenizer, family, sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokens = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
    types = [CONTROL if token in family.special else NORMAL for token in tokens]
    return _vocabulary(family, tokens, types), trained["merges"]


def _train_pieces(family: Family) -> tuple[Vocabulary, list[float]]:
    """Special tokens, the bytes, and what was learnt, the first of it with the best score."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    trained = _train(tokenizer, family, [])
    learnt = sorted(trained["vocab"], key=trained["vocab"].__getitem__)[len(family.special) :]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*family.special, *bytes_, *(token for token in learnt if token != "\n")]
    types = [UNKNOWN if token == family.unk else CONTROL for token in family.special]
    types += [BYTE] * 256
    types += [NORMAL] * (len(tokens) - len(types))
    known = len(family.special) + len(bytes_)
    scores = [0.0] * known + [float(-rank) for rank in range(len(tokens) - known)]
    # Single characters are there from the start and are never the result of a merge.
    return _vocabulary(family, tokens, types), scores


def _train(tokenizer: Tokenizer, family: Family, alphabet: list[str]) -> dict[str, Any]:
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(family.special),
        initial_alphabet=alphabet,
    )
    tokenizer.train_from_iterator(TEXT.split("\n"), trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def _vocabulary(family: Family, tokens: list[str], types: list[int]) -> Vocabulary:
    first = family.bos if family.add_bos else None
    return Vocabulary(tokens, types, first=first, stripped=family.stripped)


def _tokenizer_config(family: Family, max_length: int) -> dict[str, Any]:
    named = {"bos_token": family.bos, "eos_token": family.eos}
    named |= {"pad_token": family.pad, "unk_token": family.unk}
    config: dict[str, Any] = {
        "tokenizer_class": family.tokenizer_class,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "add_bos_token": family.add_bos,
    }
    if family.pre is None:
        config["add_prefix_space"] = family.prefix
    return config | {name: token for name, token in named.items() if token is not None}


def _write(path: Path, value: Any, indent: int | None = 2) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    path.write_bytes(text.encode() + b"\n")
