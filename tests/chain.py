"""Run the real command line in a copy of this checkout, with its own home, store and models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Checkout:
    """A copy of the checkout's files as they are now, and the environment its commands run in."""

    folder: Path
    env: dict[str, str]
    home: Path
    extra: dict[str, str] = field(default_factory=dict)

    def recipe(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `recipe ...` to its end, with this copy's runner."""
        return subprocess.run(
            [sys.executable, "-m", "runner", *arguments],
            cwd=self.folder,
            env=self.env | env,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start `recipe ...` and return at once."""
        return subprocess.Popen(
            [sys.executable, "-m", "runner", *arguments],
            cwd=self.folder,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def copy_checkout(target: Path, *, cache: Path, store: Path, home: Path) -> Checkout:
    """Copy what git knows or would add (not what it ignores) to `target`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (source := ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    subprocess.run(["git", "init", "-q", str(target)], check=True)
    home.mkdir(parents=True, exist_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
    env |= {
        "HOME": str(home),
        "SPARK_RECIPES_CACHE": str(cache),
        "SPARK_RECIPES_STORE": str(store),
        "PYTHONPATH": str(target),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    env.pop("XDG_CACHE_HOME", None)
    return Checkout(target, env, home)
