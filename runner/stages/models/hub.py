"""What the stages that fetch from the hub share: pins, and the one child that may use the network.

A branch or tag is no key: `recipe run` asks the hub for its commit first and goes on with a recipe
that names it (execution/revisions.py); `recipe plan` asks nobody, and calls the stage pending.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runner.recipe.model import is_commit

if TYPE_CHECKING:
    from runner.recipe.model import DataFile, HubFile, MeasuredFile, Model, RewardModel
    from runner.recipe.named_tasks import Rows
    from runner.stages.contract import Context


def unpinned(part: Model | DataFile | MeasuredFile | HubFile | RewardModel | Rows) -> str:
    """Why the commit of `part` is not known yet; "" when it is, or is none of the hub's."""
    if part.hub is None or is_commit(part.revision):
        return ""
    branch = f"its {part.revision}" if part.revision else "its main branch"
    return f"{part.hub} is not pinned: a run asks the hub for {branch}"


def pin(part: Model | DataFile | MeasuredFile | HubFile) -> dict[str, Any]:
    """What names the bytes of a pinned repository for ever."""
    assert is_commit(part.revision), "run asks for the commit before it makes keys"
    return {"hub": part.hub, "revision": part.revision, "file": inside(part.file)}


def inside(file: str | None) -> str | None:
    """A path in a repository as the hub writes it."""
    return None if file is None else str(PurePosixPath(file))


def download(wanted: Sequence[Mapping[str, Any]], copies: int, context: Context) -> Path:
    """Have scripts/hub_download.py fetch `wanted`, and return the folder below which it lies."""
    from runner.system.hub import network_env
    from runner.system.offline import require_network

    require_network(", ".join(f"{each['id']} of the hub" for each in wanted))
    context.run_script(
        "hub_download",
        {"wanted": [dict(each) for each in wanted], "copies": copies},
        folder=context.scratch,
        outside=network_env(),
    )
    return context.scratch / "hub"


def download_files(
    files: Mapping[str, DataFile | MeasuredFile | HubFile], folder: Path, context: Context
) -> None:
    """Put every file of a data set into `folder` under its name, which is a path in it."""
    wanted = [
        {
            "id": file.hub,
            "kind": "dataset",
            "revision": file.revision,
            "file": inside(file.file),
            "code": False,
            "place": name,
        }
        for name, file in files.items()
    ]
    downloaded = download(wanted, 0, context)
    for name, file in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (downloaded / name / str(inside(file.file))).rename(folder / name)
    commits = {file.name: file.revision for file in files.values()}
    context.measure("commits", commits)


def download_rows(rows: Mapping[str, Rows], folder: Path, context: Context) -> None:
    """Put the files of every split into `folder`: under its name, a path in it, with their number.

    `tasks/rows-0` -> tasks/rows-0-00000.parquet, in the order of the files' names on the hub.
    """
    from runner.system.hub import network_env
    from runner.system.offline import require_network

    require_network(", ".join(f"{each.name} of the hub" for each in rows.values()))
    wanted = [
        {
            "id": each.hub,
            "revision": each.revision,
            "config": each.config,
            "split": each.split,
            "place": name,
        }
        for name, each in rows.items()
    ]
    context.run_script("hub_rows", {"rows": wanted}, folder=context.scratch, outside=network_env())
    found = json.loads((context.scratch / "rows.json").read_bytes())
    for name in rows:
        (folder / name).parent.mkdir(exist_ok=True)
        for number, path in enumerate(found[name]):
            target = f"{name}-{number:05}{PurePosixPath(path).suffix}"
            (context.scratch / "hub" / name / path).rename(folder / target)
    context.measure("rows", {each.name: each.revision for each in rows.values()})


def has_downloads(scratch: Path) -> bool:
    """Did an earlier try leave files, or parts of them?"""
    return any(path.is_file() for path in (scratch / "hub").rglob("*"))
