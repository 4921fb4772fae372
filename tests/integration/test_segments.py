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
from runner.scripts.tokenizers.tokenizer_families import FAMILIES
from runner.scripts.tokenizers.trained_tokenizer import write_trained_tokenizer

PIECES = ["a", "the", " of", " ", "  ", "\\n", "\\n\\n", "\\t", "'s", "12", "3.5", "<", "|", "im"]
PIECES += ["<|", "|>", "_x", "\\u0301", "e\\u0301", "\\u00e9", "\\u4e2d\\u6587", "\\U0001f642"]
PIECES += ["\\u2028", "\\u00a0"]
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
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, object]]:
    python = environments.ensure("data", cache_folder(), print).python
    said = subprocess.run(
        [str(python), "-c", COMPARE],
        cwd=ROOT,
        env={"PATH": "", **determinism.script_env(1)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-3000:]
    found: dict[str, dict[str, object]] = json.loads(said.stdout.splitlines()[-1])
    return found


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
    assert not cut & pieces  # a word at the beginning of a text is another than in the middle
