"""Press a button of a running LLaMA Board by Gradio's own client; run by `llamafactory`'s Python.

`board_client.py URL FUNCTION CHANGES [PASSWORD]`: FUNCTION such as `run_train`; CHANGES is JSON,
element id (`train-output_dir`) -> value, over what the form holds. Prints one JSON line an update:
element id -> value.
"""

from __future__ import annotations

import json
import sys

from gradio_client import Client


def main(url: str, function: str, changes: str, password: str = "") -> None:
    client = Client(url, verbose=False, auth=("recipe", password) if password else None)
    config = client.config
    shown = {each["id"]: each["props"] for each in config["components"]}
    button = next(d for d in config["dependencies"] if d["api_name"] == function)
    values = {shown[i]["elem_id"]: shown[i].get("value") for i in button["inputs"]}
    outputs = [shown[i]["elem_id"] for i in button["outputs"]]
    new = json.loads(changes)
    assert set(new) <= set(values), set(new) - set(values)
    job = client.submit(*(values | new).values(), api_name=f"/{function}")
    several = False
    for update in job:  # of a generator, as they come
        several = True
        print(json.dumps(dict(zip(outputs, update, strict=True))), flush=True)
    if not several:
        print(json.dumps(dict(zip(outputs, job.result(), strict=True))))


if __name__ == "__main__":
    main(*sys.argv[1:])
