"""The calls of a training notebook with the literal values of their arguments, by syntax alone.

Nothing of the file is run or imported. A name stands for the literal that was assigned to it last,
as notebooks do (`max_seq_length = 2048`); every other expression is Computed, which says so.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Of all code cells together: for some texts the time of the parser of Python grows as the square.
MAX_CHARACTERS = 128 * 1024
_MAX_TEXT = 60
_PYTHON_MAGICS = ("%%capture", "%%time", "%%timeit", "%%prun", "%%python", "%%python3")
_ASKS_FOR_BF16 = ("is_bfloat16_supported", "is_bf16_supported")


@dataclass(frozen=True, slots=True)
class Computed:
    """A value that only running the file would tell; `likely`: what it is on a newer GPU."""

    text: str
    likely: Any = None

    def __str__(self) -> str:
        return self.text


_UNKNOWN = Computed("")


@dataclass(frozen=True, slots=True)
class Call:
    """One call, `name` with the last two parts of what is called: FastModel.from_pretrained.

    `positional` and `named` hold literals, lists and mappings of them, and Computed.
    """

    name: str
    line: int
    positional: tuple[Any, ...]
    named: dict[str, Any]


def calls_in_notebook(notebook: Any) -> tuple[tuple[Call, ...], tuple[str, ...]]:
    """Calls of the code cells in their order, and which cells are no Python.

    Raises ValueError when it is no notebook, or has more code than notebooks have.
    """
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise ValueError("it is no notebook: it has no list of cells")
    sources = [
        (number, _text_of(cell))
        for number, cell in enumerate(cells, 1)
        if isinstance(cell, dict) and cell.get("cell_type") == "code"
    ]
    return _collect([(f"cell {number}", _without_magics(text)) for number, text in sources])


def calls_in(text: str) -> tuple[tuple[Call, ...], tuple[str, ...]]:
    """Calls of a Python file. Raises ValueError (SyntaxError too) when it is none."""
    found, unread = _collect([("the file", _without_magics(text))])
    if unread:
        raise ValueError(unread[0])
    return found, unread


def _text_of(cell: dict[str, Any]) -> str:
    source = cell.get("source", "")
    parts = source if isinstance(source, list) else [source]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("it is no notebook: a cell's source is no text")
    return "".join(parts)


def _without_magics(text: str) -> str:
    """Shell lines and magics of IPython as `pass`; a cell in another language is left out."""
    lines, goes_on = [], False
    for line in text.split("\n"):
        bare = line.lstrip()
        if bare.startswith("%%"):
            if not bare.startswith(_PYTHON_MAGICS):
                return ""
            lines.append("")
        elif goes_on or bare.startswith(("!", "%")):
            lines.append("" if goes_on else line[: len(line) - len(bare)] + "pass")
            goes_on = bare.rstrip().endswith("\\")
        else:
            lines.append(line)
    return "\n".join(lines)


def _collect(sources: list[tuple[str, str]]) -> tuple[tuple[Call, ...], tuple[str, ...]]:
    if sum(len(text) for _, text in sources) > MAX_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CHARACTERS} characters of code")
    reader, unread = _Reader(), []
    for place, text in sources:
        try:
            reader.run_through(_parsed(text).body)
        except SyntaxError as error:
            unread.append(f"{place} is no Python: {error.msg} (line {error.lineno})")
        except (ValueError, RecursionError, MemoryError) as error:
            unread.append(f"{place} cannot be read: {str(error) or type(error).__name__}")
    return tuple(reader.calls), tuple(unread)


def _parsed(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a stranger's "\d" is not our user's business
        return ast.parse(text)


class _Reader:
    """Goes through statements in order, and knows what was last assigned to each name."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.names: dict[str, Any] = {}

    def run_through(self, statements: list[ast.stmt]) -> None:
        """Collect calls and assignments; a branch under `if False` is no part of the program."""
        for statement in statements:
            if isinstance(statement, ast.If) and isinstance(statement.test, ast.Constant):
                self.run_through(statement.body if statement.test.value else statement.orelse)
                continue
            self._collect(statement)
            self._assign(statement)
            for body in _bodies(statement):
                self.run_through(body)
            if not isinstance(statement, ast.Assign | ast.AnnAssign):
                self._forget(statement)

    def _collect(self, statement: ast.stmt) -> None:
        found = [
            node
            for part in _own_expressions(statement)
            for node in ast.walk(part)
            if isinstance(node, ast.Call)
        ]
        for call in sorted(found, key=lambda node: (node.lineno, node.col_offset)):
            self.calls.append(self._call(call))

    def _call(self, node: ast.Call) -> Call:
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self._value(keyword.value)
            if keyword.arg is not None:
                named[keyword.arg] = value
            elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
                named |= value
            else:
                named["**"] = Computed(_shown(keyword.value))
        positional = tuple(self._value(argument) for argument in node.args)
        return Call(_name_of(node.func), node.lineno, positional, named)

    def _assign(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            return
        if isinstance(target, ast.Name):
            self.names[target.id] = self._value(value)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for each, part in zip(target.elts, value.elts, strict=False):
                if isinstance(each, ast.Name):
                    self.names[each.id] = self._value(part)

    def _forget(self, statement: ast.stmt) -> None:
        """What a branch, a loop or a function assigns is known to nobody behind it."""
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.names[node.id] = Computed(node.id)

    def _value(self, node: ast.expr) -> Any:
        try:
            return self._literal(node)
        except (_NoLiteral, RecursionError, OverflowError, ZeroDivisionError):
            return Computed(_shown(node), self._likely(node))

    def _literal(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
            return node.value
        if isinstance(node, ast.Name) and not isinstance(
            held := self.names.get(node.id, _UNKNOWN), Computed
        ):
            return held
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return [self._literal(item) for item in node.elts]
        if isinstance(node, ast.Dict):
            return dict(self._pairs(node))
        if isinstance(node, ast.UnaryOp | ast.BinOp):
            return self._number(node)
        dtype = _name_of(node)
        if dtype.startswith("torch.") and isinstance(node, ast.Attribute):
            return node.attr
        raise _NoLiteral

    def _pairs(self, node: ast.Dict) -> Iterator[tuple[Any, Any]]:
        for key, value in zip(node.keys, node.values, strict=True):
            if not isinstance(key, ast.Constant):
                raise _NoLiteral
            yield key.value, self._literal(value)

    def _number(self, node: ast.UnaryOp | ast.BinOp) -> Any:
        """Minus and `not`; the four operations of numbers such as `2 * 1024`."""
        if isinstance(node, ast.UnaryOp):
            value = self._literal(node.operand)
            if isinstance(node.op, ast.Not) and isinstance(value, bool):
                return not value
            if isinstance(node.op, ast.USub) and _is_number(value):
                return -value
            raise _NoLiteral
        left, right = self._literal(node.left), self._literal(node.right)
        if not (_is_number(left) and _is_number(right)):
            raise _NoLiteral
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.FloorDiv | ast.Div):
            return left // right if isinstance(node.op, ast.FloorDiv) else left / right
        raise _NoLiteral

    def _likely(self, node: ast.expr) -> Any:
        """True where the file asks whether the GPU has bfloat16, False for `not` of it."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            asked = self._likely(node.operand)
            return not asked if isinstance(asked, bool) else None
        if isinstance(node, ast.Call) and _name_of(node.func).endswith(_ASKS_FOR_BF16):
            return True
        if isinstance(node, ast.Name):
            held = self.names.get(node.id)
            return held.likely if isinstance(held, Computed) else None
        return None


class _NoLiteral(Exception):
    """An expression that is not told by its letters."""


def _is_number(value: Any) -> bool:
    """Small enough that no arithmetic of a stranger takes long."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def _bodies(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        yield getattr(statement, name, [])
    for handler in getattr(statement, "handlers", []):
        yield handler.body
    for case in getattr(statement, "cases", []):
        yield case.body


def _own_expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement, without the statements in it."""
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.expr | ast.withitem | ast.keyword):
            yield child


def _name_of(node: ast.expr) -> str:
    """The last two parts of a dotted name; "" for what has no name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts[:2]))


def _shown(node: ast.expr) -> str:
    """A short text for messages; of a call its name alone, since its arguments may be secrets."""
    if isinstance(node, ast.Call):
        return f"{_name_of(node.func)}({'...' if node.args or node.keywords else ''})"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return f"not {_shown(node.operand)}"[:_MAX_TEXT]
    if isinstance(node, ast.Name | ast.Attribute):
        return _name_of(node)[:_MAX_TEXT]
    return f"an expression ({type(node).__name__})"
