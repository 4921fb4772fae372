"""The training of train_native.py by several processes, each with a part of the model.

Started by start_processes.py, once for every process. Same spec, same outputs, written by the
first process. The bytes are those of this number of processes: sums over processes round otherwise
than sums within one. docs/cluster.md, docs/decisions/0019-several-processes.md.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import torch
from torch import nn

from runner.scripts.spec import Events, Spec, main
from runner.scripts.train_native import Job, ready, settings_digest
from runner.scripts.training.checkpoints import is_finished, remove_incomplete
from runner.scripts.training.together.base_in_parts import BaseInParts
from runner.scripts.training.together.parted_files import write_parted_model
from runner.scripts.training.together.sharded import (
    SharedRecord,
    SharedTrainer,
    newest_checkpoint,
    trained,
)
from runner.scripts.training.together.team import Quiet, Team, joined, whole
from runner.scripts.training.torch_setup import (
    check_still_set_up,
    peak_memory,
    set_up_torch,
    told_of_gpu,
)
from runner.scripts.training.trained_files import write_adapter


def train(spec: Spec, events: Events) -> None:
    """Train together, or go on together; the first process writes the outputs."""
    device = set_up_torch()
    with joined(device) as team:
        if device.type == "cuda":
            device = torch.device("cuda", team.local)
            torch.cuda.set_device(device)
        _train(spec, events if team.is_first else Quiet.of(events), device, team)


def _train(spec: Spec, events: Events, device: torch.device, team: Team) -> None:
    settings = spec.hashed["settings"]
    checkpoints = spec.scratch / "checkpoints"
    if team.local == 0:
        remove_incomplete(checkpoints, settings_digest(spec))
    team.wait()
    base = BaseInParts(team)
    job = ready(
        spec,
        events,
        device,
        trainer_class=SharedTrainer,
        record_class=SharedRecord,
        read=base.read,
        place=lambda model: base.place(model, device),
        # parts of the gradient are reduced behind every batch: none is kept whole
        accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    )
    assert isinstance(job.trainer, SharedTrainer)
    assert isinstance(job.record, SharedRecord)
    job.record.team = team
    job.trainer.take_part(team, settings["seed"])
    _train_to_the_end(job, team)

    check_still_set_up()
    if job.trainer.optimizer is not None:
        job.trainer.optimizer.state.clear()  # its room is wanted by what is written
    _write(spec, job.trainer.model, team)
    if team.is_first:
        job.record.write_trace(spec.folder / "trace.jsonl")
    events.measure(**job.record.measures(), peak_memory=peak_memory(device))


def _train_to_the_end(job: Job, team: Team) -> None:
    """As native_model.train_to_the_end, from the first process's checkpoint."""
    newest = newest_checkpoint(job.checkpoints, job.digest, team)
    if newest is not None:
        job.record.go_on_from(newest)
    if newest is not None and is_finished(newest):
        job.trainer._load_from_checkpoint(str(newest))
    else:
        job.trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    job.record.check_not_stopped()


def _write(spec: Spec, model: nn.Module, team: Team) -> None:
    """The files that a training by one process writes, by the first process.

    An adapter is put together in its memory, a model one weight at a time.
    """
    if spec.hashed["settings"]["adapter"]["type"] == "none":
        write_parted_model(model, spec.folder / "model", spec.inputs, team)
        return
    weights = {}
    for name, weight in trained(model).items():
        full = whole(weight.detach())
        if team.is_first:
            weights[name] = full.cpu()
    if team.is_first:
        write_adapter(model, spec.folder / "adapter", weights)


def _leave() -> NoReturn:
    """End at once, when all is written and the others know: taking PyTorch apart while threads of
    its connections are still there aborts the process now and then, which would be a failure."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(told_of_gpu(train))
    _leave()
