"""`recipe gc`: remove stored results that no run refers to, after saying what."""

from __future__ import annotations

import argparse
import json

HELP = "Remove stored results that no run folder refers to, and leftovers of killed runs."
EXAMPLE = "recipe gc --dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe gc`."""
    parser.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Say what goes, then remove it."""
    from runner.store.store import Store
    from runner.system.folders import store_folder

    store = Store(store_folder())
    report = store.collect(dry_run=args.dry_run)
    if args.format == "json":
        print(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
        return 0
    for item in report.removed:
        print(f"{'would remove' if args.dry_run else 'removed'}  {item.size:>14,} bytes  {item.path}  ({item.reason})")
    print(report.closing_line())
    return 0
