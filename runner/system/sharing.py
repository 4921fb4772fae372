"""A cache that several users of one machine share: what one of them makes, the others may replace.

Rights of files are given by the umask of whoever makes them, which on most machines keeps the
group from writing. A folder that a team shares says so itself, by the group's write right and the
set-group-ID bit (`chmod g+ws`), which hands the group down to everything made in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from runner.errors import MachineCannot, RecipeToolError
from runner.store.atomic import disk_refusal, variable_of
from runner.system.folders import CACHE, STORE, cache_folder, store_folder, store_variable

SHARED = stat.S_ISGID | stat.S_IWGRP


def share_with_group() -> None:
    """Leave the group its rights on all that this process makes, where cache or store is shared."""
    with contextlib.suppress(RecipeToolError):  # no home folder: the command says it
        if is_shared(cache_folder()) or is_shared(store_folder()):
            before = os.umask(0o077)
            os.umask(before & ~0o070)


def closed(error: OSError) -> MachineCannot | None:
    """What to tell who may not use the cache or the store; None for every other error."""
    if not isinstance(error, PermissionError) or not isinstance(error.filename, str):
        return None
    with contextlib.suppress(RecipeToolError):
        for folder, variable in ((store_folder(), store_variable()), (cache_folder(), CACHE)):
            if Path(error.filename).is_relative_to(folder):
                return MachineCannot(
                    f"no right to use {folder}: {error.strerror}: {error.filename}",
                    hint="its group may be given the right by chmod g+ws (docs/long-runs.md), and "
                    f"you must be in it (id); or set {variable} to a folder of your own",
                    code="E411",
                )
    return None


def impossible(error: OSError) -> MachineCannot | None:
    """What to tell whose cache or store takes no files: a read-only disk, a file in its place.

    None for every other error: in a folder that can be written, a file in the way is our bug.
    """
    named = None if not isinstance(error.filename, str) else Path(error.filename)
    variable = variable_of(named)
    if not variable or isinstance(error, PermissionError):
        return None
    folder = store_folder() if variable == STORE else cache_folder()
    if error.errno != errno.EROFS and folder.is_dir():
        return None
    return disk_refusal(error, f"making {folder}")


def is_shared(folder: Path) -> bool:
    """Is it there, and a group's to write in?"""
    try:
        return folder.stat().st_mode & SHARED == SHARED
    except OSError:
        return False
