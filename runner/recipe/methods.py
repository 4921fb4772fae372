"""What each training method learns from, and which settings are its own.

`train.beta` and the like mean something for some methods only. Their defaults depend on the method,
so they stand here and not in the schema; each is TRL's own, but for SimPO, whose paper's are taken
(Meng et al. 2024: beta 2.0 to 10, gamma 0.3 to 1.6), and for GRPO's beta (Shao et al. 2024: 0.04;
TRL's 0 measures no divergence).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CONVERSATIONS = ("messages", "alpaca", "sharegpt", "prompt-completion", "text")
TEXTS = ("text",)
PAIRS = ("preference",)
JUDGED = ("kto",)
PROMPTS = ("prompt",)


@dataclass(frozen=True, slots=True)
class Method:
    """`formats` of rows it learns from; its own `settings` with their defaults, and those without
    one, which it `needs`."""

    formats: tuple[str, ...]
    settings: Mapping[str, float | str]
    needs: tuple[str, ...] = ()

    @property
    def own(self) -> tuple[str, ...]:
        """Names of all settings that are its own."""
        return (*self.settings, *self.needs)

    @property
    def rows(self) -> int:
        """Sequences that one item of a batch is."""
        return 2 if self.formats == PAIRS else 1

    @property
    def compares(self) -> bool:
        """Does it learn from answers that are better or worse than others?"""
        return self.formats in (PAIRS, JUDGED)

    @property
    def generates(self) -> bool:
        """Does it learn from answers that the model gives while it learns?"""
        return self.formats == PROMPTS


METHODS = {
    "sft": Method(CONVERSATIONS, {}),
    "pretrain": Method(TEXTS, {}),
    "dpo": Method(PAIRS, {"beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0}),
    "orpo": Method(PAIRS, {"beta": 0.1}),
    "simpo": Method(PAIRS, {"beta": 2.0, "simpo_gamma": 1.0}),
    "kto": Method(JUDGED, {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}),
    "reward": Method(PAIRS, {"center_rewards_coefficient": 0.0}),
    "ppo": Method(
        (*CONVERSATIONS[:-1], *PROMPTS),  # what is before the last answer: a text has no prompt
        {
            "kl_coef": 0.05,
            "num_ppo_epochs": 4,
            "cliprange": 0.2,
            "vf_coef": 0.1,
            "response_length": 53,
            "temperature": 0.7,
            "missing_eos_penalty": 0.0,
        },
    ),
    "grpo": Method(
        PROMPTS,
        {
            "beta": 0.04,
            "num_generations": 8,
            "max_completion_length": 256,
            "temperature": 1.0,
        },
        needs=("rewards",),
    ),
}
# Every setting that belongs to some method.
SETTINGS = tuple(sorted({name for method in METHODS.values() for name in method.own}))


def settings_of(train: Any) -> dict[str, Any]:
    """The values of the method's own settings, as plain data; `train`: of a recipe
    (`recipe.model.Train`)."""
    own = {name: getattr(train, name) for name in METHODS[train.method].own}
    if own.get("rewards"):
        own["rewards"] = [each.spec for each in own["rewards"]]
    return own


def methods_with(setting: str) -> list[str]:
    """Names of the methods that `setting` belongs to."""
    return [name for name, method in METHODS.items() if setting in method.own]


def methods_of(data_format: str) -> list[str]:
    """Names of the methods that learn from rows of `data_format`, those of few formats first."""
    found = [name for name, method in METHODS.items() if data_format in method.formats]
    return sorted(found, key=lambda name: name != "sft" and len(METHODS[name].formats))
