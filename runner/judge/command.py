"""The judging of a comparison: what is asked, the log beside the judge's file, what comes out."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.asking import servers
from runner.asking.asker import Asker, NotInTheLog, Tally
from runner.asking.http import Address
from runner.asking.log import Log, log_path
from runner.asking.settings import Endpoint
from runner.compare.candidates import Candidate
from runner.compare.differences import pairs_of
from runner.errors import RecipeToolError, UsageError
from runner.judge.judging import BUDGET, Judged, Pair, chosen, judge_all, pairs_to_judge
from runner.judge.result import judged_data, notes
from runner.judge.settings import Settings
from runner.store.locks import Lock
from runner.system import folders


@dataclass(frozen=True, slots=True)
class _Matched:
    """Two models, the prompts that both answered, and those of them that are judged."""

    first: Candidate
    second: Candidate
    common: int
    pairs: Sequence[Pair]
    why: str


@dataclass(frozen=True, slots=True)
class Told:
    """Who hears of what goes on: words, and how many prompts of how many are done."""

    say: servers.Say
    progress: Callable[[int, int], None]


def judge_candidates(
    found: Sequence[Candidate], settings: Settings, told: Told, *, offline: bool
) -> tuple[dict[str, Any], Tally]:
    """The judge's part of a comparison, as plain data, and what it cost. Raises RecipeToolError.

    Every answer is in the log at once; the log alone is tried first, and needs no server.
    """
    matched = [_matched(first, second, settings) for first, second in pairs_of(found)]
    pairs = [pair for each in matched for pair in each.pairs]
    if not pairs:
        reasons = sorted({each.why for each in matched if each.why})
        raise UsageError(
            f"there is nothing to judge: {reasons[0] if reasons else 'no prompt was answered'}",
            hint='a judge compares answers: add "samples" or "questions" to evaluate, the same in '
            "both recipes, and run them again; what was trained is reused",
            code="E913",
        )
    path = log_path(settings.source.path.with_suffix(".jsonl"))
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    lock = folders.cache_folder() / "locks" / f"judge-{name}.lock"
    with Lock(lock, str(path), wait=False), Log(path, read_only=offline) as log:
        judged, tally = _from_the_log_or_asked(pairs, settings, log, told, offline=offline)
    _check_any(judged, settings, path)
    return _as_data(matched, judged, settings, path), tally


def _matched(first: Candidate, second: Candidate, settings: Settings) -> _Matched:
    pairs = pairs_to_judge(first, second)
    why = "" if pairs else "there is no prompt that both have answered"
    if pairs and first.max_new_tokens != second.max_new_tokens:
        why = f"answers of at most {first.max_new_tokens} and {second.max_new_tokens} tokens"
    return _Matched(first, second, len(pairs), [] if why else chosen(pairs, settings), why)


def _from_the_log_or_asked(
    pairs: Sequence[Pair], settings: Settings, log: Log, told: Told, *, offline: bool
) -> tuple[list[Judged], Tally]:
    if len(log) or offline or all(pair.same for pair in pairs):
        try:
            quiet = Told(lambda message: None, lambda done, total: None)
            return _judged(pairs, settings, log, None, quiet)
        except NotInTheLog:
            if offline:
                raise
    asked = sum(not pair.same for pair in pairs)
    told.say(f"{settings.endpoint.model} judges {asked} pairs of answers, each in both orders")
    if len(log):
        told.say(f"{len(log)} answers are in {log.path} and are not asked for again")
    with servers.addresses(settings, told.say) as addresses:
        return _judged(pairs, settings, log, addresses, told)


def _judged(
    pairs: Sequence[Pair],
    settings: Settings,
    log: Log,
    addresses: Mapping[Endpoint, Address] | None,
    told: Told,
) -> tuple[list[Judged], Tally]:
    stopping = threading.Event()
    asker = Asker(settings, log, addresses, stopping)

    def progress(done: int) -> None:
        told.progress(done, len(pairs))

    return judge_all(pairs, settings, asker, stopping, progress, told.say), asker.tally


def _check_any(judged: Sequence[Judged], settings: Settings, log: Path) -> None:
    """Raises RecipeToolError (E914) where the judge was asked and gave no verdict at all."""
    if not judged or any(each.score is not None for each in judged):
        return
    counted = Counter(reason for each in judged for reason in each.unusable)
    reasons = ", ".join(f"{reason} ({count})" for reason, count in counted.most_common(3))
    hint = f"read its answers in {log}; take a more able judge, or raise sampling.max_tokens"
    if set(counted) == {BUDGET}:
        hint = "raise `budget` in the judge's file: the answers in the log count too"
    raise RecipeToolError(
        f"{settings.endpoint.model} gave no verdict on any of {len(judged)} prompts: {reasons}",
        hint=hint,
        code="E914",
    )


def _as_data(
    matched: Sequence[_Matched], judged: Sequence[Judged], settings: Settings, log: Path
) -> dict[str, Any]:
    comparisons, begin = [], 0
    for each in matched:
        end = begin + len(each.pairs)
        comparisons.append(
            judged_data(each.first.name, each.second.name, each.common, each.why, judged[begin:end])
        )
        begin = end
    return {
        "judge": settings.endpoint.model,
        "file": str(settings.source.path),
        "log": str(log),
        "comparisons": comparisons,
        "notes": notes(settings.endpoint.model, comparisons),
    }
