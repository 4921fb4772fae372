"""KTO of an adapter, with answers that are good or bad."""

from datasets import load_dataset
from trl import KTOConfig, KTOTrainer
from unsloth import FastLanguageModel

model, tokenizer = FastLanguageModel.from_pretrained("models/tiny", load_in_4bit=False)
model = FastLanguageModel.get_peft_model(model)
trainer = KTOTrainer(
    model=model,
    processing_class=tokenizer,
    train_dataset=load_dataset("json", data_files="data/judged.jsonl")["train"],
    args=KTOConfig(
        desirable_weight=1.25,
        max_length=256,
        num_train_epochs=1,
        per_device_train_batch_size=4,
        train_sampling_strategy="random",
    ),
)
trainer.train()
