"""Editing a recipe's text: the data changes as asked, and no other character of the file does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from runner.recipe.edit import Document, NotEditable
from runner.recipe.source import parse_source
from runner.recipe.traced import with_line_ends


def document(text: str) -> Document:
    return Document(parse_source(text.encode(), Path("x.yaml")))


BLOCK = """\
# head of the file

# above a
a: 1       # behind a
b:         # behind b
  # above c
  c: "two" # behind c
    # below c
  d: [1, 2]

  e: |
    # no comment
    text
f: {g: 1, h: {i: 2}}   # behind f
list:
  - k: 1   # first
    l: 2
  - {k: 3}
"""


@pytest.mark.parametrize(
    ("edit", "old", "new"),
    [
        (("rename", "/a", "alpha"), "a: 1       # behind a", "alpha: 1   # behind a"),
        (("rename", "/f/h", "other"), "h: {i: 2}}   #", "other: {i: 2}}  #"),
        (("rename", "/b/e", "with space"), "  e: |", '  "with space": |'),
        (("set", "/a", 12345678), "a: 1       # behind a", "a: 12345678  # behind a"),
        (("set", "/f/g", 100), "{g: 1, h: {i: 2}}   #", "{g: 100, h: {i: 2}}  #"),
        (("set", "/b/d", []), "d: [1, 2]", "d: []"),
        (("set", "/b/d/1", "x, y"), "d: [1, 2]", 'd: [1, "x, y"]'),
        (("remove", "/b/d"), "  d: [1, 2]\n", ""),
        (("remove", "/a"), "# above a\na: 1       # behind a\n", ""),
        (("remove", "/f/g"), "{g: 1, h: {i: 2}}   #", "{h: {i: 2}}         #"),
        (("remove", "/f/h"), "{g: 1, h: {i: 2}}   #", "{g: 1}              #"),
        (("remove", "/f/h/i"), "{i: 2}}   #", "{}}       #"),
        (("remove", "/list/0/k"), "- k: 1   # first\n    l", "- l"),
        (("remove", "/list/1/k"), "{k: 3}", "{}"),
        (("add", "/b/z", {"y": [1]}), "    text\n", "    text\n  z: {y: [1]}\n"),
        (("add", "/f/z/y", 1), "{i: 2}}   #", "{i: 2}, z: {y: 1}}  #"),
        (("add", "/f/h/z", None), "{i: 2}}   #", "{i: 2, z: null}}  #"),
        (("add", "/m/n/o", 1), "  - {k: 3}\n", "  - {k: 3}\nm:\n  n:\n    o: 1\n"),
        (("add", "/list/0/z", 1), "    l: 2\n", "    l: 2\n    z: 1\n"),
        (("add", "/a", 5), "", ""),
        (("wrap", "/a"), "a: 1 ", "a: [1] "),
        (("wrap", "/f"), "{g: 1, h: {i: 2}}", "[{g: 1, h: {i: 2}}]"),
        (("wrap", "/b/e"), "  e: |\n    # no comment\n    text\n",
         "  e:\n    - |\n        # no comment\n        text\n"),
        (("wrap", "/list/0/k"), "k: 1 ", "k: [1] "),
        (("rename", "/none", "x"), "", ""),
        (("set", "/none/deep", 1), "", ""),
        (("remove", "/a/deeper"), "", ""),
        (("wrap", "/list/7"), "", ""),
        (("move", "/none", "/other"), "", ""),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_an_edit_changes_what_it_says_and_nothing_else(
    edit: tuple[Any, ...], old: str, new: str
) -> None:
    edited = document(BLOCK)
    getattr(edited, edit[0])(*edit[1:])
    assert BLOCK.count(old) == 1 or not old
    assert edited.text == BLOCK.replace(old, new)


def test_a_moved_entry_takes_its_comments_along() -> None:
    edited = document(BLOCK)
    edited.move("/b/c", "/new/deep/see")
    assert edited.text == BLOCK.replace(
        '  # above c\n  c: "two" # behind c\n    # below c\n', ""
    ) + (
        "new:\n"
        "  deep:\n"
        "    # above c\n"
        '    see: "two" # behind c\n'
        "      # below c\n"
    )  # fmt: skip


def test_a_block_of_text_moves_with_its_lines() -> None:
    edited = document(BLOCK)
    edited.move("/b/e", "/e")
    assert edited.text.endswith("- {k: 3}\ne: |\n  # no comment\n  text\n")
    assert edited.get("/e") == "# no comment\ntext\n"


def test_a_section_moves_with_everything_in_it() -> None:
    edited = document(BLOCK)
    edited.move("/b", "/list/0/m")
    assert edited.get("/list/0/m") == {"c": "two", "d": [1, 2], "e": "# no comment\ntext\n"}
    assert '    m:         # behind b\n      # above c\n      c: "two" # behind c\n' in edited.text
    assert sorted(edited.comments()) == sorted(document(BLOCK).comments())


def test_what_moves_into_brackets_leaves_its_comments_above_them() -> None:
    edited = document(BLOCK)
    edited.move("/b/c", "/f/h/c")
    assert '# above c\n# behind c\n# below c\nf: {g: 1, h: {i: 2, c: "two"}}  #' in edited.text


def test_what_moves_out_of_brackets_takes_the_comments_between_them_along() -> None:
    edited = document("a: {\n  b: 1,  # about b\n  c: 2}\nd: {}\n")
    edited.move("/a/b", "/e")
    assert edited.text == "a: {\n  c: 2}\nd: {}\n# about b\ne: 1\n"


def test_a_block_in_a_list_keeps_its_shape() -> None:
    edited = document("a:  # list\n  # above\n  b: 1\n\n  c:\n    - 2\n  # below\nd: 3\n")
    edited.wrap("/a")
    assert edited.text == (
        "a:  # list\n  # above\n  - b: 1\n\n    c:\n      - 2\n    # below\nd: 3\n"
    )


def test_the_last_entry_leaves_an_empty_mapping() -> None:
    edited = document("a:   # about a\n  b: 1  # about b\nc: 2\n")
    edited.move("/a/b", "/d")
    assert edited.text == "a: {}   # about a\nc: 2\nd: 1  # about b\n"


def test_an_empty_value_is_filled() -> None:
    edited = document("a:\nb: {c, d: }\n")
    for pointer in ("/a", "/b/c", "/b/d"):
        edited.set(pointer, 1)
    assert edited.text == "a: 1\nb: {c: 1, d: 1 }\n"


def test_an_entry_with_a_question_mark_is_refused() -> None:
    with pytest.raises(NotEditable) as caught:
        document("? a\n: 1\nb: 2\n").remove("/a")
    assert caught.value.pointer == "/a"


def test_a_mapping_is_needed_to_put_something_in() -> None:
    with pytest.raises(NotEditable):
        document("a: 1\nb: 2\n").move("/b", "/a/b")


def test_a_comment_is_only_replaced_in_a_comment() -> None:
    import re

    edited = document('a: "# v1"  # v1\nb: |\n  # v1\n')
    edited.replace_in_comments(re.compile("v[0-9]+"), "v22")
    assert edited.text == 'a: "# v1"  # v22\nb: |\n  # v1\n'


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_line_ends_and_the_byte_order_mark_stay(end: str) -> None:
    file = "\ufeff" + "a: 1\nb:\n  c: 2  # äöü\n".replace("\n", end)
    edited = document(file)
    edited.move("/b/c", "/d")
    expected = "\ufeff" + "a: 1\nb: {}\nd: 2  # äöü\n".replace("\n", end)
    assert with_line_ends(edited.traced, file.encode()) == expected.encode()


def test_mixed_line_ends_stay_where_they_were() -> None:
    file = b"a: 1\r\nb: 2\nc: 3\r\n"
    edited = document(file.decode())
    edited.set("/b", 20)
    assert with_line_ends(edited.traced, file) == b"a: 1\r\nb: 20\nc: 3\r\n"


def test_every_place_is_still_the_one_in_the_file() -> None:
    before = document(BLOCK).source
    edited = document(BLOCK)
    edited.move("/b/c", "/deep/c")
    edited.rename("/f/h", "other")
    edited.set("/a", 1000)
    edited.wrap("/list/0/l")
    after = edited.source
    for new, old in (("/deep/c", "/b/c"), ("/f/other/i", "/f/h/i"), ("/f/other", "/f/h"),
                     ("/a", "/a"), ("/list/0/l/0", "/list/0/l"),
                     ("/list/1/k", "/list/1/k")):  # fmt: skip
        assert after.values[new] == before.values[old], new
        if old in before.keys:
            assert after.keys.get(new, before.keys[old]) == before.keys[old]
    assert after.text == BLOCK


# --- any document

_SCALARS = st.one_of(
    st.integers(-99, 99), st.booleans(), st.none(),
    st.floats(0.001, 1e6).map(lambda x: round(x, 3)),
    st.text(alphabet="ab #:,'\"{}[]-\n\\%", max_size=8),
)  # fmt: skip
_KEYS = st.text(alphabet="abcxyz", min_size=1, max_size=3)
_DATA = st.dictionaries(
    _KEYS,
    st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
        max_leaves=8,
    ),
    min_size=1,
    max_size=5,
)


class Writer:
    """Data as YAML in styles that `draw` chooses, with a comment wherever one can be."""

    def __init__(self, draw: Any) -> None:
        self.draw, self.count = draw, 0
        self.in_text = False  # a comment below would be a line of the text

    def comment(self) -> str:
        self.count += 1
        return f"# c{self.count}"

    def chance(self) -> bool:
        return bool(self.draw(st.booleans()))

    def document(self, data: dict[str, Any]) -> str:
        return "\n".join([self.comment(), "", *self.block(data, 0)]) + "\n"

    def block(self, data: dict[str, Any], indent: int) -> list[str]:
        lines: list[str] = []
        for key, value in data.items():
            pad = " " * indent
            if self.chance():
                lines.append(f"{pad}{self.comment()}")
            behind = f"  {self.comment()}" if self.chance() else ""
            if isinstance(value, dict) and value and self.chance():
                lines += [f"{pad}{key}:{behind}", *self.block(value, indent + 2)]
            elif isinstance(value, list) and value and self.chance():
                lines.append(f"{pad}{key}:{behind}")
                for item in value:
                    if isinstance(item, dict) and item and self.chance():
                        first, *rest = self.block(item, indent + 4)
                        while first.lstrip().startswith("#"):
                            lines.append(first)
                            first, *rest = rest
                        lines += [f"{pad}  - {first[indent + 4 :]}", *rest]
                    else:
                        lines.append(f"{pad}  - {self.flow(item)}")
                        self.in_text = False
            elif isinstance(value, str) and value.strip() and self._fits_block(value):
                lines += [f"{pad}{key}: |-{behind}"]
                lines += [f"{pad}  {line}" if line else "" for line in value.split("\n")]
                lines.append("")
                self.in_text = True
                continue
            else:
                lines.append(f"{pad}{key}: {self.flow(value)}{behind}")
                self.in_text = False
            if self.chance() and not self.in_text:
                lines.append(f"{pad}    {self.comment()}")
            if self.chance():
                lines.append("")
        return lines

    def _fits_block(self, value: str) -> bool:
        return not value.startswith((" ", "\n")) and not value.endswith("\n") and self.chance()

    def flow(self, value: Any) -> str:
        from runner.recipe.flow import flow

        return flow(value)


@st.composite
def documents(draw: Any) -> tuple[dict[str, Any], str]:
    data = draw(_DATA)
    return data, Writer(draw).document(data)


def pointers(data: Any, pointer: str = "") -> list[str]:
    found = [pointer] if pointer else []
    items = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, value in items:
        found += pointers(value, f"{pointer}/{key}")
    return found


def inside(data: Any, pointer: str) -> tuple[Any, Any]:
    """The container of a pointer, and the key in it."""
    *above, key = pointer.split("/")[1:]
    for token in above:
        data = data[int(token)] if isinstance(data, list) else data[token]
    return data, int(key) if isinstance(data, list) else key


def expected(data: Any, name: str, pointer: str, argument: Any) -> Any:
    """The same edit on plain data."""
    data = copy.deepcopy(data)
    container, key = inside(data, pointer)
    if name == "set":
        container[key] = argument
    elif name == "wrap":
        container[key] = [container[key]]
    elif name == "remove":
        del container[key]
    elif name == "rename":
        renamed = {argument if each == key else each: value for each, value in container.items()}
        container.clear()
        container.update(renamed)
    else:
        value = container.pop(key)
        target = data
        *above, last = argument.split("/")[1:]
        for token in above:
            target = target.setdefault(token, {})
        target[last] = value
    return data


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.data())
def test_any_edit_of_any_document_gives_the_data_and_keeps_the_comments(choice: Any) -> None:
    data, text = choice.draw(documents())
    edited = document(text)
    before = sorted(edited.comments())
    assert edited.source.data == data
    pointer = choice.draw(st.sampled_from(pointers(data)))
    in_mapping = isinstance(inside(data, pointer)[0], dict)
    names = ["set", "wrap", *(["rename", "move", "remove"] if in_mapping else [])]
    name = choice.draw(st.sampled_from(names))
    argument: Any = None
    if name == "set":
        argument = choice.draw(_SCALARS)
    elif name == "rename":
        argument = "renamed"
    elif name == "move":
        argument = choice.draw(
            st.sampled_from(["/new", "/new/deep", "/" + pointer.split("/")[1] + "2"])
        )
        assume(not edited.has(argument))
        if argument.count("/") == 1:
            assume(len(data) > 1 or pointer.count("/") > 1)
    if name in ("remove", "move") and pointer.count("/") == 1:
        assume(len(data) > 1)
    getattr(edited, name)(*[pointer, *([argument] if name not in ("wrap", "remove") else [])])
    assert edited.source.data == expected(data, name, pointer, argument)
    if name != "remove":
        assert sorted(edited.comments()) == before
    assert len(edited.traced.origins) == len(edited.text)
    for span in edited.source.values.values():
        assert (span.line, span.column) <= (span.end_line, span.end_column)
        assert span.end_line <= text.count("\n") + 1
