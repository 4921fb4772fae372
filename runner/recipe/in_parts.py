"""What several processes can train, each with a part of the model: what was shown to work."""

from __future__ import annotations

from collections.abc import Iterator

from runner.recipe.model import Recipe

METHODS = ("sft", "pretrain")
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")
OPTIMIZER = "/train/optim"  # where it stands


def obstacles(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """Place, reason and what to write, of everything in `recipe` that several cannot train."""
    train, adapter = recipe.train, recipe.train.adapter
    alone = "change it, or train by one process"
    if train.backend != "native":
        yield "/train/backend", f"{train.backend} has no such training", "write backend: native"
    if train.method not in METHODS:
        message = f"{train.method} is not among what is tested so (sft, pretrain)"
        yield "/train/method", message, alone
    if train.optim not in OPTIMIZERS:
        message = f"{train.optim} is not tested so (adamw_torch, adamw_torch_fused)"
        yield OPTIMIZER, message, "write optim: adamw_torch"
    if recipe.model.quantization is not None:
        yield "/model/quantization", "4-bit weights cannot be parted here", alone
    if recipe.model.trust_remote_code:
        message = "a model's own code may have layers that are not found"
        yield "/model/trust_remote_code", message, alone
    if adapter.use_dora:
        message = "DoRA looks at whole weights outside of the layers' turn"
        yield "/train/adapter/use_dora", message, alone
    if adapter.modules_to_save:
        message = "modules trained as a whole beside an adapter are not tested so"
        yield "/train/adapter/modules_to_save", message, alone
    if train.nodes > 1 and recipe.model.recipe is not None:
        message = "the other machines have no model of that recipe"
        yield "/model/recipe", message, "run that recipe first, and give its model by model.path"
