"""Write a small model of the same architecture as a config: random weights, the same everywhere.

spec.hashed: seed of the weights; trust_remote_code, as scripts/fetch.py takes it.
spec.inputs: source, a folder with config.json and, where there is one, the model's tokenizer.
Writes `model/`: float32 weights, config, tokenizer and chat template.
"""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from runner.scripts.fetch import copy_tokenizer, parameters, read_config
from runner.scripts.shrunken_config import check_family, shrunken_config
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.tokenizers.tokenizer_families import family_of
from runner.scripts.tokenizers.trained_tokenizer import (
    ends,
    special_token_ids,
    write_trained_tokenizer,
)
from runner.scripts.weights.model_folder import read_json, write_json
from runner.scripts.weights.random_weights import random_blocks
from runner.scripts.weights.safetensors_stream import TensorSpec, natural_order, open_shards


def shrink(spec: Spec, events: Events) -> None:
    """Write spec.folder/model."""
    target = spec.folder / "model"
    target.mkdir(parents=True, exist_ok=True)
    source = spec.inputs["source"]
    trust = spec.hashed["trust_remote_code"]
    config = read_config(source, trust)
    check_family(config)
    config.pop("quantization_config", None)  # random weights are not stored in 4 bits
    special = write_tokenizer(source, target, config, trust)
    small = shrunken_config(config, layer_kinds(config), special.pop("vocab_size"))
    small |= special
    write_json(target / "config.json", small | {"dtype": "float32"})
    specs = write_weights(small, target, int(spec.hashed["seed"]), events)
    events.measure(
        tensors=len(specs),
        parameters=parameters(specs),
        shrunken={name: small[name] for name in sorted(small) if small[name] != config.get(name)},
    )


def write_tokenizer(
    source: Path, target: Path, config: dict[str, Any], trust: bool | None
) -> dict[str, Any]:
    """The source's own tokenizer, else a trained one; what config.json must say of it."""
    if (source / "tokenizer.json").exists():
        copy_tokenizer(source, target, trust)
        generation = source / "generation_config.json"
        if generation.exists():
            write_json(target / "generation_config.json", read_json(generation))
        return {"vocab_size": config["vocab_size"]}
    family = family_of(config)
    size = write_trained_tokenizer(family, target, config["max_position_embeddings"])
    special = special_token_ids(family)
    given = {name: value for name, value in special.items() if value is not None}
    write_json(target / "generation_config.json", given | {"eos_token_id": ends(family)})
    return {"vocab_size": size, **special}


def layer_kinds(config: dict[str, Any]) -> list[str] | None:
    """The kind of attention of every layer, by transformers' own reading of the config."""
    kinds = getattr(architecture_config(config), "layer_types", None)
    return None if kinds is None or len(set(kinds)) == 1 else list(kinds)


def architecture_config(config: dict[str, Any]) -> Any:
    """The config as transformers understands it. Raises ScriptError E331."""
    fields = copy.deepcopy(config)
    kind = fields.pop("model_type", None)
    try:
        return AutoConfig.for_model(kind, **fields)
    except Exception as error:  # whatever its checks raise, it is about this config
        first = str(error).strip().split("\n")[0]
        raise ScriptError(
            f"transformers refuses the config of this {kind} model: {first}",
            hint="correct config.json; see docs/errors.md, E331",
            code="E331",
        ) from error


def write_weights(
    config: dict[str, Any], target: Path, seed: int, events: Events
) -> list[TensorSpec]:
    """Every tensor of the architecture, drawn by its name; returns what was written."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture_config(config))
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    own = {name: value for name, value in model.state_dict().items() if name not in tied}
    specs = [
        TensorSpec(name, "F32", tuple(own[name].shape)) for name in sorted(own, key=natural_order)
    ]
    centres = norm_values(model)
    deviation = float(config.get("initializer_range", 0.02))
    with open_shards(target, specs) as writer:
        for number, spec in enumerate(specs, 1):
            centre = np.float32(centres.get(spec.name, 0.0))
            for values in random_blocks(spec.name, math.prod(spec.shape), deviation, seed):
                writer.write(spec.name, values + centre if centre else values)
            events.progress(number, len(specs), message=spec.name)
    return specs


def norm_values(model: Any) -> dict[str, float]:
    """What the architecture begins its norms with (1, or 0 where it adds 1 itself), by name."""
    found = {}
    for prefix, module in model.named_modules():
        owned = dict(module.named_parameters(recurse=False))
        if "Norm" not in type(module).__name__ or not owned:
            continue
        real = copy.deepcopy(module).to_empty(device="cpu")
        model._init_weights(real)
        for name, value in real.named_parameters(recurse=False):
            found[f"{prefix}.{name}"] = float(value.detach().flatten()[0])
    return found


if __name__ == "__main__":
    main(shrink)
