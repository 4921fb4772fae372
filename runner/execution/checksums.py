"""SHA256SUMS of a run folder: every finished file in it, as `sha256sum --check` reads it.

`recipe verify` reads it too: the manifest knows nothing of logs, lock, record and what was
measured, and one bit in any of them is named as well.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from errno import ENOENT
from pathlib import Path

from runner.store.atomic import write_atomic
from runner.store.digest import file_sha256
from runner.system.regular import is_regular, read_regular, walk

NAME = "SHA256SUMS"
# What is made of finished runs, and made again when another one changes (execution/compared.py).
MADE_LATER = frozenset({"compare.html", "compare.json"})
# What a run in the background says (runs/background.py): it also tells of the end, so it is still
# written when everything else has its checksum.
OWN_LOG = "logs/recipe.log"
UNLISTED = frozenset({NAME, OWN_LOG, *MADE_LATER})
MANIFEST = "manifest.json"
MAX_BYTES = 64 << 20


def write_checksums(folder: Path, manifest: bytes, known: Mapping[str, str]) -> None:
    """Write the file, before the manifest, whose bytes are given.

    `known`: digests of files that need not be read again, by path relative to the folder.
    """
    digests = {path: known.get(path) or file_sha256(folder / path) for path in files_below(folder)}
    digests[MANIFEST] = hashlib.sha256(manifest).hexdigest()
    lines = [f"{digest}  {path}\n" for path, digest in sorted(digests.items())]
    write_atomic(folder / NAME, "".join(lines))


def files_below(folder: Path) -> list[str]:
    """Every file but this one and those that are written later, relative to the folder, sorted."""
    found = (where / name for where, names, _ in walk(folder) for name in names)
    kept = (path for path in found if path.is_symlink() or is_regular(path))
    return sorted({path.relative_to(folder).as_posix() for path in kept} - UNLISTED)


def read_checksums(folder: Path) -> Iterator[tuple[str, str]]:
    """Path and hex digest of each line. Raises FileNotFoundError, ValueError on anything else."""
    if not os.path.lexists(folder / NAME):
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(folder / NAME))
    text = read_regular(folder / NAME, MAX_BYTES).decode("utf-8")
    for line in text.removesuffix("\n").split("\n") if text else []:
        digest, separator, path = line.partition("  ")
        leads_out = path.startswith("/") or ".." in path.split("/") or "\0" in path
        if not separator or len(digest) != 64 or not path or leads_out:
            raise ValueError(f"{line[:40]!r} is no line of {NAME}")
        yield path, digest
