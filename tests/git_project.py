"""A git repository of a test's own: no settings of the user, no signing, fixed names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

GIT_ENV = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{role}_NAME": "Tester" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_EMAIL": "tester@example.invalid" for role in ("AUTHOR", "COMMITTER")},
}


def git(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run git in `folder` to its end, whatever that is."""
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=clean_env() | GIT_ENV | env,
        capture_output=True,
        text=True,
        check=False,
    )


def commit_all(folder: Path) -> str:
    """Commit everything in `folder`, made a repository if it is none. Returns the commit."""
    for arguments in (
        ["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qnm", "a change"]
    ):  # fmt: skip
        done = git(folder, *arguments)
        assert done.returncode == 0, done.stderr
    return git(folder, "rev-parse", "HEAD").stdout.strip()


def clean_env() -> dict[str, str]:
    """This process's environment, without what git tells its hooks: that names another folder."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
