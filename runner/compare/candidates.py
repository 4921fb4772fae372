"""The models that are compared: the base of each run and what it trained, with their examples."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runner.compare.costs import Cost, costs_of
from runner.compare.unevaluated import is_evaluated, unevaluated
from runner.errors import UsageError
from runner.execution.run_folder import SHOWN_AS
from runner.report.printable import quoted
from runner.scripts.data.questions import Question
from runner.scripts.evaluation.examples import (
    FILE,
    MODELS,
    SHOWN,
    Example,
    ExampleSet,
    Group,
    NotExamples,
    cut,
    question_id,
    read_examples,
)
from runner.stages.models.base_result import MODEL
from runner.store.digest import canonical_sha256
from runner.system.regular import NotReadable, read_regular
from runner.verify.run import Run

RECORD_SCHEMA = 1
MAX_BYTES = 1 << 30  # of the examples of a run
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Candidate:
    """One model. `side`: "base" or "tuned", under which its results stand in `examples`.

    `base`: identity of the model that was trained, and of how it is asked. `kept`: are there
    results of every example, or only answers to questions? `means`: measures without examples, by
    name of the measure. `system`: the prompt above every question that has none. `prompts`: whole
    texts of those questions that examples show cut. `gave`: digests of the models that its run
    gave; `started_from`: of the one that a base is, where another recipe gave it.
    """

    name: str
    side: str
    run: str
    base: str
    platform: str
    kept: bool
    max_new_tokens: int
    examples: Mapping[Key, Example]
    means: Mapping[str, float]
    groups: tuple[Group, ...] = ()  # of tasks, that have figures of their own
    system: str | None = None
    prompts: Mapping[Key, str] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    gave: frozenset[str] = frozenset()
    started_from: str = ""

    def prompt(self, key: Key) -> str:
        """The whole text of a question."""
        return self.prompts.get(key) or str(self.examples[key].shown.get("prompt", ""))


def candidates(runs: Sequence[Run]) -> list[Candidate]:
    """Every base once, before the first run that has it; and every run's model.

    Raises UsageError E920 to E922.
    """
    found: list[Candidate] = []
    bases: dict[str, int] = {}  # identity -> place in `found`
    names = _names(runs)
    for run, name in zip(runs, names, strict=True):
        base, tuned = _of_run(run, name)
        if not _has_results(base):
            pass  # a reward model has no base that could be asked
        elif base.base not in bases:
            bases[base.base] = len(found)
            found.append(base)
        else:
            place = bases[base.base]
            found[place] = _with_more(found[place], base)
        found.append(tuned)
    return [
        replace(each, name=_base_name(each, found, several=len(bases) > 1))
        if each.side == "base"
        else each
        for each in found
    ]


def _base_name(base: Candidate, found: Sequence[Candidate], *, several: bool) -> str:
    """The head of its column: of which run it is the base, and whose model it is."""
    if not several:
        return "base"
    source = source_of(base, found)
    name = f"base of {base.name}"
    return name if source is None else f"{source.name}, the {name}"


def source_of(base: Candidate, found: Sequence[Candidate]) -> Candidate | None:
    """Whose model this base is, by the bytes of what the runs gave; None where it is nobody's."""
    if base.side != "base" or not base.started_from:
        return None
    others = (each for each in found if each.base != base.base)
    return next((each for each in others if base.started_from in each.gave), None)


def _with_more(known: Candidate, again: Candidate) -> Candidate:
    """One base in several runs: what each of them asked it. The first run's answer stands."""
    if again.max_new_tokens != known.max_new_tokens:
        return known
    return replace(
        known,
        kept=known.kept or again.kept,
        examples={**again.examples, **known.examples},
        means={**again.means, **known.means},
        groups=tuple(dict.fromkeys((*known.groups, *again.groups))),
        prompts={**again.prompts, **known.prompts},
    )


def _names(runs: Sequence[Run]) -> list[str]:
    """The recipes' names, with the run where that is not enough, with a number where nor that."""
    recipes = [str(run.record.get("recipe", "")) or run.folder.name for run in runs]
    names = [
        name if recipes.count(name) == 1 else f"{name}/{run.folder.name}"
        for name, run in zip(recipes, runs, strict=True)
    ]
    return [
        name if names.count(name) == 1 else f"{name} ({names[:number].count(name) + 1})"
        for number, name in enumerate(names)
    ]


def _of_run(run: Run, name: str) -> tuple[Candidate, Candidate]:
    settings = _settings(run)
    measures = run.stage("evaluate")["measures"]
    kept = _examples(run)
    examples = ExampleSet(settings["max_new_tokens"], {}) if kept is None else kept
    asked = dict(examples.examples) if kept else _questions(run, settings["system"])
    tasks = _task_examples(run)
    asked |= tasks.examples
    prompts = _whole_prompts(run, asked) if kept else {}
    platform = str(run.record.get("platform", {}).get("name", ""))
    sides = []
    for side, cost in zip(("base", "tuned"), costs_of(run), strict=True):
        loss = measures.get(f"loss_{side}")
        sides.append(
            Candidate(
                name=name,
                side=side,
                run=str(run.folder),
                base=settings["base"],
                platform=platform,
                kept=kept is not None,
                max_new_tokens=examples.max_new_tokens,
                examples={key: each for key, each in asked.items() if side in each.results},
                means={} if type(loss) is not float else {"loss": loss},
                groups=tasks.groups,
                system=settings["system"],
                prompts=prompts,
                cost=cost,
                gave=_gave(run) if side == "tuned" else frozenset(),
                started_from=_started_from(run) if side == "base" else "",
            )
        )
    return sides[0], sides[1]


def _gave(run: Run) -> frozenset[str]:
    """Digests of the models that another recipe may start from, as that one's run.json has them."""
    found = set()
    for stage in ("train", "merge"):
        files = [
            [path, facts["size"], facts["sha256"]]
            for path, facts in sorted(run.manifest.get(stage, {}).items())
            if fnmatch.fnmatchcase(path, MODEL)
        ]
        if files:
            found.add(canonical_sha256(files))
    return frozenset(found)


def _started_from(run: Run) -> str:
    """Digest of the model that another recipe gave this one to start from; "" without one."""
    told = run.record.get("base")
    if not run.record["resolved"]["model"].get("recipe") or not isinstance(told, dict):
        return ""
    return str(told.get("result", ""))


def _has_results(candidate: Candidate) -> bool:
    return bool(candidate.examples or candidate.means)


def _settings(run: Run) -> dict[str, Any]:
    """What of the recipe decides whether two runs compare."""
    schema = run.record.get("schema")
    if schema != RECORD_SCHEMA:
        raise UsageError(
            f"{run.folder} is a run of schema {schema!r}, and {RECORD_SCHEMA} is known",
            hint="compare it with the version of the tool that wrote it, or run the recipe again",
            code="E922",
        )
    if not is_evaluated(run):
        raise unevaluated(run)
    try:
        resolved = run.record["resolved"]
        model = resolved["model"]
        limit = resolved["evaluate"]["max_new_tokens"]
        if type(limit) is not int:
            raise TypeError
        return {
            "max_new_tokens": limit,
            "system": resolved["data"].get("system"),
            "base": canonical_sha256(
                [
                    sorted(
                        [path, facts["sha256"]]
                        for path, facts in run.manifest.get("fetch", {}).items()
                    ),
                    run.manifest.get("prepare", {}).get("chat_template.jinja", {}).get("sha256"),
                    [model.get(name) for name in ("dtype", "quantization", "attn_implementation")],
                ]
            ),
        }
    except (KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{run.folder} does not say what was evaluated",
            hint="its run.json is damaged; run the recipe again",
            code="E921",
        ) from None


def _examples(run: Run) -> ExampleSet | None:
    """The kept results; None where the recipe did not ask for any."""
    content = _checked(run, FILE)
    return None if content is None else _read(run, "evaluate", content)


def _task_examples(run: Run) -> ExampleSet:
    """What came out of the tasks of lm-evaluation-harness; nothing where there were none."""
    content = _checked(run, FILE, "harness") if "harness" in run.manifest else None
    return ExampleSet(0) if content is None else _read(run, "harness", content)


def _read(run: Run, stage: str, content: bytes) -> ExampleSet:
    try:
        return read_examples(content)
    except NotExamples as error:
        raise _damaged(run, FILE, str(error), stage) from None


def _questions(run: Run, system: str | None) -> dict[Key, Example]:
    """Of a run that kept no examples: the questions with expected answers, from answers.jsonl."""
    content = _checked(run, "answers.jsonl") or b""
    found: dict[Key, Example] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").split("\n"), 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            text, expect = str(row["question"]), tuple(map(str, row.get("expect", ())))
            said = {name: str(row[name]) for name in ("base", "tuned") if name in row}
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            raise _damaged(run, "answers.jsonl", f"line {number} is no answer") from None
        if not expect:
            continue  # a held-out prompt, of which only the last turn is here
        expected = " ".join(expect)
        key = question_id(system, [{"role": "user", "content": text}], [expected])
        question = Question(text, [], expect)
        again = sum(known[1] == key for known in found)
        found["question", key, again] = Example(
            "question",
            key,
            {"prompt": text, "expected": expected},
            {name: {"answer": each, "hit": question.is_hit(each)} for name, each in said.items()},
        )
    return found


def _whole_prompts(run: Run, examples: Mapping[Key, Example]) -> dict[Key, str]:
    """Of examples that show a question cut: all of it, from answers.jsonl, by what was answered."""
    cut_ones = {
        (
            str(each.shown["prompt"]),
            *(each.results.get(side, {}).get("answer") for side in MODELS),
        ): key
        for key, each in examples.items()
        if len(str(each.shown.get("prompt", ""))) == SHOWN
    }
    if not cut_ones:
        return {}
    found = {}
    for line in (_checked(run, "answers.jsonl") or b"").decode("utf-8", "replace").split("\n"):
        try:
            row = json.loads(line)
            text = str(row["question"])
            key = cut_ones.get((cut(text), *(row.get(side) for side in MODELS)))
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            continue
        if key is not None:
            found[key] = text
    return found


def _checked(run: Run, path: str, stage: str = "evaluate") -> bytes | None:
    """An output with the bytes that the manifest says; None when the stage has none."""
    facts = run.manifest[stage].get(path)
    if facts is None:
        return None
    place = run.shown(stage, path)
    assert place is not None
    try:
        content = read_regular(place, MAX_BYTES)
    except NotReadable as error:
        raise _damaged(run, path, str(error), stage) from None
    if hashlib.sha256(content).hexdigest() != facts["sha256"]:
        raise _damaged(run, path, "it is not what the run wrote", stage)
    return content


def _damaged(run: Run, path: str, why: str, stage: str = "evaluate") -> UsageError:
    return UsageError(
        f"{run.folder}: {SHOWN_AS[stage]}/{path} cannot be used: {quoted(why, 200)[1:-1]}",
        hint=f"recipe verify {run.folder} says what else has changed; or run the recipe again",
        code="E921",
    )
