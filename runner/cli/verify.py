"""`recipe verify`: prove that a run's results are what it says, by hash or by doing them again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.verify.prove import Proof

HELP = (
    "Prove a run. files: hash everything again. export: derive merge, GGUF and what Ollama gets\n"
    "again and compare the bytes. train: derive everything again, training included."
)
EXAMPLE = "recipe verify runs/quickstart --level export"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe verify`."""
    from runner.verify.prove import LEVELS

    parser.add_argument(
        "run", type=Path, help="a run's folder, runs/NAME for its newest, or a bundle"
    )
    parser.add_argument("--level", choices=LEVELS, default="files")
    parser.add_argument(
        "--trust-bundled-code",
        action="store_true",
        help="let the Python code run that a bundle holds for a model with trust_remote_code",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Exit code 0 when proved, 7 when not."""
    from runner.bundle.archive import is_bundle
    from runner.report.proof import print_proof

    proof = _of_bundle(args) if is_bundle(args.run) else _of_run(args)
    print_proof(proof, args.format)
    return 0 if proof.holds else 7


def _of_run(args: argparse.Namespace) -> Proof:
    from runner.execution.display import show_progress
    from runner.report.proof import show_count
    from runner.store.store import Store
    from runner.system.folders import cache_folder, store_folder
    from runner.verify.prove import prove
    from runner.verify.run import open_run

    return prove(
        open_run(args.run),
        args.level,
        Store(store_folder()),
        cache_folder(),
        on_file=show_count,
        open_display=show_progress,
    )


def _of_bundle(args: argparse.Namespace) -> Proof:
    from runner.bundle.archive import open_archive
    from runner.bundle.check import prove_bundle
    from runner.execution.display import show_progress
    from runner.report.proof import show_count
    from runner.store.store import Store
    from runner.system.folders import cache_folder, store_folder

    with open_archive(args.run) as archive:
        return prove_bundle(
            archive,
            args.level,
            Store(store_folder()),
            cache_folder(),
            trust_code=args.trust_bundled_code,
            on_file=show_count,
            open_display=show_progress,
        )
