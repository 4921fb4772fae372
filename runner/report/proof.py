"""A proof of a run as text and as data, and what shows while it is made."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.verify.prove import Proof


def print_proof(proof: Proof, style: str) -> None:
    """On stdout, as `text` or `json`."""
    if style == "json":
        print(json.dumps(as_data(proof), indent=2, ensure_ascii=False))
    else:
        print("\n".join(as_lines(proof)))


def as_lines(proof: Proof) -> list[str]:
    """What was found, worst first, and one line that sums it up."""
    run, level, checked, again = proof.run, proof.level, proof.checked, proof.again
    bad = [item for item in checked if item.problem]
    lines = [f"changed   {item.path} {item.problem}" for item in bad]
    lines += [f"not here  {item.path}: no longer in the store" for item in checked if item.absent]
    hashed = sum(not item.absent for item in checked)
    if bad:
        lines.append(f"NOT as recorded: {len(bad)} of {hashed} files of {run.folder}")
        if level != "files":
            lines.append(f"level {level} was not tried: it would start from changed files")
        lines.append(f"next: {proof.remedy}")
        return lines
    lines.append(f"files     {hashed} files hashed, all as recorded")
    if until := run.record.get("until"):
        lines.append(f"note      the run ended with {until}, as it was told to (--until)")
    if unproved := proof.unproved:
        lines.append(
            f"NOT claimed: {', '.join(unproved)} went on from a checkpoint, which is not proved to "
            "give the bytes of a run without interruption"
        )
        lines.append("next: run the recipe again, without an interruption, for a run to prove")
    if again is not None:
        lines += [f"note      {note}" for note in again.notes]
        if again.difference is None:
            derived = ", ".join(again.stages)
            lines.append(f"{level:<9} derived again, every byte equal: {derived}")
        else:
            lines.append(f"NOT reproduced: the first difference is in {again.difference}")
    return lines


def as_data(proof: Proof) -> dict[str, Any]:
    """The same for machines."""
    run, level, checked, again = proof.run, proof.level, proof.checked, proof.again
    data: dict[str, Any] = {
        "schema": 1,
        "run": str(run.folder),
        "until": run.record.get("until"),
        "level": level,
        "files": sum(not item.absent for item in checked),
        "changed": [
            {"stage": item.stage, "path": str(item.path), "problem": item.problem}
            for item in checked
            if item.problem
        ],
        "absent": [str(item.path) for item in checked if item.absent],
        "unproved": proof.unproved,
        "derived": None,
    }
    if again is not None:
        found = again.difference
        data["derived"] = {
            "stages": list(again.stages),
            "notes": list(again.notes),
            "difference": found
            and {"stage": found.stage, "file": found.file, "where": found.where},
        }
    return data


def show_count(done: int, total: int) -> None:
    """On a terminal, how many files are hashed."""
    if sys.stderr.isatty():
        print(f"\r{done}/{total} files hashed", end="\n" if done == total else "", file=sys.stderr)
