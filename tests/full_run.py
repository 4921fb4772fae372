"""Run the tests that `make test` leaves out, and write down what they ran on: `make test-full`.

usage: python -m tests.full_run [PYTEST ARGUMENTS]

tests/full-results.json says which sources were tested (a digest of every file that git tracks, but
for the records themselves), by which Python, which tests were asked for, and how they ended. There
is no clock in it: the same sources with the same outcome give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = "tests/full-results.json"
RECORDS = (RESULTS, "tests/crash-results.json")  # what a full run writes
_COUNT = re.compile(
    r"(\d+) (passed|failed|skipped|deselected|xfailed|xpassed|errors?|warnings?|rerun)\b"
)
_CLOSING = re.compile(r"^(?:=+ )?\d+ [a-z]+\b.* in [\d.]+s\b")


def main(arguments: list[str]) -> int:
    """Run pytest over what takes minutes or gigabytes; its exit status."""
    sources = sources_digest(ROOT, tracked(ROOT))
    command = [sys.executable, "-m", "pytest", "-m", "full", *arguments]
    closing = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            closing = line if _CLOSING.match(line) else closing
    if sources_digest(ROOT, tracked(ROOT)) != sources:
        print("the sources changed while the tests ran: no record is written", file=sys.stderr)
        return process.returncode or 1
    record = {
        "sources": sources,
        "python": platform.python_version(),
        "selection": [each for each in arguments if (ROOT / each.split("::")[0]).exists()],
        "counts": counts(closing),
    }
    (ROOT / RESULTS).write_text(written(record), encoding="utf-8")
    return process.returncode


def tracked(root: Path) -> list[str]:
    """Every file that git tracks, relative to `root`."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True)
    return [name for name in listing.stdout.decode().split("\0") if name]


def sources_digest(root: Path, names: Iterable[str]) -> str:
    """sha256 over names and contents of the files, in order of their names, without the records.

    A link counts as the path that it holds; a file that is gone counts as missing.
    """
    digest = hashlib.sha256()
    for name in sorted({*names}.difference(RECORDS)):
        digest.update(name.encode() + b"\0" + _content(root / name).encode() + b"\n")
    return digest.hexdigest()


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"link {path.readlink()}"
    if not path.is_file():
        return "missing"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def counts(closing: str) -> dict[str, int]:
    """The numbers of pytest's last line by their words, in the plural where there is one."""
    plural = {"error": "errors", "warning": "warnings"}
    return {plural.get(word, word): int(number) for number, word in _COUNT.findall(closing)}


def written(record: dict[str, Any]) -> str:
    """The record as it stands in the file."""
    return json.dumps(record, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
