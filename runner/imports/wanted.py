"""What a user says beside the file: the recipe's name, where it will lie, rows of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.capture.data_sets import Place


@dataclass(frozen=True, slots=True)
class Wanted:
    """`root` is the project that no path leaves; rows of one's own are in `place`.

    `method`, where the file does not tell it.
    """

    name: str
    place: Place
    root: Path
    revision: str | None = None
    method: str | None = None
