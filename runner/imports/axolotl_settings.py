"""Every setting of axolotl: its place in a recipe, or why it has none; with axolotl's own defaults.

By its documentation and configuration schema of 2026.
"""

from __future__ import annotations

from typing import Any

from runner.imports.readers import (
    checkpointing,
    flag,
    names,
    number,
    numbers_by_name,
    one_of,
    optimizer,
    schedule,
    whole,
)
from runner.imports.sheet import Field

TRAIN = {
    "micro_batch_size": Field("train.per_device_train_batch_size", 1, whole),
    "learning_rate": Field("train.learning_rate", 2e-4, number, needed=True),
    "lr_scheduler": Field("train.lr_scheduler_type", "cosine", schedule),
    "weight_decay": Field("train.weight_decay", 0.0, number),
    "max_grad_norm": Field("train.max_grad_norm", 1.0, number),
    "optimizer": Field("train.optim", "adamw_torch_fused", optimizer),
    "gradient_checkpointing": Field("train.gradient_checkpointing", False, checkpointing),
}
LORA = {
    "lora_r": Field("train.adapter.r", 8, whole, needed=True),
    "lora_alpha": Field("train.adapter.lora_alpha", 16, whole, needed=True),
    "lora_dropout": Field("train.adapter.lora_dropout", 0.0, number),
    "peft_use_dora": Field("train.adapter.use_dora", False, flag),
    "peft_use_rslora": Field("train.adapter.use_rslora", False, flag),
}
LORA_IF_GIVEN = {
    "lora_modules_to_save": Field("train.adapter.modules_to_save", [], names),
    "lora_rank_pattern": Field("train.adapter.rank_pattern", {}, numbers_by_name),
    "lora_alpha_pattern": Field("train.adapter.alpha_pattern", {}, numbers_by_name),
}
PATTERNS = ("lora_rank_pattern", "lora_alpha_pattern")
DATA = {
    "sequence_len": Field("data.max_length", 512, whole),
    "excess_length_strategy": Field(
        "data.too_long",
        "drop",
        one_of(
            {"drop": "drop", "truncate": "truncate", "raise": "error"},
            "drop",
            "it is no way to treat long rows",
        ),
    ),
}
# Flags of older files -> attn_implementation
ATTENTION_FLAGS = {
    "flash_attention": "flash_attention_2",
    "xformers_attention": "xformers",
    "flex_attention": "flex_attention",
    "sage_attention": "sage",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
}
PRECISION = ("bf16", "bfloat16", "fp16", "float16", "float32")
_LENGTHS = ("num_epochs", "max_steps", "warmup_steps", "warmup_ratio", "save_steps")
MAPPED = frozenset(
    {
        *TRAIN, *LORA, *LORA_IF_GIVEN, *DATA, *ATTENTION_FLAGS, *PRECISION, *_LENGTHS,
        "base_model", "revision_of_model", "model_revision", "attn_implementation", "adapter",
        "load_in_4bit", "load_in_8bit", "bnb_config_kwargs", "lora_target_modules",
        "lora_target_linear", "datasets", "test_datasets", "val_set_size", "chat_template",
        "default_system_message", "sample_packing", "train_on_inputs", "trust_remote_code", "rl",
        "reward_model", "process_reward_model", "seed", "gradient_accumulation_steps",
        "batch_size",
    }
)  # fmt: skip

# Settings that decide no weight: where things lie, what is logged, how fast it goes.
_NO_EFFECT = """
    output_dir dataset_prepared_path dataset_processes dataset_num_proc dataset_keep_in_memory
    dataset_shard_num num_dataset_shards_to_save skip_prepare_dataset push_dataset_to_hub
    hf_use_auth_token hub_model_id hub_strategy hub_revision save_safetensors save_total_limit
    save_strategy saves_per_epoch save_only_model save_first_step logging_steps eval_steps
    evals_per_epoch eval_strategy evaluation_strategy eval_batch_size eval_sample_packing
    eval_table_size eval_max_new_tokens eval_sequence_len do_causal_lm_eval
    eval_causal_lm_metrics do_bench_eval bench_dataset bench_split metric_for_best_model
    greater_is_better
    use_wandb wandb_project wandb_entity wandb_watch wandb_name wandb_run_id wandb_mode
    wandb_log_model use_mlflow mlflow_tracking_uri mlflow_experiment_name mlflow_run_name
    hf_mlflow_log_artifacts use_comet comet_api_key comet_workspace comet_project_name
    comet_experiment_key comet_mode comet_online comet_experiment_config use_tensorboard
    use_trackio trackio_project_name trackio_run_name trackio_space_id use_otel_metrics
    otel_metrics_host otel_metrics_port
    gradio_title gradio_share gradio_server_name gradio_server_port gradio_max_new_tokens
    gradio_temperature generate_samples num_generation_samples generation_max_new_tokens
    generation_temperature generation_top_p generation_top_k generation_prompt_ratio
    generation_do_sample
    device device_map max_memory gpu_memory_limit low_cpu_mem_usage local_rank world_size
    ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers ddp_find_unused_parameters
    dataloader_pin_memory dataloader_num_workers dataloader_prefetch_factor remove_unused_columns
    gc_steps gc_collect_steps torch_empty_cache_steps profiler_steps profiler_steps_start
    include_tokens_per_second include_tkps strict axolotl_config_path is_preprocess
    gradient_checkpointing_kwargs selective_checkpointing layer_offloading activation_offloading
    lora_on_cpu merge_lora merge_method experimental_skip_move_to_device
    sample_packing_group_size sample_packing_bin_size sample_packing_eff_est
    sample_packing_mp_start_method pad_to_sequence_len pad_to_multiple_of
    flash_attn_cross_entropy flash_attn_rms_norm flash_attn_fuse_mlp flash_optimum
    lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel chunked_cross_entropy
    chunked_cross_entropy_num_chunks tiled_mlp tiled_mlp_num_shards tiled_mlp_use_original_mlp
    loss_watchdog_threshold loss_watchdog_patience base_model_config model_type type_of_model
    tokenizer_save_jinja_files tokenizer_use_fast is_falcon_derived_model is_llama_derived_model
    is_mistral_derived_model is_qwen_derived_model total_num_tokens total_supervised_tokens
    auto_resume_from_checkpoints dynamic_checkpoint inference preprocess_iterable debug
    use_swanlab swanlab_project swanlab_experiment_name swanlab_description swanlab_mode
    swanlab_log_completions swanlab_workspace swanlab_api_key
"""
NO_EFFECT = frozenset(_NO_EFFECT.split())

# Reason -> settings that a recipe has no word for, with the value at which nothing is lost.
CANNOT: dict[str, dict[str, Any]] = {
    "a recipe starts from a base model; merge that adapter first": {"lora_model_dir": None},
    "a recipe takes the tokenizer as the model has it": {
        "tokenizer_config": None,
        "tokenizer_type": "AutoTokenizer",
        "tokenizer_legacy": None,
        "tokenizer_use_mistral_common": False,
        "special_tokens": None,
        "tokens": None,
        "added_tokens_overrides": None,
        "resize_token_embeddings_to_32x": False,
        "mean_resizing_embeddings": False,
        "shrink_embeddings": False,
        "fix_untrained_tokens": None,
    },
    "a recipe renders rows by one chat template, each answer with its end": {
        "chat_template_jinja": None,
        "chat_template_kwargs": None,
        "eot_tokens": None,
    },
    "a recipe trains the model's own computation": {
        "overrides_of_model_config": None,
        "model_config": None,
        "overrides_of_model_kwargs": None,
        "model_kwargs": None,
        "rope_scaling": None,
        "embeddings_skip_upcast": None,
        "fp32_norms": False,
        "fp32_norm_classes": None,
        "reinit_weights": False,
        "scaling_softmax": False,
        "use_kernels": False,
        "torch_compile": False,
        "torch_compile_backend": None,
        "torch_compile_mode": None,
        "torch_compile_options": None,
        "plugins": None,
        "use_pose": False,
        "s2_attention": False,
        "experts_implementation": None,
        "quantize_moe_experts": False,
        "model_quantization_config": None,
        "model_quantization_config_kwargs": None,
        "gptq": False,
        "qat": None,
        "quantization": None,
        "fp8": False,
        "use_onebitllms": False,
        "fp8_enable_fsdp_float8_all_gather": False,
        "pose_split_on_token_ids": None,
        "pose_max_context_len": None,
        "pose_num_chunks": None,
        "flex_attn_compile_kwargs": None,
        "gemma4_hybrid_attn_impl": False,
        "large_head_attention": "sdpa",
        "flash_attn_d512": False,
        "sdpa_varlen": False,
        "fused_attn_kernel": False,
        "scaling_softmax_factor": None,
        "scaling_softmax_bias": None,
        "llama4_linearized_experts": False,
        "use_scattermoe": False,
        "use_sonicmoe": False,
        "cut_cross_entropy": False,
        "liger_rope": False,
        "liger_rms_norm": False,
        "liger_rms_norm_gated": False,
        "liger_layer_norm": False,
        "liger_glu_activation": False,
        "liger_swiglu": False,
        "liger_cross_entropy": False,
        "liger_fused_linear_cross_entropy": False,
        "llmcompressor": None,
        "diffusion": None,
        "gptq_disable_exllama": None,
        "cls_model_config": None,
    },
    "a recipe trains text": {
        "processor_type": None,
        "processor_kwargs": None,
        "image_size": None,
        "image_resize_algorithm": None,
        "role_boundaries": None,
        "freeze_mm_modules": None,
    },
    "a recipe trains on one machine, by PyTorch alone": {
        "deepspeed": None,
        "deepcompile": False,
        "fsdp": None,
        "fsdp_config": None,
        "fsdp_version": None,
        "fsdp_final_state_dict_type": None,
        "ddp": False,
        "dp_shard_size": None,
        "dp_replicate_size": None,
        "sequence_parallel_degree": 1,
        "context_parallel_size": 1,
        "tensor_parallel_size": 1,
        "heads_k_stride": None,
        "expert_parallel_size": 1,
        "ring_attn_func": None,
        "use_ray": False,
        "ray_run_name": None,
        "ray_num_workers": 1,
        "resources_per_worker": None,
        "accelerator_config": None,
        "qlora_sharded_model_loading": False,
        "vllm": None,
    },
    "the rows of a recipe are all of its files, in order, each answer trained on": {
        "pretraining_dataset": None,
        "streaming": False,
        "shuffle_merged_datasets": True,
        "shuffle_before_merging_datasets": False,
        "dataset_exact_deduplication": False,
        "dataset_shard_idx": None,
        "min_sample_len": None,
        "max_prompt_len": None,
        "group_by_length": False,
        "curriculum_sampling": False,
        "sample_packing_sequentially": False,
        "pretrain_multipack_attn": True,
        "pretrain_multipack_buffer_size": None,
        "pretraining_sample_concatenation": False,
        "streaming_multipack_buffer_size": 10_000,
        "multipack_real_batches": False,
        "max_packed_sequence_len": None,
        "batch_flattening": False,
        "dataloader_drop_last": False,
    },
    "a recipe trains all weights, or a LoRA adapter as PEFT makes it": {
        "unfrozen_parameters": None,
        "lora_fan_in_fan_out": None,
        "lora_target_parameters": None,
        "peft": None,
        "loftq_config": None,
        "peft_layers_to_transform": None,
        "peft_layers_pattern": None,
        "peft_layer_replication": None,
        "peft_init_lora_weights": True,
        "peft_trainable_token_indices": None,
        "peft_ensure_weight_tying": None,
        "peft_autocast_adapter_dtype": True,
        "loraplus_lr_ratio": None,
        "loraplus_lr_embedding": 1e-6,
        "relora": False,
        "relora_prune_ratio": None,
        "relora_prune_method": "magnitude",
        "relora_cpu_offload": None,
        "jagged_restart_steps": None,
        "jagged_restart_warmup_steps": None,
        "jagged_restart_anneal_steps": None,
        "lisa_n_layers": None,
        "lisa_step_interval": None,
        "lisa_layers_attribute": None,
    },
    "a recipe trains by the plain loss of its method": {
        "neftune_noise_alpha": None,
        "noisy_embedding_alpha": None,
        "use_eaft": False,
        "eaft_alpha": 1.0,
        "eaft_k": 20,
        "trainer_cls": None,
        "trl": None,
        "ebft": None,
    },
    "it is of another method than the file's, or recipes have no word for it": {
        "rl_beta": None,
        "dpo_beta": None,
        "dpo_use_weighting": None,
        "dpo_label_smoothing": None,
        "dpo_loss_type": None,
        "dpo_loss_weights": None,
        "dpo_use_liger_kernel": None,
        "dpo_padding_free": None,
        "precompute_ref_log_probs": None,
        "orpo_alpha": None,
        "simpo_gamma": None,
        "cpo_alpha": None,
        "rpo_alpha": None,
        "kto_desirable_weight": None,
        "kto_undesirable_weight": None,
        "center_rewards_coefficient": None,
        "num_labels": None,
        "dpo_use_logits_to_keep": None,
        "dpo_generate_during_eval": None,
        "dpo_norm_loss": None,
    },
    "a recipe has AdamW, and the schedule's plain form": {
        "optim_args": None,
        "optim_target_modules": None,
        "embedding_lr": None,
        "embedding_lr_scale": None,
        "lr_groups": None,
        "lr_scheduler_kwargs": None,
        "lr_quadratic_warmup": False,
        "cosine_min_lr_ratio": None,
        "cosine_constant_lr_ratio": None,
        "lr_div_factor": None,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_beta3": None,
        "adam_epsilon": 1e-8,
        "adam_epsilon2": None,
        "torchdistx_path": None,
        "dion_lr": None,
        "dion_momentum": None,
        "dion_rank_fraction": 1.0,
        "dion_rank_multiple_of": 1,
        "qgalore_rank": 256,
        "qgalore_update_proj_gap": 200,
        "qgalore_scale": 0.25,
        "qgalore_proj_type": "std",
        "qgalore_proj_quant": True,
        "qgalore_proj_bits": 4,
        "qgalore_proj_group_size": 256,
        "qgalore_cos_threshold": 0.4,
        "qgalore_gamma_proj": 2,
        "qgalore_queue_size": 5,
    },
    "a recipe computes in the model's dtype, or in bfloat16 by autocast": {"tf32": False},
    "a recipe trains to its last step, with the batch it says": {
        "early_stopping_patience": None,
        "load_best_model_at_end": False,
        "auto_find_batch_size": False,
        "resume_from_checkpoint": None,
    },
}
