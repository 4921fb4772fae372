"""The settings of one file on their way into a recipe: each is noted exactly once."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.capture.captured import Captured, Fate, Note
from runner.imports.calls import Computed
from runner.recipe.flow import flow
from runner.recipe.source import pointer_tokens
from runner.recipe.suggest import nearest

_SECRET = re.compile(
    r"(^|\.|_)(hub_token|hf_token|auth_token|api_key|secret|password|webhook\w*)$|(^|\.)token$",
    re.IGNORECASE,
)
_COMPUTED = "the file computes it, and is not run"


@dataclass(frozen=True, slots=True)
class Read:
    """What a recipe says for a value; `why` it is not quite that, or (`lost`) not at all that."""

    value: Any
    why: str = ""
    lost: bool = False


class Unreadable(Exception):
    """A value that is none of its setting; the message says why."""


@dataclass(frozen=True, slots=True)
class Field:
    """A setting that has one place in a recipe, `target` with dots; `default` is its tool's own.

    Where the tool has none (`needed`), it is a usual value. `read` raises Unreadable.
    """

    target: str
    default: Any
    read: Callable[[Any], Read]
    needed: bool = False


@dataclass
class Sheet:
    """`given`: the file's settings by dotted names. `tool`: whose settings they are.

    `shown`: how people are told of a setting that has a longer name in its file.
    """

    tool: str
    given: Mapping[str, Any]
    shown: Mapping[str, str] = field(default_factory=dict)
    made: Captured = field(default_factory=Captured)
    noted: set[str] = field(default_factory=set)

    # --- looking

    def has(self, name: str) -> bool:
        """Is there a value? A key that is left empty says nothing."""
        return self.given.get(name) is not None

    def value(self, name: str, default: Any = None) -> Any:
        """What the file says, else `default`; for what it computes, what that likely is."""
        value = self.given.get(name)
        if isinstance(value, Computed):
            value = value.likely
        return default if value is None else value

    # --- saying

    def note(
        self, fate: Fate, name: str, *, becomes: str = "", why: str = "", value: Any = None
    ) -> None:
        """Say what became of a setting, once; later words about it are added to the first ones."""
        if value is None:
            value = shown_value(name, self.given.get(name))
        name = self.shown.get(name, name)
        if name not in self.noted:
            self.noted.add(name)
            self.made.note(fate, name, value, becomes=becomes, why=why)
            return
        index = next(i for i, each in enumerate(self.made.notes) if each.name == name)
        self.made.notes[index] = _together(self.made.notes[index], fate, becomes, why)

    def mapped(self, name: str, becomes: str = "") -> None:
        """The recipe says the same."""
        self.note(Fate.MAPPED, name, becomes=becomes)

    def close(self, name: str, why: str, becomes: str = "") -> None:
        """The recipe says nearly the same."""
        self.note(Fate.CLOSE, name, becomes=becomes, why=why)

    def lost(self, name: str, why: str, becomes: str = "") -> None:
        """The recipe cannot say it."""
        self.note(Fate.LOST, name, becomes=becomes, why=why)

    # --- writing

    def put(self, target: str, value: Any, name: str, comment: str = "") -> None:
        """The value at a dotted place of the recipe, with the setting that it comes from."""
        *above, last = target.split(".")
        holder = self.made.recipe
        for key in above:
            holder = holder.setdefault(key, {})
        holder[last] = value
        name = self.shown.get(name, name)
        self.made.reasons["/" + target.replace(".", "/")] = comment or f"{self.tool}: {name}"

    def fill(self, fields: Mapping[str, Field]) -> None:
        """Every field of the table: what the file says, or else what the tool does then."""
        for name, each in fields.items():
            self.fill_one(name, each)

    def fill_one(self, name: str, each: Field) -> None:
        """One setting into its place, with its note."""
        raw = self.given.get(name)
        if raw is None:
            self._default(name, each)
            return
        read = self._read(raw, each)
        self.put(each.target, read.value, name)
        becomes = f"{each.target}: {flow(read.value)}"
        if read.lost:
            self.lost(name, read.why, becomes)
        elif read.why:
            self.close(name, read.why, becomes)
        else:
            self.mapped(name, becomes)

    def _read(self, raw: Any, each: Field) -> Read:
        usual = each.read(each.default)
        if isinstance(raw, Computed):
            if raw.likely is None:
                return Read(usual.value, f"{_COMPUTED}; this is {self.tool}'s default", lost=True)
            why = f"{_COMPUTED}; this is what it is on a GPU with bfloat16"
            return Read(each.read(raw.likely).value, why)
        try:
            return each.read(raw)
        except Unreadable as error:
            return Read(usual.value, f"{error}; this is {self.tool}'s default", lost=True)

    def _default(self, name: str, each: Field) -> None:
        read = each.read(each.default)
        if each.needed:
            self.put(each.target, read.value, name)
            why = f"{self.tool} needs it, and the file has none: a usual value"
            self.close(name, why, f"{each.target}: {flow(read.value)}")
            return
        comment = f"{self.tool}'s default ({self.shown.get(name, name)})"
        self.put(each.target, read.value, name, comment)
        why = f"{self.tool}'s own where the file is silent"
        why += f"; {read.why}" if read.why else ""
        becomes = f"{each.target}: {flow(read.value)}"
        self.note(Fate.DEFAULT, name, becomes=becomes, why=why, value=each.default)

    # --- what is left

    def finish(
        self,
        mapped: frozenset[str],
        no_effect: frozenset[str],
        cannot: Mapping[str, Mapping[str, Any]],
    ) -> Captured:
        """Note every setting that has none yet; the tables are those of `runner.imports.Import`."""
        reasons = {
            name: (why, usual) for why, table in cannot.items() for name, usual in table.items()
        }
        for name in self.given:
            if self.shown.get(name, name) not in self.noted:
                top = name.partition(".")[0].partition("[")[0]
                if name not in reasons and top not in {*no_effect, *reasons}:
                    self._unknown(name, top, {*mapped, *no_effect, *reasons})
                else:
                    self._leave(name, top, no_effect, reasons)
        self._drop_what_no_recipe_takes()
        return self.made

    def _leave(
        self,
        name: str,
        top: str,
        no_effect: frozenset[str],
        reasons: Mapping[str, tuple[str, Any]],
    ) -> None:
        value = self.given[name]
        known = name if name in no_effect or name in reasons else top
        if value is None or value in ({}, []):
            self.note(Fate.NO_EFFECT, name, why="left empty", value="")
        elif known in no_effect:
            self.note(Fate.NO_EFFECT, name)
        elif is_harmless(value, reasons[known][1]):
            self.note(Fate.NO_EFFECT, name, why="as it is without it")
        else:
            self.lost(name, reasons[known][0])

    def _unknown(self, name: str, top: str, known: set[str]) -> None:
        if self.given[name] is None:
            self.note(Fate.NO_EFFECT, name, why="left empty", value="")
            return
        meant = nearest(top, sorted(known - {top}))
        slip = f"; did you mean {meant}?" if meant else ""
        self.lost(name, f"it is no setting of {self.tool} that is known here{slip}")

    def _drop_what_no_recipe_takes(self) -> None:
        """Values outside of the schema: said, and left to the recipe's default."""
        from runner.recipe.schema import load_schema
        from runner.recipe.validate import findings

        for finding in findings(self.made.recipe, load_schema()):
            name = self._named(finding.pointer)
            if name is None:
                continue
            *above, last = pointer_tokens(finding.pointer)
            holder: Any = self.made.recipe
            for key in above:
                holder = holder[int(key)] if isinstance(holder, list) else holder.get(key, {})
            if isinstance(holder, dict) and last in holder:
                self.lost(name, finding.message, f"left out: {holder.pop(last)}")
                self.made.reasons.pop(finding.pointer, None)

    def _named(self, pointer: str) -> str | None:
        """The setting that the value at `pointer`, and no whole section, comes from."""
        comment = self.made.reasons.get(pointer, "")
        found = re.search(rf"^{re.escape(self.tool)}(?:: |'s default \()([^)]+)", comment)
        return found[1] if found else None


def is_harmless(value: Any, usual: Any) -> bool:
    """Does the value change nothing? Empty, off and what is usual do not."""
    if isinstance(value, Computed):
        return False
    return bool(value == usual) or (not value and not usual)


def shown_value(name: str, value: Any) -> Any:
    """The value for a report; secrets are not shown."""
    if isinstance(value, Computed):
        return f"{value} (computed)"
    return "…" if value and _SECRET.search(name) else value


def flat(
    settings: Mapping[str, Any], above: str = "", whole: Collection[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Every leaf by its dotted name; lists of plain values and empty mappings are leaves.

    So are the settings named in `whole`.
    """
    for key, value in settings.items():
        if key in whole:
            yield f"{above}{key}", value
        else:
            yield from _flat_value(f"{above}{key}", value)


def _flat_value(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        yield from flat(value, f"{name}.")
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _flat_value(f"{name}[{index}]", item)
    else:
        yield name, value


def _together(note: Note, fate: Fate, becomes: str, why: str) -> Note:
    order = list(Fate)
    worst = min(note.fate, fate, key=order.index)
    return Note(
        worst,
        note.name,
        note.value,
        "; ".join(dict.fromkeys(filter(None, (note.becomes, becomes)))),
        "; ".join(dict.fromkeys(filter(None, (note.why, why)))),
    )
