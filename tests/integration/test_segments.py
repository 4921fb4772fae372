"""Texts that are encoded by what lies between their special tokens have the tokenizer's own ids."""

from __future__ import annotations

import json
import subprocess

import pytest

from runner.scripts.tokenizers.tokenizer_families import FAMILIES
from runner.system import determinism, environments
from runner.system.folders import cache_folder
from tests.chain import ROOT

# Texts of everything that tokenizers treat in a way of its own, and the special tokens of a family.
COMPARE = """
import json, random, tempfile
from pathlib import Path
from transformers import PreTrainedTokenizerFast
from runner.scripts.data.tokens.chat_tokens import ChatTokenizer
from runner.scripts.data.tokens.segments import special_tokens
from runner.scripts.data.tokens.words import begins_at_words
from runner.scripts.tokenizers.tokenizer_families import FAMILIES
from runner.scripts.tokenizers.trained_tokenizer import write_trained_tokenizer

PIECES = ["a", "the", " of", " ", "  ", "\\n", "\\n\\n", "\\t", "'s", "12", "3.5", "<", "|", "im"]
PIECES += ["<|", "|>", "_x", "\\u0301", "e\\u0301", "\\u00e9", "\\u4e2d\\u6587", "\\U0001f642"]
PIECES += ["\\u2028", "\\u00a0", " Of", " \\u00c9t\\u00e9", " \\u0435\\u0449\\u0451", ".", ",", "!"]
told = {}
for name, family in FAMILIES.items():
    folder = Path(tempfile.mkdtemp())
    write_trained_tokenizer(family, folder, 4096)
    tokenizer = ChatTokenizer(folder, None, [])
    written = (folder / "tokenizer.json").read_text()
    dice = random.Random(7)
    pieces = PIECES + 3 * list(family.special)
    texts = ["".join(dice.choices(pieces, k=dice.randrange(14))) for _ in range(600)]
    texts += [first + second for first in texts[:40] for second in texts[:4]]
    reference = PreTrainedTokenizerFast.from_pretrained(str(folder))
    ids = reference(texts, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode_whole(texts) == ids, name
    wrong = [
        text for text, own in zip(texts, ids, strict=True) if tokenizer.encode_all([text]) != [own]
    ]
    assert tokenizer.encode_all(texts) == [tokenizer.encode(text) for text in texts], name
    told[name] = {"cut": bool(special_tokens(written)), "wrong": wrong[:3]}
    told[name]["words"] = begins_at_words(written)
print(json.dumps(told))
"""
# The parts of a text are those of its words, one after another.
PARTS = """
import json, random, sys
from tokenizers import normalizers, pre_tokenizers, Tokenizer, models
from runner.scripts.data.tokens import words
from runner.scripts.tokenizers.pre_tokenizers import PRE_TOKENIZERS, pre_tokenizer_json

GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
STEPS = [{"type": "Digits", "individual_digits": True}, GPT2]
SMOLLM = {"type": "Sequence", "pretokenizers": STEPS}
steps = {name: pre_tokenizer_json(pre) for name, pre in PRE_TOKENIZERS.items()}
steps |= {"byte level": GPT2, "digits and byte level": SMOLLM}
signs = [chr(number) for number in (*range(9, 14), *range(28, 384), *range(0x370, 0x530))]
signs += [*"\\u0301\\u0308\\u200b\\u2028\\u3000\\u4e2d\\uff21\\u0e32\\u0131\\u1e9e\\U0001f642"]
signs += 40 * [" "] + 9 * [*"etaoinETAOIN.,'!?1234567890"]
signs += 60 * [" a", " B", " \\u00e9", "'s", "'LL"]
dice = random.Random(7)
texts = ["".join(dice.choices(signs, k=dice.randrange(1, 30))) for _ in range(6000)]
counted = 0
for name, step in steps.items():
    told = json.dumps({"pre_tokenizer": step})
    assert words.begins_at_words(told), name
    own = Tokenizer.from_str(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": {"type": "NFC"}, "pre_tokenizer": step, "post_processor": None,
        "decoder": None, "model": {"type": "BPE", "vocab": {}, "merges": []}}))

    def parts(text):
        normal = own.normalizer.normalize_str(text)
        return [part for part, _ in own.pre_tokenizer.pre_tokenize_str(normal)]

    for text in texts:
        first, *others = words._cut(text)
        words_of = (first, *(" " + other for other in others))
        joined = [part for each in words_of for part in parts(each)]
        assert joined == parts(text), (name, text)
        counted += len(others)
print(len(steps), counted)
"""


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(said_by(COMPARE))
    return found


def said_by(program: str) -> str:
    """The last line of it, run where rows are prepared."""
    python = environments.ensure("data", cache_folder(), print).python
    said = subprocess.run(
        [str(python), "-c", program],
        cwd=ROOT,
        env={"PATH": "", **determinism.script_env(1)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-3000:]
    return said.stdout.splitlines()[-1]


def test_every_family_is_looked_at(told: dict[str, dict[str, object]]) -> None:
    assert {*told} == {*FAMILIES}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_ids_are_those_of_the_whole_text(told: dict[str, dict[str, object]], family: str) -> None:
    assert told[family]["wrong"] == []


def test_texts_are_cut_where_nothing_looks_over_a_special_token(
    told: dict[str, dict[str, object]],
) -> None:
    cut = {name for name, seen in told.items() if seen["cut"]}
    assert cut >= {"chatml", "qwen", "llama3"}
    pieces = {name for name, family in FAMILIES.items() if family.pre is None}
    assert {name for name in cut if told[name]["words"]} >= {"chatml", "qwen", "llama3"}
    assert not cut & pieces  # a word at the beginning of a text is another than in the middle


def test_no_part_of_a_text_is_in_two_words() -> None:
    steps, words = map(int, said_by(PARTS).split())
    assert steps > 20
    assert words > 100_000
