"""Room for the files that an export writes for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import MachineCannot
from runner.stages.export.conversion import need_space
from runner.system.folders import CACHE, STORE


@pytest.mark.parametrize(("store", "variable"), [("store", STORE), ("", CACHE)])
def test_what_is_too_small_is_told_by_the_variable_of_the_store(
    store: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    monkeypatch.setenv(STORE, str(tmp_path / store) if store else "")
    (tmp_path / "store").mkdir()
    need_space(tmp_path / "store", 0, "the files")
    with pytest.raises(MachineCannot, match="the files need about") as caught:
        need_space(tmp_path / "store", 1e30, "the files")
    assert caught.value.code == "E545"
    assert f"or set {variable} to a folder on a larger disk" in caught.value.hint
