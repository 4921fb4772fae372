"""Whatever is in the file: diagnostics or a recipe, never a traceback, never an endless wait."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runner.errors import RecipeInvalid
from runner.recipe.load import check_recipe
from runner.recipe.source import decode
from runner.recipe.yaml_events import build
from runner.report.reporters import REPORTERS
from tests.recipe_cases import RECIPES, VALID, copy_recipes

HERE = Path("x.yaml")
LINES = sorted({line for path in VALID for line in path.read_text(encoding="utf-8").splitlines()})
TOKENS = [
    "- ", "? ", ": ", ":", "\n", "  ", "\t", "{", "}", "[", "]", ",", "&a ", "*a", "!!int ", "! ",
    "<<: ", "--- ", "...", "%YAML 1.1\n", "#", " #c", "'", '"', "|", ">", "|2-", "\\", "~", "1e3",
    ".inf", "0x", "null", "schema", "model", "train", "data", "\u2028", "\ufeff", "\x85", "é", "🙂",
    '"\\ud800"', "\r", "\0", "@", "`",
]  # fmt: skip

# The same examples in every run, unless FUZZ_EXAMPLES asks for many and for new ones.
_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
bounded = settings(
    max_examples=_EXAMPLES or 400,
    derandomize=not _EXAMPLES,
    deadline=2000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
soup = st.lists(st.sampled_from(TOKENS) | st.text(max_size=3), max_size=40).map("".join)
recipe_like = st.lists(
    st.sampled_from(LINES) | st.tuples(st.sampled_from(LINES), soup).map("".join), max_size=40
).map("\n".join)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipes(tmp_path_factory.mktemp("project")) / "valid" / "fuzzed.yaml"


def ends_well(target: Path, content: bytes) -> None:
    target.write_bytes(content)
    recipe, diagnostics = check_recipe(target)
    assert (recipe is None) == any(d.severity == "error" for d in diagnostics)
    for render in REPORTERS.values():
        shown = render(diagnostics, files=1)
        assert all(character.isprintable() or character == "\n" for character in shown)


@bounded
@given(st.binary(max_size=400))
@example(b"\xff\xfes\x00")
@example(b"\x00")
def test_any_bytes(target: Path, content: bytes) -> None:
    ends_well(target, content)


@bounded
@given(soup)
@example("a: ? b")
@example("? - a\n: b")
def test_any_pieces_of_yaml(target: Path, text: str) -> None:
    ends_well(target, text.encode("utf-8", "surrogatepass"))


@bounded
@given(recipe_like)
def test_any_mix_of_lines_of_recipes(target: Path, text: str) -> None:
    ends_well(target, text.encode("utf-8", "surrogatepass"))


@bounded
@given(recipe_like | soup, recipe_like)
@example("extends: fuzzed.yaml\n", "")
@example("train: null\nmodel: [\n", "train: {max_steps: null}\n")
def test_any_base(target: Path, base: str, text: str) -> None:
    target.with_name("fuzzed-base.yaml").write_bytes(base.encode("utf-8", "surrogatepass"))
    child = f"extends: fuzzed-base.yaml\n{text}"
    ends_well(target, child.encode("utf-8", "surrogatepass"))


NAMES = ["train", "data", "model", "seed", ".", "[0]", "[9]", "=", '"', "adapter", "null", "{r: 1}"]


@bounded
@given(st.lists(st.lists(st.sampled_from(NAMES) | st.text(max_size=3)).map("".join), max_size=3))
@example(["train=null", "train.adapter.r=1"])
@example(["data=[]", "data[0]=1"])
@example(["model=null", "model.hub=\ud800"])
@example(["\ud800", '"\\ud800"=1', "a\0=1"])
def test_any_options(target: Path, options: list[str]) -> None:
    target.write_bytes(VALID[0].read_bytes())
    recipe, diagnostics = check_recipe(target, options)
    assert (recipe is None) == any(d.severity == "error" for d in diagnostics)
    for render in REPORTERS.values():
        shown = render(diagnostics, files=1)
        assert all(character.isprintable() or character == "\n" for character in shown)


@bounded
@given(st.data())
def test_a_recipe_with_any_bytes_changed(target: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(VALID)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        width = data.draw(st.integers(0, 6))
        content[at : at + width] = data.draw(st.binary(max_size=6))
    ends_well(target, bytes(content))


@bounded
@given(soup | recipe_like)
@example("a: {b: }")
@example("|\t")
@example("|#")
@example("! 1")
@example("\\\t-")
def test_both_parsers_read_the_same(text: str) -> None:
    """Same data and same lines, or both refuse; a file means one thing wherever it is read."""
    try:
        text = decode(text.encode("utf-8", "surrogatepass"), HERE)
    except RecipeInvalid:
        return

    def outcome(pure: bool) -> Any:
        try:
            source = build(text, HERE, pure=pure)
        except RecipeInvalid:
            return "refused"
        lines = {pointer: span.line for pointer, span in source.keys.items()}
        return source.data, lines, [(d.code, d.line) for d in source.problems]

    assert outcome(pure=False) == outcome(pure=True)


def test_the_corpus_is_there() -> None:
    assert len(LINES) > 60
    assert RECIPES.is_dir()
