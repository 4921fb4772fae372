"""Run in the environment `native`: load models with transformers and say what they do.

Argument: a JSON file with {"published": {name: config.json}, "folders": {name: model folder},
"pairs": {name: [folder, folder]}, "texts": [...]}.
Prints JSON: the number of parameters of each published config on the meta device; of each folder
whether its logits are finite, what it generates, and what its tokenizer does; of each pair how far
the logits differ, and the ids of the texts.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CHAT = [
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "4, na\u00efve!"},
]


def count(config_file: str) -> int:
    """Parameters of the architecture; tied ones once."""
    fields = json.loads(Path(config_file).read_text())
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())


def look_at(folder: str) -> dict:
    """Load, run forward over a conversation, generate three tokens."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
    )
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits
        made = model.generate(
            torch.tensor([ids]), max_new_tokens=3, min_new_tokens=3, do_sample=False
        )
    norms = {
        name: float(value.detach().mean())
        for name, value in model.named_parameters()
        if "norm" in name
    }
    return {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "finite": bool(torch.isfinite(logits).all()),
        "spread": float(logits.std()),
        "vocab": logits.shape[-1],
        "new_tokens": made.shape[1] - len(ids),
        "text": text,
        "ids": ids,
        "decoded": tokenizer.decode(ids),
        "special": [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token],
        "tokenizer_size": len(tokenizer),
        "norms": norms,
        "tied": model.config.tie_word_embeddings,
        "linear_rows": [
            value.shape[1] for name, value in model.named_parameters() if value.ndim == 2
        ],
    }


def compare(folders: list[str], texts: list[str]) -> dict:
    """Logits of two models for the same ids, longer than a window; ids of both tokenizers."""
    random = torch.Generator().manual_seed(0)
    logits, ids = [], []
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        )
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        ids.append([tokenizer(text)["input_ids"] for text in texts])
        if not logits:
            asked = torch.randint(0, model.config.vocab_size, (1, 200), generator=random)
        with torch.inference_mode():
            logits.append(model(asked).logits)
    return {
        "difference": float((logits[0] - logits[1]).abs().max()),
        "spread": float(logits[0].std()),
        "ids": ids,
    }


def main() -> None:
    torch.set_num_threads(1)
    asked = json.loads(Path(sys.argv[1]).read_text())
    print(
        json.dumps(
            {
                "published": {name: count(path) for name, path in asked["published"].items()},
                "folders": {name: look_at(folder) for name, folder in asked["folders"].items()},
                "pairs": {
                    name: compare(pair, asked["texts"])
                    for name, pair in asked.get("pairs", {}).items()
                },
            }
        )
    )


if __name__ == "__main__":
    main()
