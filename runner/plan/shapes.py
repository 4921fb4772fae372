"""The weights of a model, from its config.json alone: names, shapes, how many. No torch.

Covers the families that the tests hold to the meta device, parameter for parameter. Another
architecture is not guessed: its shapes are unknown, and the plan says so.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runner.scripts.weights.model_folder import OWN_WAYS

# A config may be a stranger's: what goes beyond is no model, and would fill the memory.
MAX_LAYERS = 2000
MAX_SIZE = 2**31


class Kind(enum.Enum):
    """What a weight is to quantisation and adapters."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    HEAD = "head"
    VECTOR = "vector"


@dataclass(frozen=True, slots=True)
class Weight:
    """The weight of one module, [rows, columns]; a vector has one column.

    `bias`: it has one, of `rows`. `tied`: it is the embedding's own, and takes no room.
    """

    module: str
    kind: Kind
    rows: int
    columns: int = 1
    bias: bool = False
    tied: bool = False

    @property
    def size(self) -> int:
        """Numbers in weight and bias; 0 when it is tied."""
        return 0 if self.tied else self.full_size

    @property
    def full_size(self) -> int:
        """Numbers in weight and bias, as if it were tied to nothing."""
        return self.rows * self.columns + (self.rows if self.bias else 0)


@dataclass(frozen=True, slots=True)
class Shapes:
    """A decoder's sizes, in numbers, and all its weights. `context` 0: the config does not say.

    `own_way`: why its files cannot be read tensor by tensor, where the config has a reason.
    """

    model_type: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head: int
    context: int
    norms: int  # in each layer
    capped_logits: bool
    weights: tuple[Weight, ...]
    own_way: str = ""

    @property
    def parameters(self) -> int:
        """Numbers in all weights; tied ones count once."""
        return sum(weight.size for weight in self.weights)

    @property
    def queries(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Width of all key heads together; the values' is the same."""
        return self.key_value_heads * self.head


def in_layer(module: str) -> tuple[int, str] | None:
    """Number of the layer that `module` lies in, and the layer's own module that it is or is of."""
    found = re.search(r"\.(\d+)\.(\w+)", module)
    return (int(found[1]), found[2]) if found else None


class UnknownShapesError(ValueError):
    """The config is of a family that is not known here, or lacks what its shapes need."""


@dataclass(frozen=True, slots=True)
class _Family:
    """How an architecture of Transformers differs from Llama. A default is that of its config."""

    norms: int = 2
    head_norms: bool = False  # a norm of the queries' and of the keys' heads
    fused: bool = False  # qkv_proj and gate_up_proj
    biased: tuple[str, ...] = ()  # modules that always have a bias
    may_be_biased: bool = True  # by attention_bias (and Llama's mlp_bias)
    tied: bool = False
    head: int = 0


_FAMILIES = {
    "llama": _Family(),
    "mistral": _Family(may_be_biased=False),
    "qwen2": _Family(biased=("q_proj", "k_proj", "v_proj"), may_be_biased=False),
    "qwen3": _Family(head_norms=True, head=128),
    "gemma": _Family(tied=True, head=256),
    "gemma2": _Family(norms=4, tied=True, head=256),
    "gemma3_text": _Family(norms=4, head_norms=True, tied=True, head=256),
    "phi3": _Family(fused=True, may_be_biased=False),
}


def shapes_of(config: Mapping[str, Any]) -> Shapes:
    """The shapes that `config` (config.json, or a lock's `facts`) describes.

    Raises UnknownShapesError.
    """
    model_type = config.get("model_type")
    family = _FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        known = ", ".join(_FAMILIES)
        raise UnknownShapesError(f"the model type {model_type} is none of {known}")
    assert isinstance(model_type, str)
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    vocabulary, hidden, intermediate, layers = (_positive(config, name) for name in names)
    heads = _positive(config, "num_attention_heads")
    sizes: dict[str, Any] = {
        "model_type": model_type,
        "vocabulary": vocabulary,
        "hidden": hidden,
        "intermediate": intermediate,
        "layers": layers,
        "heads": heads,
        "key_value_heads": _given(config, "num_key_value_heads") or heads,
        "head": _given(config, "head_dim") or family.head or hidden // heads,
        "context": _given(config, "max_position_embeddings"),
        "norms": family.norms,
        "capped_logits": bool(config.get("final_logit_softcapping")),
        "own_way": next((OWN_WAYS[name] for name in OWN_WAYS if config.get(name)), ""),
    }
    if layers > MAX_LAYERS:
        raise UnknownShapesError(f"{layers} layers are more than any model has")
    bare = Shapes(**sizes, weights=())
    return Shapes(**sizes, weights=tuple(_weights(bare, family, config)))


def _given(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    return value if type(value) is int and 0 < value <= MAX_SIZE else 0


def _positive(config: Mapping[str, Any], name: str) -> int:
    if not (value := _given(config, name)):
        raise UnknownShapesError(f"the config has no {name}")
    return value


def _weights(shapes: Shapes, family: _Family, config: Mapping[str, Any]) -> Iterator[Weight]:
    vocabulary, hidden = shapes.vocabulary, shapes.hidden
    tied = config.get("tie_word_embeddings")
    yield Weight("model.embed_tokens", Kind.EMBEDDING, vocabulary, hidden)
    for layer in range(shapes.layers):
        for module, rows, columns in _linear(shapes, family):
            name = module.rpartition(".")[2]
            biased = name in family.biased or (family.may_be_biased and _biased(config, module))
            yield Weight(f"model.layers.{layer}.{module}", Kind.LINEAR, rows, columns, biased)
        for module, rows in _norms(shapes, family):
            yield Weight(f"model.layers.{layer}.{module}", Kind.VECTOR, rows)
    yield Weight("model.norm", Kind.VECTOR, hidden)
    tied = family.tied if tied is None else bool(tied)
    yield Weight("lm_head", Kind.HEAD, vocabulary, hidden, tied=tied)


def _linear(shapes: Shapes, family: _Family) -> list[tuple[str, int, int]]:
    """Module, rows and columns of the linear layers of one layer."""
    hidden, wide = shapes.hidden, shapes.intermediate
    queries, keys = shapes.queries, shapes.keys
    output, down = ("self_attn.o_proj", hidden, queries), ("mlp.down_proj", hidden, wide)
    if family.fused:
        attention = ("self_attn.qkv_proj", queries + 2 * keys, hidden)
        return [attention, output, ("mlp.gate_up_proj", 2 * wide, hidden), down]
    return [
        ("self_attn.q_proj", queries, hidden),
        ("self_attn.k_proj", keys, hidden),
        ("self_attn.v_proj", keys, hidden),
        output,
        ("mlp.gate_proj", wide, hidden),
        ("mlp.up_proj", wide, hidden),
        down,
    ]


def _norms(shapes: Shapes, family: _Family) -> Iterator[tuple[str, int]]:
    names = ["input_layernorm", "post_attention_layernorm"]
    names += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for name in names[: family.norms]:
        yield name, shapes.hidden
    if family.head_norms:
        yield "self_attn.q_norm", shapes.head
        yield "self_attn.k_norm", shapes.head


def _biased(config: Mapping[str, Any], module: str) -> bool:
    return bool(config.get("attention_bias" if module.startswith("self_attn.") else "mlp_bias"))
