"""Merge adapters into their base, one block of rows at a time.

spec.hashed: dtype (of the merged weights), and adapters (names of inputs, in the order in which
they are added; left out: the one input `adapter`). spec.inputs: model (folder of fetch), the
adapters, template. Writes `model/`, a complete model folder with the base's shards. Memory does not
grow with the model: a block of rows, and the adapters' matrices of the tensor at hand. Needs numpy
alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from runner.scripts.merging.four_bits import Constants
from runner.scripts.merging.lora_adapter import Adapter
from runner.scripts.merging.lora_arithmetic import (
    LoraPair,
    Workers,
    ZeroLengthError,
    length_factors,
)
from runner.scripts.merging.merge_plan import Addition, MergePlan, Target, plan_merge
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.weights.floats import DTYPES, Array, cast, from_f64, to_f64
from runner.scripts.weights.model_folder import COPIED, copy_code, read_json, write_json
from runner.scripts.weights.safetensors_stream import (
    DamagedFileError,
    ModelFolder,
    ShardWriter,
    row_blocks,
)

BLOCK = 16 << 20  # bytes of the base that are merged at a time
BLOCK_IN_4_BITS = 2 << 20  # of weights that are quantised first, which takes more beside


def merge(spec: Spec, events: Events) -> None:
    """Write spec.folder/model."""
    target = spec.folder / "model"
    target.mkdir(parents=True, exist_ok=True)
    base = spec.inputs["model"]
    config = read_json(base / "config.json")
    adapters: list[Adapter] = []
    held = Constants(spec.inputs["constants"]) if "constants" in spec.inputs else None
    try:
        for name in spec.hashed.get("adapters", ["adapter"]):
            adapters.append(Adapter(spec.inputs[name]))
        with ModelFolder(base) as model:
            shards = [shard.specs for shard in model.shards]
            plan = plan_merge(shards, adapters, config, DTYPES[spec.hashed["dtype"]])
            Merge(model, adapters, held).write(plan, target, events)
    except DamagedFileError as error:
        raise ScriptError(f"the base model is damaged: {error}", code="E342") from error
    finally:
        for file in (*adapters, *([held] if held else ())):
            file.close()
    write_json(target / "config.json", plan.config | {"dtype": spec.hashed["dtype"]})
    copy_rest(base, [adapter.folder for adapter in adapters], spec.inputs["template"], target)


class Merge:
    """Makes the targets of a plan from the base and its adapters.

    With `constants` the base's linear layers are what they were in 4 bits.
    """

    def __init__(
        self, model: ModelFolder, adapters: Sequence[Adapter], constants: Constants | None = None
    ) -> None:
        self._model, self._adapters, self._constants = model, adapters, constants
        self._held = {} if constants is None else constants.by_tensor(model.tensors)
        self._workers = Workers()

    def write(self, plan: MergePlan, folder: Path, events: Events) -> None:
        """Write every shard below `folder`. Raises ScriptError E345."""
        targets = [target for shard in plan.shards for target in shard]
        with ShardWriter(folder, [[each.spec for each in shard] for shard in plan.shards]) as out:
            for number, target in enumerate(targets, 1):
                try:
                    self._write_tensor(target, out)
                except ZeroLengthError:
                    raise no_direction(target) from None
                events.progress(number, len(targets), message=target.spec.name)
        self._workers.close()
        merged = sum(bool(target.additions) for target in targets)
        whole = sum(target.adapter is not None for target in targets)
        events.measure(tensors=len(targets), merged_tensors=merged, replaced_tensors=whole)
        if self._constants is not None:
            events.measure(dequantized_tensors=len(self._held))

    def _write_tensor(self, target: Target, out: ShardWriter) -> None:
        wanted = target.spec.dtype
        pairs = [self._pair(target, addition) for addition in target.additions]
        for first, rows, stored in self._blocks(target):
            if pairs:
                rows = self._workers.merge(rows, stored, pairs, first, wanted)
            elif target.biases:
                rows = self._with_biases(target, rows)
            else:
                rows = cast(rows, stored, wanted)
            out.write(target.spec.name, rows)
            del rows  # else it is there while the next block is read

    def _blocks(self, target: Target) -> Iterator[tuple[int, Array, str]]:
        """The rows that a target begins as: number of the first one, values, how they are stored.

        Raises ScriptError E888.
        """
        source = target.source
        if target.adapter is None and source.name in self._held:
            assert self._constants is not None
            held = self._held[source.name]
            weights = self._constants.weights(
                held, source, lambda first, last: self._read(target, first, last), BLOCK_IN_4_BITS
            )
            for first, _, rows in weights:
                yield first, rows, self._constants.dtype
            return
        for first, last in row_blocks(source, BLOCK):
            yield first, self._read(target, first, last), source.dtype

    def _read(self, target: Target, first: int, last: int) -> Array:
        if target.adapter is None:
            return self._model.read(target.source.name, first, last)
        return self._adapters[target.adapter].whole_rows(target.source.name, first, last)

    def _pair(self, target: Target, addition: Addition) -> LoraPair:
        """The matrices of one addition; for DoRA along columns this reads the whole weight once."""
        adapter = self._adapters[addition.adapter]
        pair = adapter.pair(addition.module, addition.transposed)
        magnitude = adapter.magnitude(addition.module)
        if magnitude is None:
            return pair
        if not addition.transposed:
            return replace(pair, magnitude=magnitude)
        sums = np.zeros(target.spec.shape[1])
        for first, rows, stored in self._blocks(target):
            self._workers.add_column_squares(sums, rows, stored, pair, first)
            del rows
        return replace(pair, factors=length_factors(magnitude, np.sqrt(sums)))

    def _with_biases(self, target: Target, rows: Array) -> Array:
        total = to_f64(rows, target.source.dtype)
        for addition in target.biases:
            total = total + self._adapters[addition.adapter].bias(addition.module)
        return from_f64(total, target.spec.dtype)


def no_direction(target: Target) -> ScriptError:
    """E345: PEFT would write NaN."""
    return ScriptError(
        f"an output of {target.spec.name} has no weight other than zero, or the adapter's"
        " magnitude is not finite: DoRA cannot scale it",
        hint="leave the layer out of target_modules",
        code="E345",
    )


def copy_rest(base: Path, adapters: Sequence[Path], template: Path, target: Path) -> None:
    """Tokenizer, settings of generation, and the template the model was trained with.

    An adapter that brings tokenizer files was trained with them: the last one's are taken.
    """
    for name in (*COPIED, "generation_config.json", "tokenizer_config.json"):
        found = [folder / name for folder in (base, *adapters) if (folder / name).exists()]
        if found:
            shutil.copyfile(found[-1], target / name)
    copy_code(base, target)
    if template.stat().st_size:
        shutil.copyfile(template, target / "chat_template.jinja")


if __name__ == "__main__":
    main(merge)
