"""Hold the merged model against the trained one: base in 4 bits and adapter, as they were trained.

spec.hashed: base (original or dequantized), quantization, dtype, attn_implementation, trained
("adapter"), trust_remote_code, memory (bytes that it may take). spec.inputs: model (folder of
`fetch`), trained (adapter), merged (model folder), tokens (held-out rows of `prepare`). Writes
`fidelity.json`, and the same as measures:

- kl_merged: mean KL divergence in nats of the merged model's next tokens from the trained model's,
  over the supervised tokens, with the interval of rows drawn again. kl_training: the same of the
  base's from the trained model's, which is how far the training moved it.
- loss_base, loss_unmerged, loss_merged: mean loss of the same tokens; loss_change: merged less
  unmerged, with its interval. same_top_token: part of the tokens whose likeliest one is the same.

The trained model's predictions wait in a file, so that one model at a time is in memory.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runner.scripts.evaluate import load_model, tuned_model
from runner.scripts.evaluation.batches import in_batches
from runner.scripts.evaluation.intervals import estimate
from runner.scripts.merging.merged_model import Merged, load_merged
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.training.token_rows import IGNORED, Row, read_token_rows
from runner.scripts.training.torch_setup import check_still_set_up, peak_memory, set_up_torch

MAX_TOKENS = 2048  # of the first rows: more would not change the verdict, only time and space
_AT_ONCE = 64  # tokens whose whole distributions are compared in float64 at a time


@dataclass(frozen=True, slots=True)
class Compared:
    """Of one row, sums over its supervised tokens: how a model differs from the trained one."""

    kl: float  # nats
    same: int  # tokens with the same likeliest one
    loss: float  # nats
    trained_loss: float


def measure_fidelity(spec: Spec, events: Events) -> None:
    """Write fidelity.json; without a token to predict it says so. Raises ScriptError E522."""
    device = set_up_torch()
    rows = chosen_rows(read_token_rows(spec.inputs["tokens"]).rows)
    counts = [int((row.labels != IGNORED).sum()) for row in rows]
    if not counts:
        write(spec, events, {"base": spec.hashed["base"], "rows": 0})
        return
    trained = Predictions(spec.scratch / "trained.f32", counts)
    total = 2 * len(rows)
    changed = []
    for number, each in enumerate(before_the_merge(spec, rows, trained, device), 1):
        changed.append(each)
        events.progress(number, total, message="predictions before the merge")
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    merged = load_merged(
        spec.inputs["merged"],
        trust_remote_code=spec.hashed.get("trust_remote_code", False),
        memory=spec.hashed["memory"],
        exact=False,  # computed in the dtype of the other side: only the weights differ
    )
    moved = []
    for number, (row, scores) in enumerate(zip(rows, after_the_merge(merged, rows), strict=True)):
        moved.append(compare(trained.of(number), scores, row))
        events.progress(len(rows) + number + 1, total, message="predictions of the merged model")
    trained.remove()
    check_still_set_up()
    measures = {
        "base": spec.hashed["base"],
        **measures_of(counts, changed, moved),
        "merged_model_streamed": merged.streamed,
    }
    write(spec, events, measures)
    events.measure(peak_memory=peak_memory(device))


def write(spec: Spec, events: Events, measures: dict[str, Any]) -> None:
    """fidelity.json, and the same as measures of the run."""
    text = json.dumps(measures, indent=2, sort_keys=True, allow_nan=False)
    (spec.folder / "fidelity.json").write_text(text + "\n", encoding="utf-8")
    events.measure(**measures)


def chosen_rows(rows: Sequence[Row]) -> list[Row]:
    """The first rows with something to predict, to MAX_TOKENS such tokens; the last is cut."""
    chosen: list[Row] = []
    left = MAX_TOKENS
    for row in rows:
        places = np.flatnonzero(row.labels != IGNORED)[:left]
        if not len(places):
            continue
        end = int(places[-1]) + 1
        chosen.append(replace(row, input_ids=row.input_ids[:end], labels=row.labels[:end]))
        left -= len(places)
    return chosen


class Predictions:
    """The trained model's logarithms of probabilities at the supervised tokens of every row.

    They lie in the file `path` as float32, [tokens of all rows, vocabulary].
    """

    def __init__(self, path: Path, counts: Sequence[int]) -> None:
        self._path = path
        self._ends = np.cumsum(counts)
        self._counts = counts
        self._values: Any = None

    def keep(self, row: int, values: torch.Tensor) -> None:
        """Of row `row`, [its tokens, vocabulary]."""
        if self._values is None:
            shape = (int(self._ends[-1]), values.shape[1])
            self._values = np.memmap(self._path, np.float32, "w+", shape=shape)
        self._values[self._place(row)] = values.float().cpu().numpy()

    def of(self, row: int) -> torch.Tensor:
        """What was kept of it."""
        return torch.from_numpy(np.array(self._values[self._place(row)]))

    def remove(self) -> None:
        """Give the space back."""
        self._values = None
        self._path.unlink()

    def _place(self, row: int) -> slice:
        end = int(self._ends[row])
        return slice(end - self._counts[row], end)


@torch.inference_mode()
def before_the_merge(
    spec: Spec, rows: Sequence[Row], trained: Predictions, device: torch.device
) -> Iterator[Compared]:
    """Fill `trained`; gives what the base alone says of each row, compared with it."""
    base = load_model(spec.inputs["model"], spec.hashed, device)
    model = tuned_model(base, spec, device)
    for number, row in enumerate(rows):
        ids = torch.from_numpy(row.input_ids)[None].to(device)
        said = predicted(model(ids, use_cache=False).logits[0], row)
        trained.keep(number, said)
        with model.disable_adapter():
            alone = predicted(model(ids, use_cache=False).logits[0], row)
        yield compare(said.cpu(), alone, row)


@torch.inference_mode()
def after_the_merge(merged: Merged, rows: Sequence[Row]) -> Iterator[torch.Tensor]:
    """As `predicted`, of every row. Of a model on the disk, as many rows as TOKENS allow share a
    pass: each reads it once."""
    if not merged.streamed:
        for row in rows:
            ids = torch.from_numpy(row.input_ids)[None].to(merged.device)
            yield predicted(merged.model(ids, use_cache=False).logits[0], row)
        return
    left = iter(rows)
    for batch in in_batches([row.input_ids for row in rows], most=len(rows)):
        ids = torch.zeros((len(batch), max(map(len, batch))), dtype=torch.int64)
        seen = torch.zeros_like(ids)
        for number, each in enumerate(batch):
            ids[number, : len(each)] = torch.from_numpy(each)
            seen[number, : len(each)] = 1
        logits = merged.model(
            ids.to(merged.device), attention_mask=seen.to(merged.device), use_cache=False
        ).logits
        for row, said in zip(islice(left, len(batch)), logits, strict=True):
            yield predicted(said[: len(row.input_ids)], row)


def predicted(logits: torch.Tensor, row: Row) -> torch.Tensor:
    """Logarithms of probabilities where `row` has labels: [its tokens, vocabulary], float32.

    `logits` [tokens of the row, vocabulary]: each position's of the next token.
    """
    places = torch.from_numpy(np.flatnonzero(row.labels != IGNORED) - 1)
    return torch.log_softmax(logits[places.to(logits.device)].float(), dim=-1)


def compare(trained: torch.Tensor, other: torch.Tensor, row: Row) -> Compared:
    """Two models' predictions of one row, both as of `predicted`. Raises ScriptError E522."""
    labels = torch.from_numpy(row.labels[row.labels != IGNORED])[:, None]
    kl = loss = before = 0.0
    same = 0
    for first in range(0, len(labels), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        p, q = trained[part].double(), other[part].cpu().double()
        likely = p.exp()
        kl += torch.where(likely > 0, likely * (p - q), 0.0).sum().item()
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        before -= p.gather(1, labels[part]).sum().item()
        loss -= q.gather(1, labels[part]).sum().item()
    if not np.isfinite([kl, loss, before]).all():
        raise ScriptError(
            "a model's predictions of held-out rows are not numbers",
            hint="lower train.learning_rate, or set merge.dtype to bfloat16",
            code="E522",
        )
    return Compared(kl, same, loss, before)


def measures_of(
    counts: Sequence[int], changed: Sequence[Compared], moved: Sequence[Compared]
) -> dict[str, Any]:
    """Means over all tokens. By row: `changed` by the training, `moved` by the merge."""
    kl = estimate([each.kl for each in moved], counts)
    loss = estimate([each.loss - each.trained_loss for each in moved], counts)
    tokens = sum(counts)
    return {
        "kl_merged": kl.value,
        "kl_merged_low": kl.low,
        "kl_merged_high": kl.high,
        "kl_training": estimate([each.kl for each in changed], counts).value,
        "loss_base": estimate([each.loss for each in changed], counts).value,
        "loss_unmerged": estimate([each.trained_loss for each in moved], counts).value,
        "loss_merged": estimate([each.loss for each in moved], counts).value,
        "loss_change": loss.value,
        "loss_change_low": loss.low,
        "loss_change_high": loss.high,
        "same_top_token": sum(each.same for each in moved) / tokens,
        "rows": len(counts),
        "tokens": tokens,
    }


if __name__ == "__main__":
    main(measure_fidelity)
