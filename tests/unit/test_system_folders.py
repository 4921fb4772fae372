"""Where things lie, by variable, by XDG and by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import UsageError
from runner.system import folders
from runner.system.folders import cache_folder, shipped, store_folder

VARIABLES = ("SPARK_RECIPES_CACHE", "SPARK_RECIPES_STORE", "XDG_CACHE_HOME", "HOME")


@pytest.mark.parametrize(
    ("env", "cache", "store"),
    [
        ({}, "/home/u/.cache/spark-recipes", "/home/u/.cache/spark-recipes/store"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/spark-recipes", "/x/spark-recipes/store"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/u/.cache/spark-recipes", None),
        ({"XDG_CACHE_HOME": "/x", "SPARK_RECIPES_CACHE": "/c"}, "/c", "/c/store"),
        ({"SPARK_RECIPES_CACHE": "~/c"}, "/home/u/c", "/home/u/c/store"),
        ({"SPARK_RECIPES_CACHE": "/c", "SPARK_RECIPES_STORE": "/big"}, "/c", "/big"),
        ({"SPARK_RECIPES_CACHE": ""}, "/home/u/.cache/spark-recipes", None),
    ],
)
def test_folders(
    env: dict[str, str], cache: str, store: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/u", **env}.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(cache)
    assert store_folder() == Path(store or f"{cache}/store")


def test_without_a_home_the_variable_to_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(UsageError, match="no home folder") as caught:
        cache_folder()
    assert "SPARK_RECIPES_CACHE" in caught.value.hint


@pytest.mark.parametrize("name", ["SPARK_RECIPES_CACHE", "SPARK_RECIPES_STORE"])
def test_a_home_that_nobody_has_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "~nobody-of-this-name/x")
    with pytest.raises(UsageError, match=f"{name} is ~nobody-of-this-name/x") as caught:
        store_folder()
    assert name in caught.value.hint


@pytest.mark.parametrize("kind", ["schemas", "environments", "recipes"])
def test_a_checkout_uses_its_own_files_and_a_wheel_the_shipped_ones(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shipped(kind) == Path(folders.__file__).resolve().parents[2] / kind
    assert shipped(kind).is_dir()
    monkeypatch.setattr(folders, "_PACKAGE", tmp_path / "runner")
    assert shipped(kind) == tmp_path / "runner" / "shipped" / kind
