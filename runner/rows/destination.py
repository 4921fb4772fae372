"""Where `recipe data convert` writes: a file, as a whole or not at all, or its own output."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from runner.errors import UsageError
from runner.rows.script import written_by
from runner.scripts.data.files.packed_files import LIBRARY_SUFFIXES
from runner.store.atomic import open_atomic

if TYPE_CHECKING:
    from runner.scripts.data.convert import Converted

    Make = Callable[[IO[bytes], str], Converted]

STDOUT = "-"
_SHAPES = (".jsonl", ".json", ".csv", ".tsv")
_PACKED = ("", ".gz", ".xz", ".zst")
NAMES = (*(f"{shape}{packed}" for shape in _SHAPES for packed in _PACKED), ".parquet")


def check_folder(out: Path) -> None:
    """Raises UsageError (E929) where the folder that a file is to be written into is not there: it
    may be a slip of the pen."""
    if not os.path.lexists(out.parent):
        raise UsageError(
            f"{out}: there is no folder {out.parent}",
            hint=f"correct the name, or make the folder: mkdir -p {shlex.quote(str(out.parent))}",
            code="E929",
        )


def write_whole(out: Path, make: Make) -> Converted:
    """What `make` says, which is given a file and the name that tells what shape to write into it.

    Nothing is at `out`, or was said, unless it returns. Raises OSError, StageFailed and
    MachineCannot.
    """
    if str(out) == STDOUT:
        return _say(make)
    if not out.name.lower().endswith(LIBRARY_SUFFIXES):
        with open_atomic(out) as file:
            return make(file, out.name)
    with _scratch() as folder:
        rows = folder / "rows"
        name = out.name[: -len(".zst")] if out.name.lower().endswith(".zst") else out.name
        with rows.open("wb") as file:
            done = make(file, name)
        with (
            written_by(
                "pack_rows", "parquet", {"columns": done.kinds}, {"rows": rows}, "packed"
            ) as packed,
            packed.open("rb") as made,
            open_atomic(out) as file,
        ):
            shutil.copyfileobj(made, file)
    return done


def _say(make: Make) -> Converted:
    with _scratch() as folder, (folder / "rows").open("w+b") as file:
        done = make(file, "rows.jsonl")
        file.seek(0)
        shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return done


@contextmanager
def _scratch() -> Iterator[Path]:
    from runner.system.folders import cache_folder

    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rows-", dir=cache) as name:
        yield Path(name)
