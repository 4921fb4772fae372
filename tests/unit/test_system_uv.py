"""The user's mirrors keep working: pip's settings reach uv, unless uv has settings of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.system.uv import index_options, pip_settings, uv_binary, uv_env

MIRROR, EXTRA = "https://mirror.example/simple", "https://extra.example/simple"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without any settings, of pip or of uv."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    # The files of the machine itself must not show through.
    monkeypatch.setattr("runner.system.uv._read_pip_file", _only_below(tmp_path))
    return tmp_path


def _only_below(folder: Path):  # type: ignore[no-untyped-def]
    from runner.system import uv

    real = uv._read_pip_file
    return lambda file: real(file) if folder in file.parents else {}


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def uv_settings(cache: Path) -> dict[str, str]:
    """What uv is told beyond our own constants."""
    ours = {"UV_CACHE_DIR", "UV_PYTHON_DOWNLOADS", "UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES",
            "UV_LINK_MODE"}  # fmt: skip
    names = {name for name in uv_env(cache) if name.startswith("UV_")} - ours
    return {name: uv_env(cache)[name] for name in names}


def test_without_settings_uv_decides(home: Path) -> None:
    assert uv_settings(home) == {}
    env = uv_env(home / "cache")
    assert env["UV_CACHE_DIR"] == str(home / "cache" / "uv")
    assert env["UV_PYTHON_DOWNLOADS"] == "never"


def test_a_mirror_in_pips_file_is_handed_on(home: Path) -> None:
    write(
        home / ".config/pip/pip.conf",
        f"[global]\nindex-url = {MIRROR}\nextra_index_url =\n  {EXTRA}\n  {EXTRA}/2\n"
        "cert = /ca.pem\nclient-cert = /me.pem\ntrusted-host = a b\nproxy = http://proxy:1\n",
    )
    assert uv_settings(home) == {
        "UV_DEFAULT_INDEX": MIRROR,
        "UV_INDEX": f"{EXTRA} {EXTRA}/2",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_INSECURE_HOST": "a b",
    }
    env = uv_env(home)
    assert (env["SSL_CERT_FILE"], env["SSL_CLIENT_CERT"]) == ("/ca.pem", "/me.pem")
    assert env["HTTPS_PROXY"] == env["HTTP_PROXY"] == "http://proxy:1"


def test_pips_precedence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".pip/pip.conf", "[global]\nindex-url = legacy\ncert = legacy\n")
    write(
        home / ".config/pip/pip.conf",
        "[install]\nindex-url = user\n[global]\nindex-url = weaker\n[freeze]\nindex-url = no\n",
    )
    assert (pip_settings()["index-url"], pip_settings()["cert"]) == ("user", "legacy")
    write(home / "given.conf", "[global]\nindex-url = given\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(home / "given.conf"))
    assert pip_settings()["index-url"] == "given"
    monkeypatch.setenv("PIP_INDEX_URL", "variable")
    assert pip_settings()["index-url"] == "variable"
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert "index-url" not in pip_settings()


def test_what_we_read_is_what_pip_itself_says(home: Path) -> None:
    write(
        home / ".config/pip/pip.conf",
        f"# comment\n[global]\nindex-url: {MIRROR}\n[install]\nfind-links = a%b\n",
    )
    env = {**os.environ, "HOME": str(home), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], env=env,
                          capture_output=True, text=True, check=True).stdout  # fmt: skip
    for name, value in (("global.index-url", MIRROR), ("install.find-links", "a%b")):
        assert f"{name}='{value}'" in said
        assert pip_settings()[name.partition(".")[2]] == value


@pytest.mark.parametrize(
    "settings",
    ['index-url = "https://own.example"\n', '[pip]\nindex-url = "https://own.example"\n',
     '[[index]]\nurl = "https://own.example"\n'],
)  # fmt: skip
def test_a_file_of_uv_wins(home: Path, settings: str) -> None:
    write(home / ".config/pip/pip.conf", f"[global]\nindex-url = {MIRROR}\ncert = /ca.pem\n")
    write(home / ".config/uv/uv.toml", settings)
    assert uv_settings(home) == {}
    assert uv_env(home)["SSL_CERT_FILE"] == "/ca.pem"


@pytest.mark.parametrize("name", ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX"])
def test_a_variable_of_uv_wins(home: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", MIRROR)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert index_options() == ["--no-index"]
    monkeypatch.setenv(name, "https://own.example")
    assert uv_settings(home) == {name: "https://own.example"}
    assert index_options() == []


def test_credentials_of_an_index_are_handed_on_and_what_changes_versions_is_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_INDEX_TEAM_PASSWORD", "secret")
    for name in ("UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE_NEWER", "UV_PYTHON", "UV_TARGET"):
        monkeypatch.setenv(name, "x")
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"):
        monkeypatch.setenv(name, "x")
    env = uv_env(home)
    assert uv_settings(home) == {"UV_INDEX_TEAM_PASSWORD": "secret"}
    assert not {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"} & set(env)


def test_folders_of_wheels_are_handed_on_where_they_exist(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", f"{home} /nowhere https://links.example")
    assert uv_settings(home) == {"UV_FIND_LINKS": f"{home},https://links.example"}


@pytest.mark.parametrize("text", ["[global\nindex-url", "\xff\xfe", "index-url = x", ""])
def test_an_unreadable_file_says_nothing(home: Path, text: str) -> None:
    file = home / ".config/pip/pip.conf"
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode("latin-1"))
    (home / ".config/uv").mkdir()
    (home / ".config/uv/uv.toml").write_bytes(text.encode("latin-1"))
    assert uv_settings(home) == {}


def test_the_binary_is_the_one_beside_us() -> None:
    said = subprocess.run([uv_binary(), "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("uv ")
