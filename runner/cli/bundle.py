"""`recipe bundle`: a run as one archive that another machine verifies, or runs again offline."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HELP = (
    "Write a run as one archive: its lock, its inputs, the base model and all results. The same\n"
    "run gives the same bytes, whoever bundles it. `recipe verify` and `recipe run --offline`\n"
    "take the archive on another machine."
)
EXAMPLE = "recipe bundle runs/quickstart --output quickstart.tar"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe bundle`."""
    parser.add_argument("run", type=Path, help="a run's folder, or runs/NAME for its newest")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the archive to write, ending in .tar (default: NAME-DIGEST.tar, here)",
    )
    parser.add_argument(
        "--without-base",
        action="store_true",
        help="leave the base model out: whoever runs the bundle fetches it, or cannot",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(args: argparse.Namespace) -> int:
    """Write the archive; exit code 0 when it is on the disk."""
    from runner.bundle.contents import contents_of
    from runner.bundle.write import archive_size, check_space, write_archive
    from runner.store.store import Store
    from runner.system.folders import store_folder
    from runner.verify.run import open_run

    contents = contents_of(open_run(args.run), Store(store_folder()), base=not args.without_base)
    index = contents.index
    target = _target(args.output, index.title)
    size = archive_size(index)
    base = contents.base_size
    print(f"writing {target}: {in_words(size)}, {len(index.files)} files", file=sys.stderr)
    if base > size // 2:
        share = f"  the base model is {in_words(base)} of it; --without-base leaves it out"
        print(share, file=sys.stderr)
    check_space(index, target)
    write_archive(index, contents.sources, target)
    if args.format == "json":
        facts = {"schema": 1, "bundle": str(target), "sha256": index.digest, "size": size}
        print(json.dumps(facts | {"files": len(index.files), "left_out": list(index.left_out)}))
    else:
        print(f"wrote {target}, whose index has the sha256 {index.digest}")
        print(f"On the other machine:  recipe verify {target.name}")
        print(f"                       recipe run {target.name} --offline")
    return 0


def _target(output: Path | None, title: str) -> Path:
    from runner.bundle.archive import is_bundle
    from runner.errors import UsageError

    target = output or Path(f"{title}.tar")
    if not is_bundle(target) or target.is_dir():
        raise UsageError(
            f"{target} cannot be the name of a bundle: it is a folder, or does not end in .tar",
            hint=f"--output {target.with_name(target.name + '.tar')}",
        )
    return target


def in_words(size: int) -> str:
    """`13.2 GB`, in powers of 1000."""
    number = float(size)
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.{0 if unit == 'B' else 1}f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
