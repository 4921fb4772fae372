"""`recipe data`: look at files of rows, convert them, prepare a recipe's, have new ones made."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from runner.errors import Interrupted, MachineCannot, RecipeToolError, UsageError
from runner.report.beside import say_line

if TYPE_CHECKING:
    from runner.rows.opening import Plain
    from runner.rows.seen import RowFile
    from runner.rows.survey import Survey
    from runner.scripts.data.convert import Converted
    from runner.scripts.data.special_text import SpecialText

HELP = (
    "Look at files of rows, write them in another format, prepare those of a recipe,\n"
    "and have a model make new ones."
)
EXAMPLE = "recipe data inspect recipes/data/spark-faq.jsonl"
_BEGINS_ANEW = "run the same command again; it begins anew, and left nothing behind"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands below `recipe data`."""
    from runner.recipe import overrides
    from runner.scripts.data.files.rows import MAX_SHOWN
    from runner.scripts.data.formats import EVERY

    commands = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    inspect = commands.add_parser("inspect", help="the format, what is in it, problems by line")
    inspect.add_argument("files", nargs="*", type=Path, metavar="FILE", help="files of rows")
    inspect.add_argument(
        "--recipe", type=Path, help="show rows as its model will see them; its files by default"
    )
    inspect.add_argument(
        "--rows", type=_count, default=3, metavar="N", help="rows to show; default: %(default)s"
    )
    inspect.add_argument(
        "--bad",
        type=_many,
        metavar="N",
        help=f"bad rows to name; default: {MAX_SHOWN}, and all of them as json",
    )
    inspect.add_argument("--from", dest="source", choices=EVERY, help="read them as this format")
    _add_columns(inspect)
    inspect.add_argument("--format", choices=("text", "json"), default="text")

    convert = commands.add_parser("convert", help="write a file of rows in another format")
    convert.add_argument("file", type=Path, metavar="IN", help="a file of rows")
    convert.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help=".jsonl, .json, .csv, .tsv, perhaps with .gz, .xz or .zst; .parquet; - is the output",
    )
    convert.add_argument("--to", dest="target", choices=EVERY, required=True)
    convert.add_argument("--from", dest="source", choices=EVERY, help="default: what it looks like")
    _add_columns(convert)
    convert.add_argument("--lossy", action="store_true", help="write it though something is lost")
    convert.add_argument("--force", action="store_true", help="replace OUT where it exists")

    prepare = commands.add_parser("prepare", help="the stage prepare alone, and its statistics")
    prepare.add_argument("recipe", type=Path, help="the recipe file")
    overrides.add_option(prepare)
    prepare.add_argument("--format", choices=("text", "json"), default="text")

    synthesize = commands.add_parser("synthesize", help="new rows, by asking a model")
    synthesize.add_argument("file", type=Path, metavar="FILE", help="the synthesis recipe")
    synthesize.add_argument("-o", "--out", type=Path, metavar="OUT", help="where rows go: .jsonl")
    synthesize.add_argument(
        "--check", action="store_true", help="only check FILE and what it names"
    )
    synthesize.add_argument("--offline", action="store_true", help="from the log alone; ask nobody")
    synthesize.add_argument(
        "--force", action="store_true", help="replace OUT, though it was changed or made otherwise"
    )
    synthesize.add_argument("--format", choices=("text", "json"), default="text")


def _add_columns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="KEY=NAME",
        help="what the file calls a key of the format, such as output=answer; needs --from",
    )


def _count(text: str) -> int:
    if not text.isdigit() or len(text) > 4:
        raise argparse.ArgumentTypeError("give a number from 0 to 9999")
    return int(text)


def _many(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError("give a number from 0 to 999999999")
    return int(text)


def main(args: argparse.Namespace) -> int:
    """Run what is asked for."""
    if args.what in ("prepare", "synthesize"):
        return {"prepare": _prepare, "synthesize": _synthesize}[args.what](args)
    try:
        return {"inspect": _inspect, "convert": _convert}[args.what](args)
    except (KeyboardInterrupt, Interrupted) as error:
        number = error.exit_code - 128 if isinstance(error, Interrupted) else signal.SIGINT
        raise Interrupted(number, hint=_BEGINS_ANEW) from None


def _columns(args: argparse.Namespace) -> dict[str, str]:
    """Of --column. Raises UsageError."""
    from runner.scripts.data.formats import FIELDS

    named = dict(each.partition("=")[::2] for each in args.column)
    if named and args.source is None:
        raise UsageError("--column needs --from", hint="say which format the columns are for")
    for key, name in named.items():
        known = FIELDS[args.source]
        if key not in known or not name:
            raise UsageError(
                f"--column {key}={name}: format {args.source} reads {', '.join(known)}",
                hint="write KEY=NAME, such as output=answer",
            )
    return named


# --- inspect


def _inspect(args: argparse.Namespace) -> int:
    """0; 1 where a row does not fit, or there is none. Raises what is wrong with a whole file."""
    from runner.report.reporters import print_beside, wants_color
    from runner.rows.survey import as_data, note_seen

    recipe = None
    if args.recipe is not None:
        from runner.recipe.load import load_recipe

        recipe = load_recipe(args.recipe, warn=print_beside)
    failed: list[RecipeToolError] = []
    with ExitStack() as files:
        found = list(_surveys(args, recipe, files, failed))
        rows = _seen(recipe, found) if recipe is not None and args.rows and found else []
    for each, _ in found:
        note_seen(each, rows)
    if args.format == "json":
        said: dict[str, Any] = {"schema": 1, "files": [as_data(each) for each, _ in found]}
        said |= {"errors": [_error_data(each) for each in failed]} if failed else {}
        print(json.dumps(said | ({"seen": rows} if recipe else {}), indent=2, ensure_ascii=False))
    else:
        for line in _lines(found, rows, seen=recipe is not None, color=wants_color(sys.stdout)):
            print(line)
    _raise_last(failed)
    return 0 if all(each.is_sound for each, _ in found) else 1


def _error_data(error: RecipeToolError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "hint": error.hint}


def _raise_last(failed: Sequence[RecipeToolError]) -> None:
    """Say why each file is not shown; the error with the highest exit code is raised."""
    from runner.report.beside import error_lines

    ordered = sorted(failed, key=lambda error: error.exit_code)
    for error in ordered[:-1]:
        print(*error_lines(error), sep="\n", file=sys.stderr)
    if ordered:
        raise ordered[-1]


def _surveys(
    args: argparse.Namespace, recipe: Any, files: ExitStack, failed: list[RecipeToolError]
) -> Iterator[tuple[Survey, RowFile]]:
    """Each file, and how it is shown to the model; what stops at one file goes to `failed`."""
    from runner.errors import StageFailed
    from runner.rows.seen import special_of
    from runner.scripts.data.special_text import SpecialText

    if not args.files and recipe is None:
        raise UsageError("name files of rows, or a recipe", hint=EXAMPLE)
    special = special_of(recipe) if recipe is not None else SpecialText(())
    for file in _files(args, recipe, failed):
        try:
            yield _surveyed(file, args, files, special)
        except (UsageError, StageFailed, MachineCannot) as error:
            failed.append(error)


def _files(args: argparse.Namespace, recipe: Any, failed: list[RecipeToolError]) -> list[RowFile]:
    """Those that are named, of format "" where it is to be guessed, or else the recipe's; of the
    recipe's, those that are not at hand go to `failed`."""
    from runner.rows.cleaned import steps_of
    from runner.rows.seen import RowFile, files_of

    columns, source, clean = _columns(args), args.source or "", steps_of(recipe)
    named = [RowFile(path, str(path), source, columns, clean=clean) for path in args.files]
    return named or files_of(recipe, failed)


def _surveyed(
    file: RowFile, args: argparse.Namespace, files: ExitStack, special: SpecialText
) -> tuple[Survey, RowFile]:
    """A file, and how it is shown to the model. Raises RecipeToolError."""
    from runner.rows.opening import opened
    from runner.rows.survey import survey
    from runner.scripts.data.files.rows import MAX_SHOWN

    bad = args.bad
    if bad is None:
        bad = sys.maxsize if args.format == "json" else MAX_SHOWN
    plain = files.enter_context(opened(file.path, file.read))
    given, columns = file.format or None, file.columns
    found = survey(plain.path, file.name, args.rows, given, columns, bad, file.clean, special)
    found.left_out = plain.left_out
    columns = dict(found.columns)
    return found, replace(file, path=plain.path.resolve(), format=found.format, columns=columns)


def _seen(recipe: Any, found: Sequence[tuple[Survey, RowFile]]) -> list[dict[str, Any]]:
    from runner.rows.seen import seen_rows

    count = max((len(each.first) for each, _ in found), default=0)
    return seen_rows(recipe, [file for _, file in found], count)


def _lines(
    found: Sequence[tuple[Survey, RowFile]], rows: list[dict[str, Any]], *, seen: bool, color: bool
) -> Iterator[str]:
    from runner.rows.show import canonical_lines, seen_lines, survey_lines

    for number, (each, _) in enumerate(found):
        if number:
            yield ""
        yield from survey_lines(each)
        if not seen:
            yield from canonical_lines(each, color=color)
    yield from seen_lines(rows, color=color)


# --- convert


def _convert(args: argparse.Namespace) -> int:
    """Write OUT as a whole, or not at all."""
    from runner.rows.destination import STDOUT
    from runner.rows.opening import opened

    spoken = str(args.out) == STDOUT
    if not spoken:
        _check_out(args)
    with opened(args.file) as plain:
        done = _converted(args, plain)
    where = "written" if spoken else f"in {args.out}"
    print(
        f"{_rows(done.written)} of format {args.target} {'is' if done.written == 1 else 'are'} "
        f"{where}",
        file=sys.stderr if spoken else sys.stdout,
    )
    for line in _lost(done):
        print(line, file=sys.stderr)
    return 0


def _check_out(args: argparse.Namespace) -> None:
    """Raises UsageError where no file is to be written under that name."""
    from runner.rows.destination import NAMES, check_folder

    if not args.out.name.lower().endswith(NAMES):
        raise UsageError(
            f"{args.out} has none of the endings {', '.join(NAMES)}",
            hint="name the file by what is to be written into it",
            code="E868",
        )
    if args.out.is_dir():
        raise UsageError(
            f"{args.out} is a folder, not a file",
            hint=f"name a file in it: {args.out}/rows.jsonl",
            code="E866",
        )
    if args.out.exists() and not args.force:
        raise UsageError(
            f"{args.out} exists", hint="write --force to replace it, or another name", code="E866"
        )
    check_folder(args.out)


def _converted(args: argparse.Namespace, plain: Plain) -> Converted:
    """Write OUT. Raises UsageError, MachineCannot."""
    from runner.report.printable import escaped
    from runner.rows.destination import write_whole
    from runner.rows.survey import guess_file, not_guessed
    from runner.scripts.data.convert import convert
    from runner.scripts.data.files.rows import Place
    from runner.store.atomic import disk_errors

    rows, source, columns = plain.path, args.source, _columns(args)
    if source is None:
        guess = guess_file(rows, args.file.name)
        if guess is None:
            raise not_guessed(rows, str(args.file))
        source, columns = guess.format, dict(guess.columns)
        print(escaped(f"{args.file} {guess}"), file=sys.stderr)

    def make(out: IO[bytes], shape: str) -> Converted:
        done = convert(rows, args.file.name, out, shape, source, args.target, columns)
        for name, why in plain.left_out.items():
            done.lost[f'the column "{name}", which is no JSON ({why})'] = (
                done.read,
                Place(args.file.name, 1),
            )
        _refuse(args, done, source)
        return done

    with disk_errors(f"writing {args.out}", args.out):
        return write_whole(args.out, make)


def _refuse(args: argparse.Namespace, done: Converted, source: str) -> None:
    """Raises UsageError, so that nothing is written, where rows are bad or would lose something."""
    from runner.report.printable import escaped
    from runner.rows.survey import no_rows

    if done.unreadable:
        lines = [f"{each.place}: {each.error.message}" for each in done.problems]
        more = ""
        if done.unreadable > len(lines):
            lines.append(f"and {done.unreadable - len(lines)} more rows")
            more = f" --bad {done.unreadable}"
        raise UsageError(
            "\n  ".join(["rows cannot be read; nothing is written:", *map(escaped, lines)]),
            hint=f"correct them: {_to_inspect(args)}{more}",
            code="E867",
        )
    if not done.read:
        raise no_rows(str(args.file))
    lost = {**done.unfit, **done.lost}
    if lost and not (args.lossy and done.written):
        by_format = bool(lost.keys() - done.by_file)
        holder = f"format {args.target}" if by_format else _file_kind(args.out)
        wrong = f"{holder} cannot hold all of it; nothing is written:"
        raise UsageError(
            "\n  ".join([wrong, *_lost(done)]),
            hint=", or ".join(_instead(args, done, source, by_format=by_format)),
            code="E865",
        )


def _file_kind(out: Path) -> str:
    """What a file of such a name is, in words; - is JSON lines."""
    name = out.name.lower()
    if name.endswith(".parquet"):
        return "a file of Parquet"
    return "a table" if {".csv", ".tsv"} & set(Path(name).suffixes) else "a file of JSON"


def _instead(
    args: argparse.Namespace, done: Converted, source: str, *, by_format: bool
) -> Iterator[str]:
    """What to do where something is lost; `by_format`: by the format, not the file alone."""
    if done.written:
        yield "write --lossy to lose it"
    if done.by_file:
        others = "" if args.out.name.lower().endswith(".parquet") else " or .parquet"
        yield f"name OUT .jsonl{others}, which holds it"
    if by_format and (holders := done.holders(source)):
        yield f"choose another format, which holds it: {' or '.join(holders)}"
    elif by_format and not done.written:
        yield f"keep format {source}: no other holds all of it; docs/data.md says what each holds"


def _to_inspect(args: argparse.Namespace) -> str:
    """The command that shows the same file, read in the same way."""
    words = ["recipe", "data", "inspect", str(args.file)]
    words += ["--from", args.source] if args.source else []
    for each in args.column:
        words += ["--column", each]
    return shlex.join(words)


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _lost(done: Converted) -> Iterator[str]:
    """What of rows is lost, and which rows are left out as a whole."""
    from runner.report.printable import escaped

    for why, (count, place) in done.unfit.items():
        yield escaped(f"left out: {_rows(count)}, the first at {place}: {why}")
    for what, (count, place) in done.lost.items():
        yield escaped(f"lost: {what}: {_rows(count)}, the first at {place}")


# --- prepare


def _prepare(args: argparse.Namespace) -> int:
    """Run the recipe until `prepare`, and say what it made of the rows."""
    measures, folder = _prepared(args)
    if args.format == "json":
        said = {"schema": 1, "run": folder and str(folder), "measures": measures}
        print(json.dumps(said, indent=2, ensure_ascii=False))
        return 0
    from runner.rows.prepared import prepared_lines

    for line in prepared_lines(measures):
        print(line)
    print(f"run folder: {folder}" if folder else "everything is up to date; nothing was run")
    return 0


def _prepared(args: argparse.Namespace) -> tuple[Mapping[str, Any], Path | None]:
    """What `prepare` measured, and the folder of the run; None where all of it is in the store."""
    from runner.cli import run
    from runner.plan.chain import plan_chain
    from runner.runs.reading import loaded
    from runner.stages import stages_of
    from runner.store import known_digests
    from runner.store.store import Store
    from runner.system.folders import store_folder

    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    options = parser.parse_args([str(args.recipe), "--until", "prepare"])
    options.recipe, options.set = args.recipe, args.set
    recipe, lock = loaded(options)
    stages, store = stages_of(recipe, "prepare"), Store(store_folder())
    *_, link = plan_chain(recipe, stages, store)
    known_digests.keep()
    if (outputs := link.steps[-1].outputs) is not None:
        return outputs.measures, None
    folder = run.execute_chain(options, link, store, lock, run.nothing)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    stage = next(stage for stage in record["stages"] if stage["name"] == "prepare")
    return stage["measures"], folder


# --- synthesize


def _synthesize(args: argparse.Namespace) -> int:
    """Write OUT as a whole, or not at all; every answer is in the log beside it at once."""
    from runner.report.reporters import print_beside
    from runner.synthesis import command, report
    from runner.synthesis.settings import read_settings
    from runner.synthesis.synthesize import material_of

    if not args.check:
        _check_rows_out(args)
    settings = read_settings(args.file)
    material = material_of(settings)
    print_beside(report.foreseen(settings, material))
    if args.check:
        found = f"{len(material.seeds)} seed rows, {len(material.parts)} parts of documents"
        print(f"{args.file} is right: {settings.kind}, {found}")
        return 0
    told = command.Told(say_line, _Progress(settings.count))
    finished = command.run(
        settings, material, args.out, told, offline=args.offline, force=args.force
    )
    print_beside(report.warnings(settings, finished.result))
    if args.format == "json":
        said = report.as_data(settings, args.out, finished)
        print(json.dumps(said, indent=2, ensure_ascii=False))
        return 0
    for line in report.lines(settings, args.out, finished):
        print(line)
    return 0


def _check_rows_out(args: argparse.Namespace) -> None:
    """Raises UsageError, before anything is read, where no rows can go there."""
    from runner.synthesis.output import check_output

    if args.out is None:
        raise UsageError("-o says where the rows go", hint="add -o rows.jsonl", code="E900")
    check_output(args.out)


class _Progress:
    """Says on a terminal, every few seconds, how many rows there are."""

    SECONDS = 5.0

    def __init__(self, wanted: int) -> None:
        self._wanted, self._said = wanted, time.monotonic()

    def __call__(self, rows: int) -> None:
        if sys.stderr.isatty() and time.monotonic() - self._said >= self.SECONDS:
            self._said = time.monotonic()
            print(f"{rows} of {self._wanted} rows", file=sys.stderr)
