"""Perplexity of a Transformers model over given token ids, as llama-perplexity computes it.

hashed: context (tokens a chunk), chunks, trust_remote_code, memory (bytes it may take). inputs:
model (folder), tokens (JSON: ids, bos).
In every chunk the positions from context/2 on are scored, each predicting its next token; where
the tokenizer adds a BOS, it stands in for the chunk's first token.
"""

import json
import math

import torch

from runner.scripts.merging.merged_model import load_merged
from runner.scripts.spec import Events, Spec, main
from runner.scripts.training.torch_setup import peak_memory


def measure_perplexity(spec: Spec, events: Events) -> None:
    context, chunks = spec.hashed["context"], spec.hashed["chunks"]
    tokens = json.loads(spec.inputs["tokens"].read_text(encoding="utf-8"))
    merged = load_merged(
        spec.inputs["model"],
        trust_remote_code=spec.hashed["trust_remote_code"],
        memory=spec.hashed["memory"],
    )
    ids = torch.tensor(tokens["ids"][: chunks * context], device=merged.device)
    ids = ids.reshape(chunks, context)
    seen = ids.clone()
    if tokens["bos"] is not None:
        seen[:, 0] = tokens["bos"]

    first, total = context // 2, 0.0
    at_once = chunks if merged.streamed else 1  # all weights are read once a pass
    for begin in range(0, chunks, at_once):
        rows = slice(begin, begin + at_once)
        with torch.inference_mode():
            logits = merged.model(seen[rows], logits_to_keep=context - first).logits
        for row, targets in zip(logits, ids[rows, first + 1 :], strict=True):
            total += torch.nn.functional.cross_entropy(
                row[:-1].double(),  # [context/2 - 1, vocabulary]
                targets.to(row.device),
                reduction="sum",
            ).item()
        events.progress(begin + at_once, chunks, message="merged model's perplexity")
    count = chunks * (context - first - 1)
    events.measure(
        perplexity_merged=math.exp(total / count),
        perplexity_tokens=count,
        merged_model_streamed=merged.streamed,
        merged_model_peak_memory=peak_memory(torch.device(merged.device)),
    )


if __name__ == "__main__":
    main(measure_perplexity)
