"""Surroundings that must not decide a byte do not: one manifest, whatever is varied around a run.

Every variation is made alone up to the tokens, by a checkout in which something leaks: exactly what
leaks by this variation differs, so the harness would notice, and the tokens do not. All at once are
made to the end, where a model answers in Ollama.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import variation_leaks, variations
from tests.portable_model import write_convertible_model
from tests.variations import VARIATIONS, Finished, Harness, Surroundings, Variation

RECIPE = """
schema: 1
name: NAME
model: {path: model, dtype: float32}
data:
  train: [{path: rows.jsonl, format: alpaca}]
  validation: {fraction: 0.2}
  max_length: LENGTH
train:
  adapter: {type: lora, r: 4, lora_alpha: 8, lora_dropout: 0.1}
  max_steps: 6
  per_device_train_batch_size: 2
  learning_rate: 1.0e-5  # it goes on saying OK
evaluate: {samples: 2, max_new_tokens: 4}
merge: {}
gguf: {quantize: [Q8_0]}
ollama: {name: tiny-varied, parameters: {temperature: 0.2}}
"""


def write_recipe(checkout: Path) -> str:
    """A recipe with every stage on a tiny model, and one that shares nothing but the base."""
    write_convertible_model(checkout / "model")
    rows = [
        {"instruction": f"Say {n}.", "input": "", "output": f"The number is {n}."}
        for n in range(20)
    ]
    (checkout / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, length in (("varied", "256"), ("earlier", "300")):
        text = RECIPE.replace("NAME", name).replace("LENGTH", length)
        (checkout / f"{name}.yaml").write_text(text)
    return "varied.yaml"


def write_leaking(checkout: Path) -> str:
    variation_leaks.plant(checkout)
    return write_recipe(checkout)


def write_quickstart(checkout: Path) -> str:
    text = (checkout / "recipes" / "quickstart.yaml").read_text()
    name = "name: quickstart\n"
    assert name in text
    (checkout / "recipes" / "earlier.yaml").write_text(
        text.replace(name, "name: earlier\n").replace("seed: 42", "seed: 43")
    )
    return "recipes/quickstart.yaml"


def entries(finished: Finished) -> dict[str, Any]:
    """`stage/file` -> its line of the manifest."""
    stages = json.loads(finished.manifest)["stages"]
    return {
        f"{stage}/{name}": line for stage, files in stages.items() for name, line in files.items()
    }


def different(one: Finished, other: Finished) -> set[str]:
    a, b = entries(one), entries(other)
    return {name for name in {*a, *b} if a.get(name) != b.get(name)}


@pytest.fixture(scope="module")
def harness(
    tmp_path_factory: pytest.TempPathFactory,
    shared_cache: Path,
    environment_python: Callable[[str], Path],
) -> Harness:
    from runner.system.tools import ensure_tool

    for role in ("data", "native", "evaluate", "export"):
        environment_python(role)
    ensure_tool("ollama", shared_cache, print)
    tools = variations.Tools.ready(shared_cache, tmp_path_factory.mktemp("variation-tools"))
    return Harness(tools, tmp_path_factory.mktemp("variations"), shared_cache)


@pytest.fixture(scope="module")
def leaking(harness: Harness) -> Finished:
    return harness.run(Surroundings(), write_leaking, "--until", "prepare")


@pytest.mark.parametrize("variation", variations.possible(), ids=lambda each: each.name)
def test_what_leaks_by_a_variation_is_noticed_and_tokens_do_not_change(
    harness: Harness, leaking: Finished, variation: Variation
) -> None:
    varied = harness.run(variation.of(Surroundings()), write_leaking, "--until", "prepare")
    leak = variation.name.replace(" ", "-")
    expected = {f"prepare/runner-{leak}"}
    if variation.seen_by_scripts:
        expected.add(f"prepare/script-{leak}")
    assert different(leaking, varied) == expected
    assert {f"prepare/script-{leak}", "prepare/train.tokens.safetensors"} <= set(entries(varied))


def test_without_a_variation_even_leaks_are_the_same(harness: Harness, leaking: Finished) -> None:
    assert (
        harness.run(Surroundings(), write_leaking, "--until", "prepare").manifest
        == leaking.manifest
    )


@pytest.fixture(scope="module")
def base(harness: Harness) -> Finished:
    return harness.run(Surroundings(), write_recipe)


@pytest.fixture(scope="module")
def all_at_once(harness: Harness) -> Finished:
    return harness.run(variations.all_at_once(), write_recipe)


def test_all_variations_at_once_give_the_same_manifest(
    base: Finished, all_at_once: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    assert different(base, all_at_once) == set()
    assert all_at_once.manifest == base.manifest
    ran = {stage["name"]: stage["action"] for stage in json.loads(all_at_once.record)["stages"]}
    assert ran == {
        "fetch": "reuse",  # warm caches
        **dict.fromkeys(["prepare", "train", "evaluate", "merge", "gguf", "ollama"], "run"),
    }
    made = {variation.name for variation in variations.possible()}
    results = {each.name: "equal" if each.name in made else "needs root" for each in VARIATIONS}
    with capsys.disabled():
        print(f"\n{variations.table(results)}")


def test_every_process_of_the_chain_was_in_the_varied_surroundings(all_at_once: Finished) -> None:
    # linked statically; it lists libraries for Python's ctypes
    assert variations.not_reached(all_at_once.seen) <= {"ldconfig"}
    found = variations.programs(all_at_once.seen)
    assert {"ollama", "llama-quantize", "llama-perplexity", "llama-server"} <= found
    assert any(name.startswith("python3") for name in found)


@pytest.mark.full
def test_the_quickstart_gives_the_same_manifest_under_all_variations_at_once(
    harness: Harness,
) -> None:
    plain = harness.run(Surroundings(), write_quickstart)
    varied = harness.run(variations.all_at_once(), write_quickstart)
    assert different(plain, varied) == set()
    assert varied.manifest == plain.manifest
