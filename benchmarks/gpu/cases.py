"""The table: which model by which method, how many rows how long. Standard library only.

A case has its settings twice: as the training script is given them, and as the plan counts them.
tests/unit/test_gpu_cases.py holds both to what the product itself makes of the same recipe.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from runner.plan.job import Job, Memory
from runner.plan.phases import phases_of
from runner.plan.published_models import FOLDER
from runner.plan.shapes import Shapes, shapes_of
from runner.recipe.model import Adapter, Quantization

STEPS, WARM_UP = 6, 2
NEW_TOKENS = 8  # the evaluation draws none, but a recipe says how many
FOUR_BITS = Quantization(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype="bfloat16",
)
_NEEDED = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tokenizers")
_DPO = {"beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0}


@dataclass(frozen=True, slots=True)
class Case:
    """`layers`: as many as published where None. `method`: lora, qlora, dora, full, full-8bit, dpo.

    `batch`: rows in one forward pass, or pairs of them. `length`: tokens of every row.
    """

    model: str
    method: str
    batch: int
    length: int
    checkpointing: bool = False
    layers: int | None = None
    steps: int = STEPS
    seconds: int = 90  # the longest that it may take
    evaluate: bool = True

    @property
    def name(self) -> str:
        """Fit for a file name, and unique."""
        cut = "" if self.layers is None else f"-{self.layers}-layers"
        again = "-checkpointing" if self.checkpointing else ""
        return f"{self.model}{cut}-{self.method}-{self.batch}x{self.length}{again}"

    @property
    def config(self) -> dict[str, Any]:
        """config.json of the model."""
        config: dict[str, Any] = json.loads((FOLDER / f"{self.model}.json").read_bytes())
        if self.layers is not None:
            config["num_hidden_layers"] = self.layers
        if "layer_types" in config:
            config["layer_types"] = config["layer_types"][: config["num_hidden_layers"]]
        return config

    @property
    def shapes(self) -> Shapes:
        """The weights of the model."""
        return shapes_of(self.config)

    @property
    def script(self) -> str:
        """Of runner/scripts."""
        return "train_preference_native" if self.method == "dpo" else "train_native"

    @property
    def needs(self) -> tuple[str, ...]:
        """Libraries without which it cannot be measured."""
        small = ("bitsandbytes",) if self.method in ("qlora", "full-8bit") else ()
        return (*_NEEDED, *small) if self.method == "dpo" else (*_NEEDED, "trl", *small)

    @property
    def settings(self) -> dict[str, Any]:
        """What runner/backends/native.py would tell the script."""
        pairs = {"method": "dpo", **_DPO} if self.method == "dpo" else {"method": "sft"}
        held = {"quantization": asdict(FOUR_BITS)} if self.method == "qlora" else {}
        return {
            **pairs,
            "max_steps": self.steps,
            "num_train_epochs": None,
            "per_device_train_batch_size": self.batch,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-4,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "optim": self.optim,
            "bf16": True,
            "gradient_checkpointing": self.checkpointing,
            "seed": 42,
            "dtype": "bfloat16",
            "attn_implementation": "sdpa",
            "adapter": self._adapter_settings(),
            "packing": False,
            "has_prompts": True,
            **held,
        }

    @property
    def optim(self) -> str:
        """In 8 bits where the method says so."""
        return "adamw_8bit" if self.method == "full-8bit" else "adamw_torch"

    @property
    def job(self) -> Job:
        """What the plan counts."""
        sides = 2 if self.method == "dpo" else 1
        return Job(
            dtype="bfloat16",
            quantization=FOUR_BITS if self.method == "qlora" else None,
            attn_implementation="sdpa",
            adapter=self._adapter(),
            optim=self.optim,
            bf16=True,
            gradient_checkpointing=self.checkpointing,
            batch=sides * self.batch,
            sides=sides,
            accumulation=1,
            length=self.length,
            new_tokens=NEW_TOKENS if self.evaluates else 0,
            questions=0,
            loss=self.evaluates,
        )

    @property
    def evaluates(self) -> bool:
        """Is the held-out loss measured behind the training? Of pairs another script does it."""
        return self.evaluate and self.method != "dpo"

    def predicted(self, device: str, shared: bool = True) -> dict[str, Memory]:
        """Phase -> what the plan says of it, on cpu or cuda. `shared`: with the host's memory."""
        return phases_of(self.shapes, replace(self.job, pages=not shared), device)

    def _adapter_settings(self) -> dict[str, Any]:
        if self.method.startswith("full"):
            return {"type": "none"}
        found = {
            "type": "lora",
            "r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.0,
            "target_modules": "all-linear",
        }
        return found | ({"use_dora": True} if self.method == "dora" else {})

    def _adapter(self) -> Adapter:
        full = self.method.startswith("full")
        return Adapter(
            type="none" if full else "lora",
            r=0 if full else 16,
            lora_alpha=0 if full else 32,
            lora_dropout=0.0,
            use_dora=self.method == "dora",
            use_rslora=False,
            target_modules=() if full else "all-linear",
            exclude_modules=(),
            modules_to_save=(),
            rank_pattern={},
            alpha_pattern={},
            lora_bias=False,
            trainable_layers=None,
            trainable_modules=(),
        )


SMALL, MIDDLE, LARGE = "qwen2.5-0.5b", "llama-3.2-1b", "llama-3.1-8b"
CASES = (
    Case("qwen3-0.6b", "lora", 2, 512, layers=4),
    Case(SMALL, "lora", 2, 512),
    Case(SMALL, "lora", 8, 1024, checkpointing=True),
    Case(SMALL, "full", 1, 512),
    Case("qwen3-0.6b", "dora", 2, 512),
    Case("qwen3-0.6b", "qlora", 8, 256),
    Case(MIDDLE, "lora", 4, 1024),
    Case(MIDDLE, "lora", 4, 1024, checkpointing=True),
    Case(MIDDLE, "qlora", 4, 1024),
    Case(MIDDLE, "qlora", 1, 2048, checkpointing=True),
    Case(MIDDLE, "full", 2, 512, checkpointing=True),
    Case(MIDDLE, "full-8bit", 2, 512, checkpointing=True),
    Case(MIDDLE, "dpo", 2, 512),
    Case("mistral-7b-v0.3", "lora", 2, 1024, layers=4),
    Case(LARGE, "dora", 2, 1024, checkpointing=True, layers=8),
    Case(LARGE, "qlora", 1, 2048, checkpointing=True),
)
SEVENTY = Case(
    "llama-3.1-70b",
    "qlora",
    1,
    2048,
    checkpointing=True,
    steps=WARM_UP + 1,
    seconds=300,
    evaluate=False,  # it would be loaded a second time
)
EXPECTED = (45_000_000_000, 55_000_000_000)  # bytes at the peak of the 70B's training
