"""Scores of padded answers by TRL's reading, and of each alone by Transformers'; prints JSON.

python ppo_reference.py MODEL ADAPTER        (in the environment ppo)
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from transformers import PreTrainedTokenizerFast
from trl.experimental.utils import get_reward

from runner.scripts.training.preferences.reward_model import (
    load_scorer,
    score_where_it_was_trained_to,
)

CONTEXT, PAD, STOP = 3, 259, 2


def main() -> None:
    model, adapter = map(Path, sys.argv[1:])
    settings = {"seed": 1, "dtype": "float32", "attn_implementation": "sdpa"}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    inputs = {"reward_model": model, "reward_adapter": adapter}
    scorer = load_scorer(inputs, settings, tokenizer, torch.device("cpu"))
    # prompts with padding before them, answers that end early, late and not at all
    rows = [
        [PAD, 1, 70, 71, 72, STOP, PAD, PAD],
        [1, STOP, 90, 100, 101, 102, 103, STOP],
        [PAD, PAD, 65, 100, 65, 101, 66, 102],
    ]
    batch = torch.tensor(rows)
    with torch.inference_mode():
        alone = []
        for row in rows:
            ids = torch.tensor([[token for token in row if token != PAD]])
            alone.append(scorer(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.item())
        unchanged = get_reward(scorer, batch, PAD, CONTEXT)[1].tolist()
        score_where_it_was_trained_to(scorer)
        found = get_reward(scorer, batch, PAD, CONTEXT)[1].tolist()
    print(json.dumps({"trl": found, "transformers": alone, "unchanged": unchanged}))


if __name__ == "__main__":
    main()
