"""Held-out prompts: what the reward model says of the answers of base and tuned model.

As `evaluate`, with this in place of the held-out loss. spec.hashed: what `evaluate` has, `seed`,
`response_length` and `temperature`: answers are sampled as in the training, by equal random numbers
for both models. spec.inputs beside those of `evaluate`: reward_model, perhaps reward_adapter (of
`fetch_reward`). Every mean has a 95% interval, by resampling held-out prompts.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from runner.scripts.evaluate import (
    Answering,
    Progress,
    end_ids,
    load_model,
    tuned_model,
    until_end,
    write_measures,
)
from runner.scripts.evaluation.batches import in_batches
from runner.scripts.evaluation.examples import Example, content_id, cut, in_order_of
from runner.scripts.evaluation.form import LOOP, Reply, repeated_share
from runner.scripts.evaluation.intervals import FEW, Values, with_interval
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.training.native_model import seed_draws
from runner.scripts.training.preferences.reward_model import load_scorer
from runner.scripts.training.prompts import Ids, left_padded, prompt_of
from runner.scripts.training.token_rows import read_token_rows
from runner.scripts.training.torch_setup import (
    SHORTER_QUESTIONS,
    check_still_set_up,
    set_up_torch,
    told_of_gpu,
)

MODELS = ("base", "tuned")


def evaluate(spec: Spec, events: Events) -> None:
    """Have both models answer, score the answers, ask the questions, and write what came out."""
    device = set_up_torch()
    settings = spec.hashed
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    held_out = list(read_token_rows(spec.inputs["tokens"]).rows)
    prompts = [prompt_of(row) for row in held_out] if settings["loss"] else []
    answering = Answering(spec, tokenizer, held_out)
    progress = Progress(events, 2 * (2 * len(prompts) + answering.total))

    replies: dict[str, list[Reply]] = {}
    model = load_model(spec.inputs["model"], settings, device)
    for name in MODELS:
        replies[name] = sampled(model, prompts, settings, tokenizer, device, progress, name)
        answering.ask(model, name, device, progress)
        if name == "base":
            model = tuned_model(model, spec, device)
    ends = end_ids(model, tokenizer)
    del model
    gc.collect()

    measures: dict[str, Any] = {"validation_rows": len(held_out), **answering.write()}
    examples: list[Example] = []
    if prompts:
        scorer = load_scorer(spec.inputs, settings, tokenizer, device)
        scores = {
            name: score_all(scorer, prompts, replies[name], ends[0], device, progress, name)
            for name in MODELS
        }
        examples = examples_of(prompts, scores, replies, tokenizer, head_of(scorer))
        in_order = {
            name: np.array(in_order_of(examples, found.tolist())) for name, found in scores.items()
        }
        measures |= rewards(in_order, replies)
    check_still_set_up()
    measures |= answering.write_examples(examples)
    write_measures(spec, events, measures, device)


@torch.inference_mode()
def sampled(
    model: Any,
    prompts: Sequence[Ids],
    settings: dict[str, Any],
    tokenizer: Any,
    device: torch.device,
    progress: Progress,
    name: str,
) -> list[Reply]:
    """One answer to every prompt, a batch at once, drawn as in the training."""
    ends = end_ids(model, tokenizer)
    replies: list[Reply] = []
    seed_draws(settings)
    for chosen in in_batches(prompts):
        padded = left_padded(chosen, tokenizer.pad_token_id)
        lengths = torch.tensor([len(prompt) for prompt in chosen])[:, None]
        seen = torch.arange(padded.shape[1])[None] >= padded.shape[1] - lengths
        output = model.generate(
            input_ids=padded.to(device),
            attention_mask=seen.long().to(device),
            max_new_tokens=settings["response_length"],
            do_sample=True,
            temperature=settings["temperature"],
            top_k=0,
            top_p=1.0,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )
        answers = output[:, padded.shape[1] :].tolist()
        replies += [until_end(tokenizer, line, ends) for line in answers]
        progress.add(len(chosen), f"sampled answers, {name}")
    return replies


@torch.inference_mode()
def score_all(
    scorer: Any,
    prompts: Sequence[Ids],
    replies: Sequence[Reply],
    end: int,
    device: torch.device,
    progress: Progress,
    name: str,
) -> Values:
    """The score of every answer, with its end where it has one. Raises ScriptError E539."""
    found = []
    for prompt, reply in zip(prompts, replies, strict=True):
        whole = [*prompt.tolist(), *reply.ids, *([end] if reply.ended else [])]
        ids = torch.tensor([whole], device=device)
        scored = scorer(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        found.append(scored.logits[0, 0].item())
        progress.add(1, f"scores, {name}")
    if not all(map(math.isfinite, found)):
        raise ScriptError(
            f"the reward model's score of an answer of the {name} model is not a number",
            hint="set model.dtype to float32, or train the reward model again",
            code="E539",
        )
    return np.array(found)


def rewards(scores: dict[str, Values], replies: dict[str, list[Reply]]) -> dict[str, Any]:
    """Means of scores, of what answers look like, and of the change, prompt by prompt."""
    count = len(scores["base"])
    found: dict[str, Any] = {"reward_prompts": count, "few_prompts": count < FEW}
    for name in MODELS:
        found |= with_interval(f"reward_{name}", scores[name])
        said = replies[name]
        found[f"answer_tokens_{name}"] = float(np.mean([len(each.ids) for each in said]))
        found[f"answers_ended_{name}"] = float(np.mean([each.ended for each in said]))
        looped = [repeated_share(each.ids) >= LOOP for each in said]
        found[f"answers_in_loops_{name}"] = float(np.mean(looped))
    return found | with_interval("reward_change", scores["tuned"] - scores["base"])


def head_of(scorer: Any) -> str:
    """Sha256 of the weights that make scores: no two trained reward models share them."""
    weights = scorer.score.weight.detach().float().cpu().numpy()
    return content_id(weights.astype("<f4").tobytes())


def examples_of(
    prompts: Sequence[Ids],
    scores: dict[str, Values],
    replies: dict[str, list[Reply]],
    tokenizer: Any,
    head: str,
) -> list[Example]:
    """One a held-out prompt, with the answer that was scored. Scores of another `head` are of
    other examples: they do not compare."""
    return [
        Example(
            "reward",
            content_id([head, prompt.tolist()]),
            {"prompt": cut(str(tokenizer.decode(prompt.tolist(), skip_special_tokens=True)))},
            {
                name: {"reward": float(scores[name][number]), "answer": cut(said[number].text)}
                for name, said in replies.items()
            },
        )
        for number, prompt in enumerate(prompts)
    ]


if __name__ == "__main__":
    main(told_of_gpu(evaluate, SHORTER_QUESTIONS))
