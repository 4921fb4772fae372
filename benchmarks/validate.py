"""`recipe validate` beside check-jsonschema, a bare Python and `llamafactory-cli version`.

usage: .venv/bin/python -m benchmarks.validate [RUNS] [FILES] [--llamafactory]

The same files and the same schema: one file, then FILES of them (2,000), made on the spot, one in
four wrong; whole commands from a cold start, in turn. check-jsonschema, in the version named below,
is installed into an environment of its own in a temporary folder. Beside the checks of the schema
that both do, ours checks rules across fields and the files that a recipe names. `--llamafactory`
compares with the newest LLaMA Factory among the environments in the cache, else installs it (about
5 GB, removed at the end).

Below the tables: seconds a file, without the start-up, and whether the goals are met.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import Command, Timing, table, time_side_by_side
from runner.recipe.schema import schema_path
from runner.system.folders import cache_folder
from tests.many_recipes import write_recipes

PEER = "check-jsonschema==0.38.2"
LLAMAFACTORY = "llamafactory==0.9.5"
MOST_STARTS = 20  # cold starts of a bare Python that ours may take


def main(arguments: list[str]) -> None:
    """Print the tables and what they say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="?", type=int, default=10)
    parser.add_argument("files", nargs="?", type=int, default=2000)
    parser.add_argument("--llamafactory", action="store_true")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="validate-") as name:
        place = Path(name)
        checker = installed(PEER, place / "peer") / "check-jsonschema"
        paths = [str(path) for path in write_recipes(place / "project", args.files)]
        one = side_by_side(checker, paths[:1], args.runs)
        many = side_by_side(checker, paths, max(3, args.runs // 3))
        starts = cold_starts(paths[0], args.runs, place if args.llamafactory else None)
    for title, timings in (
        ("1 recipe", one),
        (f"{args.files} recipes, one in four of them wrong", many),
        ("cold start, 1 recipe", starts),
    ):
        print(f"{title}\n\n{table(timings)}\n")
    print(in_words(one, many, starts, args.files))


def installed(requirement: str, folder: Path) -> Path:
    """The bin folder of a new environment with one package and what it needs, compiled."""
    uv = str(Path(sys.executable).with_name("uv"))
    env = os.environ | {"UV_CACHE_DIR": str(cache_folder() / "uv")}
    python = str(folder / "bin" / "python")
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, requirement],
    ):
        subprocess.run(command, check=True, env=env)
    return folder / "bin"


def side_by_side(checker: Path, paths: list[str], runs: int) -> list[Timing]:
    """Ours and the peer on the same files. A file that is wrong is no failure of either."""
    schema = ["--schemafile", str(schema_path())]
    return time_side_by_side(
        [
            Command("recipe validate", tolerant([str(ours()), "validate", *paths])),
            Command("check-jsonschema", tolerant([str(checker), *schema, *paths])),
        ],
        runs,
    )


def ours() -> Path:
    """The command as a user types it."""
    return Path(sys.executable).with_name("recipe")


def tolerant(argv: list[str]) -> list[str]:
    """The command, by a shell that takes 1 (theirs) and 2 (ours) for an answer."""
    return ["sh", "-c", '"$@" || [ $? -le 2 ]', "sh", *argv]


def cold_starts(recipe: str, runs: int, install_to: Path | None) -> list[Timing]:
    """Ours, LLaMA Factory's shortest command where there is one, and a bare Python."""
    peers = []
    if (cli := llamafactory(install_to)) is not None:
        peers.append(Command("llamafactory-cli version", [str(cli), "version"]))
    python = Command("python -c pass", [sys.executable, "-c", "pass"])
    mine = Command("recipe validate", [str(ours()), "validate", recipe])
    return time_side_by_side([mine, *peers, python], runs)


def llamafactory(install_to: Path | None) -> Path | None:
    """Its command, from the environments in the cache or installed; None unless asked for."""
    if install_to is None:
        return None
    found = (cache_folder() / "environments").glob("llamafactory-*/bin/llamafactory-cli")
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return newest or installed(LLAMAFACTORY, install_to / "llamafactory") / "llamafactory-cli"


def in_words(one: list[Timing], many: list[Timing], starts: list[Timing], files: int) -> str:
    """Seconds a file and the goals."""
    ours_each, peer_each = (
        (after.median - before.median) / (files - 1)
        for before, after in zip(one, many, strict=True)
    )
    start, bare = starts[0].median, starts[-1].median
    return "\n".join(
        [
            f"a file, without the start-up: recipe validate {1000 * ours_each:.2f} ms, "
            f"check-jsonschema {1000 * peer_each:.2f} ms",
            _goal("faster with 1 file", one[0].median < one[1].median),
            _goal(f"faster with {files} files", many[0].median < many[1].median),
            _goal(
                f"at most {MOST_STARTS} starts of a bare Python: {start / bare:.1f}",
                start <= MOST_STARTS * bare,
            ),
        ]
    )


def _goal(what: str, met: bool) -> str:
    return f"{what}: {'yes' if met else 'NO'}"


if __name__ == "__main__":
    main(sys.argv[1:])
