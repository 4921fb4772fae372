"""The data of LLaMA Factory's settings, and the template by which it makes tokens of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.backends.llamafactory import own_templates
from runner.capture.captured import Captured, Fate
from runner.capture.data_sets import DataSet, Inexpressible, Place, file_of
from runner.capture.mixing import as_list, most_of, note_drawn, note_most, weigh
from runner.capture.prepared import Origin
from runner.errors import UsageError
from runner.recipe.methods import METHODS


def data_of(values: Mapping[str, Any], method: str, place: Place, made: Captured) -> dict[str, Any]:
    files = [dict(row) for row in place.rows] or _mixed(values, method, place, made)
    if place.rows and values["dataset"]:
        why = "the rows are those of --data"
        made.note(Fate.CLOSE, "dataset", values["dataset"], becomes="data.train", why=why)
    if not files:
        raise UsageError(
            "none of its data sets can be named in a recipe: "
            + "; ".join(
                f"{note.value}: {note.why}" for note in made.notes if note.fate is Fate.LOST
            ),
            hint="give the folder that LLaMA Factory was started in with --workspace",
            code="E851",
        )
    data: dict[str, Any] = {"train": files, "validation": _validation(values, method, place, made)}
    if values["default_system"]:
        data["system"] = str(values["default_system"])
    data |= {
        "chat_template": "model",
        "max_length": int(values["cutoff_len"]),
        "too_long": "truncate",
        "packing": _packing(values, method, made),
    }
    made.note(
        Fate.CLOSE,
        "cutoff_len",
        values["cutoff_len"],
        becomes=f"data.max_length: {data['max_length']}, data.too_long: truncate",
        why="longer rows are cut at their end; LLaMA Factory cuts prompt and answer in proportion",
    )
    if data["packing"]:
        made.note(
            Fate.CLOSE,
            "neat_packing" if values["neat_packing"] else "packing",
            True,
            becomes="data.packing: true",
            why="other rows share a pack"
            + ("" if values["neat_packing"] else ", and none of them sees another"),
        )
    return data


def _packing(values: Mapping[str, Any], method: str, made: Captured) -> bool:
    """LLaMA Factory packs no answers that are compared: one switch is ignored, one refused."""
    if method == "pretrain":
        if values["neat_packing"]:
            why = "LLaMA Factory refuses it in stage pt"
            made.note(Fate.LOST, "neat_packing", True, why=why)
        return values["packing"] is not False  # there it packs unless told otherwise
    if not METHODS[method].compares:
        return bool(values["neat_packing"] or values["packing"])
    why = f"{method} compares whole answers"
    if values["packing"]:
        made.note(Fate.NO_EFFECT, "packing", True, why=f"{why}: LLaMA Factory packs none")
    if values["neat_packing"]:
        made.note(Fate.LOST, "neat_packing", True, why=f"{why}: LLaMA Factory refuses it")
    return False


def template_of(values: Mapping[str, Any], made: Captured) -> None:
    """LLaMA Factory's template by its name where a recipe can have it, else the model's own."""
    name, train, data = values["template"], made.recipe["train"], made.recipe["data"]
    becomes = "data.chat_template: model"
    why = _no_own_template(name, train["method"], data)
    if why:
        made.note(Fate.CLOSE, "template", name, becomes=becomes, why=why)
        return
    train["template"] = name
    made.note(
        Fate.MAPPED,
        "template",
        name,
        becomes=f"train.template: {name}; {becomes} for what comes behind the training",
        why="a run shows where its tokens are not the model's own; train.template: shared trains "
        "on those",
    )


def _no_own_template(name: Any, method: str, data: Mapping[str, Any]) -> str:
    """Why the recipe cannot have LLaMA Factory's own template; "" where it can."""
    differs = "LLaMA Factory's may differ from the model's own, mostly in the system turn"
    if name is None:
        return "LLaMA Factory reads the model's own template where none is named, in its own way"
    if name not in own_templates():
        return "LLaMA Factory 0.9.5 has no template of that name"
    if method == "pretrain":
        return "pretrain writes rows by no template"
    if method != "sft":
        return f"{method} is trained on tokens of the model's own template; {differs}"
    if data["packing"]:
        return f"packs are made of tokens of the model's own template; {differs}"
    if any(file["format"] == "text" for file in data["train"]):
        return "rows of format text are written by no template"
    return ""


def _mixed(
    values: Mapping[str, Any], method: str, place: Place, made: Captured
) -> list[dict[str, Any]]:
    """Its data sets, and how much is taken of each."""
    found = _files(values, "dataset", method, place, made, most_of(values))
    files = [each.item for each in found]
    for each in found:
        if each.drawn is not None:
            note_drawn(each.name, each.drawn, each.item, made)
    note_most(files, values, made)
    weigh(files, [each.number for each in found], [each.rows for each in found], values, made)
    return files


def _files(
    values: Mapping[str, Any],
    key: str,
    method: str,
    place: Place,
    made: Captured,
    most: int | None = None,
) -> list[DataSet]:
    """The data sets of `key` that a recipe can name, of each at most `most` rows."""
    found = []
    for number, name in enumerate(as_list(values[key])):
        try:
            folder = str(values["dataset_dir"])
            found.append(file_of(str(name), folder, place, method, number, most))
            made.note(Fate.MAPPED, key, name, becomes=f"data: {found[-1].item['path']}")
        except Inexpressible as error:
            made.note(Fate.LOST, key, name, why=str(error))
    return found


def _validation(
    values: Mapping[str, Any], method: str, place: Place, made: Captured
) -> dict[str, Any]:
    found = _files(values, "eval_dataset", method, place, made)
    for each in found:
        for how_much in ("limit", "repeat"):
            each.item.pop(how_much, None)
        if each.drawn is not None:
            name, why = f"{each.name}.num_samples", "held-out rows are all of a file, once"
            made.note(Fate.CLOSE, name, each.drawn, becomes="every row", why=why)
    if found:
        return {"files": [each.item for each in found]}
    size = float(values["val_size"] or 0)
    if size == 0 or size < 1:
        if size:
            made.note(
                Fate.CLOSE,
                "val_size",
                size,
                becomes=f"data.validation: {{fraction: {size}}}",
                why="other rows are held out: those that the hash of their content chooses",
            )
        return {"fraction": size}
    made.note(Fate.LOST, "val_size", size, why="a recipe holds out a part, not a number of rows")
    return {"fraction": 0.1}


def prepared_data(given: Mapping[str, Any], origin: Origin, made: Captured) -> dict[str, Any]:
    """The data of the recipe that the tokens were made from; the form's own is not read."""
    name = origin.recipe["name"]
    made.note(Fate.MAPPED, "tokenized_path", given["tokenized_path"], becomes=f"data of {name}")
    for key in (
        "dataset",
        "dataset_dir",
        "template",
        "default_system",
        "cutoff_len",
        "max_samples",
        "mix_strategy",
        "interleave_probs",
    ):
        if key in given:
            made.note(Fate.NO_EFFECT, key, given[key], why="the tokens were prepared")
    data: dict[str, Any] = origin.recipe["data"]
    packing = bool(given.get("neat_packing") or given.get("packing"))
    if packing != data["packing"]:
        made.note(Fate.LOST, "packing", packing, why="it is not how the tokens were prepared")
    return data
