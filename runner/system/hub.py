"""What a child that talks to the hub gets from the host: the address, and the user's token.

The token is looked for where huggingface_hub looks for it, and goes into the environment of that
one child: it is in no file, no argument and no message of ours.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from runner.errors import StageFailed
from runner.system import offline

# Where and how patiently the hub is asked; none of it decides a byte, since all bytes are checked.
_OPERATIONAL = ("HF_ENDPOINT",)
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = {"1", "ON", "YES", "TRUE"}


def network_env() -> dict[str, str]:
    """Variables for a child that may use the hub. Raises StageFailed when it cannot."""
    offline.require_network("something of the hub")
    forbidding = next(
        (name for name in _OFFLINE if os.environ.get(name, "").upper() in _TRUE), None
    )
    if forbidding:
        raise StageFailed(
            f"{forbidding} is set, so the hub is not asked, and its files are not in the store yet",
            hint=f"run it once without: env -u {forbidding} recipe run …; after that it is in the "
            "store",
            code="E319",
        )
    env = {name: os.environ[name] for name in _OPERATIONAL if os.environ.get(name)}
    if token := find_token():
        env["HF_TOKEN"] = token
    # scripts are kept offline by their hashed environment, and xet would need a cache of its own
    return {**dict.fromkeys(_OFFLINE, "0"), "HF_HUB_DISABLE_XET": "1", **env}


def find_token() -> str | None:
    """The user's token: HF_TOKEN, else the file that `hf auth login` writes. Raises StageFailed."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := _checked(os.environ.get(name, ""), name):
            return token
    path = token_file()
    try:
        return _checked(path.read_text(encoding="utf-8", errors="replace"), str(path)) or None
    except OSError:
        return None


def token_file() -> Path:
    """HF_TOKEN_PATH, else `token` in HF_HOME, else in `huggingface` of the user's cache."""
    if path := os.environ.get("HF_TOKEN_PATH"):
        return Path(path).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    return (home / "token").expanduser()


def _checked(text: str, where: str) -> str:
    """The token in `text`. One that HTTP cannot carry would be repeated by its error message."""
    token = text.replace("\r", "").replace("\n", "").strip()
    if token and not re.fullmatch(r"[!-~]+", token):
        raise StageFailed(
            f"{where} does not hold a token: there are spaces or other characters in it",
            hint="copy the token from the hub's settings again",
            code="E316",
        )
    return token
