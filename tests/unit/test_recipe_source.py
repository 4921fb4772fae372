"""Text -> data and places."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from runner.errors import RecipeInvalid
from runner.recipe.source import MAX_BYTES, Source, Span, decode, parse_source, read_source
from runner.recipe.yaml_events import MAX_EVENTS, MAX_PROBLEMS, build
from runner.report.diagnostic import Diagnostic
from tests.recipe_cases import INVALID, VALID

HERE = Path("x.yaml")


def parse(text: str) -> Source:
    return parse_source(text.encode(), HERE)


def refused(content: bytes) -> list[Diagnostic]:
    with pytest.raises(RecipeInvalid) as caught:
        parse_source(content, HERE)
    return list(caught.value.diagnostics)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("2.0e-4", 2e-4),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("+1", 1),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("on", "on"),
        ("No", "No"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("Null", None),
        ("", None),
        ('"1"', "1"),
        ("'true'", "true"),
        ("|\n    two\n    lines", "two\nlines\n"),
        (">-\n    one\n    line", "one line"),
        ("0b1", "0b1"),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    data = parse(f"a: {text}\n").data
    assert data == {"a": value}
    assert type(data["a"]) is type(value)


def test_every_key_and_value_knows_its_place() -> None:
    source = parse(
        "first: one\n"
        "block:\n"
        "  inner: [1, 22,\n"
        "          {deep: x}]\n"
        "  text: |\n"
        "    line\n"
        "\n"
        "last: 'ü🙂' # comment\n"
    )
    assert source.keys["/first"] == Span(1, 1, 1, 6)
    assert source.values["/first"] == Span(1, 8, 1, 11)
    assert source.values["/block"] == Span(3, 3, 6, 9)
    assert source.values["/block/inner"] == Span(3, 10, 4, 21)
    assert source.values["/block/inner/1"] == Span(3, 14, 3, 16)
    assert source.keys["/block/inner/2/deep"] == Span(4, 12, 4, 16)
    assert source.values["/block/text"] == Span(5, 9, 6, 9)
    assert source.values["/last"] == Span(8, 7, 8, 11)
    assert source.values[""] == Span(1, 1, 8, 11)


def test_keys_with_slashes_and_tildes_have_escaped_pointers() -> None:
    source = parse('"a/b~c": 1\n')
    assert source.values == {"": Span(1, 1, 1, 11), "/a~1b~0c": Span(1, 10, 1, 11)}


def test_a_place_that_is_not_there_is_the_nearest_above() -> None:
    source = parse("train:\n  adapter:\n    type: lora\n")
    assert source.span("/train/adapter/r") == source.keys["/train/adapter"]
    assert source.span("/merge/dtype") == source.values[""]
    assert source.span("/train", at="key") == Span(1, 1, 1, 6)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_count_alike(end: str) -> None:
    source = parse(end.join(["a: 1", "b:", "  c: 2", ""]))
    assert source.data == {"a": 1, "b": {"c": 2}}
    assert source.values["/b/c"] == Span(3, 6, 3, 7)


def test_a_byte_order_mark_takes_no_column() -> None:
    source = parse_source(b"\xef\xbb\xbfa: 1\n", HERE)
    assert source.keys["/a"] == Span(1, 1, 1, 2)


def test_utf_16_is_refused_at_its_first_byte() -> None:
    (diagnostic,) = refused("schema: 1\n".encode("utf-16"))
    assert (diagnostic.code, diagnostic.line, diagnostic.column) == ("E110", 1, 1)


def test_the_column_of_a_wrong_byte_counts_characters() -> None:
    (diagnostic,) = refused("a: 1\nb: ü🙂".encode() + b"\xff\n")
    assert (diagnostic.code, diagnostic.line, diagnostic.column) == ("E110", 2, 6)


def test_many_forbidden_characters_are_cut_off() -> None:
    assert [d.code for d in refused(b"\x01" * 1000)] == ["E111"] * 20


def test_many_problems_are_cut_off() -> None:
    found = refused(("[" + "&a x, " * (MAX_PROBLEMS + 10) + "]").encode())
    assert [d.code for d in found] == ["E117"] * MAX_PROBLEMS + ["E124"]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "{" * 200_000,
        "- " * 100_000,
        "? " * 100_000,
        "[a," * 60_000,
        "x: [" + "a," * 100_000 + "]",
        "a0: &a0 [x,x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1},*a{i - 1}]\n" for i in range(1, 99)),
        "\t" * 200_000,
        "#" + "\t" * 200_000,
        "'" + "\t" * 200_000 + "'",
        '"' * 200_000,
        "&a " * 80_000,
        "!!a " * 60_000,
        "a: " * 80_000,
        "%A\n" * 80_000,
        "".join(f"k{i}: |\n  x\n" for i in range(9_000)),
        "a: " + "9" * 200_000,
        "a: ." + "9" * 200_000,
        "a" * 200_000 + ": 1",
    ],
    ids=lambda text: text[:6].strip() or "tabs",
)
@pytest.mark.parametrize("pure", [False, True], ids=["libyaml", "pure"])
def test_a_bomb_is_read_or_refused_quickly(text: str, pure: bool) -> None:
    began = time.process_time()
    with contextlib.suppress(RecipeInvalid):
        build(text, HERE, pure=pure)
    assert time.process_time() - began < 5  # seconds of the processor; libyaml takes 0.1


def test_the_size_is_bounded_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(RecipeInvalid) as caught:
        read_source(path)
    assert [d.code for d in caught.value.diagnostics] == ["E112"]
    path.write_bytes(b"a: 1\n".ljust(MAX_BYTES, b"#"))
    assert read_source(path).data == {"a": 1}


def test_the_number_of_parts_is_bounded() -> None:
    (diagnostic,) = refused(("[" + "a," * MAX_EVENTS + "]").encode())
    assert diagnostic.code == "E112"


def test_what_is_no_readable_file_is_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    for path in (tmp_path / "missing.yaml", tmp_path, pipe, loop, Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(RecipeInvalid) as caught:
            read_source(path)
        assert [(d.code, d.line) for d in caught.value.diagnostics] == [("E101", 0)]


def test_of_a_folder_it_is_said_how_to_name_its_files(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    with pytest.raises(RecipeInvalid) as caught:
        read_source(tmp_path / "a b")
    (told,) = caught.value.diagnostics
    assert (told.code, told.message) == ("E101", "a file is wanted here, and it is a folder")
    assert f"recipe run '{tmp_path}/a b'/*.yaml" in told.hint
    assert f"recipe validate '{tmp_path}/a b'" in told.hint


def test_a_tab_in_quotes_in_a_block_or_in_a_comment_is_text() -> None:
    assert parse("a: \"x\ty\"  # a\ttab\nb: '#\t'\n").data == {"a": "x\ty", "b": "#\t"}
    assert parse("a: |\n  x\ty\nb: 1\n").data == {"a": "x\ty\n", "b": 1}


@pytest.mark.parametrize(
    "text", ["a: x\ty\n", "a: x#\ty\n", "a:\tx\n", "a: x\t#\n", "\ta: x\n", "a: |\t\n  x\n"]
)
@pytest.mark.parametrize("pure", [False, True], ids=["libyaml", "pure"])
def test_any_other_tab_is_refused_by_both_parsers(text: str, pure: bool) -> None:
    with pytest.raises(RecipeInvalid) as caught:
        build(text, HERE, pure=pure)
    (diagnostic,) = caught.value.diagnostics
    assert (diagnostic.code, diagnostic.column) == ("E114", text.index("\t") + 1)


def same_with_both_parsers(text: str) -> None:
    """libyaml and PyYAML agree on data, codes and lines (not on every column of an empty value)."""

    def outcome(pure: bool) -> Any:
        try:
            source = build(text, HERE, pure=pure)
        except RecipeInvalid as error:
            return [(d.code, d.line) for d in error.diagnostics]
        places = {pointer: span.line for pointer, span in source.values.items()}
        return source.data, places, [(d.code, d.line) for d in source.problems]

    assert outcome(pure=True) == outcome(pure=False)


@pytest.mark.parametrize("path", [*VALID, *INVALID], ids=lambda path: path.stem)
def test_both_parsers_agree_on_every_recipe(path: Path) -> None:
    try:
        text = decode(path.read_bytes(), HERE)
    except RecipeInvalid:
        return  # refused before any parser sees it
    same_with_both_parsers(text)


def test_without_libyaml_the_pure_parser_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    monkeypatch.delattr(yaml, "CSafeLoader")
    assert parse("a: [1, x]\n").data == {"a": [1, "x"]}
