"""What each training method has of its own: settings, rate and passes, with their sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.recipe.creation.facts import DataFacts

GENERATIONS = 8  # answers to a prompt of grpo
COMPLETION = 256  # tokens of such an answer
FEW_ROWS = 1000  # up to which one pass would be a few steps
IMITATING = ("sft", "pretrain", "orpo")  # learn every token; the others about a bit a row
LEAST_ROWS = {"kto": 4}  # of a forward pass: the KL term is estimated from them
_MOST_WEIGHT = 10.0  # of the rarer kind of answers

Reasons = dict[str, str]  # by pointer


class NothingToLearn(Exception):
    """The rows do not hold what the method learns from; `what` and `hint` for the user."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


@dataclass(frozen=True, slots=True)
class Rate:
    """For all weights and for an adapter, and whose they are."""

    full: float
    adapter: float
    source: str


# An adapter takes about ten times the rate of all weights (Schulman et al., 2025).
_TENFOLD = "An adapter takes ten times that (Schulman et al., 2025)."
RATES: Mapping[str, Rate] = {
    "dpo": Rate(5e-7, 5e-6, f"All weights: Zephyr's 5e-7 (Tunstall et al., 2023). {_TENFOLD}"),
    "orpo": Rate(5e-6, 5e-5, f"All weights: Mistral-ORPO's 5e-6 (Hong et al., 2024). {_TENFOLD}"),
    "simpo": Rate(5e-7, 5e-6, f"All weights: 5e-7, for Mistral (Meng et al., 2024). {_TENFOLD}"),
    "kto": Rate(5e-7, 5e-6, f"All weights: the paper's 5e-7 (Ethayarajh et al., 2024). {_TENFOLD}"),
    "reward": Rate(1e-5, 1e-4, f"All weights: about InstructGPT's 9e-6 (Ouyang et al., 2022). "
                   f"{_TENFOLD}"),
    "grpo": Rate(1e-6, 1e-5, f"All weights: DeepSeekMath's 1e-6 (Shao et al., 2024). {_TENFOLD}"),
}  # fmt: skip


def passes(rows: int) -> tuple[int, str]:
    """Epochs of a method that compares answers, and why."""
    if rows <= FEW_ROWS:
        return 3, "So few rows are few steps; look whether the held-out measure still improves."
    return 1, "Comparisons are soon learnt by heart: one pass, as most papers do."


def own_settings(method: str, data: DataFacts, reasons: Reasons) -> dict[str, Any]:
    """The settings of `method` that no other one has. Raises NothingToLearn."""
    made, why = _SETTINGS[method](data) if method in _SETTINGS else ({}, {})
    reasons |= {f"/train/{name}": text for name, text in why.items()}
    return made


_Made = tuple[dict[str, Any], dict[str, str]]


def _dpo(_: DataFacts) -> _Made:
    return {"beta": 0.1}, {"beta": "The paper's (Rafailov et al., 2023); less moves further."}


def _orpo(_: DataFacts) -> _Made:
    return {"beta": 0.1}, {"beta": "Weight of the odds beside the imitation (Hong et al., 2024)."}


def _simpo(_: DataFacts) -> _Made:
    why = "Within the paper's 2.0 to 10 (Meng et al., 2024)."
    return {"beta": 2.0, "simpo_gamma": 1.0}, {
        "beta": why,
        "simpo_gamma": "The lead that is asked for: half of beta (Meng et al., 2024).",
    }


def _kto(data: DataFacts) -> _Made:
    good = data.good
    if not 0 < good < 1:
        kind = "good" if good else "bad"
        raise NothingToLearn(
            f"every answer is called {kind}, and kto learns from the difference",
            "add answers with the other label; good ones alone are for --goal chat",
        )
    rarer = round(min(_MOST_WEIGHT, max(good, 1 - good) / min(good, 1 - good)), 2)
    weights = (1.0, rarer) if good >= 0.5 else (rarer, 1.0)
    why = (
        f"{good:.0%} of the answers are good; the weights make up for it (Ethayarajh et al., 2024)."
    )
    return (
        {"beta": 0.1, "desirable_weight": weights[0], "undesirable_weight": weights[1]},
        {"beta": "The paper's (Ethayarajh et al., 2024).", "desirable_weight": why},
    )


def _reward(_: DataFacts) -> _Made:
    why = "Keeps the scores around 0 (Eisenstein et al., 2023)."
    return {"center_rewards_coefficient": 0.01}, {"center_rewards_coefficient": why}


def _grpo(data: DataFacts) -> _Made:
    if data.answered < 1:
        raise NothingToLearn(
            "rows without an answer have nothing that the model's own could be held against",
            "put the right answer into each row, as answer; or write train.rewards by yourself: "
            "docs/methods.md has those that look at the form alone",
        )
    name = "number-answer" if data.numeric == 1 else "exact-answer"
    of = (
        "the last number of an answer is the row's"
        if data.numeric == 1
        else "the answer is the row's"
    )
    return (
        {
            "beta": 0.04,
            "num_generations": GENERATIONS,
            "max_completion_length": COMPLETION,
            "rewards": [{"name": name}],
        },
        {
            "beta": "The paper's (Shao et al., 2024).",
            "num_generations": "Answers to a question that are held against their mean.",
            "max_completion_length": "Too short, and right answers are cut off: look at a few.",
            "rewards": f"1 where {of}, else 0. A model that never earns it learns nothing.",
        },
    )


_SETTINGS = {
    "dpo": _dpo, "orpo": _orpo, "simpo": _simpo, "kto": _kto, "reward": _reward, "grpo": _grpo,
}  # fmt: skip
