"""`recipe gc`: remove stored results that no run refers to, after saying what."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.store.collect import Collection

HELP = "Remove stored results that no run folder refers to, and leftovers of killed runs."
EXAMPLE = "recipe gc --dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe gc`."""
    parser.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Say what goes, then remove it."""
    from runner.store.collect import collect
    from runner.store.known_digests import notes_folder
    from runner.store.store import Store
    from runner.system.folders import store_folder

    found = collect(Store(store_folder()), dry_run=args.dry_run, notes=notes_folder())
    if args.format == "json":
        print(json.dumps(_as_data(found), indent=2, ensure_ascii=False))
        return 0
    verb = "would remove" if args.dry_run else "removed"
    for item in found.removed:
        print(f"{verb}  {item.size:>14,} bytes  {item.path}  ({item.reason})")
    for path in found.in_use:
        print(f"kept, in use by a running process: {path}")
    for root in found.unresolved:
        print(f"kept for a run that cannot be looked at now: {root.folder} (noted in {root.file})")
    print(f"{verb} {len(found.removed)} item(s), {found.freed:,} bytes")
    return 0


def _as_data(found: Collection) -> dict[str, Any]:
    return {
        "schema": 1,
        "removed": [
            {"path": str(item.path), "reason": item.reason, "size": item.size}
            for item in found.removed
        ],
        "in_use": [str(path) for path in found.in_use],
        "unresolved": [str(root.folder) for root in found.unresolved],
        "freed": found.freed,
    }
