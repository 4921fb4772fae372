"""Held-out prompts: what the greedy answers of base and tuned model earn, and what they look like.

As `evaluate`, with this in place of the held-out loss. spec.hashed: what `evaluate` has, `rewards`
and `max_completion_length`; spec.inputs.tokens is of `prepare_prompts`. Every mean has a 95%
interval, by resampling held-out prompts; that of a change, the change prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from runner.scripts.data.questions import Question
from runner.scripts.evaluate import (
    Answering,
    Progress,
    answer,
    load_model,
    tuned_model,
    write_measures,
)
from runner.scripts.evaluation.asked import special_ids
from runner.scripts.evaluation.examples import Example, content_id, cut, in_order_of
from runner.scripts.evaluation.form import Reply, form_of, repeated_share
from runner.scripts.evaluation.intervals import FEW, with_interval
from runner.scripts.rewards.prompt_rows import Prompt, read_prompts
from runner.scripts.rewards.scoring import names_of, score
from runner.scripts.spec import Events, Spec, main
from runner.scripts.training.torch_setup import (
    SHORTER_QUESTIONS,
    check_still_set_up,
    set_up_torch,
    told_of_gpu,
)

Values = NDArray[np.float64]
Settings = Mapping[str, Any]
Scored = tuple[float, list[float]]  # the reward, and its parts


def evaluate(spec: Spec, events: Events) -> None:
    """Ask both models the held-out prompts and the questions, and write what came out."""
    device = set_up_torch()
    settings = spec.hashed
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    prompts = read_prompts(spec.inputs["tokens"]) if settings["loss"] else []
    asked = [Question("", prompt.ids) for prompt in prompts]
    answering = Answering(spec, tokenizer, [])
    progress = Progress(events, 2 * (len(asked) + answering.total))
    limit = settings["max_completion_length"]

    replies: dict[str, list[Reply]] = {}
    model = load_model(spec.inputs["model"], settings, device)
    for name in ("base", "tuned"):
        if asked:
            replies[name] = answer(model, tokenizer, asked, limit, name, device, progress)
        answering.ask(model, name, device, progress)
        if name == "base":
            model = tuned_model(model, spec, device)

    check_still_set_up()
    measures: dict[str, Any] = {"validation_rows": len(prompts), **answering.write()}
    examples: list[Example] = []
    if prompts:
        rewards = settings["rewards"]
        scores = {
            name: [
                score(reply.text, prompt.answer, rewards)
                for prompt, reply in zip(prompts, said, strict=True)
            ]
            for name, said in replies.items()
        }
        examples = reward_examples(prompts, replies, scores, settings, tokenizer)
        in_order = {name: in_order_of(examples, found) for name, found in scores.items()}
        measures |= reward_measures(in_order, names_of(rewards)) | form_measures(replies)
    measures |= answering.write_examples(examples)
    write_measures(spec, events, measures, device)


# --- measures


def reward_measures(scores: Mapping[str, Sequence[Scored]], names: Sequence[str]) -> dict[str, Any]:
    """`reward_base`, `reward_tuned` and `reward_change`, and under `rewards` the same of each part,
    before weights."""
    rewards = {name: np.array([each for each, _ in found]) for name, found in scores.items()}
    parts = {name: np.array([each for _, each in found]) for name, found in scores.items()}
    found: dict[str, Any] = {
        "prompts": len(rewards["tuned"]),
        "few_prompts": len(rewards["tuned"]) < FEW,
        **before_and_after("reward", rewards["base"], rewards["tuned"]),
    }
    found["rewards"] = {
        name: before_and_after("reward", parts["base"][:, at], parts["tuned"][:, at])
        for at, name in enumerate(names)
    }
    return found


def before_and_after(name: str, base: Values, tuned: Values) -> dict[str, float | None]:
    """Both means and the mean change, each with its interval."""
    return {
        **with_interval(f"{name}_base", base),
        **with_interval(f"{name}_tuned", tuned),
        **with_interval(f"{name}_change", tuned - base),
    }


def form_measures(replies: Mapping[str, Sequence[Reply]]) -> dict[str, float]:
    """Whether a reward was earned by length or repetition: means over the answers."""
    found = {}
    for name, said in replies.items():
        found[f"answer_tokens_{name}"] = float(np.mean([len(each.ids) for each in said]))
        found[f"answers_cut_{name}"] = float(np.mean([not each.ended for each in said]))
        found[f"repeated_{name}"] = float(np.mean([repeated_share(each.ids) for each in said]))
    return found


# --- examples


def reward_examples(
    prompts: Sequence[Prompt],
    replies: Mapping[str, Sequence[Reply]],
    scores: Mapping[str, Sequence[Scored]],
    settings: Settings,
    tokenizer: Any,
) -> list[Example]:
    """One a prompt: the answers, what they earn, and their form."""
    special = special_ids(tokenizer)
    wanted = [[each["name"], each] for each in settings["rewards"]]
    return [
        Example(
            "reward",
            content_id([prompt.ids, prompt.answer, wanted]),
            {
                "prompt": cut(tokenizer.decode(prompt.ids, skip_special_tokens=True)),
                "expected": cut(prompt.answer or ""),
            },
            {
                name: {
                    "answer": said[at].text,
                    "reward": scores[name][at][0],
                    **form_of(said[at], special),
                }
                for name, said in replies.items()
            },
        )
        for at, prompt in enumerate(prompts)
    ]


if __name__ == "__main__":
    main(told_of_gpu(evaluate, SHORTER_QUESTIONS))
