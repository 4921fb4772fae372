"""SimPO by the trainer of CPO, without CPO's own part."""

from datasets import load_dataset
from trl import CPOConfig, CPOTrainer
from unsloth import FastLanguageModel

model, tokenizer = FastLanguageModel.from_pretrained("models/tiny", load_in_4bit=False)
model = FastLanguageModel.get_peft_model(model, r=32)
trainer = CPOTrainer(
    model,
    train_dataset=load_dataset("json", data_files="data/preferences.jsonl", split="train"),
    args=CPOConfig(loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=1.2, max_steps=12),
)
trainer.train()
