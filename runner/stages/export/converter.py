"""Run llama.cpp's converter through scripts/convert_gguf.py, and put its failure into words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import runner
from runner.errors import StageFailed
from runner.stages.contract import Context

SCRIPTS = Path(runner.__file__).parent / "scripts"
SCRIPT = "convert_gguf"
# What the script may say, and what to do about it.
HINTS = {
    "E332": "use a model whose tokenizer llama.cpp knows, or leave out gguf and ollama",
    "E547": "train without embed_tokens and lm_head in target_modules and modules_to_save, or "
    "leave out gguf and ollama",
}


def run(arguments: Sequence[str], *, python: Path, tool: Path, context: Context) -> None:
    """Convert with the converter's own `arguments`. Raises StageFailed (E332, E500, E547)."""
    program = [str(python), str(SCRIPTS), SCRIPT, str(tool / "convert_hf_to_gguf.py")]
    try:
        context.run_program([*program, *arguments], log="convert", env={"HF_HUB_OFFLINE": "1"})
    except StageFailed as error:
        raise _in_words(error) from error


def _in_words(error: StageFailed) -> StageFailed:
    """The script's own words where it gave some, else the failure as it is."""
    log = Path(error.log)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if error.log else []
    said = [line for line in lines if line.partition(": ")[0] in HINTS]
    if not said:
        return error
    code, _, words = said[-1].partition(": ")
    return StageFailed(words, hint=HINTS[code], code=code, stage="gguf", log=error.log)
