"""The schema, its defaults, and our validator held to jsonschema's answer."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.recipe import model
from runner.recipe.methods import METHODS, SETTINGS
from runner.recipe.schema import (
    FILE_KEYS,
    Schema,
    file_schema,
    fill_defaults,
    load_schema,
    part_schema,
    schema_for,
    schema_path,
)
from runner.recipe.schema_parts import rewritten
from runner.recipe.source import Source, read_source
from runner.recipe.suggest import nearest
from runner.recipe.validate import ANNOTATIONS, KEYWORDS, MAX_FINDINGS, findings
from tests.recipe_cases import EXTENDING, VALID, canonical

SCHEMA = load_schema()


def subschemas(schema: Any) -> Iterator[Schema]:
    """Every schema inside of `schema`, itself included."""
    yield schema
    for inner in schema.get("properties", {}).values():
        yield from subschemas(inner)
    branches = (*schema.get("oneOf", ()), *schema.get("anyOf", ()))
    for inner in (*branches, *([schema["items"]] if "items" in schema else [])):
        yield from subschemas(inner)


def fields_of(schema: Schema) -> Iterator[tuple[str, Schema]]:
    for each in subschemas(schema):
        yield from each.get("properties", {}).items()


# --- the schema itself


@pytest.mark.parametrize("name", ["recipe-1", "synthesis-1", "judge-1", "manifest-1", "events-1"])
def test_a_schema_is_valid_draft_07_with_all_references_resolved(name: str) -> None:
    jsonschema.Draft7Validator.check_schema(json.loads(schema_path(name).read_text()))
    assert "$ref" not in json.dumps(load_schema(name))


def test_only_keywords_that_we_check_are_used() -> None:
    both = (*subschemas(file_schema()), *subschemas(part_schema()))
    used = {keyword for schema in both for keyword in schema}
    assert used <= KEYWORDS | ANNOTATIONS
    assert used >= KEYWORDS - {"maxItems"}


def test_every_mapping_is_closed() -> None:
    for schema in (*subschemas(file_schema()), *subschemas(part_schema())):
        if "object" in schema.get("type", ()) and "properties" in schema:
            assert schema["additionalProperties"] is False, schema["description"]


def test_every_field_is_described_and_shown_by_a_valid_example() -> None:
    for name, schema in fields_of(file_schema()):
        assert schema["description"].endswith("."), name
        assert schema["examples"], name
        for example in schema["examples"]:
            assert findings(example, schema) == [], (name, example)


def test_a_field_is_required_or_has_a_default_or_is_one_of_the_known_choices() -> None:
    sections = {"evaluate", "merge", "gguf", "imatrix", "ollama", "benchmark", "quantization"}
    sections |= {"clean", "near_duplicates", "decontaminate", "harness", "reward", "compare"}
    alternatives = {"max_steps", "num_train_epochs"}
    parameters = set(SCHEMA["properties"]["ollama"]["properties"]["parameters"]["properties"])
    free = {
        name
        for schema in subschemas(SCHEMA)
        for name, inner in schema.get("properties", {}).items()
        if name not in schema.get("required", ()) and "default" not in inner
    }
    assert free == sections | alternatives | parameters | set(SETTINGS) | {"columns"}


def test_every_method_has_sound_defaults_of_its_own_settings() -> None:
    train = SCHEMA["properties"]["train"]["properties"]
    assert list(METHODS) == train["method"]["enum"]
    for method in METHODS.values():
        for name, default in method.settings.items():
            assert findings(default, train[name]) == []
            assert str(default) in train[name]["description"]


def test_every_format_is_of_some_method() -> None:
    formats = SCHEMA["properties"]["data"]["properties"]["train"]["items"]["oneOf"][0]
    known = formats["properties"]["format"]["enum"]
    assert set(known) == {name for method in METHODS.values() for name in method.formats}


def test_every_default_is_valid() -> None:
    for name, schema in fields_of(SCHEMA):
        if "default" in schema:
            assert findings(schema["default"], schema) == [], name


def test_the_examples_of_the_whole_are_recipes() -> None:
    for example in SCHEMA["examples"]:
        assert findings(example, SCHEMA) == []


# --- a part of a recipe


def test_the_schema_of_parts_is_the_one_that_is_written_from_the_rest() -> None:
    text = schema_path().read_text(encoding="utf-8")
    assert rewritten(text) == text, "run python -m runner.recipe.schema_parts"


def test_a_part_may_say_everything_that_a_recipe_says_and_lack_anything() -> None:
    whole, part = dict(fields_of(file_schema())), dict(fields_of(part_schema()))
    assert set(part) <= set(whole)
    assert set(part_schema()["properties"]) == set(whole_keys := file_schema()["properties"])
    assert set(whole_keys) == set(SCHEMA["properties"]) | set(FILE_KEYS)
    for path in VALID:
        data = read_source(path).data
        assert findings(data, part_schema()) == []
        for key, value in data.items():
            assert findings({key: value}, part_schema()) == []
            if isinstance(value, dict):
                assert findings({key: {}}, part_schema()) == []
                assert findings({key: None}, part_schema()) == []


def test_a_whole_recipe_has_no_key_of_a_file() -> None:
    assert not set(FILE_KEYS) & set(SCHEMA["properties"])
    assert findings({"extends": "a.yaml"}, SCHEMA)[0].code == "E102"


# --- schema and dataclasses


CLASSES = {
    "": model.Recipe,
    "model": model.Model,
    "model.quantization": model.Quantization,
    "data": model.Data,
    "data.train[]": model.DataFile,
    "data.validation": model.Validation,
    "data.clean": model.Clean,
    "data.clean.near_duplicates": model.NearDuplicates,
    "data.clean.decontaminate": model.Decontaminate,
    "data.clean.decontaminate.files[]": model.MeasuredFile,
    "train": model.Train,
    "train.adapter": model.Adapter,
    "train.rewards[]": model.Reward,
    "reward": model.RewardModel,
    "evaluate": model.Evaluate,
    "evaluate.harness": model.Harness,
    "evaluate.harness.tasks[]": model.HarnessTask,
    "merge": model.Merge,
    "gguf": model.Gguf,
    "gguf.imatrix": model.Imatrix,
    "ollama": model.Ollama,
    "benchmark": model.Benchmark,
    "compare": model.Compare,
}
NAMES = {"Source": Source, "Span": Any, "Given": Any}  # imported for type checkers alone
NOT_IN_THE_FILE = {
    (model.Recipe, name)
    for name in ("source", "_resolved", "base", "scorer", "compared", "shrink", "given")
}
OPEN_MAPPINGS = {
    "ollama.parameters",
    "train.adapter.rank_pattern",
    "train.rewards[].fields",
    "data.train[].columns",
    "data.validation.files[].columns",
    "train.adapter.alpha_pattern",
}  # a mapping in the dataclass too


def objects(schema: Schema, name: str = "") -> Iterator[tuple[str, dict[str, Schema]]]:
    """Every mapping of the schema with the properties of all its branches."""
    properties: dict[str, Schema] = {}
    for part in (schema, *schema.get("oneOf", ())):
        for key, inner in part.get("properties", {}).items():
            properties.setdefault(key, inner)
            path = f"{name}.{key}" if name else key
            if inner.get("type") == "object":
                yield from objects(inner, path)
            elif inner.get("items", {}).get("type") == "object":
                yield from objects(inner["items"], f"{path}[]")
    yield name, properties


def test_dataclasses_have_the_schemas_fields_by_the_same_names() -> None:
    found = dict(objects(SCHEMA))
    how_much = {"weight", "repeat", "limit"}  # held-out rows are taken once, all of them
    sources = found["data.train[]"].items()
    held_out = {key: inner for key, inner in sources if key not in how_much}
    assert found.pop("data.validation.files[]") == held_out
    assert set(found) - OPEN_MAPPINGS == set(CLASSES)
    for name, cls in CLASSES.items():
        names = {each.name for each in fields(cls) if (cls, each.name) not in NOT_IN_THE_FILE}
        assert names == set(found[name]), cls


def test_dataclasses_have_no_default_of_their_own() -> None:
    for cls in CLASSES.values():
        assert is_dataclass(cls)
        for field in fields(cls):
            if (cls, field.name) in NOT_IN_THE_FILE:
                continue
            assert field.default is MISSING
            assert field.default_factory is MISSING


JSON_OF = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}


def test_a_plain_field_has_the_schemas_type() -> None:
    checked = 0
    derived = {"ollama.quantize"}  # null in the file is filled in
    for name, properties in objects(SCHEMA):
        name = name.replace("validation.files", "train")  # the same class
        for key, schema in properties.items():
            if name in OPEN_MAPPINGS or not set(_types(schema)) <= set(JSON_OF.values()):
                continue
            hint = get_type_hints(CLASSES[name], vars(model) | NAMES)[key]
            wanted = {JSON_OF[each] for each in get_args(hint) or (hint,)}
            said = set(_types(schema))
            path = f"{name}.{key}" if name else key
            if path in derived:
                said -= {"null"}
            assert said <= wanted, path
            assert wanted - said <= {"null"}, path  # None where an alternative was not chosen
            checked += 1
    assert checked > 40


def _types(schema: Schema) -> list[str]:
    types = schema.get("type", "none")
    return [types] if isinstance(types, str) else types


# --- agreement with jsonschema


def _strict_integer(_checker: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _ecma_pattern(_validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[Any]:
    """`$` ends the text in ECMA 262; Python's also matches before a last line end."""
    if isinstance(value, str) and not re.search(pattern.replace("$", r"\Z"), value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern}")


ORACLE = jsonschema.validators.extend(
    jsonschema.Draft7Validator,
    {"pattern": _ecma_pattern},
    type_checker=jsonschema.Draft7Validator.TYPE_CHECKER.redefine("integer", _strict_integer),
)(json.loads(schema_path().read_text()))


def agreed(data: Any) -> bool:
    """Our answer for the file `data`."""
    return not findings(data, schema_for(data))


WRONG = [
    None, True, False, 0, 1, -1, 2, 1.0, 0.5, 1e300, 5_000_000_000, "", "x", "lora", "none",
    "all-linear", "model", "a.gguf", "quickstart\n", "Q8_0", [], [1], ["q_proj"],
    ["q_proj", "q_proj"], ["Q8_0", "Q8_0"], [None], {}, {"type": "lora"}, {"type": "none"},
    {"type": "none", "r": 8}, {"fraction": 0.5}, {"files": []}, {"fraction": 0, "files": []},
    {"path": "x"}, {"path": "x", "format": "text"}, {"path": "x", "wheel": "a==1"},
    {"wheel": "a==1", "file": "x.gguf"}, {"unknown": 1},
]  # fmt: skip


def pointers(data: Any, pointer: str = "") -> Iterator[tuple[Any, Any]]:
    """Every (holder, key) inside of `data`."""
    children = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in list(children):
        yield data, key
        if isinstance(value, (dict, list)):
            yield from pointers(value)


def mutations(data: Any) -> Iterator[Any]:
    """`data` with one value replaced, one removed, one added, everywhere."""
    count = len(list(pointers(data)))
    for index in range(count):
        for wrong in WRONG:
            made = copy.deepcopy(data)
            holder, key = list(pointers(made))[index]
            holder[key] = copy.deepcopy(wrong)
            yield made
        made = copy.deepcopy(data)
        holder, key = list(pointers(made))[index]
        value = holder.pop(key)
        yield made
        made = copy.deepcopy(data)
        holder, key = list(pointers(made))[index]
        if isinstance(holder, dict):
            holder[f"{key}_"] = value
        else:
            holder.append(copy.deepcopy(value))
        yield made


@pytest.mark.parametrize("path", [*VALID, *EXTENDING], ids=lambda path: path.stem)
def test_we_agree_with_jsonschema_on_every_mutation(path: Any) -> None:
    data = read_source(path).data
    assert ORACLE.is_valid(data)
    valid = invalid = 0
    for mutated in mutations(data):
        ours, theirs = agreed(mutated), ORACLE.is_valid(mutated)
        assert ours == theirs, mutated
        valid, invalid = valid + theirs, invalid + (not theirs)
    assert valid > (20 if path in VALID else 10)
    assert invalid > (300 if path in VALID else 100)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8) | st.sampled_from(["lora", "none", "all-linear", "Q8_0", "model"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(sorted({name for name, _ in fields_of(SCHEMA)})) | st.text(max_size=4),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(JSON, st.integers(min_value=0, max_value=10_000))
def test_we_agree_with_jsonschema_on_any_json(value: Any, place: int) -> None:
    data = read_source(VALID[place % len(VALID)]).data
    holders = list(pointers(data))
    holder, key = holders[place % len(holders)]
    holder[key] = value
    assert agreed(data) == ORACLE.is_valid(data)
    assert agreed(value) == ORACLE.is_valid(value)
    if isinstance(value, dict):
        part = {**value, "extends": "base.yaml"}
        assert agreed(part) == ORACLE.is_valid(part)


def test_the_number_of_findings_is_bounded() -> None:
    data = read_source(VALID[0]).data
    data["data"]["train"] = [{"path": 1, "format": "x"}] * 5000
    found = findings(data, SCHEMA)
    assert len(found) == MAX_FINDINGS + 1
    assert found[-1].code == "E124"


# --- defaults


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_filled_data_is_valid_and_stays_as_it_is(path: Any) -> None:
    data = read_source(path).data
    before = canonical(data)
    filled = fill_defaults(data, SCHEMA)
    assert canonical(data) == before
    assert findings(filled, SCHEMA) == []
    assert canonical(fill_defaults(filled, SCHEMA)) == canonical(filled)
    assert list(filled) == [key for key in SCHEMA["properties"] if key in filled]


def test_whole_numbers_become_floats_where_the_schema_says_number() -> None:
    data = {"adapter": {"type": "lora", "lora_dropout": 0}, "max_steps": 1, "weight_decay": 0}
    filled = fill_defaults(data, SCHEMA["properties"]["train"])
    assert canonical([filled["weight_decay"], filled["adapter"]["lora_dropout"]]) == "[0.0, 0.0]"
    assert canonical(filled["max_steps"]) == "1"


# --- did you mean


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("learing_rate", "learning_rate"),
        ("optmi", "optim"),
        ("Seed", "seed"),
        ("q8_0", "Q8_0"),
        ("sede", "seed"),
        ("xyz", None),
        ("x" * 100_000, None),
        ("", None),
    ],
)
def test_the_nearest_word_is_the_one_that_was_meant(word: str, meant: str | None) -> None:
    assert nearest(word, ["learning_rate", "optim", "seed", "Q8_0", "Q5_0"]) == meant
