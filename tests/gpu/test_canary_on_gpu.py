"""The canary looks at the base where it lies: on the GPU. It needs a model that reads text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runner.errors import RecipeToolError
from tests.integration.test_canary import with_rope
from tests.smollm_models import FILE, published_gguf
from tests.training_runs import Finished, ScriptRun, chat, done, write_tokens

LORA = {
    "type": "lora",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
}
SETTINGS = {
    "adapter": LORA,
    "max_steps": 1,
    "learning_rate": 1e-4,
    "dtype": "bfloat16",
    "bf16": True,
    "has_prompts": False,
}
Train = Callable[..., Finished]


@pytest.fixture(scope="module")
def smollm(
    shared_cache: Path,
    environment_python: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """SmolLM2-135M-Instruct, where it is in the cache or can be downloaded."""
    try:
        source, python = published_gguf(shared_cache).parents[1], environment_python("data")
    except RecipeToolError as error:
        pytest.skip(f"SmolLM2 is not here: {str(error).splitlines()[0]}")
    hashed = {"kind": "gguf", "file": FILE, "dtype": "bfloat16"}
    place = tmp_path_factory.mktemp("smollm")
    run = ScriptRun(python, "fetch", hashed, {"source": source}, place)
    return done(run.finish_cold()).folder / "model"


@pytest.fixture
def trained(smollm: Path, train: Train, needs: Callable[..., None], tmp_path: Path) -> Train:
    """One step on SmolLM2 with something changed in its folder."""
    needs("trl")

    def run(change: Callable[[Path], None]) -> Finished:
        model = tmp_path / "model"
        model.mkdir()
        for path in smollm.iterdir():
            (model / path.name).symlink_to(path)
        change(model)
        rows = [[chat(("user", "Q"), ("assistant", "It is so."))]]
        tokens = write_tokens(tmp_path / "train.tokens.safetensors", rows, packed=False)
        return train(tokens, base=model, **SETTINGS)

    return run


def test_a_sane_base_is_trained(trained: Train) -> None:
    found = done(trained(lambda model: None)).measures()["canary"]
    assert found["base"] == "trained"
    assert found["text_bits"] < 1.4


def test_wrong_positions_end_the_training_before_its_first_step(trained: Train) -> None:
    result = trained(with_rope(rope_type="linear", factor=8.0))
    assert result.status == 1, result.log
    assert result.error()["code"] == "E941"
    assert not [event for event in result.events if event["event"] == "progress"]
