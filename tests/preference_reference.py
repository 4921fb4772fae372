"""Losses and gradients of a tiny model by TRL, by our losses and by the course's, side by side.

Run by an interpreter of `native`: `preference_reference.py MODEL PAGE`, where PAGE is
docs/course/10.5-preferences.md. Prints JSON: case -> {"loss": [TRL's, ours, the course's],
"gradient": [greatest difference to TRL's, ours and the course's, relative to its greatest value]}.
"""

from __future__ import annotations

import copy
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from runner.recipe.methods import METHODS
from runner.scripts import train_preference_native as native
from runner.scripts.training.batches import Batches
from runner.scripts.training.preferences import preference_rows
from runner.scripts.training.preferences.preference_batches import JudgedBatches, PairBatches
from runner.scripts.training.token_rows import IGNORED, TokenRows, read_token_rows
from tests.training_runs import answers, write_preferences

PAIRS = 3


def main(folder: Path, page: Path, scratch: Path) -> None:
    torch.manual_seed(0)
    course: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, course)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    data = read_token_rows(write_preferences(scratch / "tokens.safetensors", answers(PAIRS)))
    model = AutoModelForCausalLM.from_pretrained(folder)
    reference = copy.deepcopy(model)
    for weight in model.parameters():  # so that the two differ
        weight.data += 0.02 * torch.randn_like(weight)
    found = {}
    for kind, smoothing in (("sigmoid", 0.0), ("ipo", 0.0), ("hinge", 0.0), ("robust", 0.1)):
        found[kind] = dpo(model, reference, tokenizer, data, kind, smoothing, course)
    found["orpo"] = averaged("orpo", model, data, course)
    found["simpo"] = averaged("simpo", model, data, course)
    found["kto"] = kto(model, reference, tokenizer, data)
    found["reward"] = reward(folder, tokenizer, data, course)
    print(json.dumps(found))


def compared(model: Any, losses: list[Any]) -> dict[str, list[float]]:
    """Every loss, and every gradient against the first's."""
    gradients = []
    for loss in losses:
        model.zero_grad()
        loss.backward()
        gradients.append(
            torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
        )
    scale = gradients[0].abs().max()
    return {
        "loss": [loss.item() for loss in losses],
        "gradient": [((each - gradients[0]).abs().max() / scale).item() for each in gradients[1:]],
        "scale": [scale.item()],
    }


def batch_of(data: TokenRows) -> dict[str, torch.Tensor]:
    pairs = PairBatches(Batches(data, 2, torch.float32))
    return pairs([{"row": number} for number in range(PAIRS)])


def sides(data: TokenRows) -> list[dict[str, list[int]]]:
    """Pairs as TRL has them when they are tokenised."""
    made = []
    for chosen, rejected in zip(data.rows[0::2], data.rows[1::2], strict=True):
        begin = preference_rows.answer_begins(chosen)
        made.append(
            {
                "prompt_ids": chosen.input_ids[:begin].tolist(),
                "chosen_ids": chosen.input_ids[begin:].tolist(),
                "rejected_ids": rejected.input_ids[begin:].tolist(),
            }
        )
    return made


PLAIN: dict[str, Any] = {
    "output_dir": str(Path(sys.argv[1]).parent / "trainer"),  # beside the model
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "remove_unused_columns": False,
    "per_device_train_batch_size": 2 * PAIRS,
    "max_length": None,
}


def course_logps(model: Any, inputs: dict[str, torch.Tensor], course: dict[str, Any]) -> Any:
    """Sums and means over answers, by the course's `logp`, of both sides."""
    logits = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    total, count = course["logp"](logits, inputs["input_ids"], inputs["labels"] != IGNORED)
    return total.chunk(2), (total / count).chunk(2)


def dpo(
    model: Any,
    reference: Any,
    tokenizer: Any,
    data: TokenRows,
    kind: str,
    smoothing: float,
    course: dict[str, Any],
) -> dict[str, list[float]]:
    arguments = DPOConfig(**PLAIN, loss_type=kind, beta=0.3, label_smoothing=smoothing)
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "Q", "chosen": "a", "rejected": "b"}]),
        processing_class=tokenizer,
    )  # it tokenises what it is given; the batch below is ours
    theirs = trainer.compute_loss(model, trainer.data_collator(sides(data)))
    settings = {"method": "dpo", "beta": 0.3, "loss_type": kind, "label_smoothing": smoothing}
    inputs = batch_of(data)
    ours, _ = native.pair_objective(model, inputs, settings, reference)
    index = int(kind == "ipo")
    plus, minus = course_logps(model, inputs, course)[index]
    with torch.no_grad():
        before = course_logps(reference, inputs, course)[index]
    name = {"sigmoid": "dpo", "robust": "robust_dpo"}.get(kind, kind)
    more = (smoothing,) if kind == "robust" else ()
    return compared(model, [theirs, ours, course[name](plus, minus, *before, 0.3, *more)])


def averaged(
    method: str, model: Any, data: TokenRows, course: dict[str, Any]
) -> dict[str, list[float]]:
    """ORPO and SimPO; of TRL's ORPO the odds alone, with the imitation of the answer added."""
    settings = {"method": method, **METHODS[method].settings}
    inputs = batch_of(data)
    logits = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    trainer = {"orpo": ORPOTrainer, "simpo": CPOTrainer}[method]
    plus, minus = trainer.get_batch_logps(logits, inputs["labels"], average_log_prob=True).chunk(2)
    stub = SimpleNamespace(
        beta=settings["beta"],
        simpo_gamma=settings.get("simpo_gamma"),
        loss_type=method,
        label_smoothing=0.0,
        alpha=0.0,
        accelerator=SimpleNamespace(device=logits.device),
    )
    ours, _ = native.pair_objective(model, inputs, settings, None)
    means = course_logps(model, inputs, course)[1]
    if method == "orpo":
        theirs = (-plus - ORPOTrainer.odds_ratio_loss(stub, plus, minus)[0]).mean()
        return compared(model, [theirs, ours, course["orpo"](*means, settings["beta"])])
    theirs = CPOTrainer.cpo_loss(stub, plus, minus)[0].mean()
    scratch = course["simpo"](*means, settings["beta"], settings["simpo_gamma"])
    return compared(model, [theirs, ours, scratch])


def kto(model: Any, reference: Any, tokenizer: Any, data: TokenRows) -> dict[str, list[float]]:
    rows = []
    for number, row in enumerate(data.rows):
        begin = preference_rows.answer_begins(row)
        ids = row.input_ids.tolist()
        rows.append(
            {"prompt_ids": ids[:begin], "completion_ids": ids[begin:], "label": number % 2 == 0}
        )
    arguments = KTOConfig(**PLAIN, beta=0.3, desirable_weight=1.5)
    trainer = KTOTrainer(
        model=model,
        ref_model=reference,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "Q", "completion": "a", "label": True}]),
        processing_class=tokenizer,
    )
    before = [rows[-1], *rows[:-1]]
    batch = [
        row | {"KL_completion_ids": other["completion_ids"]}
        for row, other in zip(rows, before, strict=True)
    ]
    theirs = trainer.compute_loss(model, trainer.data_collator(batch))
    settings = {"method": "kto", "beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 1.0}
    good = torch.tensor([row["label"] for row in rows]).numpy()
    batches = Batches(data, 2, torch.float32)
    others = Batches(preference_rows.mismatched(data), 2, torch.float32)
    items = [{"row": number} for number in range(len(rows))]
    inputs = JudgedBatches(batches, others, good)(items)
    ours, _ = native.kto_objective(model, inputs, settings, reference)
    return compared(model, [theirs, ours])


def reward(
    folder: Path, tokenizer: Any, data: TokenRows, course: dict[str, Any]
) -> dict[str, list[float]]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    pairs = [
        {"chosen_ids": each["prompt_ids"] + each["chosen_ids"],
         "rejected_ids": each["prompt_ids"] + each["rejected_ids"]}
        for each in sides(data)
    ]  # fmt: skip
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(**PLAIN, center_rewards_coefficient=0.1),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    theirs = trainer.compute_loss(model, trainer.data_collator(pairs))
    inputs = batch_of(data)
    settings = {"method": "reward", "center_rewards_coefficient": 0.1}
    ours, _ = native.score_objective(model, inputs, settings)
    scores = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, 0]
    return compared(model, [theirs, ours, course["reward"](*scores.chunk(2), 0.1)])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
