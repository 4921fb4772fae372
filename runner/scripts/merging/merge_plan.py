"""Decide, before a byte is written, what each tensor of the merged model is made of.

Adapters are added in their order. All of them were trained on the same base: DoRA's norms are those
of the base, not of what earlier adapters made of it, which is PEFT's rule for several adapters too.

Tied embeddings are one tensor that two modules read. When an adapter changes one of the modules
alone, the merged model has two tensors, and its configuration says `tie_word_embeddings: false`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runner.scripts.merging.lora_adapter import (
    INPUT_EMBEDDINGS,
    OUTPUT_EMBEDDINGS,
    Adapter,
    PairSpec,
)
from runner.scripts.spec import ScriptError
from runner.scripts.weights.floats import FLOATS
from runner.scripts.weights.safetensors_stream import TensorSpec

# Architectures whose linear layers are Conv1D, stored as [in, out].
_CONV1D = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"}
_HEAD_OF = {"embed_in": "embed_out"}  # where it is not lm_head


@dataclass(frozen=True, slots=True)
class Addition:
    """What one adapter adds to a tensor."""

    adapter: int  # index
    module: str  # of the adapter
    transposed: bool


@dataclass(frozen=True, slots=True)
class Target:
    """One tensor of the merged model.

    It begins as `source` of the base, or of the adapter with the index `adapter`.
    """

    spec: TensorSpec  # as it is written
    source: TensorSpec  # name and dtype as it is read
    adapter: int | None = None
    additions: tuple[Addition, ...] = ()
    biases: tuple[Addition, ...] = ()


@dataclass(frozen=True, slots=True)
class MergePlan:
    """The targets of every shard, and the merged model's config.json but for its dtype."""

    shards: list[list[Target]]
    config: dict[str, Any]


def plan_merge(
    shards: Sequence[Sequence[TensorSpec]],
    adapters: Sequence[Adapter],
    config: Mapping[str, Any],
    dtype: str,
) -> MergePlan:
    """Raises ScriptError E341, E343 or E344 when adapters and base do not go together."""
    base = {spec.name: spec for shard in shards for spec in shard}
    embeddings = _Embeddings(base, config)
    targets = {
        name: Target(replace(spec, dtype=_rounded(spec.dtype, dtype)), spec)
        for name, spec in base.items()
    }
    touched = embeddings.input is not None and any(_touches_embeddings(each) for each in adapters)
    if touched and embeddings.tied:
        targets[embeddings.head] = _named(targets[embeddings.input or ""], embeddings.head)
    for index, adapter in enumerate(adapters):
        names = _Names(base, embeddings)
        _replace_whole_weights(targets, index, adapter, names, embeddings, dtype)
        _add_pairs(targets, index, adapter, names, config, embeddings)
    merged = copy.deepcopy(dict(config))
    if touched:
        _settle_embeddings(targets, base, embeddings, merged)
    return MergePlan([_of_shard(shard, targets, embeddings) for shard in shards], merged)


def _named(target: Target, name: str) -> Target:
    return replace(target, spec=replace(target.spec, name=name))


class _Embeddings:
    """`input`: name of the embedding's tensor, None when there is none. `head`: the output's."""

    def __init__(self, base: Mapping[str, TensorSpec], config: Mapping[str, Any]) -> None:
        self.input = next((name for name in base if _last(name) in INPUT_EMBEDDINGS), None)
        found = next((name for name in base if _last(name) in OUTPUT_EMBEDDINGS), None)
        layer = _HEAD_OF.get(_last(self.input or ""), "lm_head")
        self.head = found or f"{layer}.weight"
        said = [part["tie_word_embeddings"] for part in _parts(config, "tie_word_embeddings")]
        self.tied = self.input is not None and (said[0] if said else found is None)
        self._stored = found is not None

    def is_new_head(self, names: Iterable[str]) -> bool:
        """Is the output among `names`, and not in the base's files?"""
        return not self._stored and self.head in names

    def __contains__(self, name: str) -> bool:
        return name in (self.input, self.head)


class _Names:
    """The base's name of what the adapter calls `name`.

    GPT-2's own files lack the first part of the names that Transformers gives to its modules.
    """

    def __init__(self, base: Mapping[str, TensorSpec], embeddings: _Embeddings) -> None:
        self._base, self._embeddings = base, embeddings

    def find(self, name: str) -> str:
        """Raises ScriptError E341."""
        for each in (name, name.partition(".")[2]):
            if each in self._base or (self._embeddings.tied and each == self._embeddings.head):
                return each
        raise ScriptError(
            f"the adapter belongs to another model: the base has no {name}", code="E341"
        )


def _replace_whole_weights(
    targets: dict[str, Target],
    index: int,
    adapter: Adapter,
    names: _Names,
    embeddings: _Embeddings,
    dtype: str,
) -> None:
    found = {name: names.find(name) for name in sorted(adapter.whole)}
    for name, whole in sorted(adapter.whole.items()):
        shared = _is_shared(adapter, found, name, embeddings)
        for each in (embeddings.input or "", embeddings.head) if shared else (found[name],):
            before = targets[each]
            if before.adapter not in (None, index) or before.additions or before.biases:
                raise _contradiction(each)
            _check_whole(before.spec, whole.spec, each in embeddings)
            spec = TensorSpec(each, _rounded(whole.spec.dtype, dtype), whole.spec.shape)
            targets[each] = Target(spec, replace(whole.spec, name=name), index)


def _is_shared(
    adapter: Adapter, found: Mapping[str, str], name: str, embeddings: _Embeddings
) -> bool:
    """Does the whole weight stand for both of two tied embeddings?"""
    if not embeddings.tied or found[name] not in embeddings:
        return False
    if not adapter.whole[name].own and not adapter.ties:
        return False
    others = [each for each in found if each != name and found[each] in embeddings]
    return all(adapter.same(name, each) for each in others)


def _contradiction(name: str) -> ScriptError:
    return ScriptError(
        f"two adapters contradict each other: one brings {name} as a whole, the other changes it",
        hint="merge one of them",
        code="E344",
    )


def _check_whole(old: TensorSpec, new: TensorSpec, embedding: bool) -> None:
    same = old.shape[1:] == new.shape[1:] if embedding else old.shape == new.shape
    if not same or len(old.shape) != len(new.shape):
        raise ScriptError(
            f"{old.name} is {list(old.shape)} in the base and {list(new.shape)} in the adapter",
            code="E341",
        )


def _add_pairs(
    targets: dict[str, Target],
    index: int,
    adapter: Adapter,
    names: _Names,
    config: Mapping[str, Any],
    embeddings: _Embeddings,
) -> None:
    found = {module: names.find(f"{module}.weight") for module in adapter.pairs}
    conv1d = _is_conv1d(adapter, found, targets, config)
    # DoRA scales the embedding's columns and the output's rows: these are two tensors in any case.
    shared = adapter.ties and not adapter.config.get("use_dora")
    tied = embeddings.tied and shared and embeddings.input in found.values()
    for module, pair in adapter.pairs.items():
        name = found[module]
        if tied and name == embeddings.head:
            continue  # the input's pair by another name
        addition = Addition(index, module, _is_transposed(pair, targets[name].spec, conv1d))
        both = tied and name == embeddings.input
        for each in (name, embeddings.head) if both else (name,):
            if targets[each].adapter not in (None, index):
                raise _contradiction(each)
            additions = (*targets[each].additions, addition)
            targets[each] = replace(targets[each], additions=additions)
        if pair.bias is not None:
            _add_bias(targets, name, addition, pair.bias)


def _is_conv1d(
    adapter: Adapter,
    found: Mapping[str, str],
    targets: Mapping[str, Target],
    config: Mapping[str, Any],
) -> bool:
    """Are square weights stored as [in, out]?

    PEFT's fan_in_fan_out is that of the last layer it came to; the shapes of others tell too.
    """
    if config.get("model_type") in _CONV1D or adapter.config.get("fan_in_fan_out"):
        return True
    return any(
        pair.kind == "linear"
        and pair.inputs != pair.outputs
        and targets[found[module]].spec.shape == (pair.inputs, pair.outputs)
        for module, pair in adapter.pairs.items()
    )


def _is_transposed(pair: PairSpec, weight: TensorSpec, conv1d: bool) -> bool:
    plain, turned = (pair.outputs, pair.inputs), (pair.inputs, pair.outputs)
    if weight.dtype in FLOATS:
        if pair.kind == "embedding" and weight.shape == turned:
            return True
        if pair.kind == "linear" and weight.shape in (plain, turned):
            square = pair.inputs == pair.outputs
            head = _last(weight.name) in OUTPUT_EMBEDDINGS
            return conv1d and not head if square else weight.shape == turned
    raise ScriptError(
        f"{weight.name} is {list(weight.shape)} in the base and"
        f" {list(turned if pair.kind == 'embedding' else plain)} in the adapter",
        code="E341",
    )


def _add_bias(
    targets: dict[str, Target], weight: str, addition: Addition, bias: TensorSpec
) -> None:
    name = weight.removesuffix(".weight") + ".bias"
    if name not in targets or targets[name].spec.shape != bias.shape:
        raise ScriptError(
            f"the adapter has a bias for {weight}, and the base has none that fits",
            hint="train the adapter without lora_bias",
            code="E341",
        )
    if targets[name].adapter is not None:
        raise _contradiction(name)
    targets[name] = replace(targets[name], biases=(*targets[name].biases, addition))


def _touches_embeddings(adapter: Adapter) -> bool:
    modules = [*adapter.pairs, *(name.rpartition(".")[0] for name in adapter.whole)]
    ends = (*INPUT_EMBEDDINGS, *OUTPUT_EMBEDDINGS)
    return any(module.rpartition(".")[2] in ends for module in modules)


def _settle_embeddings(
    targets: dict[str, Target],
    base: Mapping[str, TensorSpec],
    embeddings: _Embeddings,
    config: dict[str, Any],
) -> None:
    """One tensor or two, and a vocabulary that both agree on. Raises ScriptError E343."""
    assert embeddings.input is not None
    first, head = targets[embeddings.input], targets.get(embeddings.head)
    if head is not None and first.spec.rows != head.spec.rows:
        raise ScriptError(
            f"{embeddings.input} has {first.spec.rows} rows and {embeddings.head}"
            f" {head.spec.rows}: the vocabulary was resized, and the adapter brings one of them",
            hint="save the adapter with save_embedding_layers=True",
            code="E343",
        )
    if embeddings.tied:
        together = _named(first, embeddings.head) == head
        if together and embeddings.head not in base:
            del targets[embeddings.head]
        for part in [*_parts(config, "tie_word_embeddings"), config]:
            part["tie_word_embeddings"] = together
    if first.spec.rows != base[embeddings.input].rows:
        for part in [*_parts(config, "vocab_size"), config]:
            part["vocab_size"] = first.spec.rows


def _of_shard(
    shard: Iterable[TensorSpec], targets: Mapping[str, Target], embeddings: _Embeddings
) -> list[Target]:
    """The targets in the base's order; an output that is no longer tied follows its input."""
    names = [spec.name for spec in shard]
    if embeddings.input in names and embeddings.is_new_head(targets):
        names.insert(names.index(embeddings.input) + 1, embeddings.head)
    return [targets[name] for name in names]


def _parts(config: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """The configuration itself and that of its language model, where they have the key."""
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and key in part:
            yield part


def _rounded(stored: str, dtype: str) -> str:
    return dtype if stored in FLOATS else stored


def _last(name: str) -> str:
    """The last part of a weight's module."""
    return name.removesuffix(".weight").rpartition(".")[2] if name.endswith(".weight") else ""
