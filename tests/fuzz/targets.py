"""What a stranger can hand to us, each as one function of bytes: it ends well, or it raises.

A target writes the bytes where they would lie, reads them as the commands do, and lets through
only the errors that are meant for people. A new reader is one function with `@target`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.bundle.archive import open_archive
from runner.bundle.check import prove_bundle
from runner.bundle.index import parse
from runner.capture import data_sets, report
from runner.capture.captured import Captured
from runner.cli import show
from runner.errors import RecipeInvalid, RecipeToolError
from runner.execution.display import Display
from runner.imports import REGISTRY, load_import
from runner.imports.document import read_document
from runner.imports.kinds import kind_of
from runner.imports.wanted import Wanted
from runner.lock.file import read_lock
from runner.plan.changes import changes
from runner.plan.snapshot import previous_keys, previous_materials
from runner.recipe.load import check_recipe
from runner.recipe.source import decode, read_source
from runner.recipe.yaml_events import build
from runner.report.diagnostic import Diagnostic
from runner.report.reporters import REPORTERS
from runner.verify.compare import compare_runs
from runner.verify.files import verify_files
from runner.verify.run import open_run
from tests.bundles import SmallRun, small_run
from tests.recipe_cases import BASES, EXTENDING, INVALID, SHIPPED, VALID, copy_recipes

CORPUS = Path(__file__).parent / "corpus"
BETWEEN = b"\n%%%\n"  # the files of a target that reads several


@dataclass
class Place:
    """A folder for the targets to work in, made once: it would cost more than what is tested."""

    folder: Path
    recipes: Path
    run: SmallRun
    bundle: bytes

    @classmethod
    def make(cls, folder: Path) -> Place:
        run = small_run(folder / "made")
        bundle = run.bundle(folder / "good.tar").read_bytes()
        place = cls(folder, copy_recipes(folder / "project"), run, bundle)
        _write_beside(folder / "beside")
        return place


@dataclass(frozen=True)
class Target:
    """`read` raises on anything but a good end; `seeds` are inputs to start from."""

    read: Callable[[bytes, Place], None]
    seeds: Callable[[Place], Iterator[bytes]]


TARGETS: dict[str, Target] = {}


def target(
    seeds: Callable[[Place], Iterator[bytes]],
) -> Callable[[Callable[[bytes, Place], None]], Callable[[bytes, Place], None]]:
    """Register a target under its function's name."""

    def register(read: Callable[[bytes, Place], None]) -> Callable[[bytes, Place], None]:
        TARGETS[read.__name__] = Target(read, seeds)
        return read

    return register


# --- recipes and locks


def ends_well(path: Path) -> None:
    """Diagnostics or a recipe; every report can be written; what is valid can be shown."""
    recipe, diagnostics = check_recipe(path)
    assert (recipe is None) == any(each.severity == "error" for each in diagnostics)
    for render in REPORTERS.values():
        shown = render(diagnostics, files=1)
        assert all(character.isprintable() or character == "\n" for character in shown)
    if recipe is not None:
        assert show.as_text(recipe, resolved=True)
        assert json.loads(show.as_json(recipe, resolved=True))["recipe"] == recipe.resolved()
        assert not changes(recipe, recipe).any


def _recipes(place: Place) -> Iterator[bytes]:
    yield from (path.read_bytes() for path in (*VALID, *EXTENDING, *INVALID, *SHIPPED))


@target(_recipes)
def recipe(content: bytes, place: Place) -> None:
    path = place.recipes / "valid" / "fuzzed.yaml"
    path.write_bytes(content)
    ends_well(path)


@target(lambda place: (path.read_bytes() for path in (*VALID, *BASES) if path.is_file()))
def base(content: bytes, place: Place) -> None:
    """A good recipe upon a base that is the stranger's, which may itself extend anything."""
    path = place.recipes / "valid" / "fuzzed-base.yaml"
    path.write_bytes(content)
    child = path.with_name("fuzzed-child.yaml")
    child.write_text("extends: fuzzed-base.yaml\nschema: 1\nname: x\nseed: 7\n")
    ends_well(child)


@target(lambda place: iter([(place.run.folder / "recipe.lock.yaml").read_bytes()]))
def lock(content: bytes, place: Place) -> None:
    path = place.run.project / "fuzzed.lock.yaml"
    path.write_bytes(content)
    ends_well(path)
    with contextlib.suppress(RecipeToolError):
        read_lock(path)


@target(_recipes)
def parsers(content: bytes, place: Place) -> None:
    """libyaml's parser and PyYAML's own read the same, or both refuse."""
    try:
        text = decode(content, Path("x.yaml"))
    except RecipeInvalid:
        return
    assert _parsed(text, pure=False) == _parsed(text, pure=True)


def _parsed(text: str, *, pure: bool) -> Any:
    try:
        source = build(text, Path("x.yaml"), pure=pure)
    except RecipeInvalid:
        return "refused"
    lines = {pointer: span.line for pointer, span in source.keys.items()}
    return source.data, lines, [(each.code, each.line) for each in source.problems]


# --- settings of other tools: the first byte says what kind of file it is

_ENDINGS = {"yml": "axolotl", "yaml": "trl", "json": "llamafactory", "ipynb": "", "py": ""}
_SOURCES = {kind: load_import(kind) for kind in REGISTRY}  # now, so that the driver sees them
_EXAMPLES = Path(__file__).parent.parent / "imports"


def _settings(place: Place) -> Iterator[bytes]:
    for number, ending in enumerate(_ENDINGS):
        yield from (bytes([number]) + each.read_bytes() for each in _EXAMPLES.glob(f"*/*.{ending}"))


@target(_settings)
def imports(content: bytes, place: Place) -> None:
    """A recipe, sound or to be finished, and a report of one line a setting; or words why not."""
    number = content[0] % len(_ENDINGS) if content else 0
    ending, kind = list(_ENDINGS.items())[number]
    path = place.recipes / f"fuzzed.{ending}"
    path.write_bytes(content[1:])
    for rows in ((), ({"path": "rows.jsonl", "format": "alpaca"},)):
        here = data_sets.Place(place.recipes, place.recipes, rows)
        wanted = Wanted("x", here, place.recipes.parent)
        with contextlib.suppress(RecipeToolError):
            document = read_document(path)
            source = _SOURCES[kind_of(document, kind or None)[0]]
            _told_well(source.convert(document, wanted), place)


def _told_well(made: Captured, place: Place) -> None:
    assert all(line.isprintable() for line in report.as_text(made).split("\n"))
    assert json.loads(report.as_json(made))["recipe"]["name"] == "x"
    written = place.recipes / "valid" / "imported.yaml"
    written.write_text(report.as_recipe(made, "Imported"), encoding="utf-8")
    ends_well(written)
    assert read_source(written).data == made.recipe


# --- files beside a recipe: the first byte says which one is the stranger's

BESIDE: dict[str, bytes] = {
    "rows.jsonl": b'{"instruction": "a", "input": "", "output": "b"}\n' * 40,
    "questions.jsonl": b'{"question": "Who?", "expect": ["me"]}\n',
    "model/config.json": b'{"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96}',
    "chat.jinja": b"{% for m in messages %}{{ m.content }}{% endfor %}",
    "model/tiny.gguf": (
        b"GGUF\x03\0\0\0" + (1).to_bytes(8, "little") + (1).to_bytes(8, "little")
        + (1).to_bytes(8, "little") + b"a" + (8).to_bytes(4, "little")
        + (3).to_bytes(8, "little") + b"abc"
        + (6).to_bytes(8, "little") + b"a.weig" + (2).to_bytes(4, "little")
        + (64).to_bytes(8, "little") * 2 + bytes(12)
    ),
}  # fmt: skip
_BESIDE_RECIPE = """schema: 1
name: x
model: {path: model%s}
data:
  train: [{path: rows.jsonl, format: alpaca}]
  chat_template: chat.jinja
train: {adapter: {type: lora}, max_steps: 1}
evaluate: {questions: questions.jsonl}
merge: {}
gguf: {quantize: [Q4_K_M]}
"""


def _write_beside(folder: Path) -> None:
    (folder / "model").mkdir(parents=True)
    for name, file in (("folder.yaml", ""), ("file.yaml", ", file: tiny.gguf")):
        (folder / name).write_text(_BESIDE_RECIPE % file)
    for name, content in BESIDE.items():
        (folder / name).write_bytes(content)


@target(lambda place: (bytes([n]) + text for n, text in enumerate(BESIDE.values())))
def beside(content: bytes, place: Place) -> None:
    names = list(BESIDE)
    name = names[content[0] % len(names)] if content else names[0]
    path = place.folder / "beside" / name
    path.write_bytes(content[1:])
    ends_well(place.folder / "beside" / "folder.yaml")
    ends_well(place.folder / "beside" / "file.yaml")
    path.write_bytes(BESIDE[name])


# --- runs and bundles


def _run_files(place: Place) -> Iterator[bytes]:
    files = [(place.run.folder / name).read_bytes() for name in ("run.json", "manifest.json")]
    yield BETWEEN.join([*files, b"0" * 64 + b"  recipe.lock.yaml\n"])


@target(_run_files)
def run(content: bytes, place: Place) -> None:
    """run.json, manifest.json and SHA256SUMS, as `verify`, `diff` and `plan` read them."""
    folder = place.run.folder
    names = ("run.json", "manifest.json", "SHA256SUMS")
    texts = content.split(BETWEEN)
    kept = {name: (folder / name).read_bytes() for name in names[:2]}
    good = open_run(folder)
    latest = folder.parent / "latest"
    if not latest.is_symlink():
        latest.symlink_to(folder.name)
    try:
        for name, text in zip(names, texts, strict=False):
            (folder / name).write_bytes(text)
        previous_materials(folder.parent)
        previous_keys(folder.parent)
        with contextlib.suppress(RecipeToolError):
            found = open_run(folder)
            for checked in verify_files(found, place.run.store):
                assert folder.resolve() in checked.path.parents or checked.absent
            for compared in compare_runs(good, found, place.run.store):
                str(compared.difference)
            found.recipe()
    finally:
        for name, data in kept.items():
            (folder / name).write_bytes(data)
        (folder / "SHA256SUMS").unlink(missing_ok=True)


@target(lambda place: iter([place.bundle]))
def bundle(content: bytes, place: Place) -> None:
    path = place.folder / "x.tar"
    path.write_bytes(content)
    with contextlib.suppress(RecipeToolError), open_archive(path) as archive:
        prove_bundle(
            archive,
            "files",
            place.run.store,
            place.folder / "cache",
            trust_code=False,
            on_file=lambda done, total: None,
            open_display=lambda events, stages: contextlib.nullcontext(Display()),
        )


def _indexes(place: Place) -> Iterator[bytes]:
    with open_archive(place.folder / "good.tar") as archive:
        yield archive.index.text()


@target(_indexes)
def index(content: bytes, place: Place) -> None:
    with contextlib.suppress(RecipeToolError):
        assert parse(content, "x.tar").text() == content


# --- what is said about them


@target(lambda place: iter([b"x.yaml\0unknown key\0did you mean?", b"\xff.yaml\0a\n::stop\0%0A"]))
def reports(content: bytes, place: Place) -> None:
    """Whatever a name, a message or a hint holds, each report stays in its form."""
    name, message, hint = (*content.split(b"\0"), b"", b"")[:3]
    file = name.decode("utf-8", "surrogateescape").replace("\r", "") or "x"
    words = [part.decode("utf-8", "replace") for part in (message, hint)]
    found = [
        Diagnostic("E102", "error", words[0], file, 1, 2, 1, 3, words[1]),
        Diagnostic("W201", "warning", words[0], file, hint=words[1]),
    ]
    shown = {kind: render(found, files=1) for kind, render in REPORTERS.items()}
    for text in shown.values():
        text.encode("utf-8")
    commands = shown["github"].rstrip("\n").split("\n")
    assert [line.split(" ")[0] for line in commands[:2]] == ["::error", "::warning"]
    assert len(commands) == 3, "a name or a message began a line of its own"
    assert len(json.loads(shown["json"])["diagnostics"]) == 2
    assert len(json.loads(shown["sarif"])["runs"][0]["results"]) == 2
    assert all(character.isprintable() or character == "\n" for character in shown["text"])
