"""Who trains. A backend is a pure module: recipe -> script and spec, and what it cannot honour.

`script(recipe)`: name of the script under runner/scripts. `spec(recipe)`: the hashed part of its
spec. `ENVIRONMENT`: the role it runs in, but for the methods in `OWN_ENVIRONMENTS`.
`PROVED_TO_RESUME`: methods whose training, interrupted
and resumed, gives the bytes of an uninterrupted one, as a test shows. `NEEDS_CUDA`: it trains on an
NVIDIA GPU or not at all. `cannot_honour(recipe)`: (JSON pointer, message) pairs.
A new backend is one module and one line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from runner.recipe.model import Recipe, Train

REGISTRY = {
    "llamafactory": "runner.backends.llamafactory",
    "native": "runner.backends.native",
    "unsloth": "runner.backends.unsloth",
}
USUAL = "native"  # what a recipe that names none is trained by


class Backend(Protocol):
    """The module-level names of a backend."""

    ENVIRONMENT: str
    OWN_ENVIRONMENTS: Mapping[str, str]  # method -> role
    PROVED_TO_RESUME: frozenset[str]
    NEEDS_CUDA: bool

    def script(self, recipe: Recipe) -> str:
        """Name of the script that trains. Pure."""
        ...

    def spec(self, recipe: Recipe) -> dict[str, Any]:
        """Everything of the recipe that decides the trained bytes, as plain JSON data. Pure."""
        ...

    def cannot_honour(self, recipe: Recipe) -> Iterator[tuple[str, str]]:
        """JSON pointer and message of every setting that this backend cannot do. Pure."""
        ...


def environment_of(train: Train) -> str:
    """Role of the environment that a recipe's `train` runs in."""
    backend = load_backend(train.backend)
    return backend.OWN_ENVIRONMENTS.get(train.method, backend.ENVIRONMENT)


def environments_beside(train: Train) -> set[str]:
    """Environments that others train in, by their backend or their method, and `train` does not.

    The backend's main one is not among them: other stages may borrow it.
    """
    backends = [load_backend(name) for name in REGISTRY]
    every = {role for each in backends for role in each.OWN_ENVIRONMENTS.values()}
    every |= {each.ENVIRONMENT for each in backends}
    return every - {load_backend(train.backend).ENVIRONMENT, environment_of(train)}


def load_backend(name: str) -> Backend:
    """The module that implements backend `name`."""
    return cast("Backend", importlib.import_module(REGISTRY[name]))
