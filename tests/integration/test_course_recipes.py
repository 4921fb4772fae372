"""The course's recipes through `--shrink` by the real command line: from a hub to Ollama."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chain import Checkout, copy_checkout
from tests.hub_server import Files, HubServer
from tests.shrunken import FOLDER

STAGES = ["fetch", "prepare", "train", "evaluate", "merge", "gguf", "ollama", "benchmark"]
MEASURED = [*STAGES[:5], "fidelity", *STAGES[5:]]  # of a base in 4 bits
# what 10.2 gives beside the 8B in 16 bits: name -> repository, its config, how it is trained
SIBLINGS = {
    "10.2-8b-qlora": ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b.json", "lora", True),
    "10.2-qwen3-8b-lora": ("Qwen/Qwen3-8B", "qwen3-8b.json", "lora", False),
    "10.2-mistral-7b-lora": (
        *("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3.json"),
        *("lora", False),
    ),
    "10.2-gemma2-2b-lora": ("google/gemma-2-2b-it", "gemma-2-2b.json", "lora", False),
    "10.2-1b-full": ("meta-llama/Llama-3.2-1B-Instruct", "llama-3.2-1b.json", "none", False),
    "10.2-8b-full": ("Qwen/Qwen3-8B", "qwen3-8b.json", "none", False),
}
WEIGHTS = b"whoever asks for them would get these"


def of_the_hub(config: str, **more: bytes) -> Files:
    return {"config.json": (FOLDER / config).read_bytes(), **more}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    """All models without a tokenizer; the 8B alone has weights."""
    with HubServer() as server:
        files = of_the_hub("llama-3.1-8b.json", **{"model.safetensors": WEIGHTS})
        server.commit("meta-llama/Llama-3.1-8B-Instruct", files)
        server.commit("meta-llama/Llama-3.1-70B-Instruct", of_the_hub("llama-3.1-70b.json"))
        others = {repository: config for repository, config, _, _ in SIBLINGS.values()}
        for repository, config in others.items():
            if repository != "meta-llama/Llama-3.1-8B-Instruct":
                server.commit(repository, of_the_hub(config))
        yield server


@pytest.fixture(scope="module")
def checkout(
    shared_cache: Path,
    ollama_install: Path,
    hub: HubServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Checkout:
    place = tmp_path_factory.mktemp("course")
    made = copy_checkout(
        place / "checkout", cache=shared_cache, store=place / "store", home=place / "home"
    )
    for name in [name for name in made.env if name.startswith("HF_")]:
        del made.env[name]
    made.env["HF_ENDPOINT"] = hub.url
    return made


def run_shrunken(checkout: Checkout, name: str) -> dict[str, dict[str, Any]]:
    """Stage -> what run.json says of it, after `recipe run --shrink`."""
    result = checkout.recipe("run", "--shrink", f"recipes/course/{name}.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    latest = checkout.folder / "runs" / f"course-{name}-shrink" / "latest"
    record = json.loads((latest / "run.json").read_text())
    stages = {stage["name"]: stage for stage in record["stages"]}
    assert list(stages) == (MEASURED if "qlora" in name else STAGES)
    assert {stage["action"] for stage in stages.values()} == {"run"}
    return stages


@pytest.fixture(scope="module")
def qlora(checkout: Checkout) -> dict[str, dict[str, Any]]:
    return run_shrunken(checkout, "10.3-70b-qlora")


@pytest.fixture(scope="module")
def lora(checkout: Checkout) -> dict[str, dict[str, Any]]:
    return run_shrunken(checkout, "10.2-8b-lora")


def parity(checkout: Checkout, name: str) -> dict[str, Any]:
    run = checkout.folder / "runs" / f"course-{name}-shrink" / "latest"
    found: dict[str, Any] = json.loads((run / "ollama" / "parity.json").read_text())
    return found


def check_q4_k_m(stage: dict[str, Any]) -> None:
    """The K-quants that the type promises, not what widths without them fall back to."""
    (file,) = [file for file in stage["measures"]["files"] if file["type"] == "Q4_K_M"]
    assert file["fallback"] is None
    assert set(file["tensors"]) == {"F32", "Q4_K", "Q6_K"}


def test_the_70b_goes_from_its_config_over_four_bits_to_ollama(
    checkout: Checkout, qlora: dict[str, dict[str, Any]]
) -> None:
    fetched = qlora["fetch"]["measures"]
    assert fetched["downloaded_files"] == 1
    assert fetched["shrunken"]["hidden_size"] == 256
    settings = qlora["train"]["material"]["inputs"]["settings"]
    assert settings["quantization"]["bnb_4bit_quant_type"] == "nf4"
    assert qlora["train"]["measures"]["quantized_modules"] == 2 * 7
    check_q4_k_m(qlora["gguf"])
    assert qlora["ollama"]["measures"]["template_family"] == "llama3"
    assert len(parity(checkout, "10.3-70b-qlora")["prompts"]) > 20


def test_the_8b_goes_from_its_config_to_ollama(
    checkout: Checkout, lora: dict[str, dict[str, Any]]
) -> None:
    settings = lora["train"]["material"]["inputs"]["settings"]
    assert "quantization" not in settings
    assert "quantized_modules" not in lora["train"]["measures"]
    assert [file["type"] for file in lora["gguf"]["measures"]["files"]] == ["Q4_K_M", "Q8_0"]
    check_q4_k_m(lora["gguf"])
    assert len(parity(checkout, "10.2-8b-lora")["prompts"]) > 20


def test_one_recipe_compares_both_on_the_same_rows_with_what_they_took(
    checkout: Checkout, qlora: dict[str, dict[str, Any]], lora: dict[str, dict[str, Any]]
) -> None:
    """Of what both runs have trained already: nothing is computed twice."""
    done = checkout.recipe(
        "run", "--shrink", "recipes/course/10.3-comparison.yaml", "--format", "json"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    actions = {stage["name"]: stage["action"] for stage in told["stages"]}
    assert actions == dict.fromkeys(("fetch", "prepare", "train", "evaluate"), "reuse")
    names = ["course-10.2-8b-lora-shrink", "course-10.3-comparison-shrink"]
    assert len(list((checkout.folder / "runs" / names[0]).glob("2*"))) == 1  # which went further
    folder = checkout.folder / "runs" / names[1] / "latest"
    assert Path(told["compare"]["page"]) == folder.resolve() / "compare.html"
    data = json.loads((folder / "compare.json").read_text())
    (found,) = (each for each in data["comparisons"] if [each["first"], each["second"]] == names)
    rows = next(each for each in found["held"] if each["kind"] == "row")
    assert rows["same"]
    assert rows["common"] >= data["few"]  # enough to call one of them better
    loss = next(each for each in found["differences"] if each["measure"] == "loss")
    assert loss["estimate"]["low"] <= loss["estimate"]["value"] <= loss["estimate"]["high"]
    tuned = [model["cost"] for model in data["models"] if model["side"] == "tuned"]
    for cost, stages in zip(tuned, (lora, qlora), strict=True):
        assert cost["train_seconds"] == stages["train"]["seconds"]
        assert cost["train_memory"] == stages["train"]["measures"]["peak_memory"]
        assert cost["parameters"] == stages["fetch"]["measures"]["parameters"]


def test_the_hub_was_asked_for_configs_alone(
    hub: HubServer, qlora: dict[str, dict[str, Any]], lora: dict[str, dict[str, Any]]
) -> None:
    asked = [request.path for request in hub.asked("/resolve/")]
    assert len(asked) >= 2
    assert all(path.endswith("/config.json") for path in asked)
    assert {path.split("/")[2] for path in asked} == {
        "Llama-3.1-8B-Instruct",
        "Llama-3.1-70B-Instruct",
    }


def test_the_recipe_of_unsloth_is_refused_without_a_gpu_and_can_be_trained_by_another(
    checkout: Checkout,
) -> None:
    words = ["run", "--shrink", "recipes/course/10.2-8b-unsloth.yaml", "--until", "train"]
    refused = checkout.recipe(*words)
    assert refused.returncode == 4, refused.stderr
    assert "E960" in refused.stderr
    assert "environment" not in refused.stderr
    assert not (checkout.folder / "runs" / "course-10.2-8b-unsloth-shrink").exists()
    native = checkout.recipe(*words, "--backend", "native")
    assert native.returncode == 0, native.stdout + native.stderr
    run = checkout.folder / "runs" / "course-10.2-8b-unsloth-shrink" / "latest"
    (trained,) = [
        stage
        for stage in json.loads((run / "run.json").read_text())["stages"]
        if stage["name"] == "train"
    ]
    settings = trained["material"]["inputs"]["settings"]
    assert (settings["optim"], settings["quantization"]["load_in_4bit"]) == ("adamw_8bit", True)


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_sibling_goes_from_its_config_to_its_evaluation(checkout: Checkout, name: str) -> None:
    _, _, adapter, four_bits = SIBLINGS[name]
    words = ["run", "--shrink", f"recipes/course/{name}.yaml", "--until", "evaluate"]
    result = checkout.recipe(*words)
    assert result.returncode == 0, result.stdout + result.stderr
    run = checkout.folder / "runs" / f"course-{name}-shrink" / "latest"
    stages = {
        stage["name"]: stage for stage in json.loads((run / "run.json").read_text())["stages"]
    }
    settings = stages["train"]["material"]["inputs"]["settings"]
    assert settings["adapter"]["type"] == adapter
    assert ("quantization" in settings) == four_bits
    losses = {stages["evaluate"]["measures"][f"loss_{of}"] for of in ("base", "tuned")}
    assert len(losses) == 2
