"""Feed a target with inputs nobody thought of: guided by coverage (atheris), else at random.

usage: python -m tests.fuzz.drive TARGET --runs N [--seed S] [--found FOLDER] [--grow FOLDER]

Starts from the kept corpus and the target's seeds. Ends with status 0 after N executions, else
with a traceback, and leaves the input that did it in FOLDER (default: the working folder): mend the
cause and keep the input in tests/fuzz/corpus. `--grow` keeps every input that reached new code.

atheris has no wheel for ARM64; there a plain mutation of the same inputs takes its place.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import random
import shutil
import sys
import tempfile
from pathlib import Path

GUIDED = importlib.util.find_spec("atheris") is not None
INSTRUMENTED = (
    "recipe", "report", "lock", "bundle", "verify", "plan", "execution", "cli", "capture",
    "imports",
)  # fmt: skip
SECONDS = 20  # for one input, before it counts as endless
MEGABYTES = 1024
LONGEST = 8192  # bytes of an input
TOKENS = (
    "- ", "? ", ": ", "\n", "  ", "\t", "{", "}", "[", "]", ", ", "&a ", "*a", "!!int ", "<<: ",
    "--- ", "...", "%YAML 1.1\n", " #c", "'", '"', "|", ">", "|2-", "\\", "~", "1e999999", ".inf",
    "0x", "null", "true", "(?i)[!-", "{99999999999}", "((((", "../", "/dev/zero", "\u2028", "\xff",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run one target; see above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", type=Path, default=Path())
    parser.add_argument("--grow", type=Path)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        start = _guided if GUIDED else _unguided
        return start(args, Path(name))


def words() -> list[str]:
    """Keys and values of the schema, and pieces of YAML."""
    from runner.recipe.schema import load_schema

    found: set[str] = set()

    def collect(node: object) -> None:
        if isinstance(node, dict):
            found.update(node.get("properties", {}))
            found.update(each for each in node.get("enum", ()) if isinstance(each, str))
            for each in node.values():
                collect(each)
        elif isinstance(node, list):
            for each in node:
                collect(each)

    collect(load_schema())
    return [*TOKENS, *sorted(found)]


def _guided(args: argparse.Namespace, work: Path) -> int:
    import atheris

    with atheris.instrument_imports(include=[f"runner.{part}" for part in INSTRUMENTED]):
        from tests.fuzz.targets import CORPUS, TARGETS, Place
    place = Place.make(work / "place")
    chosen = TARGETS[args.target]
    seeds = _seed_folder(work / "seeds", chosen.seeds(place), CORPUS / args.target)
    grown = args.grow or work / "grown"
    grown.mkdir(exist_ok=True)
    dictionary = work / "words"
    lines = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in words())
    dictionary.write_text("".join(f'"{line}"\n' for line in lines))
    count = args.runs + sum(1 for _ in seeds.iterdir())
    options = [
        f"-runs={count}", f"-seed={args.seed}", f"-timeout={SECONDS}", f"-max_len={LONGEST}",
        f"-rss_limit_mb={MEGABYTES}", f"-dict={dictionary}", f"-artifact_prefix={args.found}/",
    ]  # fmt: skip
    atheris.Setup(
        [sys.argv[0], str(grown), str(seeds), *options], lambda data: chosen.read(data, place)
    )
    atheris.Fuzz()  # ends the process, with status 0 when nothing was found
    return 0


def _seed_folder(folder: Path, seeds: object, corpus: Path) -> Path:
    folder.mkdir()
    for content in seeds:  # type: ignore[attr-defined]
        (folder / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
    for path in corpus.glob("*"):
        shutil.copy(path, folder / path.name)
    return folder


def _unguided(args: argparse.Namespace, work: Path) -> int:
    from tests.fuzz.targets import CORPUS, TARGETS, Place

    place = Place.make(work / "place")
    chosen = TARGETS[args.target]
    corpus = sorted((CORPUS / args.target).glob("*"))
    inputs = [*chosen.seeds(place), *(path.read_bytes() for path in corpus)]
    chance = random.Random(args.seed)
    pieces = [word.encode() for word in words()]
    for _ in range(args.runs):
        content = mutated(chance.choice(inputs), pieces, chance)
        try:
            chosen.read(content, place)
        except BaseException:
            name = f"crash-{hashlib.sha256(content).hexdigest()[:16]}"
            (args.found / name).write_bytes(content)
            raise
    return 0


def mutated(content: bytes, pieces: list[bytes], chance: random.Random) -> bytes:
    """A few bytes left out, doubled, changed, or a piece put in."""
    made = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at, width = chance.randint(0, len(made)), chance.choice((0, 1, 1, 4, 16, 64))
        kind = chance.randrange(4)
        if kind == 0:
            made[at : at + width] = chance.choice(pieces)
        elif kind == 1:
            made[at : at + width] = chance.randbytes(chance.randint(0, 6))
        elif kind == 2:
            made[at:at] = made[at : at + width]
        else:
            del made[at : at + width]
    return bytes(made[:LONGEST])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
