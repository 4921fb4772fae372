"""A recipe laid over its bases, and options over it: one recipe, each value still in its place.

Mappings are merged, everything else is replaced, and `null` takes away, where it is no value of the
key. Where a key chooses between forms of a mapping (`hub` or `path`; an adapter's `type`), another
choice takes away what went with the old one (one_of.choice_of).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.recipe.extends import Chain, read_chain
from runner.recipe.finding import dotted, has_type
from runner.recipe.one_of import choice_of
from runner.recipe.overrides import Nowhere, Override
from runner.recipe.schema import Schema, file_schema, schema_below
from runner.recipe.source import WHOLE, Source, Span, escape_token
from runner.recipe.versions import all_up_to_date, up_to_date
from runner.report.diagnostic import Diagnostic


def layered(source: Source, overrides: Sequence[Override] = ()) -> Source:
    """`source`, a mapping, with its bases and `overrides`. As it is when there are none."""
    if not {"extends", "abstract"} & set(source.data) and not overrides:
        return up_to_date(source)
    chain = read_chain(source)
    chain = replace(chain, sources=all_up_to_date(chain.sources))
    layers = _Layers(source.path)
    if len(chain.sources) == 1 and "abstract" not in source.data:
        layers.start(source)
    else:
        for each in reversed(chain.sources):
            layers.lay(each, _only_for_itself(each, chain))
    problems = [*(problem for each in chain.sources for problem in each.problems), *chain.problems]
    for override in overrides:
        try:
            layers.put(override)
        except Nowhere as error:
            problems.append(override.problem("E129", str(error), error.hint))
    return layers.source(chain, problems, overrides)


def _only_for_itself(source: Source, chain: Chain) -> set[str]:
    """Keys that are not laid over: `extends` once it is done, and what a base says of itself."""
    own = set() if source is chain.sources[0] else {"abstract"}
    followed = chain.whole or source is not chain.sources[-1]
    return own | ({"extends"} if followed else set())


class _Layers:
    """The data so far, with the place and the file of every value."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = {}
        self.values: dict[str, Span] = {}
        self.keys: dict[str, Span] = {}
        self.files: dict[str, Path] = {}

    def start(self, source: Source) -> None:
        """A file that stands for itself, as it is: its `null` takes nothing away."""
        self.data = copy.deepcopy(source.data)
        self.values, self.keys = dict(source.values), dict(source.keys)

    def lay(self, source: Source, left_out: set[str]) -> None:
        """A file over what there is."""
        self._note("", source)
        given = {key: value for key, value in source.data.items() if key not in left_out}
        self._merge(self.data, given, "", file_schema(), source)

    def put(self, override: Override) -> None:
        """An option over what there is. Raises Nowhere."""
        source = override.source
        holder: Any = self.data
        pointer, schema = "", file_schema()
        for token in override.path[:-1]:
            _require_place(holder, token, pointer)
            child = f"{pointer}/{escape_token(str(token))}"
            if isinstance(holder, dict) and holder.get(token) is None:
                holder[token] = {}
                self._note(child, source)
            schema = _below(schema, token)
            holder, pointer = holder[token], child
        last = override.path[-1]
        _require_place(holder, last, pointer)
        if isinstance(last, int):
            self._replace(holder, last, override.value, f"{pointer}/{last}", source)
        else:
            self._merge(holder, {last: override.value}, pointer, schema, source)

    def source(
        self, chain: Chain, problems: Sequence[Diagnostic], overrides: Sequence[Override]
    ) -> Source:
        """All of it as one source."""
        own, *bases = chain.sources
        self.values.setdefault("/extends", own.values.get("/extends", WHOLE))
        return Source(
            path=self.path,
            data=self.data,
            values=self.values,
            keys=self.keys,
            damaged=frozenset().union(*(each.damaged for each in chain.sources)),
            problems=tuple(problems),
            files=self.files,
            bases=tuple(each.path for each in bases),
            overrides={each.name: each.value for each in overrides},
        )

    def _merge(
        self, target: dict[str, Any], given: dict[str, Any], pointer: str, schema: Schema,
        source: Source,
    ) -> None:  # fmt: skip
        choice = choice_of(schema)
        chosen = [key for key in choice.keys if given.get(key) is not None]
        if any(given[key] != target.get(key) for key in chosen):
            for key in choice.bound & set(target):
                self._take(target, key, f"{pointer}/{escape_token(key)}")
        for key, value in given.items():
            child = f"{pointer}/{escape_token(key)}"
            inner = schema_below(schema, key)
            if value is None and _takes_away(inner) and not source.is_damaged(child):
                self._take(target, key, child)
            elif isinstance(value, dict):
                if not isinstance(target.get(key), dict):
                    self._take(target, key, child)
                    target[key] = {}
                self._note(child, source)
                self._merge(target[key], value, child, inner or {}, source)
            else:
                self._take(target, key, child)
                self._replace(target, key, value, child, source)

    def _take(self, target: dict[str, Any], key: str, pointer: str) -> None:
        if key in target:
            self._forget(target.pop(key), pointer)

    def _replace(self, target: Any, key: Any, value: Any, pointer: str, source: Source) -> None:
        if isinstance(target, list):
            self._forget(target[key], pointer)
        target[key] = copy.deepcopy(value)
        for place in _pointers(value, pointer):
            self._note(place, source)

    def _forget(self, value: Any, pointer: str) -> None:
        for place in _pointers(value, pointer):
            for places in (self.values, self.keys, self.files):
                places.pop(place, None)

    def _note(self, pointer: str, source: Source) -> None:
        """The value at `pointer` is now that of `source`."""
        self.values[pointer] = source.values.get(pointer, WHOLE)
        self.keys.pop(pointer, None)
        self.files.pop(pointer, None)
        if pointer in source.keys:
            self.keys[pointer] = source.keys[pointer]
        if source.path != self.path:
            self.files[pointer] = source.path


def _pointers(value: Any, pointer: str) -> Iterator[str]:
    """Of a value, and of all inside of it."""
    yield pointer
    if isinstance(value, list):
        value = {str(number): item for number, item in enumerate(value)}
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _pointers(item, f"{pointer}/{escape_token(key)}")


def _takes_away(schema: Schema | None) -> bool:
    """Does `null` take the value away? Not where null is a value, nor from an unknown key."""
    return schema is not None and not ("type" in schema and has_type(None, schema["type"]))


def _below(schema: Schema, token: str | int) -> Schema:
    if isinstance(token, int):
        found: Schema = schema.get("items", {})
        return found
    return schema_below(schema, token) or {}


def _require_place(holder: Any, token: str | int, pointer: str) -> None:
    """Raises Nowhere when `holder`, which stands at `pointer`, can have no such key or item."""
    name = dotted(pointer)
    if isinstance(holder, list):
        if isinstance(token, str):
            raise Nowhere(f"{name} is a list", f"name an item of it: {name}[0]")
        if token >= len(holder):
            count = "1 item" if len(holder) == 1 else f"{len(holder)} items"
            raise Nowhere(f"{name} has {count}, and the first is {name}[0]")
    elif not isinstance(holder, dict):
        raise Nowhere(f"{name} holds no other values")
    elif isinstance(token, int):
        raise Nowhere(f"{name} is a mapping, not a list", f"name a key of it: {name}.KEY")
