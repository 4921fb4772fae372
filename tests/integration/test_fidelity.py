"""How two models are held against each other: known answers, rows that are cut, a model on disk."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chain import ROOT
from tests.tiny_model import write_tiny_model

_ASKED = """
import json, sys
from pathlib import Path
import numpy as np, torch
from runner.scripts import fidelity
from runner.scripts.evaluation import batches
from runner.scripts.merging.merged_model import load_merged
from runner.scripts.training.token_rows import IGNORED, Row

def row(ids, trained):
    ids = np.array(ids)
    labels = np.where(np.isin(np.arange(len(ids)), trained), ids, IGNORED)
    return Row(ids, labels, np.arange(len(ids)), np.ones(len(ids), np.int64))

p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).log()
q = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.25, 0.25]]).log()
found = fidelity.compare(p, q, row([2, 1, 0], [1, 2]))
same = fidelity.compare(p, p, row([2, 1, 0], [1, 2]))
rows = [row(range(9), [3, 5]), row(range(9), []), row(range(9), [4, 6, 8]), row(range(9), [7])]
fidelity.MAX_TOKENS = 4
chosen = fidelity.chosen_rows(rows)
fidelity.MAX_TOKENS = 99
folder = Path(sys.argv[1])
asked = fidelity.chosen_rows(rows)
said = []
for memory, tokens in ((1 << 40, 99), (1, 99), (1, 12)):
    batches.TOKENS = tokens
    model = load_merged(folder, trust_remote_code=False, memory=memory, exact=False)
    scores = [each.clone() for each in fidelity.after_the_merge(model, asked)]
    said.append((model.streamed, str(model.model.dtype), scores))
print(json.dumps({
    "found": [found.kl, found.same, found.loss, found.trained_loss],
    "same": [same.kl, same.same],
    "chosen": [[len(each.input_ids), int((each.labels != IGNORED).sum())] for each in chosen],
    "streamed": [each[:2] for each in said],
    "shapes": [list(each.shape) for each in said[0][2]],
    "apart": [
        max(float((a - b).abs().max()) for a, b in zip(said[0][2], other[2], strict=True))
        for other in said[1:]
    ],
}))
"""


@pytest.fixture(scope="module")
def answers(
    environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    model = write_tiny_model(tmp_path_factory.mktemp("fidelity") / "model")
    done = subprocess.run(
        [str(environment_python("evaluate")), "-c", _ASKED, str(model)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_divergence_is_the_one_of_the_books(answers: dict[str, object]) -> None:
    """Of (1/2, 1/2, 0) and (1/4, 3/4, 0), and of (1, 0, 0) and (1/2, 1/4, 1/4), in nats."""
    kl = 0.5 * math.log(2) + 0.5 * math.log(2 / 3) + math.log(2)
    loss = -math.log(0.75) - math.log(0.5)
    assert answers["found"] == pytest.approx([kl, 1, loss, -math.log(0.5)], rel=1e-6)
    assert answers["same"] == [0.0, 2]


def test_rows_are_taken_up_to_the_limit_and_the_last_one_is_cut(answers: dict[str, object]) -> None:
    """Without what comes after the last token that is predicted."""
    assert answers["chosen"] == [[6, 2], [7, 2]]


def test_a_model_on_the_disk_says_the_same(answers: dict[str, object]) -> None:
    """All rows at once, padded, and in several passes; in the dtype of the weights either way."""
    assert answers["streamed"] == [[False, "torch.float32"], *[[True, "torch.float32"]] * 2]
    assert answers["shapes"] == [[2, 260], [3, 260], [1, 260]]
    assert isinstance(answers["apart"], list)
    assert len(answers["apart"]) == 2
    assert max(answers["apart"]) < 1e-4
