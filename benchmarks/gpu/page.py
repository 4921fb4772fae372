"""docs/evidence.md: the evidence of all devices, one column each.

usage: python -m benchmarks.gpu.page   (write it anew from docs/evidence/*.json)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.gpu import results
from benchmarks.gpu.cases import CASES, EXPECTED, SEVENTY
from benchmarks.gpu.children import DONE
from benchmarks.gpu.gpu_tests import PASSED
from benchmarks.gpu.memory import WITHIN
from runner.store.atomic import write_atomic

PAGE = results.ROOT / "docs" / "evidence.md"
TARGET = "NVIDIA GB10"  # has a column before anybody measured on one
NOT_RUN = "not run"
HEAD = f"""\
# Measured on GPUs

Written by `make gpu-evidence` from the files in `docs/evidence`, one a device. A column that
reads "{NOT_RUN}" has no file: nobody has measured on that device and committed what came out.
What is not here was not measured, whatever a plan says.

On a machine with an NVIDIA GPU, `make gpu-evidence` takes ten minutes at most; a slow one may
need more (`make gpu-evidence EVIDENCE_ARGS='--seconds 1800'`). It asks, in this order,
`EVIDENCE_PYTHON` (`make gpu-evidence EVIDENCE_PYTHON=/path/to/python`), the locked environment
`native`, which it makes where there is a network, and the pythons on `PATH`; the first whose
torch sees the GPU measures, and the table says whether that was the locked one. Nothing needs a
network then. What a library is missing for reads "{NOT_RUN}" with its name. Each case is a
process of its own with a time of its own. Without a GPU it ends with 4, and writes nothing.
Commit the device's file and this page.

The models have the published shapes (some with fewer layers) and random weights, drawn tensor by
tensor where the training reads its files; they are trained by the scripts of the native backend,
a few steps, and evaluated. `lora`, `dora`, `dpo` and `qlora` have rank 16 on all linear layers;
`qlora` is NF4, quantised twice; `full-8bit` is `adamw_8bit`. `2x512` is two rows (of `dpo` two
pairs) of 512 tokens. Compute is bfloat16. Not measured: several GPUs, reward models, PPO, GRPO,
generated answers in an evaluation.
"""
NOBODY = """\
**No device has been measured yet.** The measuring ran on a processor with small cases, and
`tests/gpu` with a GPU made up, but for too little memory and Unsloth: nothing here ran on a GPU,
and the 70B ran nowhere.
"""
MEMORY = f"""\
## Memory

Measured over planned, of all that the device has in use: 1.00 is what `recipe plan` says; in
brackets torch's tensors alone, beside the plan without its constant for the process. An asterisk
marks what is not within {WITHIN:.0%} of what was measured.
"""
LARGE = f"""\
## The 70B

`{SEVENTY.name}`: every weight of Llama 3.1 70B as NF4, never whole in 16 bits. Its peak was
planned as {{planned}}, and is expected between {EXPECTED[0] / 1e9:.0f} and {
    EXPECTED[1] / 1e9:.0f} GB.
"""
SPEED = """\
## Speed

Tokens a second without padding, behind the warm-up, and the part of the device's peak that they
take at least (MFU, by the machine's file in `runner/plan/data/machines`). A rate above the peak
is refused.
"""
TESTS = """\
## Tests

`tests/gpu`, with the interpreter of that column. Without a GPU they fail and say so.
"""

Evidence = Mapping[str, Any]
Cell = Callable[[Evidence], str]


def page(found: Sequence[Evidence]) -> str:
    """The whole page. `found`: of results.read_all."""
    columns = columns_of(found)
    planned = max(memory.total for memory in SEVENTY.predicted("cuda").values())
    large = LARGE.format(planned=f"{planned / 1e9:.1f} GB")
    cases = sorted(case.name for case in CASES)
    rows = {name: _case_cell(name, _memory_cell) for name in cases}
    speeds = {name: _case_cell(name, _speed_cell) for name in [*cases, SEVENTY.name]}
    return "\n".join(
        [
            HEAD,
            *([] if found else [NOBODY]),
            table("", columns, _FACTS),
            MEMORY,
            table("model, method, batch", columns, rows),
            large,
            table("", columns, {"70B": _case_cell(SEVENTY.name, _large_cell)}),
            SPEED,
            table("model, method, batch", columns, speeds),
            TESTS,
            table("test", columns, _tests(found)),
        ]
    )


def columns_of(found: Sequence[Evidence]) -> dict[str, Evidence | None]:
    """Device -> evidence, the target's first, None where it has none."""
    named = {each["stack"]["device"]["name"]: each for each in found}
    return {TARGET: named.pop(TARGET, None), **named}


def table(title: str, columns: Mapping[str, Evidence | None], rows: Mapping[str, Cell]) -> str:
    """A Markdown table: a row for each of `rows`, a cell for each device."""
    lines = [_line([title, *columns]), _line(["---"] * (1 + len(columns)))]
    for name, cell in rows.items():
        cells = [NOT_RUN if each is None else cell(each) for each in columns.values()]
        lines.append(_line([name, *cells]))
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    safe = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(safe)} |"


# --- cells


def _device(name: str) -> Cell:
    return lambda each: str(each["stack"]["device"][name])


def _library(name: str) -> Cell:
    return lambda each: each["stack"]["libraries"].get(name) or "not installed"


def _gigabytes(each: Evidence) -> str:
    device = each["stack"]["device"]
    return f"{device['memory'] / 1e9:.0f} GB{', shared' if device['unified'] else ''}"


_LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes")
_FACTS: dict[str, Cell] = {
    "compute capability": _device("capability"),
    "memory": _gigabytes,
    "driver": lambda each: each["stack"]["driver"],
    "CUDA": _device("cuda"),
    "Python": lambda each: each["stack"]["python"],
    **{name: _library(name) for name in _LIBRARIES},
    "the locked stack": lambda each: "yes" if each["locked"] else "no: what was installed",
    "sources (sha256)": lambda each: each["sources"][:12],
}


def _case_cell(name: str, cell: Cell) -> Cell:
    """`cell` of the case's row; why there is none where it is not done."""

    def read(each: Evidence) -> str:
        row = next((row for row in each["cases"] if row["name"] == name), None)
        if row is None:
            return NOT_RUN
        return cell(row) if row["state"] == DONE else f"{row['state']}: {row['reason']}"

    return read


def _memory_cell(row: Evidence) -> str:
    return ", ".join(f"{name} {_ratio(phase)}" for name, phase in row["phases"].items())


def _ratio(phase: Evidence) -> str:
    mark = "" if phase["within"] else "\\*"
    tensors = f" ({phase['tensors_ratio']:.2f})" if "tensors_ratio" in phase else ""
    return f"{phase['ratio']:.2f}{mark}{tensors}"


def _large_cell(row: Evidence) -> str:
    verdict = "as expected" if row["as_expected"] else "not as expected"
    return f"{row['peak'] / 1e9:.1f} GB at the peak, {verdict}; {_memory_cell(row)}"


def _speed_cell(row: Evidence) -> str:
    speed = row["speed"]
    if "refused" in speed:
        return f"refused: {speed['refused']}"
    part = "peak unknown" if speed["mfu"] is None else f"MFU {speed['mfu']:.1%}"
    return f"{speed['tokens_per_second']:,.0f} ({part})"


def _tests(found: Sequence[Evidence]) -> dict[str, Cell]:
    names = sorted({test["name"] for each in found for test in each["tests"]})
    return {name: _test_cell(name) for name in names} or {"all": lambda _: NOT_RUN}


def _test_cell(name: str) -> Cell:
    def read(each: Evidence) -> str:
        test = next((test for test in each["tests"] if test["name"] == name), None)
        if test is None:
            return NOT_RUN
        return PASSED if test["state"] == PASSED else f"{test['state']}: {test['reason']}"

    return read


def write() -> None:
    """Write the page from the files that are there."""
    write_atomic(PAGE, page(results.read_all()))


if __name__ == "__main__":
    write()
