"""Every kind of adapter from training to the merged model: what was trained is what is merged."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.integration.test_merge_kinds import peft
from tests.script_runs import ScriptRun as MergeRun
from tests.script_runs import run_script
from tests.tiny_model import write_tiny_model
from tests.training_runs import (
    SETTINGS,
    Finished,
    ScriptRun,
    WarmInterpreter,
    chat,
    trace,
    write_tokens,
)

LORA = {"type": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
# name -> (architecture, the adapter's settings as the native backend gives them)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("llama", {"target_modules": "all-linear"}),
    "DoRA": ("llama", {"target_modules": "all-linear", "use_dora": True}),
    "rsLoRA": ("llama", {"target_modules": ["q_proj", "v_proj"], "use_rslora": True}),
    "attention": ("llama", {"target_modules": "all-attention", "use_dora": True}),
    "expression": ("llama", {"target_modules": r".*layers\.1\..*_proj"}),
    "exclusion": ("llama", {"target_modules": "all-linear", "exclude_modules": ["down_proj"]}),
    "patterns": (
        "llama",
        {
            "target_modules": ["q_proj", "up_proj"],
            "rank_pattern": {r"layers\.0\.mlp\.up_proj": 2},
            "alpha_pattern": {"q_proj": 3},
        },
    ),
    "tied embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "saved embedding": (
        "llama", {"target_modules": "all-linear", "modules_to_save": ["embed_tokens"]}
    ),
    "saved head": (
        "llama", {"target_modules": "all-linear", "modules_to_save": ["lm_head", "model.norm"]}
    ),
    "GPT-2": ("gpt2", {"target_modules": "all-linear"}),
    "GPT-2, DoRA": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "GPT-2, attention": ("gpt2", {"target_modules": "all-attention"}),
    "GPT-2, tied embedding": ("gpt2", {"target_modules": ["attn.c_proj", "wte"]}),
    "Qwen2, bias": ("qwen2", {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}),
    "Gemma": ("gemma", {"target_modules": "all-linear", "use_dora": True}),
}  # fmt: skip
TALK = [[chat(("user", "Which otter?"), ("assistant", "Pickle the Otter"))]]

Train = Callable[..., ScriptRun]


@pytest.fixture(scope="module")
def models(
    environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A tiny model of every architecture, with the tiny Llama's tokenizer."""
    place = tmp_path_factory.mktemp("models")
    llama = write_tiny_model(place / "llama" / "model")
    others = {name: {"architecture": name, "adapters": []} for name in ("gpt2", "qwen2", "gemma")}
    (place / "cases.json").write_text(json.dumps(others))
    peft(environment_python("native"), "make", place)
    files = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    for name in others:
        for file in files:
            shutil.copyfile(llama / file, place / name / "model" / file)
    return {name: place / name / "model" for name in ("llama", *others)}


@pytest.fixture(scope="module")
def train(
    environment_python: Callable[[str], Path],
    models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Train:
    """Make a training; `adapter` without type, rank and scale."""

    def make(architecture: str, adapter: dict[str, Any], **settings: Any) -> ScriptRun:
        place = tmp_path_factory.mktemp("training")
        model = models[architecture]
        return ScriptRun(
            environment_python("native"),
            "train_native",
            {"settings": SETTINGS | {"adapter": LORA | adapter} | settings, "save_steps": 1000},
            {
                "model": model,
                "tokens": write_tokens(place / "train.tokens.safetensors", TALK, packed=False),
                "template": model / "chat_template.jinja",
            },
            place,
        )

    return make


@pytest.fixture(scope="module")
def trained(train: Train, warm: WarmInterpreter) -> Callable[[str], Finished]:
    """The result of every kind; each is trained once."""
    done: dict[str, Finished] = {}

    def result(kind: str) -> Finished:
        if kind not in done:
            done[kind] = train(*KINDS[kind]).finish(warm)
            assert done[kind].status == 0, done[kind].log
        return done[kind]

    return result


def merged(python: Path, model: Path, adapter: Path, place: Path) -> MergeRun:
    inputs = {"model": model, "adapter": adapter, "template": model / "chat_template.jinja"}
    return run_script(python, "merge", {"dtype": "float32"}, inputs, place)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns(trained: Callable[[str], Finished], kind: str) -> None:
    losses = [line["loss"] for line in trace(trained(kind))]
    assert losses[-1] < losses[0] - 0.01


@pytest.mark.parametrize(
    ("kind", "modules"),
    [
        ("saved embedding", {"model.embed_tokens"}),
        ("saved head", {"lm_head", "model.norm"}),
    ],
)
def test_a_saved_module_learns(
    trained: Callable[[str], Finished], models: dict[str, Path], kind: str, modules: set[str]
) -> None:
    base = load_file(models["llama"] / "model.safetensors")
    base["lm_head.weight"] = base["model.embed_tokens.weight"]
    found = load_file(trained(kind).folder / "adapter" / "adapter_model.safetensors")
    whole = {
        name.removeprefix("base_model.model."): weight
        for name, weight in found.items()
        if ".lora_" not in name
    }
    assert set(whole) == {f"{module}.weight" for module in modules}
    assert all((weight != base[name]).any() for name, weight in whole.items())


def test_what_is_merged_says_what_was_trained(
    trained: Callable[[str], Finished],
    models: dict[str, Path],
    environment_python: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Logits of the merged model against PEFT's of base and adapter, in float64."""
    cases = {}
    for kind, (architecture, _) in KINDS.items():
        place = tmp_path / kind
        place.mkdir()
        model, adapter = models[architecture], trained(kind).folder / "adapter"
        run = merged(environment_python("export"), model, adapter, place / "run")
        assert run.returncode == 0, run.log
        for name, to in (
            ("model", model),
            ("adapter-0", adapter),
            ("merged", run.folder / "model"),
        ):
            (place / name).symlink_to(to)
        cases[kind] = {"architecture": architecture, "adapters": [{}]}
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    found = json.loads(peft(environment_python("native"), "logits", tmp_path))
    assert set(found) == set(KINDS)
    assert {kind: error for kind, error in found.items() if error > 1e-5} == {}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, "float32") for kind in KINDS), ("DoRA", "bfloat16"), ("saved head", "bfloat16")],
)
def test_the_evaluation_loads_it(
    trained: Callable[[str], Finished],
    models: dict[str, Path],
    warm: WarmInterpreter,
    environment_python: Callable[[str], Path],
    tmp_path: Path,
    kind: str,
    dtype: str,
) -> None:
    model = models[KINDS[kind][0]]
    (tmp_path / "prompts.jsonl").write_text("")
    settings = {"loss": True, "samples": 0, "max_new_tokens": 1, "questions": None, "system": None}
    run = ScriptRun(
        environment_python("evaluate"),
        "evaluate",
        settings | {"trained": "adapter", "dtype": dtype, "attn_implementation": "sdpa"},
        {
            "model": model,
            "trained": trained(kind).folder / "adapter",
            "tokens": write_tokens(tmp_path / "validation.tokens.safetensors", TALK, packed=False),
            "prompts": tmp_path / "prompts.jsonl",
            "template": model / "chat_template.jinja",
        },
        tmp_path / "run",
    )
    result = run.finish(warm)
    assert result.status == 0, result.log
    measures, lines = result.measures(), trace(trained(kind))
    exact = 1e-4 if dtype == "float32" else 1e-2
    assert measures["loss_base"] == pytest.approx(lines[0]["loss"], rel=exact)
    assert measures["loss_tuned"] < lines[-1]["loss"] + 100 * exact


def names_of(result: Finished) -> set[str]:
    """Modules with an adapter."""
    found = load_file(result.folder / "adapter" / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model.").split(".lora_")[0] for name in found}


def test_words_and_expressions_mean_the_models_real_modules(
    trained: Callable[[str], Finished],
) -> None:
    layers = [f"model.layers.{number}" for number in range(2)]
    assert names_of(trained("attention")) == {
        f"{layer}.self_attn.{part}_proj" for layer in layers for part in "qkvo"
    }
    assert names_of(trained("GPT-2, attention")) == {
        f"transformer.h.{number}.attn.{part}"
        for number in range(2)
        for part in ("c_attn", "c_proj")
    }
    assert all(name.startswith("model.layers.1.") for name in names_of(trained("expression")))
    assert len(names_of(trained("expression"))) == 7
    assert len(names_of(trained("exclusion"))) == 2 * 6
    assert len(names_of(trained("LoRA"))) == 2 * 7


def test_a_module_that_is_saved_learns_in_float32_beside_bfloat16(
    train: Train, warm: WarmInterpreter
) -> None:
    adapter = {
        "target_modules": "all-linear",
        "modules_to_save": ["embed_tokens", "mlp", "lm_head"],
    }
    result = train("llama", adapter, dtype="bfloat16").finish(warm)
    assert result.status == 0, result.log
    losses = [line["loss"] for line in trace(result)]
    assert losses[-1] < losses[0] - 0.05
    tensors = load_file(result.folder / "adapter" / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}
    assert "base_model.model.model.layers.0.mlp.up_proj.weight" in tensors
    again = train("llama", adapter, dtype="bfloat16").finish(warm)
    assert again.files() == result.files()


def test_a_training_with_saved_modules_goes_on_to_the_same_bytes(
    train: Train, warm: WarmInterpreter
) -> None:
    adapter = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "use_dora": True}
    whole = train("llama", adapter).finish(warm)
    assert whole.status == 0, whole.log
    first = train("llama", adapter)
    spec = json.loads((first.folder.parent / "spec.json").read_text())
    spec["hashed"]["save_steps"] = 5
    (first.folder.parent / "spec.json").write_text(json.dumps(spec))
    process = first.start(warm)
    first.wait_for_step(process, 11)
    process.send_signal(9)
    process.wait()
    rest = first.finish(warm)
    assert rest.status == 0, rest.log
    assert rest.measures()["steps_trained_now"] < 12
    assert rest.files() == whole.files()


# --- names that the model does not have

LAYERS = "down_proj (2 of 64x128), embed_tokens (1 of 260x64), gate_proj (2 of 128x64)"


@pytest.mark.parametrize(
    ("adapter", "message", "hint"),
    [
        (
            {"target_modules": ["q_proj", "qproj"]},
            "the model has no module named qproj",
            f"did you mean q_proj? the model has {LAYERS}",
        ),
        ({"target_modules": r".*\.wq"}, r"regular expression .*\.wq", f"the model has {LAYERS}"),
        (
            {"target_modules": ["self_attn"]},
            "no adapter fits model.layers.0.self_attn",
            "q_proj (1",
        ),
        (
            {"target_modules": "all-linear", "exclude_modules": ["lm_head"]},
            "exclude_modules: no layer with an adapter is lm_head",
            "the model has",
        ),
        (
            {"target_modules": ["q_proj"], "exclude_modules": r".*q_proj"},
            "leave no layer for the adapter",
            "the model has",
        ),
        (
            {"target_modules": "all-linear", "modules_to_save": ["embed_token"]},
            "modules_to_save: the model has no module named embed_token",
            "did you mean embed_tokens?",
        ),
        (
            {"target_modules": ["q_proj"], "rank_pattern": {"up_proj": 2}},
            "rank_pattern: up_proj matches no layer with an adapter",
            "the model has",
        ),
        (
            {"target_modules": ["q_proj"], "alpha_pattern": {"q_proj": 2, ".*proj": 3}},
            "alpha_pattern: both .*proj and q_proj match model.layers.0.self_attn.q_proj",
            "the model has",
        ),
        (
            {"target_modules": ".*q_proj|lm_head"},
            "no adapter is trained on lm_head",
            "the model has",
        ),
        ({"target_modules": ["q_proj"], "lora_bias": True}, "q_proj has no bias", "the model has"),
    ],
)
def test_a_name_that_means_nothing_is_refused_before_weights_are_read(
    train: Train,
    models: dict[str, Path],
    warm: WarmInterpreter,
    adapter: dict[str, Any],
    message: str,
    hint: str,
    tmp_path: Path,
) -> None:
    run = train("llama", adapter)
    bare = tmp_path / "model"
    shutil.copytree(models["llama"], bare)
    (bare / "model.safetensors").unlink()  # the proof that it is not needed
    spec = json.loads((run.folder.parent / "spec.json").read_text())
    spec["where"]["inputs"]["model"] = str(bare)
    (run.folder.parent / "spec.json").write_text(json.dumps(spec))
    begin = time.monotonic()
    result = run.finish(warm)
    assert time.monotonic() - begin < 60
    assert (result.status, result.error()["code"]) == (1, "E516")
    assert message in result.error()["message"]
    assert hint in result.error()["hint"]
