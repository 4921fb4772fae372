"""Find and read what LLaMA Factory was told: by its web UI, or in a file for its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import UsageError

ARGUMENTS = "training_args.yaml"  # what the web UI's run was started with
FORM = "llamaboard_config.yaml"  # what stood in its form
RESULT = "trainer_state.json"  # written when a training has ended
_MOST = 1 << 20  # bytes of a file of settings


@dataclass(frozen=True, slots=True)
class Source:
    """`settings` by LLaMA Factory's names; `form`: the web UI's values, {} without one.

    `finished` is None for a file, which says nothing of a run.
    """

    file: Path
    settings: dict[str, Any]
    form: dict[str, Any]
    finished: bool | None


def read(path: Path) -> Source:
    """The settings of a run's folder, or of a YAML file. Raises UsageError (E850)."""
    if path.is_dir():
        file = path / ARGUMENTS
        if not file.is_file():
            raise UsageError(
                f"{path} is no run of LLaMA Factory's web UI: there is no {ARGUMENTS}",
                hint="name a folder below saves/, or the YAML file of `llamafactory-cli train`",
                code="E850",
            )
        form = path / FORM
        held = _mapping(form) if form.is_file() else {}
        return Source(file, _mapping(file), held, (path / RESULT).is_file())
    return Source(path, _mapping(path), {}, None)


def _mapping(path: Path) -> dict[str, Any]:
    """Read as plain YAML: it is not a recipe, and tags are refused."""
    import yaml

    try:
        if path.stat().st_size > _MOST:
            raise _unreadable(path, "it is larger than settings are")
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError, RecursionError) as error:
        raise _unreadable(path, str(error).split("\n")[0]) from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _unreadable(path, "it is no mapping of settings to values")
    return value


def _unreadable(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} cannot be read as settings of LLaMA Factory: {why}",
        hint="name a run's folder below saves/, or the YAML file of `llamafactory-cli train`",
        code="E850",
    )
