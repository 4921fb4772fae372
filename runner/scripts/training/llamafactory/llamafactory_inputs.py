"""The model and the tokens of a recipe as LLaMA Factory reads them.

The tokens go in by `tokenized_path`, in the columns of the collator of each stage, so neither
LLaMA Factory's templates nor its reading of rows play a part.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import PreTrainedTokenizerFast

from runner.scripts.spec import ScriptError, Spec
from runner.scripts.training import adapter_targets
from runner.scripts.training.preferences.preference_rows import (
    check_pairs,
    mismatched,
    read_preferred,
)
from runner.scripts.training.token_rows import IGNORED, Row, TokenRows, padded_length
from runner.scripts.weights.model_folder import read_json, write_json

DATASET = "prepared"  # its name in dataset_info.json
# Of what the collators of pairs and judged answers look for, text has none.
NO_MEDIA = {"images": None, "videos": None, "audios": None}


def write_inputs(spec: Spec, data: TokenRows, pad_token_id: int) -> dict[str, Any]:
    """Write model and rows below spec.scratch; the settings that say where they are.

    Raises ScriptError for pairs that are none (E525), and E527.
    """
    settings = spec.hashed["settings"]
    place = spec.scratch / "workspace"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    view_model(spec.inputs["model"], place / "model", settings["dtype"])
    rows = columns_of(spec, data, pad_token_id, place / "model")
    Dataset.from_list(list(rows)).save_to_disk(str(place / "tokens"))
    return {
        "model_name_or_path": str(place / "model"),
        "tokenized_path": str(place / "tokens"),
        "dataset": DATASET,  # it insists on a name, and reads tokenized_path
        "dataset_dir": str(place),
        "template": settings.get("own_template", "empty"),  # none: the tokens are there
        "cutoff_len": padded_length(data.longest()),
        "preprocessing_num_workers": 1,
    }


def columns_of(
    spec: Spec, data: TokenRows, pad_token_id: int, view: Path
) -> Iterator[dict[str, Any]]:
    """The rows by the column names of the stage. `view`: the model that LLaMA Factory sees."""
    stage = spec.hashed["settings"]["configuration"]["stage"]
    if stage == "sft":
        return features(data, pad_token_id)
    if stage == "pt":
        return whole_texts(data, give_unused_padding(view, data))
    preferred = read_preferred(spec.inputs["tokens"], data)
    if stage == "kto":
        return judged_features(data, preferred)
    check_pairs(data, preferred, spec.inputs["tokens"].name)
    return pair_features(data)


def adapter_of(bare: Any, adapter: dict[str, Any]) -> tuple[dict[str, str], set[str]]:
    """LLaMA Factory's `lora_target`, and the names of all weights that the adapter must have.

    Without an adapter there are none of either. Raises ScriptError E516, E529.
    """
    modules = adapter_targets.resolve(bare, adapter)
    if adapter["type"] == "none":
        return {}, set()
    wanted = modules["target_modules"]
    dora = adapter.get("use_dora", False)
    config = LoraConfig(task_type="CAUSAL_LM", r=adapter["r"], use_dora=dora, **modules)
    with torch.device("meta"):
        weights = set(get_peft_model_state_dict(get_peft_model(bare, config)))
    return {"lora_target": "all" if isinstance(wanted, str) else ",".join(wanted)}, weights


def view_model(model: Path, view: Path, dtype: str) -> None:
    """The model's files by links, with a config.json that says the dtype to load them in.

    LLaMA Factory loads a checkpoint in the dtype that its configuration names, and has no setting
    for another one.
    """
    view.mkdir()
    for path in sorted(model.iterdir()):
        if path.name != "config.json":
            (view / path.name).symlink_to(path)
    config = {
        key: value for key, value in read_json(model / "config.json").items() if key != "dtype"
    }
    write_json(view / "config.json", config | {"torch_dtype": dtype})


def features(data: TokenRows, pad_token_id: int) -> Iterator[dict[str, list[int]]]:
    """Rows by LLaMA Factory's column names.

    In a pack, `attention_mask` counts the documents from 1, with 0 for padding. All packs have one
    length, since nothing pads `position_ids` later.
    """
    length = padded_length(data.longest()) if data.packed else 0
    for row in data.rows:
        missing = max(0, length - len(row.input_ids))
        yield {
            "input_ids": padded(row.input_ids, missing, pad_token_id),
            "labels": padded(row.labels, missing, IGNORED),
            "attention_mask": padded(row.documents, missing, 0),
            **({"position_ids": padded(row.positions, missing, 0)} if data.packed else {}),
        }


def give_unused_padding(view: Path, data: TokenRows) -> int:
    """Make a token that no row has the padding of the model in `view`; its id.

    LLaMA Factory's pre-training takes labels from every token but the padding, and the padding of
    many models is their end of text, which would never be learned. What pads is never looked at, so
    another token changes nothing else. Raises ScriptError E527 when the rows have every token.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(view)
    used = set(np.unique(np.concatenate([row.input_ids for row in data.rows])).tolist())
    known = sorted(set(tokenizer.get_vocab().values()) - used)
    if not known:
        raise ScriptError(
            "LLaMA Factory's pre-training learns no padding, and every token of the vocabulary "
            "stands in the rows: none is left to pad with",
            hint="use train.backend: native, or method: sft",
            code="E527",
        )
    usual = tokenizer.pad_token_id
    chosen = usual if usual in known else known[0]
    config = read_json(view / "tokenizer_config.json")
    (view / "tokenizer_config.json").unlink()  # a link to the model's own
    config["pad_token"] = tokenizer.convert_ids_to_tokens(chosen)
    write_json(view / "tokenizer_config.json", config)
    return int(chosen)


def whole_texts(data: TokenRows, pad_token_id: int) -> Iterator[dict[str, list[int]]]:
    """Rows as the collator for language modeling takes them: it makes the labels itself.

    It pads to the longest row of a batch, so each comes padded to a multiple of MULTIPLE.
    """
    for row in data.rows:
        missing = padded_length(len(row.input_ids)) - len(row.input_ids)
        yield {
            "input_ids": padded(row.input_ids, missing, pad_token_id),
            "attention_mask": padded(row.documents, missing, 0),
        }


def padded(values: np.ndarray, missing: int, value: int) -> list[int]:
    return [*values.tolist(), *[value] * missing]


def pair_features(data: TokenRows) -> Iterator[dict[str, Any]]:
    """Pairs by LLaMA Factory's column names."""
    for chosen, rejected in zip(data.rows[0::2], data.rows[1::2], strict=True):
        yield {**columns("chosen_", chosen), **columns("rejected_", rejected), **NO_MEDIA}


def judged_features(data: TokenRows, good: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """Answers with their labels, and the same prompts with other answers."""
    for row, other, label in zip(data.rows, mismatched(data).rows, good.tolist(), strict=True):
        yield {**columns("", row), **columns("kl_", other), "kto_tags": label, **NO_MEDIA}


def columns(prefix: str, row: Row) -> dict[str, list[int]]:
    """One side."""
    return {
        f"{prefix}input_ids": row.input_ids.tolist(),
        f"{prefix}attention_mask": [1] * len(row.input_ids),
        f"{prefix}labels": row.labels.tolist(),
    }
