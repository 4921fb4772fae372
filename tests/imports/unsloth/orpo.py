"""ORPO of an adapter; the patch for DPO stands before it, as it often does."""

from datasets import load_dataset
from trl import ORPOConfig, ORPOTrainer
from unsloth import FastLanguageModel, PatchDPOTrainer

PatchDPOTrainer()
model, tokenizer = FastLanguageModel.from_pretrained(
    "models/tiny", max_seq_length=1024, load_in_4bit=False
)
model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=8)
rows = load_dataset("json", data_files={"train": "data/preferences.jsonl"}, split="train")
trainer = ORPOTrainer(
    model=model,
    train_dataset=rows,
    processing_class=tokenizer,
    args=ORPOConfig(max_steps=30, beta=0.15, max_completion_length=64, logging_steps=1),
)
trainer.train()
