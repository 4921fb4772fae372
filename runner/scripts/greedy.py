"""Greedy answers of a Transformers model to given token ids.

hashed: prompts (lists of token ids), max_new_tokens, trust_remote_code, memory (bytes it may take),
drafts (a text for each prompt: what another model answered). inputs: model (folder).
Writes greedy.json: the answers' texts, in order, without special tokens. Of a model that has to be
read from the disk for every pass, an answer goes as far as it agrees with the draft, and one token
on: one pass over all drafts tells that (the check of speculative decoding, Leviathan et al. 2023).
"""

import json
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from runner.scripts.merging.merged_model import Merged, load_merged
from runner.scripts.spec import Events, Spec, main


def answer_greedily(spec: Spec, events: Events) -> None:
    folder = spec.inputs["model"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    merged = load_merged(
        folder,
        trust_remote_code=spec.hashed["trust_remote_code"],
        memory=spec.hashed["memory"],
    )
    prompts = spec.hashed["prompts"]
    if merged.streamed:
        drafts = [ids_of(tokenizer, text) for text in spec.hashed["drafts"]]
        answers = [ids[: spec.hashed["max_new_tokens"]] for ids in checked(merged, prompts, drafts)]
    else:
        answers = []
        for number, ids in enumerate(prompts, 1):
            answers.append(generated(merged, ids, spec.hashed["max_new_tokens"]))
            events.progress(number, len(prompts), message="greedy answers of the merged model")
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
    text = json.dumps(texts, ensure_ascii=False)
    (spec.folder / "greedy.json").write_text(text + "\n", encoding="utf-8")


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """A draft's ids, with the token that ends it."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def generated(merged: Merged, prompt: list[int], max_new_tokens: int) -> list[int]:
    """The ids of a greedy answer."""
    ids = torch.tensor([prompt], device=merged.device)
    with torch.inference_mode():
        output = merged.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
    return [int(token) for token in output[0, len(prompt) :]]


def checked(merged: Merged, prompts: list[list[int]], drafts: list[list[int]]) -> list[list[int]]:
    """Each draft as far as the model would say it, and its own next token where it would not."""
    rows = [prompt + draft for prompt, draft in zip(prompts, drafts, strict=True)]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=merged.device)
    seen = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    kept = longest - min(map(len, prompts)) + 1  # from the last token of the shortest prompt on
    with torch.inference_mode():
        logits = merged.model(
            ids, attention_mask=seen.to(merged.device), logits_to_keep=kept
        ).logits
    said = logits.argmax(-1).tolist()
    answers = []
    for prompt, draft, choices in zip(prompts, drafts, said, strict=True):
        begin = len(prompt) - 1 - (longest - kept)  # where the first answer token is chosen
        own = choices[begin : begin + len(draft)]
        pairs = enumerate(zip(own, draft, strict=True))
        end = next((at for at, (a, b) in pairs if a != b), len(draft) - 1)
        answers.append(own[: end + 1])
    return answers


if __name__ == "__main__":
    main(answer_greedily)
