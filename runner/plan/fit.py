"""Does a training fit a machine, when is it tightest, and what to change so that it does.

Pure arithmetic over plan/memory.py. Only what lies in a GPU's memory is counted: merging and
converting work tensor by tensor in the host's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from runner.plan.job import Job, Memory
from runner.plan.memory import training_memory
from runner.plan.optimizers import SMALL_STATES
from runner.plan.phases import beside_of, phases_of
from runner.plan.shapes import Shapes
from runner.plan.two_machines import on_two_machines
from runner.recipe.model import Quantization

MOST_ROWS = 256  # in one batch
SHORTEST = 256  # tokens that a change may cut rows to
LONGEST = 1 << 17  # tokens of a row, where a model does not say its context
STEP_OF_LENGTH = 64
LORA_RANK = 16
_ADAPTER = "train.adapter"
_QUANTIZATION = "model.quantization"
_BATCH = "train.per_device_train_batch_size"

Way = tuple[tuple[str, ...], int]  # changes in words, and the bytes then
Change = tuple[str, Callable[[Job], Job | None]]  # in words; None where it does not apply


@dataclass(frozen=True, slots=True)
class Fit:
    """`phases`: name -> memory. `changes`: None fits in no known way, () fits as it is.
    `least`: the changes after which it is `changed` where none makes it fit.

    `together`: what makes two such machines hold it in parts, and the bytes on each at the peak;
    told where one machine is not enough, or only for another training. `beside`: the phases without
    a GPU, of the host's memory. `largest`: tokens of a row -> rows that fit one forward pass of the
    training, if any does; `longest`: tokens of a row that fits alone, 0 if none does.
    """

    budget: int
    phases: Mapping[str, Memory]
    beside: Mapping[str, Memory]
    changes: tuple[str, ...] | None
    changed: int  # bytes at the peak after the changes
    together: Way | None
    largest: Mapping[int, int]
    longest: int
    least: tuple[str, ...] = ()

    @property
    def peak(self) -> str:
        """The phase that takes most."""
        return max(self.phases, key=lambda name: self.phases[name].total)


def fit(shapes: Shapes, job: Job, budget: int, device: str = "cuda") -> Fit:
    """How the job fits into `budget` bytes of a GPU, or of a machine without (`device` cpu)."""
    changes, changed = fewest_changes(shapes, job, budget, device)
    least = () if changes is not None else least_changes(shapes, job, device)[0]
    return Fit(
        budget=budget,
        phases=phases_of(shapes, job, device),
        beside=beside_of(shapes, job),
        changes=changes,
        changed=changed,
        together=fewest_together(shapes, job, changes, budget, device),
        largest=dict(_largest(shapes, job, budget, device)),
        longest=_longest_row(shapes, job, budget, device),
        least=least,
    )


def peak_of(shapes: Shapes, job: Job, device: str = "cuda") -> int:
    """Bytes at the peak of the phase that takes most."""
    return max(memory.total for memory in phases_of(shapes, job, device).values())


# --- what to change


def fewest_changes(
    shapes: Shapes, job: Job, budget: int, device: str = "cuda"
) -> tuple[tuple[str, ...] | None, int]:
    """The fewest changes that make it fit, and the peak then; of equally few, what costs least.

    None, and the least peak that there is, where none does.
    """
    for words, changed in sorted(_ways(job), key=lambda way: len(way[0])):
        peak = peak_of(shapes, changed, device)
        if peak <= budget:
            return words, peak
    return None, least_changes(shapes, job, device)[1]


def least_changes(shapes: Shapes, job: Job, device: str = "cuda") -> Way:
    """The fewest changes after which it takes least, whether that fits anything or not."""
    ways = ((words, peak_of(shapes, changed, device)) for words, changed in _ways(job))
    return min(ways, key=lambda way: (way[1], len(way[0])))


def fewest_together(
    shapes: Shapes,
    job: Job,
    alone: tuple[str, ...] | None,
    budget: int,
    device: str = "cuda",
) -> Way | None:
    """The fewest changes with which two such machines hold it in parts, and the peak of each.

    `alone`: the changes for one. None where those leave the training what it is, or where two are
    not enough either. An evaluation is in parts nowhere: it goes where it does not fit by itself.
    """
    same = alone is not None  # then only what one machine cannot have is worth a second
    joined = on_two_machines(job)
    if joined is None or (alone is not None and not _is_another_training(alone)):
        return None
    silent = replace(joined.job, questions=0, loss=False, tasks=False)
    for each, needed in ((joined.job, ()), (silent, ("evaluate: null",))):
        for words, changed in sorted(_ways(each), key=lambda way: len(way[0])):
            peak = peak_of(shapes, changed, device)
            if peak <= budget and not (same and _is_another_training(words)):
                batches = any(word.startswith(_BATCH) for word in words)
                step = () if batches else joined.step
                return (*joined.words, *step, *needed, *words), peak
    return None


def _is_another_training(words: tuple[str, ...]) -> bool:
    """Would another model come out: by an adapter instead of all weights, or below it 4 bits?"""
    return any(word.startswith((_ADAPTER, _QUANTIZATION)) for word in words)


def ways_that_fit(
    shapes: Shapes, job: Job, phase: str, budget: int, device: str = "cuda"
) -> list[tuple[tuple[str, ...], int]]:
    """Changes with which `phase` fits into `budget`, and its bytes then; the fewest changes first.

    Of no way is a part another way, and of the same settings the mildest values are enough.
    """
    found: list[tuple[tuple[str, ...], int]] = []
    for words, changed in sorted(_ways(job), key=lambda way: len(way[0])):
        memory = phases_of(shapes, changed, device).get(phase)
        more = any(_settings(way) <= _settings(words) for way, _ in found)
        if memory is not None and memory.total <= budget and not more:
            found.append((words, memory.total))
    return found


def _settings(words: tuple[str, ...]) -> set[str]:
    """The names before the values.

    >>> _settings(("data.max_length: 512",))
    {'data.max_length'}
    """
    return {change.split(":")[0] for change in words}


def single_changes(
    shapes: Shapes, job: Job, phase: str, device: str = "cuda"
) -> list[tuple[str, int]]:
    """Each change alone, in words, and the bytes that `phase` takes with it; least first."""
    found = []
    for change in (each for choice in _choices(job) for each in choice if each is not None):
        words, apply = change
        changed = apply(job)
        if changed is not None and phase in (phases := phases_of(shapes, changed, device)):
            found.append((words, phases[phase].total))
    return sorted(found, key=lambda each: each[1])


def _ways(job: Job) -> Iterator[tuple[tuple[str, ...], Job]]:
    """Every combination of changes, first those that change the result least."""
    for choice in product(*_choices(job)):
        words, changed = [], job
        for change in choice:
            if change is None:
                continue
            word, apply = change
            after = apply(changed)
            if after is None:
                break
            words.append(word)
            changed = after
        else:
            yield tuple(words), changed


def _choices(job: Job) -> list[list[Change | None]]:
    """One list for each setting: leave it, or change it. The last setting varies fastest."""
    lengths = [n for n in (job.length // 2, job.length // 4, job.length // 8) if n >= SHORTEST]
    return [
        [None, (f"{_ADAPTER}: {{type: lora, r: 16, target_modules: all-linear}}", _with_lora)],
        [None, *((f"data.max_length: {n}", _shortened(n)) for n in lengths)],
        [None, (f"{_QUANTIZATION}: {{load_in_4bit: true}}", _in_4_bits)],
        [None, ("train.optim: adamw_8bit", _states_in_8_bits)],
        [None, *((_batch_words(job, batch), _in_batches_of(batch)) for batch in _batches(job))],
        [None, ("train.gradient_checkpointing: true", _checkpointed)],
    ]


def _checkpointed(job: Job) -> Job | None:
    return None if job.gradient_checkpointing else replace(job, gradient_checkpointing=True)


def _batches(job: Job) -> list[int]:
    """Smaller batches, in rows of data, that make up the same one: half, a quarter, ..., one."""
    rows = job.batch // job.sides
    found = []
    while rows % 2 == 0:
        rows //= 2
        found.append(rows)
    return found if rows == 1 else [*found, 1]


def _batch_words(job: Job, batch: int) -> str:
    steps = job.batch // job.sides // batch * job.accumulation
    return f"{_BATCH}: {batch}, train.gradient_accumulation_steps: {steps}"


def _in_batches_of(batch: int) -> Callable[[Job], Job | None]:
    def smaller(job: Job) -> Job:
        steps = job.batch // job.sides // batch * job.accumulation
        return replace(job, batch=batch * job.sides, accumulation=steps)

    return smaller


def _in_4_bits(job: Job) -> Job | None:
    if job.quantization is not None or job.adapter.type == "none" or job.processes > 1:
        return None
    held = Quantization(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="bfloat16",
    )
    return replace(job, quantization=held)


def _states_in_8_bits(job: Job) -> Job | None:
    """Where every weight learns; an adapter's states are small. Not in parts (E290)."""
    if job.adapter.type != "none" or job.optim in SMALL_STATES or job.processes > 1:
        return None
    return replace(job, optim="adamw_8bit")


def _shortened(length: int) -> Callable[[Job], Job | None]:
    return lambda job: replace(job, length=length)


def _with_lora(job: Job) -> Job | None:
    if job.adapter.type != "none":
        return None
    adapter = replace(job.adapter, type="lora", r=LORA_RANK, target_modules="all-linear")
    return replace(job, adapter=adapter)


# --- what would fit


def _largest(shapes: Shapes, job: Job, budget: int, device: str) -> Iterator[tuple[int, int]]:
    """Rows in one forward pass: half as long as the recipe's, as long, and twice as long."""
    context = shapes.context or job.length * 2
    for length in (job.length // 2, job.length, job.length * 2):
        if 0 < length <= context and (rows := _most_rows(shapes, job, length, budget, device)):
            yield length, rows


def _most_rows(shapes: Shapes, job: Job, length: int, budget: int, device: str) -> int:
    """0 when not one fits, MOST_ROWS when perhaps more do. A pair counts as one."""

    def fits(rows: int) -> bool:
        wanted = replace(job, batch=rows * job.sides, length=length)
        return training_memory(shapes, wanted, device).total <= budget

    return _most(MOST_ROWS, fits)


def _longest_row(shapes: Shapes, job: Job, budget: int, device: str) -> int:
    """Tokens, a multiple of STEP_OF_LENGTH, of a row that is a forward pass by itself; the model's
    context at most."""

    def fits(steps: int) -> bool:
        wanted = replace(job, batch=job.sides, length=steps * STEP_OF_LENGTH)
        return training_memory(shapes, wanted, device).total <= budget

    return STEP_OF_LENGTH * _most((shapes.context or LONGEST) // STEP_OF_LENGTH, fits)


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The most, up to `limit`, that fits; by halving, since more takes more memory."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
