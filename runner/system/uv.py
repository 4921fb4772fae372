"""How we call `uv`: the binary beside us, its cache inside ours, the user's mirrors respected.

uv does not read pip's settings. People who use a mirror have usually told pip, so what pip knows
is handed on in uv's own variables, unless uv has settings of its own.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from runner.system import offline

# Variables of uv that say where and how to fetch. Others (constraints, overrides, targets, ...)
# change what gets installed and are not handed on.
_PASSED = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX|INDEX_\w+|EXTRA_INDEX_URL|FIND_LINKS|INSECURE_HOST|KEYRING_PROVIDER"
    r"|NATIVE_TLS|SYSTEM_CERTS|OFFLINE|CONFIG_FILE|HTTP_\w+|REQUEST_TIMEOUT|CONCURRENT_\w+"
    r"|LINK_MODE|COMPILE_BYTECODE|NO_PROGRESS)"
)
# What would make uv or the interpreters it asks look elsewhere.
_MISLEADING = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")
_INDEX_KEYS = ("index", "index-url", "extra-index-url", "find-links", "no-index")


def uv_binary() -> str:
    """Path of the uv that is installed with the runner."""
    from uv import find_uv_bin

    return find_uv_bin()


def uv_env(cache: Path) -> dict[str, str]:
    """The environment of every uv that we start. `cache` is our cache folder."""
    host = {
        name: value
        for name, value in os.environ.items()
        if name not in _MISLEADING and (not name.startswith("UV_") or _PASSED.fullmatch(name))
    }
    defaults = {"UV_HTTP_TIMEOUT": "120", "UV_HTTP_RETRIES": "6", "UV_LINK_MODE": "hardlink"}
    ours = {"UV_CACHE_DIR": str(cache / "uv"), "UV_PYTHON_DOWNLOADS": "never"}
    told = {**_translated(pip_settings(), host), **host}
    return {**defaults, **told, **ours, **offline.uv_settings()}


def index_options() -> list[str]:
    """Options for which uv has no variable: `--no-index`, when pip is told so."""
    forbidden = pip_settings().get("no-index", "").lower() in ("1", "true", "yes", "on")
    return ["--no-index"] if forbidden and not _uv_has_indexes(os.environ) else []


def pip_settings() -> dict[str, str]:
    """pip's settings by option name, with pip's precedence: files, then PIP_ variables."""
    settings: dict[str, str] = {}
    for file in _pip_files():
        settings.update(_read_pip_file(file))
    for name, value in os.environ.items():
        if name.startswith("PIP_") and value:
            settings[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return settings


def _translated(pip: Mapping[str, str], host: Mapping[str, str]) -> dict[str, str]:
    """pip's settings as variables of uv; `host` wins over each of them."""
    found = {
        "SSL_CERT_FILE": pip.get("cert", "") or host.get("REQUESTS_CA_BUNDLE", ""),
        "SSL_CLIENT_CERT": pip.get("client-cert", ""),
        "UV_INSECURE_HOST": " ".join(pip.get("trusted-host", "").split()),
    }
    if not any(name.lower().endswith("_proxy") for name in host):
        found |= {"HTTP_PROXY": pip.get("proxy", ""), "HTTPS_PROXY": pip.get("proxy", "")}
    if not _uv_has_indexes(host):
        found |= _translated_indexes(pip)
    return {name: value for name, value in found.items() if value}


def _translated_indexes(pip: Mapping[str, str]) -> dict[str, str]:
    extra = pip.get("extra-index-url", "").split()
    links = [link for link in pip.get("find-links", "").split() if _reachable(link)]
    return {
        "UV_DEFAULT_INDEX": pip.get("index-url", "").strip(),
        "UV_INDEX": " ".join(extra),
        "UV_FIND_LINKS": ",".join(links),
        # pip takes the best file of all indexes; uv by default all files of the first. With hashes
        # pinned, no index can slip in another file.
        "UV_INDEX_STRATEGY": "unsafe-best-match" if extra else "",
    }


def _reachable(link: str) -> bool:
    """uv breaks off at a folder that is not there, where pip goes on."""
    return "://" in link or Path(link).expanduser().exists()


def _uv_has_indexes(host: Mapping[str, str]) -> bool:
    """Has the user told uv itself where to fetch, by variable or file?"""
    if any(host.get(name) for name in _INDEX_VARIABLES):
        return True
    tables = [table for file in _uv_files(host) for table in _read_uv_file(file)]
    return any(key in table for table in tables for key in _INDEX_KEYS)


def _uv_files(host: Mapping[str, str]) -> Iterator[Path]:
    if chosen := host.get("UV_CONFIG_FILE"):
        yield Path(chosen)
        return
    home = Path(host.get("XDG_CONFIG_HOME") or _home(host) / ".config")
    yield home / "uv" / "uv.toml"
    yield Path("/etc/uv/uv.toml")


def _read_uv_file(file: Path) -> list[Mapping[str, object]]:
    """The tables of a uv.toml that may name indexes; an unreadable file says nothing."""
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [settings, settings.get("pip", {})]


def _pip_files() -> Iterator[Path]:
    """pip's files, the weakest first, as pip itself looks for them on Linux."""
    chosen = os.environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return
    home = _home(os.environ)
    yield from (Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"))
    yield home / ".pip" / "pip.conf"
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if chosen:
        yield Path(chosen)


def _read_pip_file(file: Path) -> dict[str, str]:
    """Settings for every command and for `install`; an unreadable file says nothing."""
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, configparser.Error):
        return {}
    return {
        name.replace("_", "-").lower(): value
        for section in ("global", "install")
        if parser.has_section(section)
        for name, value in parser.items(section)
    }


def _home(host: Mapping[str, str]) -> Path:
    return Path(host.get("HOME") or "/nonexistent")
