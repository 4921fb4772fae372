"""Is there the GPU that a backend cannot do without? Asked before anything is built or computed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from runner.backends import load_backend
from runner.errors import MachineCannot
from runner.plan.plan import Action, Step
from runner.system import hardware
from runner.system.hardware import ROOT

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

INSTEAD = "--backend native trains it on any machine"


def lacks_device(recipe: Recipe, steps: Iterable[Step], root: Path = ROOT) -> bool:
    """Would `steps` train by a backend that needs an NVIDIA GPU, where there is none?"""
    trains = any(step.stage == "train" and step.action is not Action.REUSE for step in steps)
    return trains and not has_device(recipe, root)


def has_device(recipe: Recipe, root: Path = ROOT) -> bool:
    """Is the GPU here, or none needed?"""
    return not load_backend(recipe.train.backend).NEEDS_CUDA or bool(hardware.gpus(root))


def require_device(recipe: Recipe, steps: Iterable[Step], root: Path = ROOT) -> None:
    """Raises MachineCannot (E960) when the training could not begin on this machine."""
    if lacks_device(recipe, steps, root):
        raise missing_device(recipe)


def missing_device(recipe: Recipe) -> MachineCannot:
    """The error, with what to type next."""
    return MachineCannot(
        f"backend {recipe.train.backend} trains on an NVIDIA GPU, and this machine has none",
        hint=f"{INSTEAD}; `recipe doctor` says what it sees of a GPU",
        code="E960",
    )
