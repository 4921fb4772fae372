"""Rules of a training by several processes: what has been shown to work, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from runner.recipe.checks.registry import check
from runner.recipe.finding import Finding
from runner.recipe.model import Recipe

METHODS_IN_PARTS = ("sft", "pretrain")
OPTIMIZERS_IN_PARTS = ("adamw_torch", "adamw_torch_fused")


@check("model", "data", "train")
def several_processes_can_train_it(recipe: Recipe) -> Iterator[Finding]:
    """A model in parts is another program: what was not tried with it is refused."""
    if recipe.train.all_processes == 1:
        return
    for pointer, message, hint in _refused(recipe):
        yield Finding("E290", pointer, f"several processes train together: {message}", hint)


def _refused(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """Place, reason and what to write."""
    train, adapter = recipe.train, recipe.train.adapter
    alone = "change it, or train by one process"
    if train.backend != "native":
        yield "/train/backend", f"{train.backend} has no such training", "write backend: native"
    if train.method not in METHODS_IN_PARTS:
        message = f"{train.method} is not among what is tested so (sft, pretrain)"
        yield "/train/method", message, alone
    if train.optim not in OPTIMIZERS_IN_PARTS:
        message = f"{train.optim} is not tested so (adamw_torch, adamw_torch_fused)"
        yield "/train/optim", message, "write optim: adamw_torch"
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
