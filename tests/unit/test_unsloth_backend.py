"""What Unsloth is told of a recipe, and what a machine without a GPU says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.backends import REGISTRY, environment_of, environments_beside, load_backend, unsloth
from runner.errors import MachineCannot
from runner.execution import device
from runner.execution.device import lacks_device, require_device
from runner.plan.plan import Action, Step
from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe
from runner.scripts import train_unsloth
from runner.scripts.spec import ScriptError
from runner.stages import train
from tests.chain import ROOT

COURSE = ROOT / "recipes" / "course" / "10.2-8b-unsloth.yaml"
TRAINING = [Step("fetch", Action.RUN, ""), Step("train", Action.RUN, "")]
REUSED = [Step("fetch", Action.RUN, ""), Step("train", Action.REUSE, "")]


@pytest.fixture
def course() -> Recipe:
    return load_recipe(COURSE)


@pytest.fixture
def changed() -> Callable[..., Recipe]:
    """The course's recipe with other values, each by its path."""

    def load(**values: Any) -> Recipe:
        sets = [f"{key.replace('__', '.')}={json.dumps(each)}" for key, each in values.items()]
        return load_recipe(COURSE, overrides=sets)

    return load


# --- the mapping


def test_the_course_s_recipe_as_unsloth_s_calls(course: Recipe) -> None:
    assert unsloth.spec(course) == {
        "load": {
            "max_seq_length": 512,
            "dtype": "bfloat16",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "load_in_16bit": False,
            "full_finetuning": False,
            "trust_remote_code": False,
            "use_gradient_checkpointing": True,
            "random_state": 42,
            "use_exact_model_name": True,
            "fix_tokenizer": False,
            "offload_embedding": False,
            "fast_inference": False,
        },
        "adapter": {
            "r": 16,
            "target_modules": ["k_proj", "o_proj", "q_proj", "v_proj"],
            "lora_alpha": 32,
            "lora_dropout": 0.0,
            "bias": "none",
            "use_rslora": False,
            "use_gradient_checkpointing": True,
            "random_state": 42,
        },
        "trainer": {
            "num_train_epochs": 3,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 2.0e-4,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 10,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "optim": "adamw_8bit",
            "bf16": True,
            "fp16": False,
            "gradient_checkpointing": True,
            "seed": 42,
            "data_seed": 42,
            "max_length": 512,
            "packing": False,
            "padding_free": False,
        },
        "has_prompts": True,
    }


@pytest.mark.parametrize(
    ("value", "places"),
    [
        ({"seed": 7}, ["load/random_state", "adapter/random_state", "trainer/seed"]),
        ({"data__max_length": 100}, ["load/max_seq_length", "trainer/max_length"]),
        ({"train__adapter__use_rslora": True}, ["adapter/use_rslora"]),
        ({"train__adapter__target_modules": "all-linear"}, ["adapter/target_modules"]),
        ({"train__adapter__lora_dropout": 0.1}, ["adapter/lora_dropout"]),
        (
            {"train__gradient_checkpointing": False},
            ["load/use_gradient_checkpointing", "adapter/use_gradient_checkpointing"],
        ),
        ({"train__optim": "paged_adamw_8bit"}, ["trainer/optim"]),
    ],
)
def test_a_value_is_told_wherever_unsloth_takes_it(
    value: dict[str, Any], places: list[str], changed: Callable[..., Recipe]
) -> None:
    spec = unsloth.spec(changed(**value))
    (wanted,) = value.values()
    for place in places:
        call, name = place.split("/")
        assert spec[call][name] == wanted


def test_a_base_in_16_bits_is_asked_for(changed: Callable[..., Recipe]) -> None:
    """Unsloth's own default is 4 bits."""
    load = unsloth.spec(changed(model__quantization=None))["load"]
    assert (load["load_in_4bit"], load["load_in_16bit"]) == (False, True)


def test_steps_take_the_place_of_passes(changed: Callable[..., Recipe]) -> None:
    trainer = unsloth.spec(changed(train__num_train_epochs=None, train__max_steps=9))["trainer"]
    assert trainer["max_steps"] == 9
    assert "num_train_epochs" not in trainer


def test_another_seed_is_another_result(course: Recipe, changed: Callable[..., Recipe]) -> None:
    assert unsloth.spec(changed(seed=7)) != unsloth.spec(course)


def test_it_trains_in_an_environment_of_its_own(course: Recipe) -> None:
    assert environment_of(course.train) == train.environment(course) == "unsloth"
    assert "unsloth" not in environments_beside(course.train)
    assert not train.resume_is_proved(course)


# --- the script's calls, by a module that only remembers them


class Remembering:
    """Stands in for the module `unsloth`: says what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.FastLanguageModel = self

    def from_pretrained(self, **arguments: Any) -> tuple[Any, None]:
        self.calls.append(("from_pretrained", arguments))
        self.config = type("Config", (), {"use_cache": True})()
        return self, None

    def get_peft_model(self, model: Any, **arguments: Any) -> str:
        assert model is self
        self.calls.append(("get_peft_model", arguments))
        return "with an adapter"


def test_the_script_calls_with_the_settings_and_the_names_of_the_modules(course: Recipe) -> None:
    settings, module = unsloth.spec(course), Remembering()
    names = {"target_modules": ["self_attn.q_proj"]}
    made = train_unsloth.load_with_adapter(module, Path("/model"), settings, names)
    assert made == "with an adapter"
    assert module.calls == [
        ("from_pretrained", {"model_name": "/model", **settings["load"]}),
        ("get_peft_model", {**settings["adapter"], **names}),
    ]
    assert module.config.use_cache is False


def test_the_trainer_gets_the_settings_and_where_to_keep_checkpoints(course: Recipe) -> None:
    settings = unsloth.spec(course)
    told = train_unsloth.trainer_arguments(settings, 7, Path("/scratch/checkpoints"))
    assert settings["trainer"].items() <= told.items()
    assert (told["save_steps"], told["output_dir"]) == (7, "/scratch/checkpoints")
    assert (told["save_strategy"], told["report_to"]) == ("steps", "none")


# --- a machine without a GPU


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.hardware, "gpus", lambda root=None: ())


@pytest.mark.usefixtures("no_gpu")
def test_a_run_that_would_train_is_refused(course: Recipe) -> None:
    with pytest.raises(MachineCannot) as caught:
        require_device(course, TRAINING)
    assert (caught.value.code, caught.value.exit_code) == ("E960", 4)
    assert "--backend native" in caught.value.hint


@pytest.mark.usefixtures("no_gpu")
def test_what_is_trained_already_is_reused(course: Recipe) -> None:
    require_device(course, REUSED)
    assert not lacks_device(course, REUSED)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("backend", sorted({*REGISTRY} - {"unsloth"}))
def test_other_backends_need_no_gpu(backend: str, changed: Callable[..., Recipe]) -> None:
    require_device(changed(train__backend=backend, train__optim="adamw_torch"), TRAINING)


def test_with_a_gpu_it_may_train(course: Recipe, tmp_path: Path) -> None:
    card = tmp_path / "proc" / "driver" / "nvidia" / "gpus" / "0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA GB10\n")
    (tmp_path / "dev").mkdir()
    assert lacks_device(course, TRAINING, tmp_path)  # /proc alone: a container without the GPU
    (tmp_path / "dev" / "nvidia0").touch()
    require_device(course, TRAINING, tmp_path)


@pytest.mark.usefixtures("no_gpu")
def test_the_stage_itself_starts_no_script(course: Recipe) -> None:
    with pytest.raises(MachineCannot, match="NVIDIA GPU"):
        train.run(course, None, Path("/out"), None)  # type: ignore[arg-type]


def test_a_gpu_that_torch_does_not_see_ends_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = type("Cuda", (), {"is_available": staticmethod(lambda: False)})
    torch = type("Torch", (), {"cuda": cuda, "__version__": "2.13.0"})
    monkeypatch.setitem(__import__("sys").modules, "torch", torch)
    with pytest.raises(ScriptError) as caught:
        train_unsloth.require_cuda()
    assert caught.value.code == "E961"


def test_only_unsloth_needs_a_gpu() -> None:
    assert {name: load_backend(name).NEEDS_CUDA for name in REGISTRY} == {
        "llamafactory": False,
        "native": False,
        "unsloth": True,
    }
