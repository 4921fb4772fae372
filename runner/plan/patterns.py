"""Do the regular expressions of an adapter end in time? A stranger's may try for years.

They are tried on the model's own names, in a child that is killed when it takes too long: Python's
matching cannot be told to give up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.recipe.model import Adapter

SECONDS = 2.0
_TRY = """
import json, re, sys
whole, ends, names = json.load(sys.stdin)
for name in names:
    for pattern in whole:
        re.fullmatch(pattern, name)
    for pattern in ends:
        re.match(rf"(.*\\.)?({pattern})$", name)
"""


def end_in_time(adapter: Adapter, names: Iterable[str], seconds: float = SECONDS) -> bool:
    """Can `memory.adapted_weights` be asked about `adapter`? `names`: of the model's modules."""
    whole = [
        text
        for text in (adapter.target_modules, adapter.exclude_modules)
        if isinstance(text, str) and text not in ("all-linear", "all-attention")
    ]
    ends = [*adapter.rank_pattern]
    if not whole and not ends:
        return True
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", _TRY],
            input=json.dumps([whole, ends, list(names)]).encode(),
            timeout=seconds,
            capture_output=True,
            check=True,
        )
    except (subprocess.SubprocessError, OSError):
        return False
    return True
