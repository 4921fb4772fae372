"""Settings of a recipe's `train` as every backend hands them on to its scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.recipe.model import Adapter

# Arguments of Transformers' trainer, by the same names.
SAME = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "bf16",
)


def weights_that_learn(adapter: Adapter) -> dict[str, Any]:
    """Settings of `type: none` for the scripts; what changes nothing is left out."""
    if adapter.trainable_layers is None:
        return {"type": "none"}
    modules = sorted(adapter.trainable_modules)
    return {
        "type": "none",
        "trainable_layers": adapter.trainable_layers,
        **({"trainable_modules": modules} if modules else {}),
    }
