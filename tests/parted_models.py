"""One of several processes that lay out models: what each then holds, compared, told as JSON.

usage: parted_models.py JOBS.json ANSWER.json, with torchrun's variables in the environment.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from runner.scripts.training.native_model import add_trainable_weights, load_model, seed_draws
from runner.scripts.training.together.base_in_parts import BaseInParts
from runner.scripts.training.together.parted_files import write_parted_model
from runner.scripts.training.together.sharded import parted
from runner.scripts.training.together.team import Team, joined, whole
from runner.scripts.training.trained_files import write_model

CPU = torch.device("cpu")
IDS = torch.arange(3, 19).reshape(2, 8)


class WithBuffer(LlamaForCausalLM):
    """A Llama whose files hold a buffer too."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.register_buffer("offsets", torch.zeros(5))


FAMILIES = {"causal": AutoModelForCausalLM, "buffer": WithBuffer}


def compared(job: dict[str, Any], team: Team) -> dict[str, Any]:
    """The model whose parts were read, beside the one that was whole before it was cut."""
    said = io.StringIO()
    with redirect_stderr(said):
        ours = in_parts(job, team)
    theirs = whole_first(job, team)
    tied = [model.get_input_embeddings().weight is head(model) for model in (ours, theirs)]
    answer = {
        "different": list(differences(ours, theirs)),
        "tied": tied,
        "said": [line for line in said.getvalue().splitlines() if "whole" in line],
        "rows": sorted({each.to_local().shape[0] for each in ours.parameters()}),
    }
    with torch.no_grad():
        logits = [used(model) for model in (ours, theirs)]
    answer["same logits"] = torch.equal(*logits)
    answer["different after use"] = list(differences(ours, theirs))
    return answer


def used(model: Any) -> torch.Tensor:
    """Logits; the layers that were put together for them are in parts again."""
    logits: torch.Tensor = model(input_ids=IDS).logits
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    return logits


def head(model: Any) -> Any:
    return model.get_output_embeddings().weight


def in_parts(job: dict[str, Any], team: Team) -> Any:
    base = BaseInParts(team)
    return base.place(_with_what_learns(job, base.read), CPU)


def whole_first(job: dict[str, Any], team: Team) -> Any:
    return parted(_with_what_learns(job), CPU, team)


def _with_what_learns(job: dict[str, Any], *read: Any) -> Any:
    settings = {"attn_implementation": "sdpa", "gradient_checkpointing": False, **job["settings"]}
    family = FAMILIES[job.get("family", "causal")]
    model = load_model(Path(job["folder"]), settings, CPU, family, *read)
    seed_draws({"seed": 3})
    return add_trainable_weights(model, settings, job["modules"])


def differences(ours: Any, theirs: Any) -> Iterator[str]:
    """Names of what is not the same in this process: weights, adapters, buffers."""
    a, b = dict(_held(ours)), dict(_held(theirs))
    yield from sorted(a.keys() ^ b.keys())
    for name in sorted(a.keys() & b.keys()):
        if a[name][1:] != b[name][1:] or not torch.equal(a[name][0], b[name][0]):
            yield name


def _held(model: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for name, each in model.named_parameters(remove_duplicate=False):
        local = each.to_local()
        yield name, (local, each.dtype, each.shape, each.placements, each.requires_grad)
    for name, each in model.named_buffers():
        yield name, (each, each.dtype, each.device)


def written(job: dict[str, Any], team: Team) -> dict[str, Any]:
    """The files of a model that is written a weight at a time, beside Transformers' own."""
    model = in_parts(job, team)
    if "max_shard_size" in job:
        model.save_pretrained = functools.partial(
            model.save_pretrained, max_shard_size=job["max_shard_size"]
        )
    place = Path(job["place"])
    inputs = {"model": Path(job["folder"]), "template": Path(job["folder"]) / "chat_template.jinja"}
    write_parted_model(model, place / "ours", inputs, team)
    # copies: what was gathered has padding behind its rows, which Transformers would count
    weights = {name: whole(each.detach()).clone() for name, each in model.named_parameters()}
    if not team.is_first:
        return {}
    write_model(model, place / "theirs", inputs, weights)
    ours, theirs = (
        {path.name: path.read_bytes() for path in (place / side).iterdir()}
        for side in ("ours", "theirs")
    )
    different = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    return {"names": sorted(ours), "different": sorted(different)}


def memory(job: dict[str, Any], team: Team) -> dict[str, Any]:
    """Bytes that loading adds to this process at its peak, read in parts and whole, and writing."""
    return {
        "in parts": peak(lambda: in_parts(job, team)),
        "whole first": peak(lambda: whole_first(job, team)),
        **_memory_of_writing(job, team),
    }


def _memory_of_writing(job: dict[str, Any], team: Team) -> dict[str, Any]:
    full = {**job, "settings": {**job["settings"], "adapter": {"type": "none"}}, "modules": {}}
    inputs = {"model": Path(job["folder"]), "template": Path(job["folder"]) / "chat_template.jinja"}
    model = in_parts(full, team)
    folder = Path(job["place"]) / "model"
    return {
        "size": sum(each.numel() * each.element_size() for each in model.parameters()),
        "writing": peak(lambda: write_parted_model(model, folder, inputs, team)),
    }


def peak(action: Callable[[], Any]) -> int:
    """Bytes of this process at its largest during `action`, over those before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what was freed would count for nothing
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    kept = action()
    reached = _status("VmHWM")
    del kept
    return reached - before


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


def main() -> None:
    """All jobs, one after the other."""
    torch.set_num_threads(1)
    jobs = json.loads(Path(sys.argv[1]).read_text())
    with joined(CPU) as team:
        kinds = {"compared": compared, "written": written, "memory": memory}
        answers = {label: kinds[job["kind"]](job, team) for label, job in jobs.items()}
        found = team.gathered(answers)
        if team.is_first:
            Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
