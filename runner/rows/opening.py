"""A file of rows as it can be read line by line, by whoever looks at it outside of any run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runner.errors import UsageError
from runner.rows.script import written_by
from runner.scripts.data.files.packed_files import LEFT_OUT, WRITABLE, takes_library
from runner.system.regular import NotReadable, open_regular


@dataclass(frozen=True, slots=True)
class Plain:
    """`path` has the rows. `left_out`: columns of Parquet that are no JSON, and why not."""

    path: Path
    left_out: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def opened(path: Path, columns: Sequence[str] | None = None) -> Iterator[Plain]:
    """The file itself; what takes a library made plain, one line a row of Parquet, of these
    `columns` or of all that can be JSON. Raises UsageError E862, StageFailed and MachineCannot.
    """
    try:
        with open_regular(path) as file:
            start = file.read(4)
    except (NotReadable, OSError) as error:
        raise unreadable(path, error) from None
    if not takes_library(start):
        yield Plain(path)
        return
    files = {"rows": {"name": path.name, "columns": list(columns) if columns else WRITABLE}}
    with written_by("plain_rows", "parquet", {"files": files}, {"rows": path.resolve()}) as lines:
        told = lines.with_name(LEFT_OUT)
        left_out = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}
        yield Plain(lines, left_out)


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """As `opened`, for whom it is enough to have the rows."""
    with opened(path) as plain:
        yield plain.path


def unreadable(path: Path, error: OSError | NotReadable) -> UsageError:
    """A file that the system does not give, or that is none."""
    why = (error.strerror if isinstance(error, OSError) else None) or error
    return UsageError(
        f"cannot read {path}: {why}",
        hint="name a file of rows; docs/data.md says which kinds are read",
        code="E862",
    )
