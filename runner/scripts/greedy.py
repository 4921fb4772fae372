"""Greedy answers of a Transformers model to given token ids.

hashed: prompts (lists of token ids), max_new_tokens, trust_remote_code. inputs: model (folder).
Writes greedy.json: the answers' texts, in order, without special tokens.
"""

import json

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from runner.scripts.attention import attention_for
from runner.scripts.spec import Events, Spec, main


def answer_greedily(spec: Spec, events: Events) -> None:
    folder = spec.inputs["model"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "auto" if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=attention_for(folder),
        local_files_only=True,
        trust_remote_code=spec.hashed["trust_remote_code"],
    ).to(device)
    model.eval()

    texts = []
    prompts = spec.hashed["prompts"]
    for number, ids in enumerate(prompts, 1):
        prompt = torch.tensor([ids], device=device)
        with torch.inference_mode():
            output = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=spec.hashed["max_new_tokens"],
                do_sample=False,
            )
        texts.append(tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True))
        events.progress(number, len(prompts), message="greedy answers of the merged model")
    text = json.dumps(texts, ensure_ascii=False)
    (spec.folder / "greedy.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(answer_greedily)
