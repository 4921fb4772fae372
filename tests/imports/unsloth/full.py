"""All weights, by a script with a function."""

import torch
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer
from unsloth import FastModel


class Stop:
    """Stands for a callback."""


ROWS = "data/chats.jsonl"


def main():
    model, tokenizer = FastModel.from_pretrained(
        "models/tiny",
        max_seq_length=2 * 1024,
        dtype=torch.float32,
        load_in_4bit=False,
        full_finetuning=True,
    )
    rows = load_dataset("json", data_files={"train": ROWS})["train"]
    split = rows.train_test_split(test_size=0.1, seed=1)
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=split["train"],
        eval_dataset=split["test"],
        args=SFTConfig(output_dir="out", **{"num_train_epochs": 2, "bf16": False}),
        callbacks=[Stop()],
    )
    trainer.train()


main()
