"""Run llama.cpp's converter; where it does not know a tokenizer by name, find it by behaviour.

The converter knows a byte-level BPE by the hash of one encoded text, so every tokenizer that was
trained anew is unknown to it. What it must write is only how the text is split, and that can be
seen: a pre-tokenizer of PRE_TOKENIZERS that splits all PROBES alike is the one.

For some architectures the converter leaves out the output, since published models of them have the
embedding in its place. A model that an adapter has given an output of its own is refused.

Arguments: convert_hf_to_gguf.py, then the converter's own. Ends with a line on stderr: `E332: ...`
when none splits alike, `E547: ...` when the output would be lost.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from runner.scripts.tokenizers.pre_tokenizers import PRE_TOKENIZERS, PROBES, PreTokenizer
from runner.scripts.tokenizers.tokenizer_file import Vocabulary, byte_level


class UnknownSplit(Exception):
    """No pre-tokenizer of llama.cpp splits as this tokenizer does."""


class LostOutput(Exception):
    """The file would compute with the embedding where the model has an output of its own."""


def splits_of(tokenizer: Tokenizer) -> list[list[str]]:
    """The parts of every probe, before byte-level BPE."""
    assert tokenizer.pre_tokenizer is not None
    return [[part for part, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)] for text in PROBES]


def splitter(pre: PreTokenizer) -> Tokenizer:
    """A tokenizer without tokens that splits as `pre` does."""
    return Tokenizer.from_str(json.dumps(byte_level(Vocabulary([], []), [], pre)))


def pre_type(tokenizer: Tokenizer) -> str:
    """The name for `tokenizer.ggml.pre`. Raises UnknownSplit."""
    about = json.loads(tokenizer.to_str())
    plain = about["normalizer"] is None or about["normalizer"]["type"] == "NFC"
    if about["pre_tokenizer"] is None or about["model"]["type"] != "BPE" or not plain:
        raise UnknownSplit
    wanted = splits_of(tokenizer)
    whole_words = bool(about["model"].get("ignore_merges"))
    for name, pre in PRE_TOKENIZERS.items():
        if pre.ignore_merges is whole_words and splits_of(splitter(pre)) == wanted:
            return name
    raise UnknownSplit


def known_by_behaviour(original: Any) -> Any:
    """`get_vocab_base_pre` of the converter, which does not give up on an unknown hash."""

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> str:
        try:
            return str(original(self, tokenizer))
        except NotImplementedError:  # so the converter says that the hash is none it knows
            return pre_type(tokenizer.backend_tokenizer)

    return get_vocab_base_pre


def keeping_the_output(original: Any) -> Any:
    """`index_tensors` of the converter, which raises LostOutput rather than dropping `lm_head`."""

    def index_tensors(self: Any, *arguments: Any, **how: Any) -> Any:
        untied = self.hparams.get("tie_word_embeddings") is False
        if untied and self.filter_tensors(("lm_head.weight", lambda: None)) is None:
            raise LostOutput(" ".join(self.hparams.get("architectures") or [type(self).__name__]))
        return original(self, *arguments, **how)

    return index_tensors


def main() -> None:
    sys.argv.pop(0)
    converter = Path(sys.argv[0])
    sys.path.insert(0, str(converter.parent))
    program = importlib.import_module(converter.stem)
    base = importlib.import_module("conversion.base").TextModel
    base.get_vocab_base_pre = known_by_behaviour(base.get_vocab_base_pre)
    base.index_tensors = keeping_the_output(base.index_tensors)
    try:
        program.main()
    except UnknownSplit:
        print("E332: no tokenizer of llama.cpp splits text as this model's does", file=sys.stderr)
        raise SystemExit(1) from None
    except LostOutput as lost:
        print(
            "E547: the model has an output of its own, and llama.cpp would use the embedding of "
            f"{lost} in its place",
            file=sys.stderr,
        )
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
