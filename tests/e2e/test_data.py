"""`recipe data prepare` and `recipe data inspect --recipe`, with a real tokenizer and template."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.chain import Checkout


def test_rows_are_prepared_counted_and_shown_as_the_model_sees_them(
    make_tiny: Callable[[Path], Checkout], tmp_path: Path
) -> None:
    checkout = make_tiny(tmp_path)
    with (checkout.folder / "rows.jsonl").open("a") as rows:
        rows.write(json.dumps({"instruction": "Talk.", "output": "la " * 200}) + "\n")
    early = checkout.recipe("data", "inspect", "--recipe", "tiny.yaml")
    assert (early.returncode, "[E863]" in early.stderr) == (4, True), early.stderr

    prepared = checkout.recipe("data", "prepare", "tiny.yaml", "--set", "data.too_long=drop")
    assert prepared.returncode == 0, prepared.stderr
    assert "train: 36 rows, 0 of them duplicates" in prepared.stdout
    assert "dropped, too long: 1 row, such as rows.jsonl:41" in prepared.stdout
    again = ("data", "prepare", "tiny.yaml", "--set", "data.too_long=drop", "--format", "json")
    told = json.loads(checkout.recipe(*again).stdout)
    counts = told["measures"]["train"]
    assert counts["examples"] == {"too long": "rows.jsonl:41"}
    tokens = counts["tokens"]
    assert tokens["total"] == tokens["trained"] + tokens["context"]
    runs = {path.name for path in (checkout.folder / "runs" / "tiny").iterdir()} - {"latest"}
    assert (told["run"], len(runs)) == (None, 1)

    shown = checkout.recipe("data", "inspect", "--recipe", "tiny.yaml", "--rows", "1")
    assert shown.returncode == 0, shown.stderr
    assert "41 rows, 41 fit" in shown.stdout
    assert (
        "<|im_start|>user\nSay 0.<|im_end|>\n<|im_start|>assistant\n⟦The number is 0.<|im_end|>⟧\n"
        in shown.stdout
    )
    (checkout.folder / "odd.jsonl").write_text('{"text": "no turns"}\n{"text": 3}\n')
    words = ("data", "inspect", "odd.jsonl", "--recipe", "tiny.yaml", "--format", "json")
    odd = checkout.recipe(*words)
    assert odd.returncode == 1, odd.stderr
    (row,) = json.loads(odd.stdout)["seen"]
    assert row["parts"][-1][1] is True
