"""Any recipe that LLaMA Factory can honour, as its configuration, captured: the same recipe again.

Values come from the recipe's own schema, through the configuration that the backend writes and the
text of its YAML file, to the text of the captured recipe and what is resolved from it.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema

from runner.backends import llamafactory
from runner.backends.llamafactory_preferences import STAGES
from runner.capture.captured import Captured, Fate
from runner.capture.data_sets import Place
from runner.capture.report import as_recipe
from runner.capture.settings import capture
from runner.capture.source import read
from runner.imports.document import read_document
from runner.imports.llamafactory import convert
from runner.imports.wanted import Wanted
from runner.recipe.load import check_recipe, load_recipe
from runner.recipe.methods import METHODS
from runner.recipe.model import Recipe
from runner.recipe.schema import load_schema
from tests.unit.test_capture import write_project
from tests.unit.test_recipe_generated import plain

SCHEMA = plain(load_schema())["properties"]
TRAIN = SCHEMA["train"]["properties"]
DATA = SCHEMA["data"]["properties"]
LORA = TRAIN["adapter"]["oneOf"][0]["properties"]
# What the configuration says of the training beside its length; each as its schema allows it.
SETTINGS = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "bf16",
    "gradient_checkpointing", "save_steps",
)  # fmt: skip
# What no configuration of LLaMA Factory holds: stages behind the training, and how rows are made.
NOT_HELD = ("description", "evaluate", "merge", "gguf", "ollama", "benchmark")


def some(schemas: dict[str, Any], *names: str) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with any of the keys, each with any value that its schema allows."""
    return st.fixed_dictionaries({}, optional={name: from_schema(schemas[name]) for name in names})


# A method with any of its own settings; LLaMA Factory has one loss for dpo.
def method(name: str) -> st.SearchStrategy[dict[str, Any]]:
    own = [each for each in METHODS[name].settings if each != "loss_type"]
    return st.fixed_dictionaries(
        {"method": st.just(name)}, optional={each: from_schema(TRAIN[each]) for each in own}
    )


KINDS = {
    "shared template": st.just({}),
    "own template": st.fixed_dictionaries({"template": st.sampled_from(["qwen", "vicuna"])}),
    **{name: method(name) for name in STAGES if name not in ("sft", "reward")},
}
ROWS = {
    "pretrain": {
        "path": "../data/texts.jsonl",
        "format": "text",
        "columns": {"text": "content"},
    },
    "sft": {"path": "../data/faq.jsonl", "format": "alpaca"},
    "kto": {
        "path": "../data/judged.jsonl",
        "format": "kto",
        "columns": {"completion": "said"},
    },
}
PAIRS = {
    "path": "../data/pairs.jsonl",
    "format": "preference",
    "columns": {"prompt": "question", "chosen": "good", "rejected": "bad"},
}
DATA_SETS = {"sft": "faq", "kto": "judged", "pretrain": "texts"}
NAMES = st.sampled_from(["q_proj", "k_proj", "up_proj", "down_proj"])
TARGETS = st.one_of(st.just("all-linear"), st.lists(NAMES, min_size=1, unique=True))
ADAPTERS = st.one_of(
    st.just({"type": "none"}),
    st.fixed_dictionaries(
        {"type": st.just("none"), "trainable_layers": st.sampled_from([-2, -1, 1, 2])},
        optional={
            "trainable_modules": st.lists(
                st.sampled_from(["mlp", "self_attn"]), min_size=1, unique=True
            ).map(sorted)
        },
    ),
    st.builds(
        lambda more, targets: {"type": "lora", "target_modules": targets, **more},
        some(LORA, "r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora"),
        TARGETS,
    ),
)
LENGTHS = st.one_of(
    *(
        st.fixed_dictionaries({name: from_schema(TRAIN[name])})
        for name in ("max_steps", "num_train_epochs")
    )
)
QUANTIZATION = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"load_in_4bit": st.just(True)},
        optional={
            "bnb_4bit_quant_type": st.sampled_from(["nf4", "fp4"]),
            "bnb_4bit_use_double_quant": st.booleans(),
        },
    ),
)
RECIPES = {
    "seed": from_schema(SCHEMA["seed"]),
    "quantization": QUANTIZATION,
    "attention": st.sampled_from(["sdpa", "eager"]),
    "data": some(DATA, "system", "packing"),
    "fraction": st.floats(0, 0.75),
    "max_length": st.integers(1, 512),
    "train": some(TRAIN, *SETTINGS),
    "adapter": ADAPTERS,
    "length": LENGTHS,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return write_project(tmp_path_factory.mktemp("project"))


def recipe_of(drawn: dict[str, Any]) -> dict[str, Any]:
    """A recipe for backend llamafactory from what was drawn."""
    quantization = drawn["quantization"]
    quantized = quantization is not None and drawn["adapter"]["type"] == "lora"
    model = {
        "path": "../models/tiny",
        "dtype": "float32",
        "attn_implementation": drawn["attention"],
    }
    train = {**drawn["train"], **drawn["method"], **({"bf16": True} if quantized else {})}
    method = train.get("method", "sft")
    adapter, data = dict(drawn["adapter"]), dict(drawn["data"])
    if method != "sft":  # which has neither, and says so
        adapter.pop("lora_dropout", None)
        data.pop("packing", None)
    return {
        "schema": 1,
        "name": "drawn",
        "seed": drawn["seed"],
        "model": {**model, **({"quantization": quantization} if quantized else {})},
        "data": {
            "train": [ROWS.get(method, PAIRS)],
            "validation": {"fraction": drawn["fraction"]},
            "max_length": drawn["max_length"],
            "too_long": "truncate",
            **data,
        },
        "train": {
            "backend": "llamafactory",
            "adapter": adapter,
            **train,
            **drawn["length"],
        },
    }


def told(recipe: Recipe) -> dict[str, Any]:
    """The whole configuration: what the backend says, and what it leaves to paths and tokens."""
    more: dict[str, Any] = {}
    if recipe.train.adapter.type == "lora":
        targets = recipe.train.adapter.target_modules
        more["lora_target"] = "all" if isinstance(targets, str) else ",".join(targets)
    if recipe.data.system:
        more["default_system"] = recipe.data.system
    if recipe.train.template != "shared":
        more["template"] = recipe.train.template
    return {
        **llamafactory.configuration(recipe),
        "model_name_or_path": "models/tiny",
        "dataset": DATA_SETS.get(recipe.train.method, "pairs"),
        "cutoff_len": recipe.data.max_length,
        "val_size": recipe.data.validation.fraction,
        "save_steps": recipe.train.save_steps,
        **more,
    }


def written(place: Place, made: Captured) -> Recipe:
    path = place.recipe / "captured.yaml"
    path.write_text(as_recipe(made, "Captured"), encoding="utf-8")
    return load_recipe(path)


def expressible(recipe: Recipe) -> dict[str, Any]:
    """What of a resolved recipe a configuration holds. An empty system turn is none to it."""
    held = {name: part for name, part in recipe.resolved().items() if name not in NOT_HELD}
    system = held["data"]["system"] or None
    return {**held, "name": "captured", "data": {**held["data"], "system": system}}


@pytest.mark.parametrize("kind", KINDS)
def test_any_recipe_goes_to_llamafactory_and_back(kind: str, place: Place) -> None:
    trained = 0

    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(drawn=st.fixed_dictionaries({**RECIPES, "method": KINDS[kind]}))
    def there_and_back(drawn: dict[str, Any]) -> None:
        nonlocal trained
        source = place.recipe / "drawn.yaml"
        source.write_text(yaml.safe_dump(recipe_of(drawn), allow_unicode=True), encoding="utf-8")
        before, _ = check_recipe(source)
        assume(before is not None)
        trained += 1
        file = place.workspace / "told.yaml"
        file.write_text(yaml.safe_dump(told(before)), encoding="utf-8")
        wanted = Wanted("captured", place, place.workspace)
        for made in (
            capture(read(file), place, "captured"),
            convert(read_document(file), wanted),  # by the reader of recipes, not by PyYAML's
        ):
            assert [note for note in made.notes if note.fate in (Fate.WARNING, Fate.LOST)] == []
            assert {"template", "cutoff_len"} <= {note.name for note in made.notes}
            assert expressible(written(place, made)) == expressible(before)

    there_and_back()
    assert trained >= 5


@pytest.mark.parametrize("rate", [2e-5, 1.2345678901234e-5, 5e-324, 0.00099999999, 1 / 3000])
def test_a_small_number_is_written_to_its_last_digit(place: Place, rate: float) -> None:
    made = Captured(recipe=recipe_of(SMALL | {"train": {"learning_rate": rate}}))
    assert written(place, made).train.learning_rate == rate


SMALL: dict[str, Any] = {
    "seed": 1,
    "quantization": None,
    "attention": "sdpa",
    "data": {},
    "fraction": 0.0,
    "max_length": 64,
    "method": {},
    "adapter": {"type": "lora"},
    "length": {"max_steps": 2},
}
