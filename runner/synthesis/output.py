"""Where the rows of a synthesis go, and whether what is there already may be replaced.

A file that was written is named beside it by its digest, as `sha256sum -c` reads it: a row that was
corrected by hand since, or put there by somebody else, is not written over.
"""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

from runner.asking.log import log_path
from runner.errors import UsageError
from runner.rows.destination import check_folder
from runner.store.atomic import disk_errors, write_as_told

DIGEST_SUFFIX = ".sha256"


def digest_path(out: Path) -> Path:
    """Where the digest of what was written last stands."""
    return out.with_name(out.name + DIGEST_SUFFIX)


def check_output(out: Path) -> None:
    """Raises UsageError: E900 for a name of no file of rows, E929 without the folder."""
    if out.suffix != ".jsonl" or out.name.endswith(log_path(Path("x.jsonl")).name[1:]):
        raise UsageError(
            f"{out} is not named as a file of rows",
            hint="rows are written as JSON lines: -o rows.jsonl",
            code="E900",
        )
    if out.is_dir():
        raise UsageError(
            f"{out} is a folder, not a file",
            hint=f"name a file in it: -o {out / 'rows.jsonl'}",
            code="E900",
        )
    check_folder(out)


def may_be_replaced(out: Path) -> bool:
    """Is nothing at `out`, or byte for byte what was written there last? Raises MachineCannot."""
    if not out.exists():
        return True
    digest = digest_path(out)
    if not out.is_file() or not digest.is_file():
        return False
    with disk_errors(f"reading {out}", out):
        words = digest.read_text(encoding="utf-8", errors="replace").split()
        with out.open("rb") as file:
            return words[:1] == [hashlib.file_digest(file, "sha256").hexdigest()]


def check_same(out: Path, made: bytes | None) -> None:
    """Raises UsageError (E900) unless `out` holds `made` already: what the log alone gives, None
    where it does not give all."""
    if made is not None and out.is_file():
        with disk_errors(f"reading {out}", out):
            if out.read_bytes() == made:
                return
    if log_path(out).exists():
        why = "holds other rows than were written last: they were changed since, or are not ours"
    else:
        why = "exists, and no log of requests lies beside it"
    raise UsageError(
        f"{out} {why}",
        hint=f"name another file; or move it away: mv {shlex.quote(str(out))} KEPT.jsonl; "
        "--force replaces it",
        code="E900",
    )


def write(out: Path, made: bytes) -> None:
    """The rows as a whole or not at all, and their digest. Raises MachineCannot.

    Where a kill comes between the two, the rows are still what the log gives.
    """
    write_as_told(out, made)
    line = f"{hashlib.sha256(made).hexdigest()}  {out.name}\n"
    write_as_told(digest_path(out), line.encode("utf-8", "surrogateescape"))
