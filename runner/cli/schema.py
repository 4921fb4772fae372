"""`recipe schema`: print the JSON Schema of recipes, for editors and other tools."""

from __future__ import annotations

import argparse
import sys

from runner.recipe.schema import schema_path

HELP = "Print the JSON Schema (draft-07) that recipes are checked against."
EXAMPLE = "recipe schema > recipe-1.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe schema`: none."""


def main(args: argparse.Namespace) -> int:
    """The file as it is, byte for byte."""
    sys.stdout.buffer.write(schema_path().read_bytes())
    sys.stdout.buffer.flush()
    return 0
