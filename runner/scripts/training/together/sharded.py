"""A model in parts (PyTorch's FSDP2): how it is trained, saved, and read again.

Weights, gradients and the optimizer's state of every layer lie in equal parts with all processes; a
layer is put together where it is computed, and its gradients are parted again behind every batch.
Activations are each process's own.

Checkpoints are written and read by the first process alone, so that machines need no common disk:
tensors are sent to it and from it, in pieces of at most about a GB. The other machines get the
small files, which Transformers reads by name.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import Trainer

from runner.scripts.train_native import MeanTokenTrainer
from runner.scripts.training.checkpoints import complete_checkpoints, step_of
from runner.scripts.training.stopping import STOP
from runner.scripts.training.together.shared_batches import loader
from runner.scripts.training.together.team import Team, whole
from runner.scripts.training.token_rows import IGNORED
from runner.scripts.training.training_record import TrainingRecord

_PIECE = 1 << 30  # bytes of one file of a checkpoint, unless one tensor is larger
_WEIGHTS, _OPTIMIZER = "trained", "optimizer"
_LAYER = re.compile(r"(.*\.)?(layers|h|blocks)\.\d+")


def parted(model: torch.nn.Module, device: torch.device, team: Team) -> torch.nn.Module:
    """`model` in parts: every layer for itself, and the rest. It stays the same object."""
    mesh = init_device_mesh(device.type, (team.size,))
    for name, module in model.named_modules():
        if _LAYER.fullmatch(name):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


class SharedTrainer(MeanTokenTrainer):
    """Trains a model that `parted` laid out. `team` is set before it trains."""

    team: Team

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        """The parts lie where they belong."""

    def take_part(self, team: Team, seed: int) -> None:
        """The model is laid out, and not to be wrapped again; draws are each process's own."""
        self.team = team
        self.is_distributed_loading_by_transformers = True
        torch.manual_seed(seed + team.rank)

    def get_train_dataloader(self) -> Any:
        """This process's share of the batches."""
        return loader(
            self.train_dataset,
            self.data_collator,
            self.args.per_device_train_batch_size,
            self.args.data_seed,
            self.team,
        )

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: Any) -> Any:
        """Tokens that the step's loss is the mean over: of all processes."""
        own = sum(int(batch["labels"].ne(IGNORED).sum()) for batch in batch_samples)
        return torch.tensor(self.team.summed([own])[0], device=device)

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As of one process; tokens are counted over all."""
        inputs["counts"] = torch.tensor(self.team.summed(inputs["counts"].tolist()))
        return super().training_step(model, inputs, *args, **kwargs)

    def _clip_grad_norm(self, model: Any) -> Any:
        """Of the whole gradient, of which each process holds a part."""
        learning = [each for each in model.parameters() if each.grad is not None]
        norm = whole(get_total_norm([each.grad for each in learning]))
        clip_grads_with_norm_(learning, self.args.max_grad_norm, norm)
        return norm

    # --- checkpoints

    def save_model(self, output_dir: Any = None, _internal_call: bool = False) -> None:
        """What learned, into a checkpoint."""
        assert output_dir is not None
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_pieces(folder, _WEIGHTS, trained(self.model), writes=self.team.is_first)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = dict(self._optimizer_tensors())
        write_pieces(Path(output_dir), _OPTIMIZER, state, writes=self.team.is_first)
        if self.team.is_first:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _save_rng_state(self, output_dir: str) -> None:
        """Each process's own, all of them where the first process writes."""
        with tempfile.TemporaryDirectory() as folder:
            Trainer._save_rng_state(self, folder)
            own = (Path(folder) / f"rng_state_{self.team.rank}.pth").read_bytes()
        for rank, content in enumerate(self.team.gathered(own)):
            (Path(output_dir) / f"rng_state_{rank}.pth").write_bytes(content)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        read_pieces(Path(resume_from_checkpoint), _WEIGHTS, trained(self.model), self.team)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        for name, weight in trained(self.model).items():
            self.optimizer.state[weight] = self._first_state(weight, name)
        read_pieces(Path(checkpoint), _OPTIMIZER, dict(self._optimizer_tensors()), self.team)
        state = torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True)
        self.lr_scheduler.load_state_dict(state)
        rates = self.lr_scheduler.get_last_lr()  # which the optimizer has of its own
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _first_state(self, weight: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
        """AdamW's state of a weight before its first step, to be overwritten."""
        fused = self.optimizer.param_groups[0].get("fused")
        return {
            "step": torch.zeros((), device=weight.device if fused else "cpu"),
            "exp_avg": torch.zeros_like(weight),
            "exp_avg_sq": torch.zeros_like(weight),
        }

    def _optimizer_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, weight in trained(self.model).items():
            for part, tensor in sorted(self.optimizer.state[weight].items()):
                yield f"{name}/{part}", tensor


class SharedRecord(TrainingRecord):
    """The first process writes and removes; whether to stop is the same for all."""

    team: Team

    def asked_to_stop(self) -> bool:
        """As the first process sees it."""
        return self.team.agreed((self._checkpoints.parent / STOP).exists())

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """By the first process; the others wait, so that none is ahead of a checkpoint."""
        if self.team.is_first:
            super().on_save(args, state, control, **kwargs)
        self.team.wait()


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What learns, by name."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


# --- the first process's files


def write_pieces(
    folder: Path, stem: str, tensors: Mapping[str, torch.Tensor], *, writes: bool
) -> None:
    """`stem`-1.safetensors, -2, …; every process sends its parts, and who `writes` writes."""
    piece: dict[str, torch.Tensor] = {}
    count = 0
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if writes:
            piece[name] = full.cpu().contiguous()
        if sum(each.nbytes for each in piece.values()) >= _PIECE:
            count += 1
            save_file(piece, folder / f"{stem}-{count}.safetensors")
            piece = {}
    if piece:
        save_file(piece, folder / f"{stem}-{count + 1}.safetensors")


def read_pieces(folder: Path, stem: str, tensors: Mapping[str, torch.Tensor], team: Team) -> None:
    """The contents of `write_pieces` into `tensors`, in place; the first process reads."""
    stored = _open_pieces(folder, stem) if team.is_first else {}
    for name, tensor in tensors.items():
        into = tensor.detach()
        full = stored[name]() if team.is_first else torch.empty(into.shape, dtype=into.dtype)
        full = full.to(into.device)
        if isinstance(into, DTensor):
            into.to_local().copy_(
                distribute_tensor(full, into.device_mesh, into.placements).to_local()
            )
        else:
            into.copy_(team.agreed(full.cpu()))


def _open_pieces(folder: Path, stem: str) -> dict[str, Callable[[], torch.Tensor]]:
    """Name -> its reader."""
    found: dict[str, Callable[[], torch.Tensor]] = {}
    for path in sorted(folder.glob(f"{stem}-*.safetensors")):
        file = safe_open(path, framework="pt")
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            found[name] = lambda file=file, name=name: file.get_tensor(name)
    return found


def newest_checkpoint(checkpoints: Path, job: str, team: Team) -> Path | None:
    """Where to go on: the first process's newest complete one, its small files on every machine."""
    found = complete_checkpoints(checkpoints, job) if team.is_first else []
    files: dict[str, bytes] = {}
    if found:
        small = (path for path in found[-1].iterdir() if path.suffix != ".safetensors")
        files = {path.name: path.read_bytes() for path in sorted(small)}
    name, files = team.agreed((found[-1].name if found else "", files))
    if not name:
        return None
    folder = checkpoints / name
    if team.local == 0 and not team.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (folder / file).write_bytes(content)
    team.wait()
    assert step_of(folder)
    return folder
