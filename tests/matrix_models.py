"""Adapters by PEFT on shrunken models, and what Transformers says of what llama.cpp answered.

usage: PYTHON tests/matrix_models.py adapter BASE TARGET METHOD REACH
       PYTHON tests/matrix_models.py compare ASKED.json ANSWER.json

METHOD and REACH are those of tests/matrix_cases.py; the adapter's weights are random, none is zero.
ASKED: {base, adapter, merged: folders, allowed: ids, files: {type: [{prompt, tokens, logprobs}]}}:
`tokens` are what llama.cpp chose of the allowed ones, and `logprobs` those of the whole vocabulary
that it gave for each.
ANSWER: {"spread", "adapter_effect", "merge_error", "files": {type: {"difference", "kl_divergence",
"losses": by how much Transformers would rather have had another token than each of `tokens`,
"margins": between its first two}}}, all of logarithms of probabilities.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

METHODS = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora-patterns": {
        "use_rslora": True,
        "rank_pattern": {"o_proj": 2, r"layers\.1\.mlp\..*": 7},
        "alpha_pattern": {"down_proj": 3},
    },
}


def main(mode, *arguments):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    {"adapter": make_adapter, "compare": compare}[mode](*arguments)


def load(folder):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    ).eval()


def settings(base, method, reach):
    """Settings of LoraConfig. Embeddings that are one stay one where the method can do that."""
    tied = base.config.tie_word_embeddings
    both = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    made = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear"} | METHODS[method]
    if reach == "modules-to-save":
        # A tied model gets a second tensor by this, but where there can be only one.
        alone = tied and base.config.model_type == "gemma2"
        made |= {"modules_to_save": [*both, "model.norm"], "ensure_weight_tying": alone}
    elif reach == "embeddings":
        linear = {
            name.rpartition(".")[2]
            for name, module in base.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"
        }
        made |= {"target_modules": [*sorted(linear), *both], "ensure_weight_tying": tied}
    return made


def make_adapter(folder, target, method, reach):
    torch.manual_seed(5)
    base = load(folder)
    config = LoraConfig(task_type="CAUSAL_LM", **settings(base, method, reach))
    model = get_peft_model(base, config)
    for name, weight in model.named_parameters():
        if "lora_magnitude" in name:
            weight.data *= 1 + 0.1 * torch.randn_like(weight)
        elif weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    Path(target).mkdir()
    tensors = {name: value.clone().contiguous() for name, value in own.items()}
    save_file(tensors, Path(target) / "adapter_model.safetensors")
    model.peft_config["default"].save_pretrained(target)


def compare(asked, answer):
    asked = json.loads(Path(asked).read_text())
    merged = load(asked["merged"])
    files, allowed = asked["files"], asked["allowed"]
    found = {kind: distance(merged, replies, allowed) for kind, replies in files.items()}
    ids = next(iter(files.values()))[-1]["prompt"]
    ours = logprobs(merged, ids)
    before = logprobs(load(asked["base"]), ids)
    adapted = logprobs(PeftModel.from_pretrained(load(asked["base"]), asked["adapter"]).eval(), ids)
    about = {
        "spread": ours.std(-1).mean().item(),
        "adapter_effect": (ours - before).abs().max().item(),
        "merge_error": (ours - adapted).abs().max().item(),
        "files": found,
    }
    Path(answer).write_text(json.dumps(about))


@torch.inference_mode()
def logprobs(model, ids):
    """[ids, vocabulary], float64."""
    return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)


def distance(model, replies, allowed):
    """Transformers reads what llama.cpp chose, so that both answer for the same texts."""
    differences, divergences, losses, margins = [], [], [], []
    for reply in replies:
        prompt, tokens = reply["prompt"], reply["tokens"]
        ours = logprobs(model, [*prompt, *tokens[:-1]])[len(prompt) - 1 :]
        theirs = torch.tensor(reply["logprobs"], dtype=torch.float64)
        assert ours.shape == theirs.shape
        differences += (ours - theirs).abs().amax(-1).tolist()
        divergences += (ours.exp() * (ours - theirs)).sum(-1).tolist()
        best = ours[:, allowed].topk(2).values
        margins += (best[:, 0] - best[:, 1]).tolist()
        losses += (best[:, 0] - ours[range(len(tokens)), tokens]).tolist()
    return {
        "difference": max(differences),
        "kl_divergence": sum(divergences) / len(divergences),
        "losses": losses,
        "margins": margins,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
