"""What LLaMA Board would start a training with, for many forms; run by `llamafactory`'s Python.

Reads a JSON list of saved forms from stdin, and prints the list of the settings' files. It works in
an empty folder.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from llamafactory.webui import interface
from llamafactory.webui.common import _clean_cmd
from llamafactory.webui.engine import Engine


def main() -> None:
    engines = []

    class Kept(Engine):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            engines.append(self)

    interface.Engine = Kept
    interface.create_ui()
    (engine,) = engines
    elements = engine.manager._id_to_elem
    before = {element: getattr(element, "value", None) for element in elements.values()}
    found = []
    for form in json.load(sys.stdin):
        data = dict(before)
        data[elements["train.output_dir"]] = "train_x"
        for name, value in form.items():
            # both ways: what a page shows, and what comes back from it
            data[elements[name]] = elements[name].preprocess(elements[name].postprocess(value))
        found.append(_clean_cmd(engine.runner._parse_train_args(data)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
