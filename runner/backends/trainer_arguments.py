"""Settings of a recipe's `train` that are arguments of Transformers' trainer, by the same names."""

SAME = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "bf16",
)
