"""Tiny models, adapters by PEFT, and what PEFT makes of them in float64. Run by the environment.

usage: PYTHON tests/peft_reference.py make PLACE CASES.json
       PYTHON tests/peft_reference.py logits PLACE CASES.json

CASES: name -> {architecture, adapters: [settings of LoraConfig], dtype, resize, shard}; without
adapters only the model is made.
`make` writes below PLACE/NAME: model/ (the base), adapter-0/, ..., expected.safetensors (float64,
merged by `merge_and_unload`). `logits` compares PLACE/NAME/merged with the base and its adapters,
not merged, and prints name -> largest difference over largest logit as JSON.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
)

ROWS = 260  # of the vocabulary
SIZES = {
    "vocab_size": ROWS,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
ARCHITECTURES = {
    "llama": lambda: LlamaConfig(**SIZES, tie_word_embeddings=False),
    "llama-tied": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**SIZES, tie_word_embeddings=False),
    "gemma": lambda: GemmaConfig(**SIZES),  # tied
    "gpt2": lambda: GPT2Config(
        n_embd=64,
        n_layer=2,
        n_head=4,
        vocab_size=ROWS,
        n_positions=128,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    ),
}


def main(mode, place, cases):
    warnings.simplefilter("ignore")
    cases = json.loads(Path(cases).read_text())
    if mode == "make":
        for name, case in cases.items():
            make(Path(place) / name, case)
    else:
        print(json.dumps({name: logits(Path(place) / name, case) for name, case in cases.items()}))


def make(folder, case):
    torch.manual_seed(5)
    base = AutoModelForCausalLM.from_config(ARCHITECTURES[case["architecture"]]())
    for weight in base.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    base.to(getattr(torch, case.get("dtype", "float32")))
    base.save_pretrained(folder / "model", max_shard_size=case.get("shard", "1GB"))
    if not case["adapters"]:
        return
    write_adapters(folder, case)
    merged = untied(with_adapters(folder, case)).merge_and_unload(adapter_names=names_of(case))
    expected = {name: value.clone() for name, value in merged.state_dict().items()}
    save_file(expected, folder / "expected.safetensors")


def write_adapters(folder, case):
    for index, settings in enumerate(case["adapters"]):
        torch.manual_seed(index)
        model = get_peft_model(load(folder, case), LoraConfig(task_type="CAUSAL_LM", **settings))
        for name, weight in model.named_parameters():
            if "lora_magnitude" in name:
                weight.data *= 1 + 0.1 * torch.randn_like(weight)
            elif weight.requires_grad:
                weight.data += 0.1 * torch.randn_like(weight)
        adapter = folder / f"adapter-{index}"
        adapter.mkdir()
        if case.get("resize"):
            own = get_peft_model_state_dict(model, save_embedding_layers=True)
        else:
            own = get_peft_model_state_dict(model, save_embedding_layers=False)
        tensors = {name: value.clone().contiguous() for name, value in own.items()}
        save_file(tensors, adapter / "adapter_model.safetensors")
        model.peft_config["default"].save_pretrained(adapter)


def load(folder, case):
    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    if case.get("resize"):
        torch.manual_seed(9)
        base.resize_token_embeddings(case["resize"], mean_resizing=False)
    return base


def names_of(case):
    return [f"adapter-{index}" for index in range(len(case["adapters"]))]


def with_adapters(folder, case):
    """The base with all adapters active, in float64."""
    model = None
    for name in names_of(case):
        if model is None:
            model = PeftModel.from_pretrained(load(folder, case), folder / name, adapter_name=name)
        else:
            model.load_adapter(folder / name, adapter_name=name)
    model.base_model.set_adapter(names_of(case))
    return model.double().eval()


def untied(model):
    """PEFT adds to a tied weight in place, and so to both layers: give each its own."""
    seen = set()
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.data_ptr() in seen:
                setattr(module, name, torch.nn.Parameter(weight.data.clone()))
            seen.add(weight.data_ptr())
    return model


@torch.inference_mode()
def logits(folder, case):
    ids = torch.randint(0, ROWS, (2, 24), generator=torch.Generator().manual_seed(3))
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32)
    ours = merged.double().eval()(ids).logits
    theirs = with_adapters(folder, case)(ids).logits
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


if __name__ == "__main__":
    main(*sys.argv[1:])
