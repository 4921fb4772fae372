"""`recipe webui`: LLaMA Factory's web UI with a recipe's model, data and values in it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import UsageError
from runner.report.beside import say

if TYPE_CHECKING:
    from runner.system.process import Service
    from runner.webui.board import Address
    from runner.webui.workspace import Workspace

HELP = (
    "Start LLaMA Factory's web UI (LLaMA Board) for this machine alone, with the recipe's model, "
    "tokens and values in its form: pressing Start trains what the recipe says, to the same bytes."
)
EXAMPLE = "recipe webui recipes/quickstart.yaml"
PORT = 7860


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe webui`."""
    from runner.recipe import overrides

    parser.add_argument("recipe", type=Path, nargs="?", help="the recipe file; without: as before")
    overrides.add_option(parser)
    parser.add_argument("--port", type=int, default=PORT, help=f"0: any; default: {PORT}")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen")
    parser.add_argument(
        "--expose",
        action="store_true",
        help="allow a --host that other machines reach; asks for a password",
    )
    parser.add_argument(
        "--workspace", type=Path, metavar="FOLDER", help="the folder it works in (default: webui)"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="prepare the workspace, and start nothing"
    )


def main(args: argparse.Namespace) -> int:
    """Serve until a signal ends it (130, 143)."""
    from runner.store.locks import Lock
    from runner.webui import workspace as spaces
    from runner.webui.board import address

    if args.set and args.recipe is None:
        raise UsageError("--set changes a recipe, and none is named", hint=EXAMPLE, code="E133")
    if not 0 <= args.port < 65536:
        raise UsageError(f"there is no port {args.port}", hint="0 takes any that is free")
    where = None if args.prepare else address(args.host, args.port, expose=args.expose)
    folder = (args.workspace or spaces.DEFAULT).resolve()
    space = spaces.Workspace(folder)
    space.make()
    with Lock(folder / ".lock", f"the workspace {folder}", wait=False) as lock:
        if args.recipe is not None:
            _prepare(args, space)
        if where is not None:
            _serve(space, where, lock.fd)
    print(f"{folder} is ready: recipe webui --workspace {folder}")
    return 0


def _prepare(args: argparse.Namespace, space: Workspace) -> None:
    from runner.execution.revisions import pin_revisions
    from runner.execution.run_folder import runs_folder
    from runner.recipe.load import load_recipe
    from runner.report.reporters import print_beside
    from runner.webui.workspace import prepare

    changes = [*args.set, "train.backend=llamafactory"]
    recipe = load_recipe(args.recipe, warn=print_beside, overrides=changes)
    recipe = pin_revisions(recipe, runs_folder(recipe.project_root, recipe.name), say)
    prepare(recipe, space, say)


def _serve(space: Workspace, where: Address, lock_fd: int) -> None:
    """Never returns: a signal, or the end of LLaMA Board, is raised."""
    from runner.system.folders import cache_folder
    from runner.webui import board

    name = space.newest()
    form = space.form(name) if name else {}
    say("starting LLaMA Board")
    service: Service = board.start(space.folder, where, form, cache_folder(), lock_fd, say)
    with service:
        print("\n".join(_welcome(where, name, space.folder)), flush=True)
        board.watch(service, space.folder / board.LOG)


def _welcome(where: Address, name: str | None, folder: Path) -> list[str]:
    from runner.webui.board import USER

    lines = [f"LLaMA Board is at {where.url}"]
    if where.password:
        lines.append(f"  user {USER}, password {where.password}")
    if name:
        lines += [
            f"  The form holds {name}: Start trains it, to the bytes of",
            "  `recipe run --backend llamafactory`. To have its values back: write",
            f"  {name}.yaml into Config path, and press Load arguments.",
            f"  {name}-rows.yaml trains on the rows by LLaMA Factory's own reading.",
        ]
    return [
        *lines,
        "  Then: recipe capture webui/saves/Custom/… -o clicked.yaml",
        "  Ctrl-C ends it.",
    ]
