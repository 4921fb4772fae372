"""How two files of one kind differ, in words. Each function returns "" when their contents agree.

Memory does not grow with the files: tensors are read and compared a block of rows at a time.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = 1 << 20  # bytes compared at a time
FLOAT_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}


def first_byte(first: Path, second: Path) -> str:
    """The first offset at which two files differ."""
    offset = 0
    with first.open("rb") as left, second.open("rb") as right:
        while True:
            a, b = left.read(BLOCK), right.read(BLOCK)
            if a != b:
                break
            if not a:
                return ""
            offset += len(a)
    at = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if at is None:
        sizes = f"{first.stat().st_size} and {second.stat().st_size}"
        return f"{sizes} bytes, equal up to the end of the shorter one"
    return f"byte {offset + at}: {a[at]:02x} and {b[at]:02x}"


# --- tensors


@dataclass
class _Distance:
    """What separates two tensors of one shape and dtype."""

    count: int = 0  # elements that differ
    first: int = -1  # flat index of the first of them
    ulps: int = 0  # the largest distance in units in the last place; 0 for whole numbers


def tensors(first: Path, second: Path) -> str:
    """The first tensor that differs: how many elements, and how far they are apart."""
    from runner.scripts.weights.safetensors_stream import SafetensorsFile, natural_order

    with SafetensorsFile(first) as left, SafetensorsFile(second) as right:
        names = [{spec.name for spec in file.specs} for file in (left, right)]
        if alone := sorted(names[0] ^ names[1], key=natural_order):
            return f"the tensor {alone[0]} is only in the {_which(alone[0] in names[0])} run"
        said, differing = "", 0
        for name in sorted(names[0], key=natural_order):
            a, b = left.spec(name), right.spec(name)
            if (a.dtype, a.shape) != (b.dtype, b.shape):
                return f"{name} is {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}"
            distance = _distance(left, right, name)
            differing += distance.count > 0
            said = said or (_in_words(a, distance) if distance.count else "")
    return said and f"{said}; {differing} of {len(names[0])} tensors differ"


def _distance(left: Any, right: Any, name: str) -> _Distance:
    import numpy as np

    from runner.scripts.weights.safetensors_stream import row_blocks

    spec, found = left.spec(name), _Distance()
    width = max(1, FLOAT_BITS.get(spec.dtype, 8) // 8)
    for begin, end in row_blocks(spec, BLOCK):
        a, b = (file.read(name, begin, end).reshape(-1) for file in (left, right))
        a, b = (values.view(f"<u{values.itemsize}") for values in (a, b))
        unequal = a != b
        count = int(np.count_nonzero(unequal))
        if not count:
            continue
        if found.first < 0:
            found.first = begin * (spec.row_bytes // width) + int(np.argmax(unequal))
        found.count += count
        if spec.dtype in FLOAT_BITS:
            found.ulps = max(found.ulps, _ulps(a, b))
    return found


def _ulps(a: Any, b: Any) -> int:
    """The largest distance. The bits of a float are its sign and how many floats from 0 it is."""
    import numpy as np

    sign = np.array(1 << (8 * a.itemsize - 1), a.dtype)
    wide = np.uint32 if a.itemsize < 4 else np.uint64
    x, y = ((bits & ~sign).astype(wide) for bits in (a, b))
    opposite = ((a ^ b) & sign).astype(bool)
    apart = np.where(opposite, x + y, np.maximum(x, y) - np.minimum(x, y))
    return int(apart.max())


def _in_words(spec: Any, distance: _Distance) -> str:
    import numpy as np

    place = np.unravel_index(distance.first, spec.shape) if spec.shape else ()
    total = int(np.prod(spec.shape, dtype=np.int64))
    far = f", at most {distance.ulps} ulp apart" if spec.dtype in FLOAT_BITS else ""
    where = ", ".join(str(int(each)) for each in place)
    return f"{spec.name}: {distance.count} of {total} elements differ{far}, the first is [{where}]"


# --- prepared tokens


def tokens(first: Path, second: Path) -> str:
    """The first token that differs, by row and position (from 1 and 0), of two tokens files."""
    import numpy as np

    from runner.scripts.weights.safetensors_stream import SafetensorsFile

    with SafetensorsFile(first) as left, SafetensorsFile(second) as right:
        both = (left, right)
        rows, other_rows = (file.read("offsets") for file in both)
        for name, word in (("input_ids", "token"), ("labels_mask", "label mask")):
            a, b = (file.read(name) for file in both)
            shorter = min(len(a), len(b))
            unequal = np.flatnonzero(a[:shorter] != b[:shorter])
            if unequal.size:
                at = int(unequal[0])
                row = int(np.searchsorted(rows, at, side="right"))
                position = at - int(rows[row - 1])
                return f"row {row}, position {position}: {word} {int(a[at])} and {int(b[at])}"
        if len(rows) != len(other_rows):
            counts = f"{len(rows) - 1} and {len(other_rows) - 1} rows"
            return f"{counts}, equal up to the end of the shorter one"
    return tensors(first, second)


# --- GGUF


def gguf(first: Path, second: Path) -> str:
    """The first metadata key or tensor that differs."""
    from gguf import GGUFReader

    left, right = GGUFReader(first), GGUFReader(second)
    return _gguf_metadata(left, right) or _gguf_tensors(first, second, left, right)


def _gguf_metadata(left: Any, right: Any) -> str:
    # Keys of the container itself (version, counts) follow from what is compared below.
    keys = sorted(key for key in {*left.fields, *right.fields} if not key.startswith("GGUF."))
    for key in keys:
        a, b = (
            file.fields[key].contents() if key in file.fields else None for file in (left, right)
        )
        if a != b:
            return f"metadata {key}: {_short(a)} and {_short(b)}"
    return ""


def _gguf_tensors(first: Path, second: Path, left: Any, right: Any) -> str:
    a, b = ({str(tensor.name): tensor for tensor in file.tensors} for file in (left, right))
    for name in [*a, *(name for name in b if name not in a)]:
        if name not in a or name not in b:
            return f"the tensor {name} is only in the {_which(name in a)} run"
        x, y = a[name], b[name]
        if x.tensor_type != y.tensor_type:
            return f"the tensor {name} is {x.tensor_type.name} and {y.tensor_type.name}"
        if x.data.shape != y.data.shape:
            return f"the tensor {name} is {x.shape.tolist()} and {y.shape.tolist()}"
        if not _same_bytes(first, second, x.data_offset, y.data_offset, x.n_bytes):
            return f"the tensor {name} ({x.tensor_type.name}) differs"
    return ""


def _same_bytes(first: Path, second: Path, start: int, other_start: int, size: int) -> bool:
    """Read, not mapped: what is mapped counts as memory until something else needs it."""
    with first.open("rb") as a, second.open("rb") as b:
        a.seek(start)
        b.seek(other_start)
        while size > 0:
            count = min(size, BLOCK)
            if a.read(count) != b.read(count):
                return False
            size -= count
    return True


# --- JSON


def json_lines(first: Path, second: Path) -> str:
    """The first line that differs, and where in it; the line of a trace is named by its step."""
    with (
        first.open(encoding="utf-8", newline="\n") as a,
        second.open(encoding="utf-8", newline="\n") as b,
    ):
        for number, (left, right) in enumerate(itertools.zip_longest(a, b), 1):
            if left is None or right is None:
                return f"the {_which(left is None)} run has {number - 1} lines, the other has more"
            if left != right:
                return _line(number, json.loads(left), json.loads(right))
    return ""


def _line(number: int, left: Any, right: Any) -> str:
    step = left.get("step") if isinstance(left, dict) else None
    place = f"line {number}" if step is None else f"step {step}"
    return f"{place}: {_first_value(left, right) or 'written differently'}"


def json_values(first: Path, second: Path) -> str:
    """The first value that differs, by its JSON pointer."""
    return _first_value(json.loads(first.read_bytes()), json.loads(second.read_bytes()))


_ABSENT = object()


def _first_value(first: Any, second: Any, pointer: str = "") -> str:
    pairs: Iterable[tuple[Any, Any, Any]]
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        names = sorted({*first, *second})
        pairs = ((name, first.get(name, _ABSENT), second.get(name, _ABSENT)) for name in names)
    elif isinstance(first, list) and isinstance(second, list):
        longest = itertools.zip_longest(first, second, fillvalue=_ABSENT)
        pairs = ((index, a, b) for index, (a, b) in enumerate(longest))
    elif type(first) is type(second) and first == second:
        return ""
    else:
        return f"{pointer or '/'} is {_short(first)} and {_short(second)}"
    return next(
        (said for name, a, b in pairs if (said := _first_value(a, b, f"{pointer}/{name}"))), ""
    )


def _short(value: Any) -> str:
    if value is None or value is _ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _which(first: bool) -> str:
    return "first" if first else "second"
