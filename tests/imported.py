"""Example settings of other tools, imported in a project that has the files they name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from runner.capture.captured import Captured, Fate
from runner.capture.data_sets import Place
from runner.imports import REGISTRY, load_import
from runner.imports.document import read_document
from runner.imports.kinds import kind_of
from runner.imports.wanted import Wanted
from runner.recipe.source import at_pointer
from tests.tiny_model import write_tiny_model

FILES = Path(__file__).parent / "imports"
EXAMPLES = sorted(
    path for path in FILES.glob("*/*") if path.parent.name in REGISTRY and path.is_file()
)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the examples, the rows and the model that they name; no hub's cache."""
    shutil.copytree(FILES, tmp_path / "project")
    config = write_tiny_model(tmp_path / "project" / "models" / "tiny") / "config.json"
    config.write_text(
        config.read_text().replace(
            '"max_position_embeddings": 512', '"max_position_embeddings": 4096'
        )
    )
    (tmp_path / "project" / ".git").mkdir()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def imported(project: Path, file: str | Path, **more: Any) -> Captured:
    document = read_document(Path(file))
    wanted = Wanted("made", Place(project, project), project, **more)
    return load_import(kind_of(document)[0]).convert(document, wanted)


def fates(made: Captured) -> dict[str, Fate]:
    return {note.name: note.fate for note in made.notes}


def of_fate(made: Captured, fate: Fate) -> set[str]:
    return {note.name for note in made.notes if note.fate is fate}


def values(made: Captured, *names: str) -> dict[str, Any]:
    found = {}
    for name in names:
        try:
            found[name] = at_pointer(made.recipe, "/" + name.replace(".", "/"))
        except LookupError:
            found[name] = None
    return found
