"""Machines that a plan can be made for without having one: data/machines, each with its source."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from runner.errors import UsageError
from runner.plan.cost import Machine
from runner.recipe.suggest import nearest

FOLDER = Path(__file__).parent / "data" / "machines"
MAX_BYTES = 64 * 1024  # of a file of someone's own
LEAST_MEMORY = 10**9  # less was meant as gigabytes
LARGEST = 2**62  # of any number: bytes, cores, FLOP/s
HERE_USABLE = 0.85  # of the memory of a machine that no file describes
ALL, AUTO = "all", "auto"
_OPTIONAL = ("gpu", "cores", "unified", "peak_flops", "why_usable", "source")


@dataclass(frozen=True, slots=True)
class Hardware:
    """`memory`: bytes that a GPU can have, its own or, when `unified`, the machine's.

    `usable`: the part of it that a training may plan with, for the reason `why_usable`. `flops`: an
    assumed rate in bfloat16, FLOP/s. `source`: where all this comes from. `peak_flops`: the rate in
    bfloat16 that it cannot exceed, 0.0 when that is not known.
    """

    title: str
    memory: int
    usable: float
    flops: float
    gpu: str = "a GPU"  # "" of a machine that has none
    cores: int = 1
    unified: bool = False
    why_usable: str = "as its file says"
    source: str = "a file of one's own"
    peak_flops: float = 0.0

    @property
    def budget(self) -> int:
        """Bytes that a training may plan with."""
        return int(self.memory * self.usable)

    @property
    def machine(self) -> Machine:
        """What the costs are counted for. No run was made there, as far as this machine knows."""
        return Machine(self.cores, self.gpu, f"on {self.title}", self.memory, rate=self.flops)

    @property
    def device(self) -> str:
        """cpu or cuda."""
        return self.machine.device


def rate_of(gpu: str) -> float:
    """Assumed FLOP/s of a GPU by the name that its driver gives it; 0.0 for one that is unknown."""
    known = map(hardware, known_names())
    return next((each.flops for each in known if gpu and each.gpu in gpu), 0.0)


def peak_of(gpu: str) -> tuple[float, str]:
    """FLOP/s in bfloat16 that a GPU of this name cannot exceed, and its title; 0.0: unknown."""
    known = map(hardware, known_names())
    return next(
        ((each.peak_flops, each.title) for each in known if gpu and each.gpu in gpu), (0.0, gpu)
    )


def known_names() -> list[str]:
    """The machines whose facts are shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def memory_of(gpu: str) -> int:
    """Bytes of the own memory of a GPU by its name, or as its driver says; 0: unknown."""
    from runner.system.hardware import gpu_memory

    known = map(hardware, known_names())
    found = (each.memory for each in known if gpu and each.gpu in gpu and not each.unified)
    return gpu_memory() or next(found, 0)


def this_hardware() -> Hardware:
    """The machine at hand, as far as it can be read. Raises UsageError E006 where it cannot."""
    from runner.plan.cost import this_machine
    from runner.system.hardware import shares_memory

    machine = this_machine()
    if not machine.memory:
        raise UsageError(
            f"the memory of {machine.gpu or 'this machine'} cannot be read",
            hint="describe it in a JSON file: recipe plan RECIPE --hardware FILE.json",
            code="E006",
        )
    known = map(hardware, known_names())
    like = next((each for each in known if machine.gpu and each.gpu in machine.gpu), None)
    return Hardware(
        title=f"this machine ({machine.gpu or 'no GPU'})",
        memory=machine.memory,
        usable=like.usable if like else HERE_USABLE,
        flops=machine.flops or 0.0,
        gpu=machine.gpu,
        cores=machine.cores,
        unified=not machine.gpu or shares_memory(machine.gpu),
        why_usable=like.why_usable if like else "the system needs some",
        source="read from this machine",
    )


def machines_of(text: str) -> list[Hardware]:
    """The machines of a list with commas, each once, in its order; `all` stands for all known.

    Raises UsageError E006.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise _none_named()
    each = [known for name in names for known in (known_names() if name == ALL else [name])]
    return list(dict.fromkeys(map(hardware, each)))


def hardware(name: str) -> Hardware:
    """A machine by its name, or of a JSON file of the same form; `auto`: the one at hand.

    Raises UsageError E006.
    """
    if name == AUTO:
        return this_hardware()
    if not name.strip():
        raise _none_named()
    name = name if name.endswith(".json") else name.lower()
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not name.endswith(".json") and name not in known_names():
        within = [known for known in known_names() if name in known]
        meant = within[0] if len(within) == 1 else nearest(name, known_names())
        raise UsageError(
            f"no facts of a machine called {name[:80]}",
            hint=(f"did you mean {meant}? " if meant else "")
            + f"known: {', '.join(known_names())}, {AUTO} (this one); or name a JSON file",
            code="E006",
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        return _checked(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} does not describe a machine: {getattr(error, 'strerror', None) or error}",
            hint=f"write it like {FOLDER / 'dgx-spark.json'}",
            code="E006",
        ) from error


def _none_named() -> UsageError:
    return UsageError(
        "no machine is named",
        hint=f"name some of {', '.join(known_names())}, {ALL}, {AUTO} (this one)",
        code="E006",
    )


def _checked(data: Any) -> Hardware:
    """Raises ValueError with all that is missing, unknown, or no such value."""
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    types = {field.name: str(field.type) for field in fields(Hardware)}
    wrong = []
    if unknown := sorted(data.keys() - types):
        wrong.append(f"unknown key {', '.join(unknown)[:80]}; known: {', '.join(types)}")
    if missing := [name for name in types if name not in data and name not in _OPTIONAL]:
        wrong.append(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    given = {name: _whole(data[name], types[name]) for name in sorted(data.keys() & types)}
    for name, value in given.items():
        if problem := _problem(name, value, types[name]):
            wrong.append(f"{name} {problem}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return Hardware(**given)


def _whole(value: Any, kind: str) -> Any:
    """A number that JSON writes with a point or an exponent, such as 48e9, as the int it is."""
    return int(value) if kind == "int" and type(value) is float and value.is_integer() else value


_WORDS = {"str": "a text", "bool": "true or false", "int": "a whole number", "float": "a number"}


def _problem(name: str, value: Any, kind: str) -> str:
    """What is wrong with the value of a key, in words; "" if nothing."""
    numbers = {"int": (int,), "float": (int, float)}
    if type(value) not in numbers.get(kind, ({"str": str, "bool": bool}.get(kind),)):
        return f"is {json.dumps(value)[:80]}, not {_WORDS[kind]}"
    if kind not in numbers:
        return ""
    if not value > 0:
        return f"is {value}, not above zero"
    if name == "usable" and value > 1:
        return f"is {value}, and is a part of the memory: at most 1"
    if name == "memory" and value < LEAST_MEMORY:
        return f"is {value} bytes, which is too small: {value} GB are {value}e9"
    return "" if value < LARGEST else f"is too large: {LARGEST:.1g} and more is no machine's"
