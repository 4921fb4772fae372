"""Merge a LoRA adapter into its base, one block of rows at a time.

spec.hashed: dtype (of the merged weights). spec.inputs: model (folder of fetch), adapter, template.
Writes `model/`, a complete model folder with the base's shards. Memory does not grow with the
model: a block of rows, and the adapter's pair of the tensor at hand. Needs numpy alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from runner.scripts.floats import DTYPES, FLOATS, cast
from runner.scripts.lora_adapter import Adapter
from runner.scripts.lora_arithmetic import Workers
from runner.scripts.model_folder import COPIED, read_json, write_json
from runner.scripts.safetensors_stream import (
    DamagedFileError,
    ModelFolder,
    ShardWriter,
    TensorSpec,
    row_blocks,
)
from runner.scripts.spec import Events, ScriptError, Spec, main

BLOCK = 16 << 20  # bytes of the base that are merged at a time


def merge(spec: Spec, events: Events) -> None:
    """Write spec.folder/model."""
    target = spec.folder / "model"
    target.mkdir(parents=True, exist_ok=True)
    base = spec.inputs["model"]
    adapter = Adapter(spec.inputs["adapter"])
    try:
        with ModelFolder(base) as model:
            check_fit(adapter, model)
            merge_weights(model, adapter, target, DTYPES[spec.hashed["dtype"]], events)
    except DamagedFileError as error:
        raise ScriptError(f"the base model is damaged: {error}", code="E342") from error
    finally:
        adapter.close()
    copy_rest(base, spec.inputs["template"], target, spec.hashed["dtype"])


def check_fit(adapter: Adapter, model: ModelFolder) -> None:
    """Every pair has its weight, of the right shape. Raises ScriptError E341."""
    for name, (a, b) in adapter.pairs.items():
        weight = model.tensors.get(name)
        if weight is None:
            raise ScriptError(
                f"the adapter belongs to another model: the base has no {name}", code="E341"
            )
        if weight.shape != (b.shape[0], a.shape[1]) or weight.dtype not in FLOATS:
            raise ScriptError(
                f"{name} is {list(weight.shape)} in the base and {[b.shape[0], a.shape[1]]} in "
                "the adapter",
                code="E341",
            )


def merge_weights(
    model: ModelFolder, adapter: Adapter, target: Path, dtype: str, events: Events
) -> None:
    """Write every tensor, merged where the adapter has a pair, into shards like the base's."""
    plan = [
        [
            TensorSpec(old.name, dtype if old.dtype in FLOATS else old.dtype, old.shape)
            for old in shard.specs
        ]
        for shard in model.shards
    ]
    specs = [spec for shard in plan for spec in shard]
    workers = Workers()
    with ShardWriter(target, plan) as writer:
        for number, spec in enumerate(specs, 1):
            old = model.tensors[spec.name]
            pair = adapter.pair(spec.name) if spec.name in adapter.pairs else None
            for first, last in row_blocks(old, BLOCK):
                rows = model.read(spec.name, first, last)
                if pair is not None:
                    rows = workers.merge(rows, old.dtype, pair, first, spec.dtype)
                elif old.dtype != spec.dtype:
                    rows = cast(rows, old.dtype, spec.dtype)
                writer.write(spec.name, rows)
            events.progress(number, len(specs), message=spec.name)
    workers.close()
    events.measure(tensors=len(specs), merged_tensors=len(adapter.pairs))


def copy_rest(base: Path, template: Path, target: Path, dtype: str) -> None:
    """Configuration with the new dtype, tokenizer, and the template the model was trained with."""
    write_json(target / "config.json", read_json(base / "config.json") | {"dtype": dtype})
    for name in (*COPIED, "generation_config.json", "tokenizer_config.json"):
        if (base / name).exists():
            shutil.copyfile(base / name, target / name)
    if template.stat().st_size:
        shutil.copyfile(template, target / "chat_template.jinja")


if __name__ == "__main__":
    main(merge)
