"""Load a model as the native scripts do, beside Transformers' own from_pretrained.

usage: .venv/bin/python -m benchmarks.loading [LAYERS]

The model is made on the spot: bfloat16 files, Llama's shapes (benchmarks/merge.py); 16 layers are
about a billion weights. Each load is a process of its own, with the files out of the page cache.
Memory is what the load adds to the process, by kind: `at the peak` its own and mapped files, `own`
the peak of what no kernel can take back, `after` all that is left when the model is loaded. Where
the process may make a memory cgroup (v1), `with page cache` is the peak that the group was charged.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.merge import weights, write_model
from runner.system import determinism, environments
from runner.system.folders import cache_folder

ROOT = Path(__file__).resolve().parent.parent
FOUR_BITS = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "bfloat16, as stored": {"dtype": "bfloat16"},
    "float32": {"dtype": "float32"},
    "NF4": {"dtype": "bfloat16", "quantization": FOUR_BITS},
}
COLUMNS = ("at the peak", "own", "after", "with page cache")
LOAD = r"""
import json, os, sys, threading
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM
from runner.scripts.training import base_model, four_bits

way, folder, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
if "quantization" in settings:
    import bitsandbytes
for shard in folder.glob("*.safetensors"):
    with shard.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
group = Path("/sys/fs/cgroup/memory") / f"loading-{os.getpid()}"
try:
    group.mkdir()
    (group / "cgroup.procs").write_text(str(os.getpid()))
except OSError:
    group = None

def status(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) * 1024

Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = {name: status(name) for name in ("VmRSS", "RssAnon")}
own, ended = [0], threading.Event()

def look():
    while not ended.wait(0.005):
        own[0] = max(own[0], status("RssAnon"))

threading.Thread(target=look, daemon=True).start()
cpu = torch.device("cpu")
if way == "ours":
    model = base_model.read_model(folder, {"attn_implementation": "sdpa"} | settings, cpu)
else:
    loading = {"dtype": getattr(torch, settings["dtype"]), "attn_implementation": "sdpa"}
    loading |= four_bits.loading(settings, cpu)
    model = AutoModelForCausalLM.from_pretrained(folder, **loading)
ended.set()
found = {
    "at the peak": status("VmHWM") - before["VmRSS"],
    "own": own[0] - before["RssAnon"],
    "after": status("VmRSS") - before["VmRSS"],
    "with page cache": group and int((group / "memory.max_usage_in_bytes").read_text()),
    "model": sum(each.numel() * each.element_size() for each in model.parameters()),
}
if group:
    (group.parent / "cgroup.procs").write_text(str(os.getpid()))
    group.rmdir()
print(json.dumps(found))
"""


def main(layers: int) -> None:
    """Print one table; what is measured is over the size of the loaded weights."""
    with tempfile.TemporaryDirectory(prefix="loading-") as name:
        folder = write_model(Path(name) / "model", layers)
        print(f"{weights(folder) / 1e9:.2f} billion weights, {layers} layers\n")
        print("| loaded as | by | MB of weights | " + " | ".join(COLUMNS) + " |")
        print("|---|---|--:|" + "--:|" * len(COLUMNS))
        for title, settings in SETTINGS.items():
            for way in ("ours", "from_pretrained"):
                print(_row(title, way, measure(way, folder, settings)), flush=True)


def _row(title: str, way: str, found: dict[str, int | None]) -> str:
    size = found["model"]
    assert size
    cells = ["-" if (seen := found[name]) is None else f"{seen / size:.2f}" for name in COLUMNS]
    return f"| {title} | {way} | {size / 1e6:.0f} | " + " | ".join(cells) + " |"


def measure(way: str, folder: Path, settings: dict[str, Any]) -> dict[str, int | None]:
    """Bytes by column, and of the `model`. `way`: ours, or from_pretrained."""
    python = environments.ensure("native", cache_folder(), print).python
    done = subprocess.run(
        [str(python), "-W", "ignore", "-c", LOAD, way, str(folder), json.dumps(settings)],
        cwd=ROOT,
        env={**os.environ, **determinism.script_env(2), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{way} failed: {done.stderr[-2000:]}")
    found: dict[str, int | None] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 16)
