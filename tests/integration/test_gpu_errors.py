"""A GPU that is too small, or lost, is an error for the user; other errors stay as they are."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chain import ROOT

RAISE = """
import json, sys, torch
from runner.scripts.spec import ScriptError
from runner.scripts.training.torch_setup import told_of_gpu

def ending(error):
    def job(spec, events):
        raise error
    try:
        told_of_gpu(job)(None, None)
    except ScriptError as told:
        return [told.code, str(told), told.hint]
    except Exception as other:
        return ["", str(other), ""]

found = []
for line in json.load(sys.stdin):
    kind = torch.OutOfMemoryError if line.startswith("CUDA out of") else RuntimeError
    found.append(ending(kind(line + "\\nmore")))
print(json.dumps(found))
"""
SAID = {
    "CUDA out of memory. Tried to allocate 2.00 GiB": "E509",
    "CUDA error: unspecified launch failure": "E963",
    "CUDA error: uncorrectable ECC error encountered": "E963",
    "No CUDA GPUs are available: no CUDA-capable device is detected": "E963",
    "mat1 and mat2 shapes cannot be multiplied": "",
}


@pytest.fixture(scope="module")
def told(environment_python: Callable[[str], Path]) -> dict[str, list[str]]:
    done = subprocess.run(
        [str(environment_python("native")), "-W", "ignore", "-c", RAISE],
        input=json.dumps(list(SAID)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(SAID, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("words", SAID)
def test_what_the_gpu_says_becomes_an_error_of_ours(words: str, told: dict[str, list[str]]) -> None:
    code, message, hint = told[words]
    assert code == SAID[words]
    assert words in message
    assert ("last checkpoint" in hint) is (code == "E963")
    assert ("\n" in message) is (code == "")
