"""A recipe that goes from rows to a merged model in seconds, with a tiny model made on the fly."""

from __future__ import annotations

import json

from tests.chain import Checkout
from tests.tiny_model import write_tiny_model

RECIPE = """
schema: 1
name: tiny
model: {path: model, dtype: float32}
data:
  train: [{path: rows.jsonl, format: alpaca}]
  max_length: 256
train:
  adapter: {type: lora, r: 4, lora_alpha: 8, lora_dropout: 0.1}
  max_steps: STEPS
  per_device_train_batch_size: 2
  save_steps: 5
evaluate: {samples: 2, max_new_tokens: 4}
merge: {}
"""


def write_tiny_chain(checkout: Checkout) -> None:
    """tiny.yaml with its model and its rows, in the checkout's root."""
    write_tiny_model(checkout.folder / "model")
    rows = [
        {"instruction": f"Say {n}.", "input": "", "output": f"The number is {n}."}
        for n in range(40)
    ]
    (checkout.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    set_steps(checkout, 12)


def set_steps(checkout: Checkout, steps: int) -> None:
    (checkout.folder / "tiny.yaml").write_text(RECIPE.replace("STEPS", str(steps)))
