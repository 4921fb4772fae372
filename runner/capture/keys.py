"""Every setting of LLaMA Factory 0.9.5: what a recipe has for it, or why it has nothing.

A test holds these tables against LLaMA Factory's own settings and their defaults.
"""

from __future__ import annotations

from typing import Any

# Settings that `runner.capture.settings` turns into values of a recipe.
_MAPPED = """
    model_name_or_path model_revision flash_attn trust_remote_code
    quantization_bit quantization_method quantization_type double_quantization
    stage finetuning_type lora_rank lora_alpha lora_dropout lora_target use_dora use_rslora
    additional_target freeze_trainable_layers freeze_trainable_modules
    dataset eval_dataset dataset_dir template default_system cutoff_len val_size packing
    neat_packing
    num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps
    learning_rate lr_scheduler_type warmup_steps warmup_ratio weight_decay max_grad_norm optim bf16
    disable_gradient_checkpointing seed data_seed save_steps
    pref_loss pref_beta dpo_label_smoothing simpo_gamma kto_chosen_weight kto_rejected_weight
    ref_model
"""
MAPPED = frozenset(_MAPPED.split())

# Settings that decide no weight: where things lie, what is logged, how fast it goes.
_NO_EFFECT = """
    cache_dir low_cpu_mem_usage infer_backend offload_folder use_kv_cache infer_dtype
    hf_hub_token ms_hub_token om_hub_token print_param_status
    export_dir export_size export_device export_quantization_bit export_quantization_dataset
    export_quantization_nsamples export_quantization_maxlen export_legacy_format
    export_hub_model_id vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank vllm_config
    sglang_maxlen sglang_mem_fraction sglang_tp_size sglang_config sglang_lora_backend
    media_dir buffer_size overwrite_cache preprocessing_batch_size preprocessing_num_workers
    eval_num_beams eval_on_each_dataset data_shared_file_system
    use_swanlab swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_api_key
    swanlab_logdir swanlab_lark_webhook_url swanlab_lark_secret plot_loss compute_accuracy
    include_effective_tokens_per_second
    do_sample temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty
    length_penalty skip_special_tokens
    output_dir overwrite_output_dir do_train do_eval eval_strategy prediction_loss_only
    per_device_eval_batch_size per_gpu_eval_batch_size eval_accumulation_steps eval_delay
    torch_empty_cache_steps log_level log_level_replica log_on_each_node logging_dir
    logging_strategy logging_first_step logging_steps logging_nan_inf_filter save_strategy
    save_total_limit save_safetensors save_on_each_node save_only_model
    restore_callback_states_from_checkpoint no_cuda use_cpu use_mps_device jit_mode_eval
    bf16_full_eval fp16_full_eval local_rank tpu_num_cores tpu_metrics_debug debug eval_steps
    dataloader_num_workers dataloader_prefetch_factor past_index run_name disable_tqdm
    remove_unused_columns label_names metric_for_best_model greater_is_better length_column_name
    report_to project trackio_space_id dataloader_pin_memory dataloader_persistent_workers
    skip_memory_metrics use_legacy_prediction_loop push_to_hub hub_model_id hub_strategy hub_token
    hub_private_repo hub_always_push hub_revision push_to_hub_model_id push_to_hub_organization
    push_to_hub_token gradient_checkpointing gradient_checkpointing_kwargs
    include_inputs_for_metrics include_for_metrics eval_do_concat_batches mp_parameters
    full_determinism ray_scope ddp_timeout include_tokens_per_second
    include_num_input_tokens_seen batch_eval_metrics eval_on_start eval_use_gather_object
    predict_with_generate generation_max_length generation_num_beams generation_config
    ray_num_workers ray_init_kwargs master_addr master_port enable_torch_profiler
    profiler_output_dir profiler_wait_steps profiler_warmup_steps profiler_active_steps
    profiler_repeat profiler_record_shapes profiler_profile_memory profiler_with_stack
    profile_modules
"""
NO_EFFECT = frozenset(_NO_EFFECT.split())

# Reason -> settings that a recipe has no word for, with the value at which nothing is lost.
CANNOT: dict[str, dict[str, Any]] = {
    "a recipe starts from a base model; merge that adapter first": {
        "adapter_name_or_path": None,
        "adapter_folder": None,
        "create_new_adapter": False,
    },
    "a recipe takes the tokenizer as the model has it": {
        "use_fast_tokenizer": True,
        "resize_vocab": False,
        "split_special_tokens": False,
        "add_tokens": None,
        "add_special_tokens": None,
        "new_special_tokens_config": None,
        "init_special_tokens": "noise_init",
    },
    "a recipe trains the model's own computation": {
        "rope_scaling": None,
        "shift_attn": False,
        "mixture_of_depths": None,
        "moe_aux_loss_coef": None,
        "upcast_layernorm": False,
        "upcast_lmhead_output": False,
        "train_from_scratch": False,
        "use_v1_kernels": False,
        "use_unsloth": False,
        "use_unsloth_gc": False,
        "enable_liger_kernel": False,
        "use_liger_kernel": False,
        "liger_kernel_config": None,
        "use_reentrant_gc": True,
        "torch_compile": False,
        "torch_compile_backend": None,
        "torch_compile_mode": None,
        "torchdynamo": None,
        "fp8": False,
        "fp8_backend": "auto",
        "fp8_enable_fsdp_float8_all_gather": False,
    },
    "a recipe trains text": {
        "image_max_pixels": 768 * 768,
        "image_min_pixels": 32 * 32,
        "image_do_pan_and_scan": False,
        "crop_to_patches": False,
        "video_max_pixels": 256 * 256,
        "video_min_pixels": 16 * 16,
        "video_fps": 2.0,
        "video_maxlen": 128,
        "use_audio_in_video": False,
        "audio_sampling_rate": 16000,
        "freeze_vision_tower": True,
        "freeze_multi_modal_projector": True,
        "freeze_language_model": False,
    },
    "a recipe trains on one machine, by PyTorch alone": {
        "use_kt": False,
        "kt_weight_path": None,
        "kt_expert_checkpoint_path": None,
        "kt_use_lora_experts": None,
        "kt_lora_expert_num": None,
        "kt_lora_expert_intermediate_size": None,
        "use_mca": False,
        "use_hyper_parallel": False,
        "hyper_parallel_args": None,
        "quantization_device_map": None,
        "ddp_backend": None,
        "ddp_find_unused_parameters": None,
        "ddp_bucket_cap_mb": None,
        "ddp_broadcast_buffers": None,
        "fsdp": None,
        "fsdp_min_num_params": 0,
        "fsdp_config": None,
        "fsdp_transformer_layer_cls_to_wrap": None,
        "accelerator_config": None,
        "parallelism_config": None,
        "deepspeed": None,
        "average_tokens_across_devices": True,
    },
    "the rows of a recipe are all of its files, in order, each answer trained on": {
        "train_on_prompt": False,
        "mask_history": False,
        "streaming": False,
        "ignore_pad_token_for_loss": True,
        "tokenized_path": None,
        "disable_shuffling": False,
        "group_by_length": False,
        "sortish_sampler": False,
        "dataloader_drop_last": False,
        "ignore_data_skip": False,
    },
    "a recipe says how much of each file is taken, by weight, repeat and limit, and this cannot be "
    "said so": {
        "mix_strategy": "concat",
        "interleave_probs": None,
        "max_samples": None,
    },
    "a recipe renders rows by the model's chat template": {
        "tool_format": None,
        "enable_thinking": True,
        "preserve_thinking": False,
    },
    "a recipe trains all weights, those of some layers, or a LoRA adapter as PEFT makes it": {
        "freeze_extra_modules": None,
        "module_dropout": 0.0,
        "oft_rank": 0,
        "oft_block_size": 32,
        "oft_target": "all",
        "loraplus_lr_ratio": None,
        "loraplus_lr_embedding": 1e-6,
        "pissa_init": False,
        "pissa_iter": 16,
        "pissa_convert": False,
        "use_llama_pro": False,
        "pure_bf16": False,
    },
    "a recipe trains by the plain loss of its method": {
        "pref_ftx": 0.0,
        "pref_bco_weight": 0.0,
        "ppo_buffer_size": 1,
        "ppo_epochs": 4,
        "ppo_score_norm": False,
        "ppo_target": 6.0,
        "ppo_whiten_rewards": False,
        "ref_model_adapters": None,
        "ref_model_quantization_bit": None,
        "reward_model": None,
        "reward_model_adapters": None,
        "reward_model_quantization_bit": None,
        "reward_model_type": "lora",
        "ld_alpha": None,
        "use_dft_loss": False,
        "use_asft_loss": False,
        "asft_alpha": 0.1,
        "use_eaft_loss": False,
        "eaft_alpha": 1.0,
        "label_smoothing_factor": 0.0,
        "neftune_noise_alpha": None,
    },
    "a recipe has AdamW, and the schedule's plain form": {
        "use_galore": False,
        "galore_target": "all",
        "galore_rank": 16,
        "galore_update_interval": 200,
        "galore_scale": 2.0,
        "galore_proj_type": "std",
        "galore_layerwise": False,
        "use_apollo": False,
        "apollo_target": "all",
        "apollo_rank": 16,
        "apollo_update_interval": 200,
        "apollo_scale": 32.0,
        "apollo_proj": "random",
        "apollo_proj_type": "std",
        "apollo_scale_type": "channel",
        "apollo_layerwise": False,
        "apollo_scale_front": False,
        "use_badam": False,
        "badam_mode": "layer",
        "badam_start_block": None,
        "badam_switch_mode": "ascending",
        "badam_switch_interval": 50,
        "badam_update_ratio": 0.05,
        "badam_mask_mode": "adjacent",
        "badam_verbose": 0,
        "use_adam_mini": False,
        "use_muon": False,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "adafactor": False,
        "optim_args": None,
        "optim_target_modules": None,
        "lr_scheduler_kwargs": None,
    },
    "a recipe computes in the model's dtype, or in bfloat16 by autocast": {
        "fp16": False,
        "fp16_opt_level": "O1",
        "fp16_backend": "auto",
        "half_precision_backend": "auto",
        "tf32": None,
    },
    "a recipe trains to its last step, with the batch it says": {
        "early_stopping_steps": None,
        "load_best_model_at_end": False,
        "auto_find_batch_size": False,
        "resume_from_checkpoint": None,
        "per_gpu_train_batch_size": None,
        "do_predict": False,
    },
}

# What LLaMA Factory does where a file is silent, for the settings that are mapped.
DEFAULTS: dict[str, Any] = {
    "model_revision": "main",
    "flash_attn": "auto",
    "trust_remote_code": False,
    "quantization_bit": None,
    "quantization_method": "bnb",
    "quantization_type": "nf4",
    "double_quantization": True,
    "stage": "sft",
    "finetuning_type": "lora",
    "lora_rank": 8,
    "lora_alpha": None,  # twice the rank
    "lora_dropout": 0.0,
    "lora_target": "all",
    "use_dora": False,
    "use_rslora": False,
    "additional_target": None,
    "freeze_trainable_layers": 2,
    "freeze_trainable_modules": "all",
    "dataset": None,
    "eval_dataset": None,
    "dataset_dir": "data",
    "template": None,
    "default_system": None,
    "cutoff_len": 2048,
    "val_size": 0.0,
    "packing": None,
    "neat_packing": False,
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "optim": "adamw_torch_fused",
    "bf16": False,
    "disable_gradient_checkpointing": False,
    "seed": 42,
    "data_seed": None,
    "save_steps": 500,
    "pref_loss": "sigmoid",
    "pref_beta": 0.1,
    "dpo_label_smoothing": 0.0,
    "simpo_gamma": 0.5,
    "kto_chosen_weight": 1.0,
    "kto_rejected_weight": 1.0,
    "ref_model": None,
}
