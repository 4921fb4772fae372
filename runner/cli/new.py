"""`recipe new`: a commented, valid recipe, recommended for a model, data and a machine."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import RecipeInvalid, UsageError
from runner.imports import REGISTRY
from runner.recipe.creation.goals import DEFAULT, GOALS, goal_of, goals_for
from runner.recipe.methods import METHODS

if TYPE_CHECKING:
    from runner.recipe.creation.facts import DataFacts, Machine, ModelFacts
    from runner.recipe.creation.recommend import FitsNowhere, Recommendation
    from runner.recipe.creation.write import Wish

HELP = (
    "Write a commented, valid recipe: full fine-tuning, LoRA or QLoRA, rank, length, batch and\n"
    "learning rate, each with its reason. Asks on a terminal; else every answer is a flag. Looks\n"
    "at the disk only, never at the network."
)
EXAMPLE = "recipe new my-first.yaml --model smollm2 --data recipes/data/spark-faq.jsonl"

USUAL_GPU_MEMORY = 24  # GB
FORMATS = (
    *("messages", "alpaca", "sharegpt", "prompt-completion", "text", "preference", "kto", "prompt"),
)
KINDS = ("spark", "gpu", "cpu")
_GB = 10**9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recipe new`."""
    parser.add_argument(
        "path", nargs="?", type=Path, metavar="PATH", help="the new file; default: NAME.yaml"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="PATH", help="the same, as an option")
    goals = "; ".join(f"{name}: {goal.what}" for name, goal in GOALS.items())
    parser.add_argument("--goal", choices=GOALS, help=f"{goals}. Default: by the rows, else chat")
    parser.add_argument(
        "--model",
        help="a repository of the hub (ORGANISATION/NAME), a folder, a GGUF file, or smollm2 "
        "for the small one of the quickstart",
    )
    parser.add_argument("--revision", help="commit of the repository, to pin it")
    parser.add_argument(
        "--parameters", metavar="N", help="size of the model, such as 8B, where nothing says it"
    )
    parser.add_argument(
        "--data", type=Path, action="append", metavar="FILE", help="rows to train on; repeatable"
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="of the rows; default: what the first rows are"
    )
    parser.add_argument("--system", help="system turn for conversations that have none")
    parser.add_argument(
        "--machine",
        metavar="MACHINE",
        help="what trains: spark, gpu, cpu, or a name or file of `recipe plan --hardware`, such as "
        "rtx-4090; default: this machine",
    )
    parser.add_argument(
        "--memory", type=float, metavar="GB", help="of the GPU, or of a machine without one"
    )
    parser.add_argument(
        "--tuning", choices=("full", "lora", "qlora"), help="default: what is recommended"
    )
    parser.add_argument("--max-length", type=int, metavar="TOKENS", help="default: by the data")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="start from settings of another tool: a YAML or JSON file of axolotl, LLaMA Factory "
        "or TRL, a notebook or script of Unsloth, which is read and not run",
    )
    parser.add_argument(
        "--as",
        dest="kind",
        choices=sorted(REGISTRY),
        help="whose settings they are; default: as they look",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        help="what settings of TRL train, where they do not tell: beta is DPO's, ORPO's and KTO's",
    )
    parser.add_argument(
        "--workspace",
        type=Path,
        metavar="FOLDER",
        help="where the paths in that file start; default: this folder",
    )
    parser.add_argument(
        "--report", choices=("text", "json"),
        help="of what became of each setting of that file; default: text",
    )  # fmt: skip
    parser.add_argument("--name", help="of the recipe; default: by the file or the model")
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")
    parser.add_argument("--stdout", action="store_true", help="print the recipe, write nothing")
    parser.add_argument("--no-input", action="store_true", help="ask nothing, even on a terminal")


def main(args: argparse.Namespace) -> int:
    """Ask, recommend, check, write."""
    if args.path is not None and args.output is not None:
        raise UsageError("the new file is named twice", hint="leave out one of PATH and --output")
    args.path = args.path or args.output
    if args.source is not None:
        return _import(args)
    from runner.recipe.creation.by_method import NothingToLearn
    from runner.recipe.creation.recommend import FitsNowhere
    from runner.recipe.creation.write import TUNINGS, check, compose

    _refuse_what_goes_with_from(args)
    asks = sys.stdin.isatty() and sys.stderr.isatty() and not args.no_input
    if args.path is not None:
        _new_path(args)(args.path)
    wish = _wish(args, _Questions(asks))
    try:
        text, made = compose(wish)
    except NothingToLearn as error:
        told = f"the rows are not enough for --goal {wish.goal}: {error.what}"
        raise UsageError(told, hint=error.hint, code="E954") from error
    except FitsNowhere as error:
        raise _too_large(wish.model_facts, wish.machine, error) from error
    try:
        warnings = check(text, wish.path)
    except RecipeInvalid as error:
        raise _not_valid(error, wish) from error
    if args.stdout:
        sys.stdout.write(text)
        return 0
    _write(wish.path, text)
    print(f"wrote {wish.path}: {TUNINGS[made.tuning]}, about {made.memory.total / _GB:.0f} GB")
    _say_next(wish, warnings, made)
    return 0


def _too_large(model: ModelFacts, machine: Machine, error: FitsNowhere) -> UsageError:
    return UsageError(
        f"{model.name} does not fit: even {error.tuning} needs about "
        f"{error.need / _GB:.0f} GB, and {machine} has {error.have / _GB:.0f} GB for it",
        hint="take a smaller model or a larger machine; --tuning qlora writes it all the same",
        code="E159",
    )


def _refuse_what_goes_with_from(args: argparse.Namespace) -> None:
    given = {
        "--as": args.kind,
        "--method": args.method,
        "--workspace": args.workspace,
        "--report": args.report,
    }
    for flag, value in given.items():
        if value is not None:
            raise UsageError(
                f"{flag} is about a file of settings, and none is given",
                hint=f"name it: recipe new --from FILE {flag} …",
                code="E857",
            )


def _import(args: argparse.Namespace) -> int:
    from runner.imports.write import import_file
    from runner.recipe.creation.write import slug

    path = args.path or Path(f"{slug(args.source.stem)}.yaml")
    return import_file(args, _new_path(args)(path))


# --- questions


class _Questions:
    """Answers of a person where there is one; else what is missing is an error with its flag."""

    def __init__(self, asks: bool) -> None:
        self.asks = asks

    def answer(
        self, given: Any, flag: str, question: str, read: Callable[[str], Any], default: str = ""
    ) -> Any:
        """`given`, else what a person answers, else the default; `read` raises UsageError."""
        if given is not None:
            return read(given)
        if not self.asks:
            if default:
                return read(default)
            raise UsageError(
                f"{flag} is missing", hint=f"give it: recipe new {flag} …", code="E156"
            )
        try:
            return self._asked(flag, question, read, default)
        except KeyboardInterrupt:
            print(file=sys.stderr)  # the question's line ends before the error's begins
            raise

    def _asked(self, flag: str, question: str, read: Callable[[str], Any], default: str) -> Any:
        while True:
            shown = f" [{default}]" if default else ""
            print(f"{question}{shown}: ", end="", file=sys.stderr, flush=True)
            line = sys.stdin.readline()
            if not line:
                raise UsageError("the answers ended", hint=f"or give {flag}", code="E156")
            try:
                return read(line.strip() or default)
            except UsageError as error:
                print(f"  {error.message}; {error.hint}", file=sys.stderr)


def _wish(args: argparse.Namespace, questions: _Questions) -> Wish:
    from runner.recipe.creation.inputs import together
    from runner.recipe.creation.write import Wish, slug
    from runner.recipe.paths import project_root

    goal = questions.answer(
        args.goal,
        "--goal",
        f"What for ({', '.join(GOALS)})",
        _one_of("goal", tuple(GOALS)),
        _usual(args),
    )
    found = questions.answer(
        args.model, "--model", "Which model (hub id, folder, GGUF file, smollm2)", _model_of(args)
    )
    facts = found(args.path or Path("recipe.yaml"))[1]
    data = questions.answer(args.data, "--data", "Which rows (a .jsonl file)", _data_of(args, goal))
    seen = together([each for _, _, each in data])
    machine, hardware = _machine(
        args, questions, partial(_require_room, goal, facts, seen, args.max_length)
    )
    name = args.name or slug(args.path.stem if args.path else f"{facts.name}-{goal}")
    path = args.path or Path(
        questions.answer(None, "PATH", "Where to", _new_path(args), f"{name}.yaml")
    )
    files = [
        {"path": os.path.relpath(file.resolve(), path.resolve().parent), "format": form}
        for file, form, _ in data
    ]
    section, facts = found(path)
    return Wish(
        path=path,
        root=project_root(path),
        name=args.name or slug(path.stem),
        goal=goal,
        model=section,
        model_facts=facts,
        files=files,
        data=seen,
        machine=machine,
        system=args.system,
        tuning=args.tuning,
        max_length=args.max_length,
        hardware=hardware,
    )


def _usual(args: argparse.Namespace) -> str:
    """The goal that the rows have most often, where their file is named already."""
    from runner.recipe.creation.inputs import read_data

    if not args.data:
        return DEFAULT
    (form, _), *_ = read_data(args.data[:1], args.format)
    return goal_of(form)


def _one_of(kind: str, words: tuple[str, ...]) -> Callable[[str], str]:
    """Reader of one of `words`; `kind`: what each of them names."""

    def read(text: str) -> str:
        from runner.recipe.finding import listed
        from runner.recipe.suggest import nearest

        if text in words:
            return text
        meant = nearest(text, words)
        known = f"write {listed(list(words))}"
        hint = f"did you mean {meant}? Else {known}" if meant else known
        raise UsageError(f"there is no {kind} {text!r}", hint=hint, code="E156")

    return read


def _model_of(args: argparse.Namespace) -> Callable[[str], Any]:
    """Reader of --model; what it gives tells section and facts for a recipe's path."""

    def read(text: str) -> Callable[[Path], Any]:
        from runner.recipe.creation.inputs import find_model
        from runner.recipe.paths import project_root

        def at(path: Path) -> Any:
            return find_model(
                text,
                recipe=path,
                root=project_root(path),
                parameters=_parameters(args.parameters),
                revision=args.revision,
            )

        at(args.path or Path("recipe.yaml"))
        return at

    return read


def _parameters(text: str | None) -> int | None:
    from runner.recipe.creation.inputs import parse_size

    try:
        size = None if text is None else parse_size(text)
    except ValueError:
        size = 0
    if size is not None and not 10**6 <= size <= 10**13:
        raise UsageError(
            f"--parameters {text} is no size of a model",
            hint="write a number such as 8B or 135M",
            code="E156",
        )
    return size


def _data_of(args: argparse.Namespace, goal: str) -> Callable[[Any], Any]:
    """Reader of --data: each file with its format, one that the goal can use, and its facts."""

    def read(given: Any) -> list[tuple[Path, str, Any]]:
        from runner.recipe.creation.inputs import read_data
        from runner.recipe.finding import listed

        paths = [Path(given)] if isinstance(given, str) else list(given)
        found = read_data(paths, args.format, GOALS[goal].formats)
        for path, (form, _) in zip(paths, found, strict=True):
            if form not in GOALS[goal].formats:
                others = goals_for(form)
                other = f"--goal {listed(others)} can; or " if others else ""
                raise UsageError(
                    f"{path} has rows of format {form}, which {goal} cannot use",
                    hint=f"{other}write them as {listed(list(GOALS[goal].formats))} (docs/data.md)",
                    code="E157",
                )
        return [(path, form, facts) for path, (form, facts) in zip(paths, found, strict=True)]

    return read


def _require_room(
    goal: str, model: ModelFacts, data: DataFacts, max_length: int | None, machine: Machine
) -> None:
    """Raises UsageError E159 where no way of training the model fits the machine."""
    from runner.recipe.creation.by_method import NothingToLearn
    from runner.recipe.creation.recommend import FitsNowhere, recommend

    try:
        recommend(GOALS[goal], model, data, machine, max_length=max_length)
    except FitsNowhere as error:
        raise _too_large(model, machine, error) from error
    except NothingToLearn:  # of which another machine changes nothing
        return


def _machine(
    args: argparse.Namespace, questions: _Questions, require_room: Callable[[Machine], None]
) -> tuple[Machine, str]:
    """The machine, and its name for --hardware; one that is too small is asked for again."""
    while True:
        machine, hardware = _one_machine(args, questions)
        if not questions.asks or args.machine is not None or args.tuning is not None:
            return machine, hardware
        try:
            require_room(machine)
        except UsageError as error:
            print(f"  {error.message}; {error.hint}", file=sys.stderr)
        else:
            return machine, hardware


def _one_machine(args: argparse.Namespace, questions: _Questions) -> tuple[Machine, str]:
    from runner.plan.machines import hardware as described
    from runner.plan.machines import known_names
    from runner.recipe.creation.facts import Machine
    from runner.system import hardware

    names = [gpu.name for gpu in hardware.gpus()]
    here = "spark" if any("GB10" in name for name in names) else "gpu" if names else "cpu"
    kind = questions.answer(
        args.machine, "--machine", f"Which machine trains ({', '.join((*KINDS, *known_names()))})",
        _machine_named((*KINDS, *known_names())), here,
    )  # fmt: skip
    if kind not in KINDS:
        memory = 0 if args.memory is None else _gigabytes(args.memory)
        return Machine.of(described(kind), memory), kind
    if kind == "spark":
        own = described("dgx-spark").memory // _GB
        machine = Machine(kind, _gigabytes(own if args.memory is None else args.memory))
        return machine, "" if here == "spark" else "dgx-spark"
    if kind == "cpu":
        own = hardware.memory().total // _GB
        return Machine(kind, _gigabytes(own if args.memory is None else args.memory)), ""
    memory = questions.answer(
        args.memory, "--memory", "Memory of the GPU in GB", _gigabytes,
        str(USUAL_GPU_MEMORY) if questions.asks else "",
    )  # fmt: skip
    return Machine(kind, memory), ""


def _machine_named(words: tuple[str, ...]) -> Callable[[str], str]:
    """Reader of a kind or a known machine; a file is named by its ending."""
    known = _one_of("machine", words)
    return lambda text: text if text.endswith(".json") else known(text.lower())


def _gigabytes(value: Any) -> int:
    """Bytes. Raises UsageError."""
    try:
        size = float(value)
    except ValueError:
        size = 0.0
    if not 1 <= size <= 100_000:
        raise UsageError(
            f"{value} is no amount of memory",
            hint="write a number of GB from 1 to 100000, such as 24",
            code="E156",
        )
    return round(size * _GB)


# --- writing


def _new_path(args: argparse.Namespace) -> Callable[[str | Path], Path]:
    """Reader of a path that a recipe can be written to, or (`--stdout`) could be."""

    def read(text: str | Path) -> Path:
        path = Path(text)
        if not args.stdout:
            _require_free(path, args.force)
        if path.suffix not in (".yaml", ".yml") or path.name.endswith((".lock.yaml", ".lock.yml")):
            raise UsageError(f"{path} is no name for a recipe", hint="name a .yaml file")
        return path

    return read


def _require_free(path: Path, force: bool) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint=f"name a file: {path}/x.yaml", code="E155")
    if os.path.lexists(path) and not force:
        raise UsageError(
            f"{path} is there already", hint="name another file, or overwrite it: --force",
            code="E155",
        )  # fmt: skip


def _write(path: Path, text: str) -> None:
    from runner.store.atomic import write_as_told

    write_as_told(path, text)


def _not_valid(error: RecipeInvalid, wish: Wish) -> UsageError:
    """What is wrong comes from an answer: a path out of the project, a name, a length."""
    wrong = [each for each in error.diagnostics if each.severity == "error"]
    told = "; ".join(dict.fromkeys(each.message for each in wrong))
    hint = next((each.hint for each in wrong if each.hint), "change the answer")
    return UsageError(f"{wish.path} would not be a valid recipe: {told}", hint=hint, code="E160")


def _say_next(wish: Wish, warnings: list[Any], made: Recommendation) -> None:
    from runner.recipe.creation.write import slowness, too_long_for
    from runner.report.reporters import print_beside

    print_beside(warnings)
    for said in filter(None, (slowness(wish, made), too_long_for(wish))):
        print(said, file=sys.stderr)
    if not made.fits:
        print("by arithmetic it does not fit: see the comment at its top", file=sys.stderr)
    where = f" --hardware {shlex.quote(wish.hardware)}" if wish.hardware else ""
    print(f"next: recipe plan {wish.path}{where}")
    if not (wish.root / "schemas").is_dir():
        schema = wish.root / "schemas" / "recipe-1.json"
        print(f"help in your editor: recipe schema > {os.path.relpath(schema)}")
