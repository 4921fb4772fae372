"""Build environments and tools ahead of time: `python -m runner.system.prebuild`.

For the image. They go to SPARK_RECIPES_PREBUILT, where `environments.ensure` and
`tools.ensure_tool` look first, so that a container starts with everything in place and its
cache volume stays small.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

ROLES = ("data", "native", "llamafactory", "evaluate", "export")
TOOLS = ("llama.cpp",)  # the compose service is the Ollama of a container


def main() -> None:
    """Build every environment and tool of the image into the prebuilt folder."""
    from runner.system import environments, tools

    folder = Path(os.environ["SPARK_RECIPES_PREBUILT"])
    for name in TOOLS:
        tools.ensure_tool(name, folder, _say)
    for role in ROLES:
        environments.ensure(role, folder, _say)
    for leftover in ("uv", "downloads", "locks"):
        shutil.rmtree(folder / leftover, ignore_errors=True)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
