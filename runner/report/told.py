"""What `recipe run` says on stdout: of one recipe as it comes, of several as one JSON object."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

Show = Callable[[], None]


class Told:
    """As text everything is printed at once. As JSON, of several recipes, in the end:

        {"schema": 1, "recipes": [{"file": "x.yaml", "schema": 1, "state": "done", …}, …]}

    where each has what a run of it alone prints, and `proof` what `--verify-twice` found.
    """

    def __init__(self, form: str, *, several: bool) -> None:
        self._json = form == "json"
        self._several = several
        self._recipes: list[dict[str, Any]] = []
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Also where one has failed: what the others gave is there."""
        if self._json and self._several:
            _print({"schema": 1, "recipes": self._recipes})

    def seconds(self) -> float:
        """Since the recipes were planned."""
        return time.monotonic() - self._started

    def begin(self, file: str) -> None:
        """What is told from now on is of the recipe in `file`."""
        self._recipes.append({"file": file})

    def state(self, state: str, error: Mapping[str, str] | None = None) -> None:
        """How a recipe ended, or that it never began; `error`: code and message."""
        self._recipes[-1] |= {"state": state, **({"error": dict(error)} if error else {})}

    def result(self, data: Mapping[str, Any], show: Show) -> None:
        """What came out."""
        self._tell(data, show, dict(data))

    def proof(self, data: Mapping[str, Any], show: Show) -> None:
        """What `--verify-twice` found."""
        self._tell(data, show, {"proof": dict(data)})

    def _tell(self, data: Mapping[str, Any], show: Show, entry: Mapping[str, Any]) -> None:
        if not self._json:
            show()
        elif self._several:
            self._recipes[-1] |= entry
        else:
            _print(data)


def _print(data: Mapping[str, Any]) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))
