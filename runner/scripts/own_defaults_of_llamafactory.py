"""What LLaMA Factory and its web UI do where nobody says anything.

Writes spec.folder/defaults.json: `llamafactory`, the defaults of its settings; `board`, what LLaMA
Board would hand to `llamafactory-cli train` if Start were pressed on the form as it opens.
"""

from __future__ import annotations

import os
from typing import Any

import gradio
from llamafactory import hparams
from llamafactory.webui import engine as board
from llamafactory.webui.components import create_top, create_train_tab

from runner.scripts.spec import Events, Spec, main
from runner.scripts.training.own_values import values_of
from runner.scripts.weights.model_folder import write_json

# What a user must choose before Start does anything; no default of the Board's.
CHOSEN = {
    "top.lang": "en",
    "top.model_name": "Custom",
    "top.model_path": "model",
    "train.dataset": ["data"],
    "train.output_dir": "out",
}


def write_defaults(spec: Spec, events: Events) -> None:
    """Read both off the installed packages."""
    os.chdir(spec.scratch)  # where the Board writes its own settings
    write_json(
        spec.folder / "defaults.json",
        {"llamafactory": own_settings(), "board": board_arguments()},
    )


def own_settings() -> dict[str, Any]:
    """What `llamafactory-cli train` has where its file says nothing but what it must."""
    return {
        **values_of(hparams.ModelArguments(model_name_or_path="model")),
        **values_of(hparams.DataArguments()),
        **values_of(hparams.TrainingArguments(output_dir="out")),
        **values_of(hparams.FinetuningArguments()),
    }


def board_arguments() -> dict[str, Any]:
    """The form's values as they stand when the page opens, through the Board's own translation."""
    engine = board.Engine()
    with gradio.Blocks():
        engine.manager.add_elems("top", create_top())
        engine.manager.add_elems("train", create_train_tab(engine))
    elements = {name: engine.manager.get_elem_by_id(name) for name in engine.manager._id_to_elem}
    data = {each: getattr(each, "value", None) for each in elements.values()}
    data |= {elements[name]: value for name, value in CHOSEN.items()}
    found: dict[str, Any] = engine.runner._parse_train_args(data)
    chosen = ("model_name_or_path", "dataset", "output_dir")
    return {name: value for name, value in found.items() if name not in chosen}


if __name__ == "__main__":
    main(write_defaults)
