"""A recipe's model and tokens as LLaMA Factory reads them, for its web UI; nothing is trained.

spec.hashed: `settings` (runner/backends/llamafactory.py). spec.inputs: model (folder of `fetch`),
tokens (of `prepare`), template. Leaves spec.scratch/workspace/{model,tokens}, and beside it
`configuration.json`: all that LLaMA Factory must be told.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerFast

from runner.scripts.spec import Events, Spec, main
from runner.scripts.training import adapter_targets
from runner.scripts.training.answer_masks import check_answers, generation_prompt
from runner.scripts.training.llamafactory.llamafactory_inputs import adapter_of, write_inputs
from runner.scripts.training.token_rows import check_rows, check_window, read_token_rows
from runner.scripts.weights.model_folder import write_json


def prepare(spec: Spec, events: Events) -> None:
    """The checks of a training, and its inputs."""
    settings = spec.hashed["settings"]
    trust = settings["configuration"]["trust_remote_code"]
    bare = adapter_targets.skeleton(spec.inputs["model"], trust)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(spec.inputs["model"])
    data = read_token_rows(spec.inputs["tokens"])
    name = spec.inputs["tokens"].name
    check_rows(data, name, bare.get_input_embeddings().num_embeddings)
    check_window(bare.config, data)
    if settings["has_prompts"]:
        template = spec.inputs["template"].read_text(encoding="utf-8")
        check_answers(data, generation_prompt(tokenizer, template), name)
    targets, _ = adapter_of(bare, settings["adapter"])
    inputs = write_inputs(spec, data, tokenizer.pad_token_id)
    device = {"use_cpu": not torch.cuda.is_available()}
    configuration = {**settings["configuration"], **targets, **inputs, **device}
    write_json(spec.scratch / "configuration.json", configuration)


if __name__ == "__main__":
    main(prepare)
