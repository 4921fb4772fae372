"""What decides the place of rows in training and validation: a few numbers a row, in columns.

Rows are anything that can be counted, gone through and taken from: a list, or rows on disk, which
bring their facts with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runner.scripts.data.chunks.digests import Digests
from runner.scripts.data.chunks.spool import Files
from runner.scripts.data.conversation import Conversation
from runner.scripts.data.dividing.kinship import Row, content_key, prompt_key
from runner.scripts.weights.floats import Array

_DIGESTS = ("digests", "plain", "prompts", "contents", "owners")


@dataclass(frozen=True)
class Strata:
    """The value of each row in the column to stratify by: int32 [n], numbers of `names`."""

    codes: Array
    names: Sequence[str]

    @staticmethod
    def of(values: Sequence[str | None]) -> Strata:
        """Of rows one by one; no value is the empty one."""
        known: dict[str, int] = {}
        codes = [known.setdefault(value or "", len(known)) for value in values]
        return Strata(np.array(codes, np.int32), list(known))

    def ranked(self) -> Array:
        """The codes, as numbers of the names in order."""
        order = np.argsort(np.array(self.names, object), kind="stable")
        ranks = np.empty(len(order), np.int32)
        ranks[order] = np.arange(len(order), dtype=np.int32)
        return ranks[self.codes]


@dataclass(frozen=True)
class Facts:
    """Columns [n]. A column that nothing asks for is None."""

    sources: Array  # int32
    digests: Digests
    plain: Digests  # what a split without settings keeps together
    prompts: Digests | None = None  # prompt_key
    contents: Digests | None = None  # content_key
    owners: Digests | None = None  # of a row's group, or of its prompt where it has none
    strata: Strata | None = None
    has_groups: bool = False  # is any row in a group?
    has_turns: bool = False  # is any row more than a plain text?

    def take(self, indexes: Array) -> Facts:
        """Those of some of the rows, in the order of `indexes`."""
        kept = {name: getattr(self, name) for name in _DIGESTS}
        taken = {name: each and each.take(indexes) for name, each in kept.items()}
        strata = self.strata and replace(self.strata, codes=self.strata.codes[indexes])
        return replace(self, sources=self.sources[indexes], strata=strata, **taken)


def facts_of(
    rows: Iterable[Row], plain: Callable[[Any], str], settings: Mapping[str, Any]
) -> Facts:
    """Of rows one by one. `plain`: digest of what a split without settings keeps together."""
    rows = list(rows)
    digests = Digests.of(row.digest() for row in rows)
    leaks, kin = _looks_for_leaks(settings), goes_by_kin(settings)
    near = bool(settings.get("near"))
    prompts = [prompt_key(row) for row in rows] if kin or leaks else None
    groups = [row.traits.group for row in rows]
    strata = [row.traits.stratum for row in rows]
    return Facts(
        np.array([row.traits.source for row in rows], np.int32),
        digests,
        digests if plain is Conversation.digest else Digests.of(plain(row) for row in rows),
        None if prompts is None else Digests.of(prompts),
        Digests.of(content_key(row) for row in rows) if leaks or near else None,
        None if prompts is None else Digests.of(map(owner, prompts, groups)),
        None if all(each is None for each in strata) else Strata.of(strata),
        has_groups=any(each is not None for each in groups),
        has_turns=any(not isinstance(row, Conversation) or row.text is None for row in rows),
    )


def owner(prompt: str, group: str | None) -> str:
    """Digest of what a row is kept together by: its group, or its prompt where it has none."""
    return prompt if group is None else hashlib.sha256(f"group:{group}".encode()).hexdigest()


class Gathered:
    """The facts of rows that come in parts, on disk. Memory: what `whole` says."""

    def __init__(self, files: Files, kind: str) -> None:
        self._digests = {name: files.column(f"{kind}.{name}", np.uint64) for name in _DIGESTS}
        self._sources = files.column(f"{kind}.sources", np.int32)
        self._strata = files.column(f"{kind}.strata", np.int32)
        self._asked: set[str] = set()  # columns that there are, be they empty
        self._names: dict[str, int] = {}
        self._has_groups = self._has_strata = self._has_turns = self._plain_is_other = False

    def add(self, facts: Facts) -> None:
        """Those of the rows that follow."""
        self._plain_is_other |= facts.plain is not facts.digests
        for name, column in self._digests.items():
            each = getattr(facts, name)
            if each is None or (name == "plain" and each is facts.digests):
                continue
            self._asked.add(name)
            for block in each.blocks():
                column.extend(block.reshape(-1))
        self._sources.extend(facts.sources)
        self._strata.extend(self._codes(facts))
        self._has_groups |= facts.has_groups
        self._has_strata |= facts.strata is not None
        self._has_turns |= facts.has_turns

    def whole(self) -> Facts:
        """Of all rows. Memory: 4 bytes a row, 4 more where there are strata."""
        found = {name: Digests(self._digests[name]) for name in self._asked}
        digests = Digests(self._digests["digests"])
        return Facts(
            self._sources.whole(),
            digests,
            Digests(self._digests["plain"]) if self._plain_is_other else digests,
            found.get("prompts"),
            found.get("contents"),
            found.get("owners"),
            Strata(self._strata.whole(), list(self._names)) if self._has_strata else None,
            has_groups=self._has_groups,
            has_turns=self._has_turns,
        )

    def _codes(self, facts: Facts) -> Array:
        """The numbers of the strata, as all parts have them."""
        given = facts.strata or Strata(np.zeros(len(facts.sources), np.int32), [""])
        known = [self._names.setdefault(name, len(self._names)) for name in given.names]
        return np.array(known, np.int32)[given.codes]


def goes_by_kin(settings: Mapping[str, Any]) -> bool:
    """Does the split keep rows together that are more than equal?"""
    return bool({"stable", "group_by", "stratify"} & {*settings.get("split", {})})


def _looks_for_leaks(settings: Mapping[str, Any]) -> bool:
    return settings.get("split", {}).get("on_leak", "allow") != "allow"
