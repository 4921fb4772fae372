"""The losses of the preference methods, from log-probabilities of answers. Needs torch.

Each follows its paper, in the order of operations that LLaMA Factory has, so that both backends
give the same bits; docs/methods.md has the equations. `chosen` and `rejected` are float32 [pairs]:
log-probabilities of whole answers, or, where a method says so, means over an answer's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from runner.scripts.training.token_rows import IGNORED

Settings = Mapping[str, Any]
Losses = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # losses, rewards of both sides


def answer_logps(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row: the sum over its labelled tokens of log p(token | what stands before), and how
    many they are. `logits` float32 [rows, length, vocabulary], `labels` [rows, length]."""
    labels = labels[:, 1:]
    labelled = labels != IGNORED
    index = labels.masked_fill(~labelled, 0).unsqueeze(2)
    each = torch.gather(logits[:, :-1, :].log_softmax(-1), 2, index).squeeze(2)
    return (each * labelled).sum(-1), labelled.sum(-1)


def is_mean(settings: Settings) -> bool:
    """Does the method compare means over tokens, so that long answers do not weigh more?"""
    return settings["method"] in ("orpo", "simpo") or settings.get("loss_type") == "ipo"


def has_reference(settings: Settings) -> bool:
    """Does the method measure how far the model has gone from where it began?"""
    return settings["method"] in ("dpo", "kto")


def dpo(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    settings: Settings,
) -> Losses:
    """DPO (Rafailov et al. 2023), IPO (Azar et al. 2023), the hinge of SLiC (Zhao et al. 2023), and
    robust DPO (Chowdhury et al. 2024), by `loss_type`."""
    beta, smoothing, kind = settings["beta"], settings["label_smoothing"], settings["loss_type"]
    margin = (chosen - rejected) - (reference_chosen - reference_rejected)
    if kind == "sigmoid":
        right, wrong = -logsigmoid(beta * margin), logsigmoid(-beta * margin)
        losses = right * (1 - smoothing) - wrong * smoothing
    elif kind == "robust":
        right, wrong = -logsigmoid(beta * margin), logsigmoid(-beta * margin)
        losses = (right * (1 - smoothing) + wrong * smoothing) / (1 - 2 * smoothing)
    elif kind == "hinge":
        losses = torch.relu(1 - beta * margin)
    else:
        assert kind == "ipo", kind
        losses = (margin - 1 / (2 * beta)) ** 2
    rewards = (chosen - reference_chosen).detach(), (rejected - reference_rejected).detach()
    return losses, beta * rewards[0], beta * rewards[1]


def orpo(chosen: torch.Tensor, rejected: torch.Tensor, settings: Settings) -> Losses:
    """ORPO (Hong et al. 2024), of means: imitate the better answer, and raise its odds."""
    beta = settings["beta"]
    log_odds = (chosen - rejected) - (
        torch.log1p(-torch.exp(chosen)) - torch.log1p(-torch.exp(rejected))
    )
    losses = -chosen + beta * -logsigmoid(log_odds)
    return losses, beta * chosen.detach(), beta * rejected.detach()


def simpo(chosen: torch.Tensor, rejected: torch.Tensor, settings: Settings) -> Losses:
    """SimPO (Meng et al. 2024), of means: the better answer leads by a margin."""
    beta = settings["beta"]
    lead = (chosen - rejected) - settings["simpo_gamma"] / beta
    return -logsigmoid(beta * lead), beta * chosen.detach(), beta * rejected.detach()


def kto(
    good: torch.Tensor, bad: torch.Tensor, divergence: torch.Tensor, settings: Settings
) -> Losses:
    """KTO (Ethayarajh et al. 2024). `good` and `bad`: log-probabilities against the reference's;
    `divergence`: the mean of the same over answers to other questions, at least 0."""
    beta = settings["beta"]
    divergence = divergence.detach().clamp(min=0)
    gains = 1 - torch.sigmoid(beta * (good - divergence))
    losses = 1 - torch.sigmoid(beta * (divergence - bad))
    both = (settings["desirable_weight"] * gains, settings["undesirable_weight"] * losses)
    return torch.cat(both, 0), beta * good.detach(), beta * bad.detach()


def reward(chosen: torch.Tensor, rejected: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Bradley and Terry's, of scores; with a coefficient, scores are held around 0."""
    loss = -logsigmoid(chosen - rejected).mean()
    if coefficient := settings["center_rewards_coefficient"]:
        loss = loss + coefficient * torch.mean((chosen + rejected) ** 2)
    return loss
