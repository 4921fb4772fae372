"""A tiny model that says "OK" and stops, whatever it is asked: for tests of what is deployed.

Its layers add nothing, and its head is a table of which byte follows which, so greedy answers are
known beforehand.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.tiny_model import SPECIAL, write_tiny_model

START, END = SPECIAL.index("<|im_start|>"), SPECIAL.index("<|im_end|>")


def byte_ids(text: str) -> list[int]:
    """Token ids of a text for the tiny tokenizer: one a byte, special tokens parsed."""
    ids: list[int] = []
    while text:
        for number, token in enumerate(SPECIAL):
            if text.startswith(token):
                ids.append(number)
                text = text[len(token) :]
                break
        else:
            ids += [len(SPECIAL) + byte for byte in text[0].encode()]
            text = text[1:]
    return ids


def write_talking_model(folder: Path, says: str = "OK", *, stops: bool = True) -> Path:
    """Write the model folder and return it. After a line break it says `says`, then stops."""
    assert len(set(says)) == len(says), "one byte follows another: none may stand there twice"
    write_tiny_model(folder)
    weights = load_file(folder / "model.safetensors")
    for name, values in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            values[:] = 0.0
    embedding = np.random.default_rng(1).standard_normal(weights["model.embed_tokens.weight"].shape)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    said = byte_ids("\n" + says)
    follows = [*itertools.pairwise(said), (said[-1], END if stops else said[1])]
    head = np.zeros_like(embedding)
    for before, after in follows:
        head[after] += 4 * embedding[before]
    weights["model.embed_tokens.weight"] = embedding.astype(np.float32)
    weights["lm_head.weight"] = head.astype(np.float32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    _add_a_merge(folder / "tokenizer.json")
    return folder


def _add_a_merge(path: Path) -> None:
    """llama.cpp wants at least one; bytes 0xFF never stand side by side in UTF-8."""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    model = tokenizer["model"]
    model["vocab"]["ÿÿ"] = model["vocab"].pop("<|unused|>")
    model["merges"] = [["ÿ", "ÿ"]]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
