"""Perplexity of a Transformers model over given token ids, as llama-perplexity computes it.

hashed: context (tokens a chunk), chunks, trust_remote_code. inputs: model (folder), tokens (JSON:
ids, bos).
In every chunk the positions from context/2 on are scored, each predicting its next token; where
the tokenizer adds a BOS, it stands in for the chunk's first token.
"""

import json
import math

import torch
from transformers import AutoModelForCausalLM

from runner.scripts.attention import attention_for
from runner.scripts.spec import Events, Spec, main


def measure_perplexity(spec: Spec, events: Events) -> None:
    context, chunks = spec.hashed["context"], spec.hashed["chunks"]
    tokens = json.loads(spec.inputs["tokens"].read_text(encoding="utf-8"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # float32 is the weights' exact value; on a GPU the weights' own dtype is what fits.
    dtype = "auto" if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        spec.inputs["model"],
        dtype=dtype,
        attn_implementation=attention_for(spec.inputs["model"]),
        local_files_only=True,
        trust_remote_code=spec.hashed["trust_remote_code"],
    ).to(device)
    model.eval()

    first, total, count = context // 2, 0.0, 0
    for chunk in range(chunks):
        ids = torch.tensor(tokens["ids"][chunk * context : (chunk + 1) * context], device=device)
        seen = ids.clone()
        if tokens["bos"] is not None:
            seen[0] = tokens["bos"]
        with torch.inference_mode():
            logits = model(seen[None]).logits[0, first:-1].double()  # [context/2 - 1, vocabulary]
        targets = ids[first + 1 :]
        total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        count += len(targets)
        events.progress(chunk + 1, chunks, message="merged model's perplexity")
    events.measure(perplexity_merged=math.exp(total / count), perplexity_tokens=count)


if __name__ == "__main__":
    main(measure_perplexity)
