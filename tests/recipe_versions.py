"""Versions of a recipe's shape that only tests know, so that the first real one is not the first.

FUTURE: today's shape is 1, and two invented ones follow. PAST: today's shape is 3, and two invented
ones came before, so that old recipes are read to the end. Each step has a twin on plain data,
written without `Document`, as its oracle.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from runner.recipe.edit import Document
from runner.recipe.schema import Schema, file_schema, load_schema, schema_for
from runner.recipe.versions import Version

Data = dict[str, Any]


def _version(
    number: int,
    since: str,
    change: Callable[[Schema], None],
    edit: Callable[[Document], None] | None,
) -> Version:
    """A version whose shape is today's, changed. What is said of a part of a recipe is not held."""

    def changed(schema: Schema) -> Schema:
        schema = copy.deepcopy(schema)
        change(schema)
        schema["properties"]["schema"]["const"] = number
        return schema

    def for_file(data: Any) -> Schema:
        if not isinstance(data, dict) or {"extends", "abstract"} & set(data):
            return {"type": "object"}
        return changed(file_schema())

    return Version(number, since, for_file, lambda: changed(load_schema()), edit)


def _renamed(mapping: Data, old: str, new: str) -> None:
    """In place, the order kept."""
    items = [(new if key == old else key, value) for key, value in mapping.items()]
    mapping.clear()
    mapping.update(items)


# --- FUTURE


def to_2(document: Document) -> None:
    """A renamed key, a moved key, a section that became a list, a changed unit and default."""
    document.rename("/train/learning_rate", "peak_learning_rate")
    document.move("/data/system", "/chat/system")
    document.wrap("/benchmark")
    fraction = document.get("/data/validation/fraction")
    if fraction is not None:
        document.set("/data/validation/fraction", round(100 * fraction, 6))
        document.rename("/data/validation/fraction", "percent")
    document.add("/seed", 42)  # version 2 has another default, and the old one was meant


def data_to_2(data: Data) -> Data:
    """The same on plain data."""
    data = copy.deepcopy(data)
    _renamed(data["train"], "learning_rate", "peak_learning_rate")
    if "system" in data["data"]:
        data["chat"] = {"system": data["data"].pop("system")}
    if "benchmark" in data:
        data["benchmark"] = [data["benchmark"]]
    if "fraction" in data["data"].get("validation", {}):
        held_out = data["data"]["validation"]
        held_out["fraction"] = round(100 * held_out["fraction"], 6)
        _renamed(held_out, "fraction", "percent")
    data.setdefault("seed", 42)
    return data | {"schema": 2}


def to_3(document: Document) -> None:
    """Keys of an adapter that moved a level up, and a whole section that moved into another."""
    document.rename("/train/adapter/r", "rank")
    document.move("/train/adapter/lora_dropout", "/train/lora_dropout")
    document.move("/gguf/imatrix", "/imatrix")
    document.move("/evaluate", "/train/evaluate")
    document.remove("/train/save_steps")


def data_to_3(data: Data) -> Data:
    """The same on plain data."""
    data = copy.deepcopy(data)
    train = data["train"]
    _renamed(train["adapter"], "r", "rank")
    if "lora_dropout" in train["adapter"]:
        train["lora_dropout"] = train["adapter"].pop("lora_dropout")
    if "imatrix" in data.get("gguf", {}):
        data["imatrix"] = data["gguf"].pop("imatrix")
    if "evaluate" in data:
        train["evaluate"] = data.pop("evaluate")
    train.pop("save_steps", None)
    return data | {"schema": 3}


def _shape_2(schema: Schema) -> None:
    top = schema["properties"]
    _renamed(top["train"]["properties"], "learning_rate", "peak_learning_rate")
    system = top["data"]["properties"].pop("system")
    top["chat"] = {
        "type": "object", "additionalProperties": False, "properties": {"system": system}
    }  # fmt: skip
    top["benchmark"] = {"type": "array", "items": top["benchmark"]}
    branch = top["data"]["properties"]["validation"]["oneOf"][0]
    branch["required"] = ["percent"]
    _renamed(branch["properties"], "fraction", "percent")
    branch["properties"]["percent"] = {"type": "number", "minimum": 0, "exclusiveMaximum": 100}
    top["data"]["properties"]["validation"]["default"] = {"percent": 10}
    top["seed"]["default"] = 0


def _shape_3(schema: Schema) -> None:
    _shape_2(schema)
    top = schema["properties"]
    lora = top["train"]["properties"]["adapter"]["oneOf"][0]["properties"]
    _renamed(lora, "r", "rank")
    top["train"]["properties"]["lora_dropout"] = lora.pop("lora_dropout")
    top["imatrix"] = top["gguf"]["properties"].pop("imatrix")
    top["train"]["properties"]["evaluate"] = top.pop("evaluate")
    del top["train"]["properties"]["save_steps"]


FUTURE = (
    Version(1, "0.1", schema_for, load_schema),
    _version(2, "0.7", _shape_2, to_2),
    _version(3, "1.2", _shape_3, to_3),
)
FUTURE_2 = FUTURE[:2]


# --- PAST


def from_1(document: Document) -> None:
    """`lr` was the learning rate's name, per mille its unit; the files were `data.files`."""
    rate = document.get("/train/lr")
    if rate is not None:
        document.set("/train/lr", rate / 1000)
        document.rename("/train/lr", "learning_rate")
    document.rename("/data/files", "train")


def from_2(document: Document) -> None:
    """`context` was a key of the model; Ollama had one parameter, beside its name."""
    document.move("/model/context", "/data/max_length")
    document.move("/ollama/temperature", "/ollama/parameters/temperature")


def _past_2(schema: Schema) -> None:
    top = schema["properties"]
    length = top["data"]["properties"].pop("max_length")
    for branch in top["model"]["oneOf"]:
        branch["properties"]["context"] = {key: length[key] for key in ("type", "minimum")}
    temperature = top["ollama"]["properties"].pop("parameters")["properties"]["temperature"]
    top["ollama"]["properties"]["temperature"] = temperature


def _past_1(schema: Schema) -> None:
    _past_2(schema)
    top = schema["properties"]
    _renamed(top["train"]["properties"], "learning_rate", "lr")
    top["train"]["properties"]["lr"] = {"type": "number", "exclusiveMinimum": 0}
    _renamed(top["data"]["properties"], "train", "files")
    top["data"]["required"] = ["files"]


PAST = (
    _version(1, "0.1", _past_1, None),
    _version(2, "0.2", _past_2, from_1),
    _version(3, "0.3", lambda schema: None, from_2),
)
