"""What each tensor of a merged model is made of: decided from names, shapes and configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runner.scripts.merging.lora_adapter import Adapter
from runner.scripts.merging.merge_plan import MergePlan, Target, plan_merge
from runner.scripts.spec import ScriptError
from runner.scripts.weights.safetensors_stream import TensorSpec
from tests.lora_files import write_adapter

EMBEDDING = "model.embed_tokens.weight"
SHARDS = [
    [TensorSpec("model.norm.weight", "BF16", (8,)), TensorSpec(EMBEDDING, "BF16", (20, 8))],
    [TensorSpec("model.layers.0.q_proj.weight", "BF16", (8, 8))],
]
TIED = {"tie_word_embeddings": True, "vocab_size": 20}
Make = Callable[..., Adapter]


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Make]:
    """Write an adapter: shapes of its pairs, whole weights, settings."""
    with ExitStack() as open_files:

        def make(
            shapes: Mapping[str, tuple[int, int]],
            whole: Mapping[str, tuple[int, ...]] | None = None,
            **settings: Any,
        ) -> Adapter:
            folder = tmp_path / f"adapter-{len(list(tmp_path.iterdir()))}"
            write_adapter(folder, shapes, rank=2, **settings)
            path = folder / "adapter_model.safetensors"
            more = {
                f"base_model.model.{name}": np.full(shape, 2.0, np.float32)
                for name, shape in (whole or {}).items()
            }
            save_file({**load_file(path), **more}, path)
            return open_files.enter_context(closing(Adapter(folder)))

        yield make


def targets(plan: MergePlan) -> dict[str, Target]:
    return {target.spec.name: target for shard in plan.shards for target in shard}


def test_without_changes_to_embeddings_shards_and_configuration_stay(adapter: Make) -> None:
    plan = plan_merge(SHARDS, [adapter({"model.layers.0.q_proj": (8, 8)})], TIED, "F16")
    assert [[t.spec.name for t in shard] for shard in plan.shards] == [
        [spec.name for spec in shard] for shard in SHARDS
    ]
    assert plan.config == TIED
    assert {target.spec.dtype for target in targets(plan).values()} == {"F16"}


def test_an_output_that_is_no_longer_tied_follows_its_input(adapter: Make) -> None:
    plan = plan_merge(SHARDS, [adapter({"lm_head": (20, 8)})], TIED, "BF16")
    names = [target.spec.name for target in plan.shards[0]]
    assert names == ["model.norm.weight", EMBEDDING, "lm_head.weight"]
    assert not targets(plan)[EMBEDDING].additions
    head = targets(plan)["lm_head.weight"]
    assert (head.source.name, len(head.additions)) == (EMBEDDING, 1)
    assert plan.config == TIED | {"tie_word_embeddings": False}


def test_the_language_models_own_configuration_is_told_too(adapter: Make) -> None:
    config = {"model_type": "some", "text_config": dict(TIED)}
    grown = adapter({}, {EMBEDDING: (24, 8)})
    plan = plan_merge(SHARDS, [grown], config, "BF16")
    assert plan.config["text_config"] == {"tie_word_embeddings": True, "vocab_size": 24}
    assert targets(plan)[EMBEDDING].spec.shape == (24, 8)
    assert "lm_head.weight" not in targets(plan)
    assert config["text_config"] == TIED


def test_an_output_that_the_files_hold_although_it_is_tied_stays_equal(adapter: Make) -> None:
    shards = [*SHARDS, [TensorSpec("lm_head.weight", "BF16", (20, 8))]]
    plan = plan_merge(shards, [adapter({}, {EMBEDDING: (24, 8)})], TIED, "BF16")
    head = targets(plan)["lm_head.weight"]
    assert head.spec.shape == (24, 8)
    assert (head.adapter, head.source) == (0, targets(plan)[EMBEDDING].source)
    assert plan.config["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    ("config", "settings", "other", "transposed"),
    [
        ({"model_type": "gpt2"}, {}, (8, 8), True),
        ({}, {"fan_in_fan_out": True}, (8, 8), True),
        ({}, {}, (8, 12), True),  # told by the other layer, stored as [in, out]
        ({}, {}, (12, 8), False),
    ],
)
def test_a_square_weight_is_turned_when_its_model_stores_them_so(
    adapter: Make,
    config: dict[str, Any],
    settings: dict[str, Any],
    other: tuple[int, int],
    transposed: bool,
) -> None:
    """The other layer has 12 outputs and 8 inputs, or is square too."""
    stored = TensorSpec("h.0.mlp.weight", "F32", other)
    shards = [[TensorSpec("h.0.attn.weight", "F32", (8, 8)), stored]]
    outputs, inputs = (8, 8) if other == (8, 8) else (12, 8)
    found = adapter({"h.0.attn": (8, 8), "h.0.mlp": (outputs, inputs)}, **settings)
    plan = plan_merge(shards, [found], config, "F32")
    assert targets(plan)["h.0.attn.weight"].additions[0].transposed is transposed
    assert targets(plan)["h.0.mlp.weight"].additions[0].transposed is transposed


def test_tied_embeddings_that_were_saved_with_other_values_are_two(adapter: Make) -> None:
    found = adapter({}, {EMBEDDING: (20, 8), "lm_head.weight": (20, 8)})
    together = plan_merge(SHARDS, [found], TIED, "BF16")
    assert together.config["tie_word_embeddings"] is True
    path = found.folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.lm_head.weight"][3, 3] = 1
    save_file(tensors, path)
    with closing(Adapter(found.folder)) as apart:
        plan = plan_merge(SHARDS, [apart], TIED, "BF16")
    assert plan.config["tie_word_embeddings"] is False
    assert targets(plan)["lm_head.weight"].source.name == "lm_head.weight"
    assert targets(plan)[EMBEDDING].source.name == EMBEDDING


def test_two_adapters_are_added_in_their_order(adapter: Make) -> None:
    module = {"model.layers.0.q_proj": (8, 8)}
    plan = plan_merge(SHARDS, [adapter(module), adapter(module)], TIED, "BF16")
    additions = targets(plan)["model.layers.0.q_proj.weight"].additions
    assert [each.adapter for each in additions] == [0, 1]


def test_a_whole_weight_that_two_adapters_bring_is_refused(adapter: Make) -> None:
    saved = {"modules_to_save": ["norm"]}
    both = [adapter({}, {"model.norm.weight": (8,)}, **saved) for _ in range(2)]
    with pytest.raises(ScriptError) as caught:
        plan_merge(SHARDS, both, TIED, "BF16")
    assert caught.value.code == "E344"
