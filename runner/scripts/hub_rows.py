"""Download splits of data sets at pinned commits into spec.scratch/hub, checked by digest.

spec.hashed: rows, a list of {id, revision, config, split, place}. What is found goes to
spec.scratch/rows.json: place -> paths below spec.scratch/hub/PLACE, in the order of their names.
Files of an earlier try are gone on with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runner.scripts.dataset_files import CARD, files_of
from runner.scripts.hub_client import Hub, RemoteFile, Repository, Transfer
from runner.scripts.hub_download import Wanted, check_room, download, told_of_a_full_disk
from runner.scripts.spec import Events, Spec, main

FOUND = "rows.json"


def hub_rows(spec: Spec, events: Events) -> None:
    """List each repository once, choose, see whether it all fits, download."""
    hub, folder = Hub(), spec.scratch / "hub"
    listed: dict[Repository, tuple[dict[str, RemoteFile], bytes]] = {}
    wanted: list[Wanted] = []
    found: dict[str, list[str]] = {}
    with told_of_a_full_disk(folder):
        for item in spec.hashed["rows"]:
            repository = Repository(item["id"], "dataset", item["revision"])
            if repository not in listed:
                listed[repository] = _listing(hub, repository, spec.scratch, events)
            known, card = listed[repository]
            paths = files_of(known, card, item["id"], item["config"], item["split"])
            found[item["place"]] = paths
            place = folder / item["place"]
            wanted += [Wanted(repository, known[path], place / path) for path in paths]
        check_room(wanted, folder, 0)
        download(hub, wanted, events)
    (spec.scratch / FOUND).write_text(json.dumps(found), encoding="utf-8")


def _listing(
    hub: Hub, repository: Repository, scratch: Path, events: Events
) -> tuple[dict[str, RemoteFile], bytes]:
    """The repository's files, and its card, empty where it has none."""
    files: dict[str, Any] = hub.files(repository)
    if CARD not in files:
        return files, b""
    target = scratch / "cards" / str(repository.revision) / CARD
    hub.download(repository, files[CARD], target, Transfer(events, files[CARD].size))
    return files, target.read_bytes()


if __name__ == "__main__":
    main(hub_rows)
