"""Training methods: what each tool calls those that a recipe has. A new method is one line.

A tool that has no word for a method here trains it in a way that is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.errors import UsageError
from runner.imports.readers import number, one_of
from runner.imports.sheet import Field
from runner.recipe.finding import listed
from runner.report.printable import quoted


@dataclass(frozen=True, slots=True)
class Method:
    """`words`: tool -> its words. `compared`: the form of rows, for one that learns from answers
    compared. `settings`: tool -> setting -> its place, with the tool's own default.
    """

    words: Mapping[str, tuple[str, ...]]
    compared: str = ""
    settings: Mapping[str, Mapping[str, Field]] = field(default_factory=dict)


_BETA = Field("train.beta", 0.1, number)
_LOSSES = one_of(
    {word: word for word in ("sigmoid", "ipo", "hinge", "robust")}
    | {f"['{word}']": word for word in ("sigmoid", "ipo", "hinge", "robust")},
    "sigmoid",
    "a recipe has sigmoid, ipo, hinge and robust, one at a time",
)
_PAIRS = {
    "rl_beta": _BETA,
    "dpo_loss_type": Field("train.loss_type", "sigmoid", _LOSSES),
    "dpo_label_smoothing": Field("train.label_smoothing", 0.0, number),
}
_GOOD_OR_BAD = {
    "rl_beta": _BETA,
    "kto_desirable_weight": Field("train.desirable_weight", 1.0, number),
    "kto_undesirable_weight": Field("train.undesirable_weight", 1.0, number),
}
_SCORES = {"center_rewards_coefficient": Field("train.center_rewards_coefficient", 0.0, number)}
_GAMMA = Field("train.simpo_gamma", 0.5, number)
_TRL_PAIRS = {
    "beta": _BETA,
    "loss_type": Field("train.loss_type", "sigmoid", _LOSSES),
    "label_smoothing": Field("train.label_smoothing", 0.0, number),
}
_TRL_GOOD_OR_BAD = {
    "beta": _BETA,
    "desirable_weight": Field("train.desirable_weight", 1.0, number),
    "undesirable_weight": Field("train.undesirable_weight", 1.0, number),
}
_NEEDED_GAMMA = Field("train.simpo_gamma", 0.5, number, needed=True)  # axolotl hands on what it has


def _by_trl(axolotl: Mapping[str, Field], trl: Mapping[str, Field]) -> Mapping[str, Any]:
    """Settings of the tools; Unsloth's trainers are TRL's."""
    return {"axolotl": axolotl, "trl": trl, "unsloth": trl}


def _words(axolotl: str, trl: str, unsloth: str, **more: str) -> Mapping[str, tuple[str, ...]]:
    given = {"axolotl": axolotl, "trl": trl, "unsloth": unsloth, **more}
    return {tool: tuple(words.split()) for tool, words in given.items()}


# Method of a recipe -> what it is elsewhere.
METHODS: Mapping[str, Method] = {
    "sft": Method(_words("sft", "sft", "SFTTrainer", llamafactory="sft")),
    "dpo": Method(
        _words("dpo ipo", "dpo", "DPOTrainer"), "preference", _by_trl(_PAIRS, _TRL_PAIRS)
    ),
    "orpo": Method(
        _words("orpo", "orpo", "ORPOTrainer"),
        "preference",
        _by_trl({"rl_beta": _BETA}, {"beta": _BETA}),
    ),
    "simpo": Method(
        _words("simpo", "simpo", "CPOTrainer"),
        "preference",
        _by_trl(
            {"rl_beta": _BETA, "simpo_gamma": _NEEDED_GAMMA},
            {"beta": _BETA, "simpo_gamma": _GAMMA},
        ),
    ),
    "kto": Method(
        _words("kto", "kto", "KTOTrainer"), "kto", _by_trl(_GOOD_OR_BAD, _TRL_GOOD_OR_BAD)
    ),
    "reward": Method(
        _words("reward", "reward", "RewardTrainer"), "preference", _by_trl(_SCORES, _SCORES)
    ),
}


def method_of(tool: str, word: str, told_by: str) -> str:
    """The recipe's method for a tool's `word`, which the setting `told_by` says.

    Raises UsageError (E855) for one that is not imported.
    """
    known = {word: name for name, each in METHODS.items() for word in each.words.get(tool, ())}
    if word in known:
        return known[word]
    raise UsageError(
        f"{told_by} says that the method is {quoted(word, 60)}, and what is imported is "
        f"{listed(list(known))}",
        hint="train it as before, or import the settings of another method",
        code="E855",
    )
