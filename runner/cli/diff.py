"""`recipe diff`: where two runs part, from the inputs to what Ollama got."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.verify.compare import StageComparison

HELP = "Say stage by stage what two runs have in common, and where they part first."
EXAMPLE = "recipe diff runs/quickstart/20260101-120000 runs/quickstart/latest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe diff`."""
    parser.add_argument("first", type=Path, help="a run's folder, or runs/NAME for its newest")
    parser.add_argument("second", type=Path, help="another one")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Print the comparison. Exit code 0: equal in every byte; 7: not."""
    from runner.store.store import Store
    from runner.system.folders import store_folder
    from runner.verify.compare import compare_runs
    from runner.verify.run import open_run

    found = compare_runs(open_run(args.first), open_run(args.second), Store(store_folder()))
    print(as_json(found) if args.format == "json" else as_text(found))
    return 0 if all(stage.equal for stage in found) else 7


def as_text(stages: list[StageComparison]) -> str:
    """One block a stage: inputs, then outputs."""
    lines = []
    for stage in stages:
        lines.append(f"{stage.stage:<10} {'equal' if stage.equal else 'DIFFERENT'}")
        lines += [f"    input   {change}" for change in stage.inputs]
        lines += [f"    output  {stage.difference}"] if stage.difference else []
    parted = next((stage for stage in stages if not stage.equal), None)
    lines.append(
        "the runs are equal in every byte" if parted is None else f"they part in {parted.stage}"
    )
    return "\n".join(lines)


def as_json(stages: list[StageComparison]) -> str:
    """The same for machines; `parts_in` is null for equal runs."""
    parted = next((stage.stage for stage in stages if not stage.equal), None)
    return json.dumps(
        {
            "schema": 1,
            "parts_in": parted,
            "stages": [
                {
                    "stage": stage.stage,
                    "equal": stage.equal,
                    "inputs": list(stage.inputs),
                    "difference": stage.difference
                    and {
                        "file": stage.difference.file,
                        "where": stage.difference.where,
                        "more_files": stage.difference.more,
                    },
                }
                for stage in stages
            ],
        },
        indent=2,
        ensure_ascii=False,
    )
