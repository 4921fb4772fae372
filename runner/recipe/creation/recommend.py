"""What to put into a recipe for a model, data and a machine, each with the reason and its source.

Pure arithmetic: no disk, no network, no clock; the same question always has the same answer. The
memory is plan/memory.py's, so that what is recommended here is what `recipe plan` says later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from runner.plan.fit import single_changes
from runner.plan.job import Job, Memory
from runner.plan.phases import phases_of
from runner.recipe.creation.by_method import GENERATIONS, IMITATING, LEAST_ROWS
from runner.recipe.creation.facts import (
    GB,
    DataFacts,
    Machine,
    ModelFacts,
    count_in_words,
    longest_tokens,
)
from runner.recipe.creation.goals import Goal
from runner.recipe.creation.sections import (
    EFFECTIVE_BATCH,
    Case,
    Training,
    as_recipe,
    bits_to_learn,
    capacity,
    room_for_answers,
    sections_of,
)
from runner.recipe.methods import METHODS

RANKS = (16, 32, 64, 128)
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
# Of what is usable: the memory is a sum, and was not measured on such a machine.
_COMFORTABLE = 0.75


class FitsNowhere(Exception):
    """No way of training the model fits into the machine's memory; `need` and `have` in bytes."""

    def __init__(self, tuning: str, need: int, have: int) -> None:
        super().__init__(f"{tuning} needs about {need / GB:.0f} GB of {have / GB:.0f} GB")
        self.tuning, self.need, self.have = tuning, need, have


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Sections of a recipe as plain data, and a reason for what is not obvious, by pointer.

    `memory` is that of the phase `peak`, which takes most, as in `recipe plan`.
    """

    tuning: str
    sections: dict[str, Any]
    reasons: dict[str, str]
    memory: Memory
    peak: str
    fits: bool


def recommend(
    goal: Goal,
    model: ModelFacts,
    data: DataFacts,
    machine: Machine,
    *,
    tuning: str | None = None,
    max_length: int | None = None,
) -> Recommendation:
    """The sections `model` and `data` (in part), `train`, and what the goal wants behind it.

    A `tuning` or `max_length` that is given is taken, even where the memory will not do. Raises
    FitsNowhere when no tuning is given and none fits, NothingToLearn when the rows are not enough.
    """
    case = Case(goal, model, data, machine)
    rank, length, effective = _rank(case), _max_length(case, max_length), _effective_batch(case)
    made = []
    for kind, why in _tunings(case, tuning):
        made.append(_fitted(case, kind, rank, length, effective))
        if kind == "qlora" and tuning is None:
            why = _why_4_bits(case, made[-2], made[-1])
        made[-1].reasons["/train/adapter"] = why
        # Every weight is only proposed where an adapter would not hold the data: then it need not
        # be comfortable, as long as it fits.
        enough = 1 if kind == "full" else _COMFORTABLE
        if tuning is not None or made[-1].memory.total <= enough * machine.usable:
            return made[-1]
    if tight := [each for each in made if each.fits]:
        return tight[0]
    raise FitsNowhere(made[-1].tuning, made[-1].memory.total, machine.usable)


# --- which way to train


def _tunings(case: Case, given: str | None) -> Iterator[tuple[str, str]]:
    """Ways to train and why, the best first; the first that fits is taken."""
    if given is not None:
        yield given, "As asked for."
        return
    size, tokens = count_in_words(case.model.parameters), count_in_words(case.data.tokens)
    if bits_to_learn(case) > capacity(case.model, RANKS[-1]):
        yield (
            "full",
            f"Full fine-tuning: {tokens} tokens are more than an adapter of rank {RANKS[-1]} holds "
            "(about 2 bits a number, 1 bit a token; Schulman et al., LoRA Without Regret, 2025), "
            "and the memory allows it.",
        )
    if case.goal.method not in IMITATING:
        tokens = f"{count_in_words(case.data.rows)} rows, of which each tells about a bit,"
    else:
        tokens += " tokens"
    yield (
        "lora",
        f"LoRA: from {tokens} it learns what full fine-tuning learns, in a fraction of the "
        "memory (Schulman et al., LoRA Without Regret, 2025), and it forgets less (Biderman et "
        f"al., LoRA Learns Less and Forgets Less, 2024). The base, of {size} parameters, fits as "
        "it is, so it is not quantised.",
    )
    yield "qlora", ""  # by what LoRA takes: _why_4_bits


def _why_4_bits(case: Case, lora: Recommendation, qlora: Recommendation) -> str:
    """What LoRA of the base as it is would take, and why that is too much."""
    have = f"{case.machine.usable / GB:.1f} GB that {case.machine} can plan with"
    need, less = f"{lora.memory.total / GB:.1f}", f"{qlora.memory.total / GB:.1f} GB"
    source = "(Dettmers et al., QLoRA, 2023)"
    rows = f"with rows of {lora.sections['data']['max_length']} tokens"
    if lora.fits:
        return (
            f"QLoRA: LoRA of the base in 16 bits, {rows}, would take {need} of the {have}. It "
            "fits, but less than a quarter of that stays free, which is kept since the sum is an "
            "estimate. "
            f"With the base in 4 bits it takes {less} {source}."
        )
    return (
        f"QLoRA: LoRA of the base in 16 bits, {rows}, would take {need} GB, more than the {have}. "
        f"With the base in 4 bits it takes {less} {source}."
    )


def _fitted(case: Case, kind: str, rank: int, length: int, effective: int) -> Recommendation:
    """The way of this kind that changes least: an optimizer of small states only where it must be.

    Which one, plan/fit.py says, as `recipe plan` does.
    """
    usual = _largest_batch(case, Training(kind, rank, length, effective, 1, True))
    if kind != "full" or usual.fits:
        return usual
    optim = _small_states(case, usual)
    if not optim:
        return usual
    small = _largest_batch(case, Training(kind, rank, length, effective, 1, True, optim))
    small.reasons["/train/optim"] = (
        f"AdamW with its states in 8 bits (Dettmers et al., 2022): in 32 bits the training would "
        f"take {usual.memory.total / GB:.0f} GB."
    )
    return small


def _small_states(case: Case, made: Recommendation) -> str:
    """The optimizer that plan/fit.py would change to; "" where it knows none."""
    job = _job(case, made.sections)
    for words, _ in single_changes(case.model.shapes, job, "train", case.machine.device):
        setting, _, value = words.partition(": ")
        if setting == "train.optim":
            return value
    return ""


def _largest_batch(case: Case, wanted: Training) -> Recommendation:
    """The largest batch that leaves a margin, without checkpointing where 4 rows do.

    Where none does, the smallest.
    """
    machine = case.machine
    most = min(wanted.effective, 4 if machine.kind == "cpu" else 8)
    least = min(most, LEAST_ROWS.get(case.goal.method, 1))
    batches = [2**power for power in range(most.bit_length() - 1, least.bit_length() - 2, -1)]
    tries = [(batch, False) for batch in batches if batch >= min(4, most)]
    tries += [(batch, True) for batch in batches]
    for batch, checkpointing in tries:
        made = _made(case, replace(wanted, batch=batch, checkpointing=checkpointing))
        if made.memory.total <= _COMFORTABLE * machine.usable:
            break
    return made


def _made(case: Case, chosen: Training) -> Recommendation:
    reasons: dict[str, str] = {}
    sections = sections_of(case, chosen, reasons)
    job = _job(case, sections)
    phases = phases_of(case.model.shapes, job, case.machine.device)
    peak = max(phases, key=lambda name: phases[name].total)
    memory = phases[peak]
    fits = memory.total <= case.machine.usable
    need = f"about {memory.total / GB:.1f} of {case.machine.usable / GB:.1f} GB"
    reasons["/train/per_device_train_batch_size"] = (
        f"The training then takes {need}." if fits else f"Even this does not fit: {need}."
    )
    return Recommendation(chosen.kind, sections, reasons, memory, peak, fits)


def _job(case: Case, sections: dict[str, Any]) -> Job:
    """As plan/fits.py counts it: only a GPU with memory of its own has a host's beside it."""
    return replace(Job.of(as_recipe(sections)), pages=case.machine.kind == "gpu")


# --- numbers


def _max_length(case: Case, given: int | None) -> int:
    if given is not None:
        return given
    needed, longest = longest_tokens(case.data) + room_for_answers(case.goal), LENGTHS[-1]
    fitting = next((length for length in LENGTHS if length >= needed), longest)
    return min(fitting, case.model.shapes.context or longest)


def _rank(case: Case) -> int:
    for rank in RANKS:
        if capacity(case.model, rank) >= bits_to_learn(case):
            break
    return rank


def _effective_batch(case: Case) -> int:
    """Rows of a step: 16, or as few that an epoch has 8 steps. A power of two.

    Where answers to each are drawn, those of up to 8 rows are a step.
    """
    most = max(1, case.data.rows // 8)
    rows = min(EFFECTIVE_BATCH, 1 << (most.bit_length() - 1))
    return GENERATIONS * min(8, rows) if METHODS[case.goal.method].generates else rows
