"""Every setting of `trl sft`: its place in a recipe, or why it has none; with TRL's own defaults.

A test holds these tables against TRL's own fields.
"""

from __future__ import annotations

from typing import Any

from runner.imports.readers import flag, number, one_of, optimizer, schedule, whole
from runner.imports.sheet import Field

TRAIN = {
    "per_device_train_batch_size": Field("train.per_device_train_batch_size", 8, whole),
    "gradient_accumulation_steps": Field("train.gradient_accumulation_steps", 1, whole),
    "learning_rate": Field("train.learning_rate", 2e-5, number),
    "lr_scheduler_type": Field("train.lr_scheduler_type", "linear", schedule),
    "weight_decay": Field("train.weight_decay", 0.0, number),
    "max_grad_norm": Field("train.max_grad_norm", 1.0, number),
    "optim": Field("train.optim", "adamw_torch_fused", optimizer),
    "gradient_checkpointing": Field("train.gradient_checkpointing", True, flag),
}
# Methods whose trainer has another learning rate of its own.
LEARNING_RATES = {"dpo": 1e-6, "orpo": 1e-6, "simpo": 1e-6, "kto": 1e-6, "reward": 1e-4}
LORA = {
    "lora_r": Field("train.adapter.r", 16, whole),
    "lora_alpha": Field("train.adapter.lora_alpha", 32, whole),
    "lora_dropout": Field("train.adapter.lora_dropout", 0.05, number),
    "use_dora": Field("train.adapter.use_dora", False, flag),
    "use_rslora": Field("train.adapter.use_rslora", False, flag),
}
QUANTIZATION = {
    "bnb_4bit_quant_type": Field(
        "model.quantization.bnb_4bit_quant_type",
        "nf4",
        one_of({"nf4": "nf4", "fp4": "fp4"}, "nf4", "a recipe has nf4 and fp4"),
    ),
    "use_bnb_nested_quant": Field("model.quantization.bnb_4bit_use_double_quant", False, flag),
}
_MAPPED = """
    model_name_or_path model_revision dtype torch_dtype attn_implementation trust_remote_code
    use_peft lora_target_modules lora_modules_to_save load_in_4bit load_in_8bit
    dataset_name datasets test_split_size dataset_config dataset_train_split dataset_test_split
    max_length max_seq_length packing packing_strategy eval_packing completion_only_loss
    assistant_only_loss num_train_epochs max_steps warmup_steps warmup_ratio bf16 fp16 seed
    save_steps chat_template_path
"""
MAPPED = frozenset({*TRAIN, *LORA, *QUANTIZATION, *_MAPPED.split()})

# Settings that decide no weight: where things lie, what is logged, how fast it goes.
_NO_EFFECT = """
    config output_dir overwrite_output_dir logging_strategy logging_steps logging_first_step
    log_on_each_node logging_nan_inf_filter logging_dir log_level log_level_replica disable_tqdm
    report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
    include_num_input_tokens_seen include_tokens_per_second eval_strategy evaluation_strategy
    eval_steps eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start
    eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics
    include_inputs_for_metrics batch_eval_metrics bf16_full_eval fp16_full_eval save_only_model
    save_strategy save_on_each_node save_total_limit save_safetensors enable_jit_checkpoint
    push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
    metric_for_best_model greater_is_better restore_callback_states_from_checkpoint
    full_determinism use_cpu dataloader_num_workers dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context
    dataloader_in_order remove_unused_columns label_names length_column_name
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph
    ddp_backend ddp_timeout debug skip_memory_metrics do_train do_eval local_rank
    torch_empty_cache_steps gradient_checkpointing_kwargs activation_checkpointing_kwargs
    activation_offloading use_cache dataset_num_proc dataset_batch_size pad_to_multiple_of
    pad_token bnb_4bit_quant_storage ignore_bias_buffers env jit_mode_eval no_cuda
    precompute_ref_log_probs precompute_ref_batch_size generate_during_eval padding_value
    label_pad_token_id model_adapter_name ref_adapter_name
"""
NO_EFFECT = frozenset(_NO_EFFECT.split())

# Reason -> settings that a recipe has no word for, with the value at which nothing is lost.
CANNOT: dict[str, dict[str, Any]] = {
    "a recipe loads the model as its own settings say": {"model_init_kwargs": None},
    "a recipe takes the tokenizer as the model has it": {"eos_token": None},
    "a recipe trains the model's own computation": {
        "router_aux_loss_coef": None,
        "use_liger_kernel": False,
        "liger_kernel_config": None,
        "torch_compile": False,
        "torch_compile_backend": None,
        "torch_compile_mode": None,
        "padding_free": False,
    },
    "a recipe trains on one machine, by PyTorch alone": {
        "deepspeed": None,
        "fsdp": None,
        "fsdp_config": None,
        "accelerator_config": None,
        "parallelism_config": None,
        "average_tokens_across_devices": True,
    },
    "the rows of a recipe are all of its files, in order, each answer trained on": {
        "dataset_streaming": False,
        "streaming": False,
        "dataset_text_field": "text",
        "dataset_kwargs": None,
        "shuffle_dataset": False,
        "dataloader_drop_last": False,
        "ignore_data_skip": False,
        "train_sampling_strategy": "random",
        "group_by_length": False,
    },
    "a recipe cuts a long row at its end": {"truncation_mode": "keep_start"},
    "a recipe has one seed": {"data_seed": None},
    "a recipe recomputes all activations, or none": {"activation_checkpointing": None},
    "a recipe trains all weights, or a LoRA adapter as PEFT makes it": {
        "lora_target_parameters": None,
        "lora_task_type": "CAUSAL_LM",
    },
    "it is of another method than the file's, or recipes have no word for it": {
        "beta": 0.1,
        "label_smoothing": 0.0,
        "desirable_weight": 1.0,
        "undesirable_weight": 1.0,
        "center_rewards_coefficient": None,
        "simpo_gamma": 0.5,
        "cpo_alpha": 1.0,
        "alpha": 0.0,
        "loss_weights": None,
        "ld_alpha": None,
        "rpo_alpha": None,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "use_weighting": False,
        "discopop_tau": 0.05,
        "reference_free": False,
    },
    "the reference of a recipe is its base": {
        "ref_model": None,
        "ref_model_init_kwargs": None,
        "force_use_ref_model": False,
        "sync_ref_model": False,
        "ref_model_mixup_alpha": 0.6,
        "ref_model_sync_steps": 512,
    },
    "a recipe compares answers without dropout": {"disable_dropout": True},
    "a recipe has one limit, that of the whole row": {
        "max_prompt_length": None,
        "max_completion_length": None,
    },
    "a recipe trains language models of one part": {"is_encoder_decoder": None},
    "a recipe trains by the plain loss of its method": {
        "loss_type": "nll",
        "neftune_noise_alpha": None,
        "label_smoothing_factor": 0.0,
    },
    "a recipe has AdamW, and the schedule's plain form": {
        "optim_args": None,
        "optim_target_modules": None,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "lr_scheduler_kwargs": None,
    },
    "a recipe computes in the model's dtype, or in bfloat16 by autocast": {"tf32": None},
    "a recipe trains to its last step, with the batch it says": {
        "auto_find_batch_size": False,
        "load_best_model_at_end": False,
        "resume_from_checkpoint": None,
        "do_predict": False,
    },
}
