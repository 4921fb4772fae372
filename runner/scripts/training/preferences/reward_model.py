"""The model that scores answers, as `fetch_reward` left it: whole, or an adapter on its base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from runner.scripts.spec import ScriptError
from runner.scripts.training.base_model import read_model
from runner.scripts.training.native_model import seed_draws
from runner.scripts.weights.safetensors_stream import ModelFolder

HINT = "train one by a recipe of method reward, and name it: reward: {recipe: reward.yaml}"
_HEADS = ("score.weight",)


def load_scorer(
    inputs: Mapping[str, Path],
    settings: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerFast,
    device: torch.device,
) -> Any:
    """The reward model in `inputs` (reward_model, and reward_adapter where there is one), frozen.

    Its adapter is merged into it, its dtype is the policy's. Raises ScriptError E534 where it is no
    model with one score over the tokens of `tokenizer`.
    """
    folder, adapter = inputs["reward_model"], inputs.get("reward_adapter")
    check_same_tokens(folder, tokenizer)
    if adapter is None and not settings.get("shrunken"):
        check_has_scores(folder)
    seed_draws(settings)  # a twin's head is drawn; so is the one that an adapter replaces
    own = {name: value for name, value in settings.items() if name != "quantization"}
    try:
        family = AutoModelForSequenceClassification
        model = read_model(folder, own, device, family, num_labels=1)
    except ValueError as error:
        raise ScriptError(
            f"the reward model cannot be loaded: {str(error).splitlines()[0]}",
            hint=HINT,
            code="E534",
        ) from error
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model.config.use_cache = False
    if adapter is not None or model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer_of(folder).pad_token_id
    return model.requires_grad_(False).to(device).eval()


def tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder."""
    found: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return found


def score_where_it_was_trained_to(scorer: Any) -> None:
    """Have the scores of all positions be what Transformers reads for rows that end there.

    It takes the last token that is no padding. Where a model pads with its end-of-turn token, that
    one counts as padding, and what was trained is the score at the token before it. TRL's PPO pads
    with another token, and would read the score at the end-of-turn token, which nothing has taught.
    """
    own, rows = scorer.config.pad_token_id, []

    def keep(_: Any, args: Any, inputs: Any) -> None:
        rows[:] = [inputs["input_ids"]]

    def carry(_: Any, args: Any, scores: torch.Tensor) -> torch.Tensor:
        places = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape[:2])
        last = torch.where(rows[0] == own, 0, places).cummax(dim=1).values
        return scores.gather(1, last[..., None].expand(scores.shape))

    getattr(scorer, scorer.base_model_prefix).register_forward_pre_hook(keep, with_kwargs=True)
    scorer.score.register_forward_hook(carry)


def check_same_tokens(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise ScriptError E534 where the reward model reads other words in the policy's tokens."""
    theirs = tokenizer_of(folder).get_vocab()
    ours = tokenizer.get_vocab()
    if theirs == ours:
        return
    other = sum(ours.get(token) != number for token, number in theirs.items())
    other += sum(token not in theirs for token in ours)
    raise ScriptError(
        f"the reward model has another tokenizer than the model: {other} tokens are not the same",
        hint="train the reward model from the same base as the policy",
        code="E534",
    )


def check_has_scores(folder: Path) -> None:
    """Raise ScriptError E534 unless the model in `folder` has a head of one score.

    Transformers would draw a missing one, and every score would be noise.
    """
    with ModelFolder(folder) as model:
        shapes = [model.tensors[name].shape for name in _HEADS if name in model.tensors]
    if not shapes:
        raise ScriptError(
            "the reward model has no head that scores: score.weight is not among its weights",
            hint=HINT,
            code="E534",
        )
    if shapes[0][0] != 1:
        raise ScriptError(
            f"the reward model gives {shapes[0][0]} numbers for an answer, where one score is "
            "wanted",
            hint=HINT,
            code="E534",
        )
