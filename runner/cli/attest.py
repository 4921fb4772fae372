"""`recipe attest`: state what a run made and from what, for others to check; sign it with a key."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.attest.finished import Finished

HELP = (
    "State what a finished run made and from what. intoto: an in-toto statement with SLSA\n"
    "provenance. cyclonedx: a bill of materials with a model card. The run's files are hashed\n"
    "first. --key signs the statement (a DSSE envelope); --check compares one with the run."
)
EXAMPLE = "recipe attest runs/quickstart --output quickstart.intoto.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe attest`."""
    from runner.attest.formats import FORMATS

    parser.add_argument("run", type=Path, help="a run's folder, or runs/NAME for its newest")
    parser.add_argument("--format", choices=tuple(FORMATS), help="default: intoto")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument("--key", type=Path, metavar="PEM", help="sign with this private key")
    parser.add_argument("--times", action="store_true", help="say when the run was, and its id")
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare FILE with the run")
    parser.add_argument(
        "--public-key", type=Path, metavar="PEM", help="with --check: who must have signed it"
    )


def main(args: argparse.Namespace) -> int:
    """Exit code 0; 7 when files, statement or signature are not what they should be."""
    _refuse_mixtures(args)
    return _check(args) if args.check is not None else _write(args)


def _write(args: argparse.Namespace) -> int:
    from runner.attest.formats import FORMATS, text_of

    about = _finished(args.run)
    _refuse_output_in_run(args.output, about)
    kind = FORMATS[args.format or "intoto"]
    content = text_of(kind.document(about, times=args.times))
    if args.key is not None:
        from runner.attest.signing import signed

        content = signed(content, kind.PAYLOAD_TYPE, args.key)
    _put(content, args.output)
    return 0


def _check(args: argparse.Namespace) -> int:
    from runner.attest.check import compare, read_attestation

    attestation = read_attestation(args.check, args.public_key)
    about = _finished(args.run)
    compare(attestation, about, args.check)
    print(f"files       {len(about.artifacts())} files of the run are as recorded and as attested")
    by = f"valid, by {args.public_key}" if attestation.signed else "none"
    print(f"signature   {by}")
    return 0


def _finished(run: Path) -> Finished:
    from runner.attest.finished import finished
    from runner.report.proof import show_count
    from runner.store.store import Store
    from runner.system.folders import store_folder

    return finished(run, Store(store_folder()), show_count)


def _refuse_mixtures(args: argparse.Namespace) -> None:
    """Options that say nothing together."""
    from runner.errors import UsageError

    writing = {"--format": args.format, "--output": args.output, "--key": args.key,
               "--times": args.times or None}  # fmt: skip
    given = [name for name, value in writing.items() if value is not None]
    if args.check is not None and given:
        raise UsageError(
            f"--check reads an attestation, and {given[0]} is for writing one",
            hint=f"leave {given[0]} out; the format is seen from the file",
        )
    if args.check is None and args.public_key is not None:
        raise UsageError(
            "--public-key is for --check", hint="to sign, give the private key: --key PEM"
        )


def _refuse_output_in_run(output: Path | None, about: Finished) -> None:
    from runner.errors import UsageError

    if output is not None and about.run.folder in output.resolve().parents:
        raise UsageError(
            f"{output} lies in the run's own folder, which holds what the run gave and no more",
            hint="write it beside that folder, or anywhere else",
            code="E845",
        )


def _put(content: bytes, output: Path | None) -> None:
    from runner.errors import UsageError
    from runner.store.atomic import write_atomic

    if output is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
        return
    try:
        write_atomic(output, content)
    except OSError as error:
        raise UsageError(
            f"{output} cannot be written: {error.strerror}",
            hint="name a file in a folder that exists and is yours to write to",
            code="E845",
        ) from None
