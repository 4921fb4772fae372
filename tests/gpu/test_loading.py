"""A model read tensor by tensor onto the GPU is the one that from_pretrained puts there."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.cases import FOUR_BITS
from benchmarks.gpu.interpreter import Chosen
from runner.system import determinism
from tests.chain import ROOT

COMPARE = """
import json, sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
from runner.scripts.training import base_model, four_bits

def held(model):
    found = dict(model.to(device).state_dict())
    kinds = {str(value.device.type) for value in found.values()}
    return found, kinds

folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
assert base_model.reads_by_tensor(folder, settings, device)
ours, kinds = held(base_model.read_model(folder, settings, device))
loading = {"dtype": getattr(torch, settings["dtype"]), "attn_implementation": "sdpa"}
loading |= four_bits.loading(settings, device)
theirs, _ = held(AutoModelForCausalLM.from_pretrained(folder, **loading))

def raw(value):
    return value.dtype, bytes(value.cpu().reshape(-1).view(torch.uint8).numpy())

differing = sorted(ours.keys() ^ theirs.keys())
differing += [name for name in ours.keys() & theirs.keys() if raw(ours[name]) != raw(theirs[name])]
print(json.dumps({"tensors": len(ours), "differing": differing, "devices": sorted(kinds)}))
"""
WAYS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "converted": ((), {"dtype": "bfloat16"}),
    "NF4": (
        ("bitsandbytes",),
        {"dtype": "bfloat16", "quantization": dataclasses.asdict(FOUR_BITS)},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_tensor_is_the_same(
    way: str, stack: Chosen, model: Path, needs: Callable[..., None], tmp_path: Path
) -> None:
    libraries, settings = WAYS[way]
    needs(*libraries)
    settings = {"attn_implementation": "sdpa", **settings}
    said = subprocess.run(
        [str(stack.python), "-W", "ignore", "-c", COMPARE, str(model), json.dumps(settings)],
        env={**os.environ, **determinism.script_env(2), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-2000:]
    found = json.loads(said.stdout.splitlines()[-1])
    assert found["tensors"] > 20
    assert found["differing"] == []
    assert found["devices"] == ["cuda"]
