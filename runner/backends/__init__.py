"""Who trains. A backend is a pure module: recipe -> script and spec, and what it cannot honour.

`script(recipe)`: name of the script under runner/scripts. `spec(recipe)`: the hashed part of its
spec. `ENVIRONMENT`: the role it runs in. `PROVED_TO_RESUME`: methods whose training, interrupted
and resumed, gives the bytes of an uninterrupted one, as a test shows. `cannot_honour(recipe)`:
(JSON pointer, message) pairs.
A new backend is one module and one line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

REGISTRY = {
    "llamafactory": "runner.backends.llamafactory",
    "native": "runner.backends.native",
}


class Backend(Protocol):
    """The module-level names of a backend."""

    ENVIRONMENT: str
    PROVED_TO_RESUME: frozenset[str]

    def script(self, recipe: Recipe) -> str:
        """Name of the script that trains. Pure."""
        ...

    def spec(self, recipe: Recipe) -> dict[str, Any]:
        """Everything of the recipe that decides the trained bytes, as plain JSON data. Pure."""
        ...

    def cannot_honour(self, recipe: Recipe) -> Iterator[tuple[str, str]]:
        """JSON pointer and message of every setting that this backend cannot do. Pure."""
        ...


def environments_beside(name: str) -> set[str]:
    """Environments that other backends than `name` train in, and it does not."""
    return {load_backend(other).ENVIRONMENT for other in REGISTRY} - {
        load_backend(name).ENVIRONMENT
    }


def load_backend(name: str) -> Backend:
    """The module that implements backend `name`."""
    return cast("Backend", importlib.import_module(REGISTRY[name]))
