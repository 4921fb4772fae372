"""What LLaMA Factory is told of the methods of preferences, and what of them it cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from runner.recipe.methods import settings_of

if TYPE_CHECKING:
    from runner.recipe.model import Recipe, Train

# method -> what LLaMA Factory calls it
STAGES = {"dpo": "dpo", "orpo": "dpo", "simpo": "dpo", "kto": "kto", "reward": "rm"}
# A method's own setting -> what LLaMA Factory calls it; the loss is told by method and loss_type.
NAMES = {
    "beta": "pref_beta",
    "label_smoothing": "dpo_label_smoothing",
    "simpo_gamma": "simpo_gamma",
    "desirable_weight": "kto_chosen_weight",
    "undesirable_weight": "kto_rejected_weight",
}
PROVED_TO_RESUME = frozenset({"dpo", "orpo", "simpo", "kto"})


def settings(train: Train) -> dict[str, Any]:
    """The method's own settings by LLaMA Factory's names; none for supervised fine-tuning.

    Those that a default of LLaMA Factory could decide otherwise are all given.
    """
    if train.method not in STAGES:
        return {}
    given: dict[str, Any] = {"pref_ftx": 0.0, "pref_bco_weight": 0.0, "ld_alpha": None}
    given |= {NAMES[name]: value for name, value in settings_of(train).items() if name in NAMES}
    if STAGES[train.method] == "dpo":
        given["pref_loss"] = train.loss_type if train.method == "dpo" else train.method
    return given


def cannot_honour(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Pointers and messages, as a backend's own."""
    train = recipe.train
    if train.method == "reward":
        yield (
            "/train/method",
            "LLaMA Factory's reward model is another one: a value for every token, by a layer with "
            "a bias that no other tool loads",
        )
    if train.loss_type == "robust":
        yield "/train/loss_type", "LLaMA Factory has no robust loss"
    if train.loss_type in ("ipo", "hinge"):  # it calls TRL's loss without saying which
        yield (
            "/train/loss_type",
            f"LLaMA Factory 0.9.5 computes the sigmoid loss whatever it is told, {train.loss_type} "
            "too",
        )
    reference = train.method in ("dpo", "kto") and train.adapter.type == "none"
    if reference and recipe.model.dtype != "float32":
        yield (
            "/model/dtype",
            f"LLaMA Factory's reference model computes in {recipe.model.dtype} while every weight "
            "is trained in float32, and so differs from where the training begins",
        )
    if train.method in STAGES and recipe.data.packing:
        yield "/data/packing", f"{train.method} compares whole answers, and packs mix them"
