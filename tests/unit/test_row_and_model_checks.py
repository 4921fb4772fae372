"""What the first rows and the model's facts say of a recipe, beyond the files in tests/recipes."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from runner.backends import native
from runner.cli.main import main
from runner.lock.locking import write_lock
from runner.lock.pins import FACTS, cheap_pins
from runner.recipe.checks import rows as row_checks
from runner.recipe.checks.rows import FIRST, MAX_HEAD, check_roles, first_rows
from runner.recipe.elsewhere import KEYS, VALUES, hint_for_key
from runner.recipe.load import check_file, check_recipe, load_recipe
from runner.recipe.model_facts import Facts
from runner.recipe.schema import load_schema
from runner.stages.templates import shipped_templates
from tests.chain import ROOT
from tests.recipe_cases import copy_recipes

ROW = {"instruction": "a?", "output": "b"}


@pytest.fixture
def valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    folder = copy_recipes(tmp_path) / "valid"
    monkeypatch.chdir(folder)
    return folder


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


# --- the first rows


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (lines(ROW), [(1, ROW)]),
        (b"\xef\xbb\xbf\n" + lines(ROW), [(2, ROW)]),
        (b"no json\n" + lines(ROW), [(2, ROW)]),
        (b"[" * 100_000, []),
        (b'{"a":' * 100_000 + b"\n" + lines(ROW), [(2, ROW)]),
        (json.dumps([ROW, 1, ROW]).encode(), [(1, ROW), (1, ROW)]),
        (b"[1", []),
        (lines(ROW)[:-1], [(1, ROW)]),
    ],
)
def test_first_rows_are_those_that_can_be_read(
    content: bytes, expected: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert first_rows(tmp_path / "rows.jsonl") == expected


def test_only_the_head_of_a_large_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with file.open("wb") as writer:
        writer.write(lines(*[ROW] * (FIRST + 1)))
        writer.truncate(50 * MAX_HEAD)  # zeros, without a line end
    assert first_rows(file) == [(number, ROW) for number in range(1, FIRST + 1)]
    with file.open("wb") as writer:
        writer.write(b'{"instruction": "')
        writer.truncate(50 * MAX_HEAD)
    assert first_rows(file) == []
    assert first_rows(tmp_path / "absent.jsonl") == []


def test_one_row_of_many_is_left_to_the_stage_that_prepares(valid: Path) -> None:
    (valid / "rows.jsonl").write_bytes(lines(ROW, {"messages": []}, ROW))
    text = (valid / "minimal.yaml").read_text().replace("../data/rows", "rows")
    (valid / "minimal.yaml").write_text(text)
    assert check_recipe(valid / "minimal.yaml")[1] == []
    (valid / "rows.jsonl").write_bytes(lines({"text": "a"}, {"text": "b"}))
    (found,) = check_recipe(valid / "minimal.yaml")[1]
    hint = 'it looks like text: "text" in 2 of 2 rows: write format: text'
    assert (found.code, found.hint) == ("E241", hint)


# --- templates


@pytest.mark.parametrize("name", shipped_templates.names())
def test_a_shipped_template_has_system_turns_wherever_it_says_so(name: str, valid: Path) -> None:
    recipe = load_recipe(valid / "system-turns-that-fit.yaml")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, chat_template=name))
    assert list(check_roles(recipe, None)) == []


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('System role not supported') }}", "refuses"),
        ('{{ raise_exception("This model doesn\'t support system messages") }}', "refuses"),
        ("{{ '<|' + message.role + '|>' }}", ""),
        ("{% set role = message.role %}{{ '<|' + role }}", ""),
        ("{% if message.role == 'user' %}{{ message.content }}{% endif %}", "does not know"),
        ("{% if role == 'system' %}{{ raise_exception('system must come first') }}{% endif %}", ""),
    ],
)
def test_what_a_models_template_does_with_a_system_turn(
    template: str, said: str, valid: Path
) -> None:
    recipe = load_recipe(valid / "system-turns-that-fit.yaml")
    recipe = dataclasses.replace(
        recipe, data=dataclasses.replace(recipe.data, chat_template="model")
    )
    found = list(check_roles(recipe, Facts({}, "here", template)))
    assert [said in finding.message for finding in found] == [True] * bool(said)


@pytest.mark.parametrize(
    "part", ["raise_exception(", "raise_exception(system ", "{{", "{{ role", "{{ }}", "system"]
)
def test_a_template_is_read_in_bounded_time(part: str) -> None:
    template = part * ((1 << 20) // len(part))
    started = time.process_time()
    row_checks.refuses_system(template)
    row_checks.knows_system(template)
    assert time.process_time() - started < 2


def test_plain_text_has_no_turns(valid: Path) -> None:
    recipe = load_recipe(valid / "unicode.yaml")
    assert {item.format for item in recipe.data.train} == {"text"}
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, system="Hear:"))
    assert list(check_roles(recipe, Facts({}, "here", "{{ messages[0].content }}"))) == []


# --- packing


def test_a_method_that_compares_answers_cannot_be_packed(valid: Path) -> None:
    recipe = load_recipe(valid / "full.yaml")
    assert recipe.data.packing
    assert not [each for each in native.cannot_honour(recipe) if each[0] == "/data/packing"]
    other = dataclasses.replace(recipe.train, method="dpo")
    found = list(native.cannot_honour(dataclasses.replace(recipe, train=other)))
    assert ("/data/packing", "dpo compares whole answers, and packs mix them") in found


# --- the model's facts


def lock_with(recipe_file: Path, **facts: Any) -> None:
    recipe = load_recipe(recipe_file)
    published = ROOT / "runner" / "plan" / "data" / "published"
    known = json.loads((published / "llama-3.1-8b.json").read_text())
    known = {name: value for name, value in known.items() if name in FACTS} | facts
    known |= {"architectures": ["LlamaForCausalLM"], "parameters": 1, "modules": {}}
    write_lock(recipe, {**cheap_pins(recipe), "model": {}, "facts": known})


def test_a_lock_says_how_long_rows_may_be_and_which_types_fit(valid: Path) -> None:
    file = valid / "hub.yaml"
    file.write_text(file.read_text() + "merge: {}\ngguf: {quantize: [Q4_K_M]}\n")
    checked = check_file(file)
    assert checked.diagnostics == []
    assert checked.not_checked.startswith("not checked: max_length")
    assert checked.not_checked.endswith(f"run `recipe lock {file}`")
    lock_with(file, max_position_embeddings=128, hidden_size=576)
    checked = check_file(file)
    assert [each.code for each in checked.diagnostics] == ["E243", "W213"]
    assert checked.diagnostics[0].hint == "write 128 or less (by hub.lock.yaml)"
    assert checked.not_checked == ""


def test_a_note_is_one_line_and_no_warning(valid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--strict", "hub.yaml", "minimal.yaml"]) == 0
    assert capsys.readouterr().out == (
        "hub.yaml: note: not checked: max_length, chat template and widths against the model: "
        "run `recipe lock hub.yaml`\n2 recipes checked: all valid\n"
    )
    assert main(["validate", "--format", "json", "hub.yaml"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["errors"], report["warnings"]) == (0, 0)
    assert [note["file"] for note in report["notes"]] == ["hub.yaml"]


def test_a_branch_is_an_error_where_all_must_be_pinned(
    valid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (valid / "hub.yaml").read_text()
    revision = "  revision: 0123456789abcdef0123456789abcdef01234567\n"
    text = text.replace(revision + "  trust_remote_code: true\n", "")
    (valid / "branch.yaml").write_text(text)
    assert main(["validate", "branch.yaml"]) == 0
    assert "warning[W206]" in capsys.readouterr().out
    assert main(["validate", "--locked", "hub.yaml", "minimal.yaml"]) == 0
    assert main(["validate", "--locked", "branch.yaml"]) == 2
    assert "error[W206]" in capsys.readouterr().out
    assert main(["run", "--locked", "branch.yaml"]) == 2
    assert "error[W206]" in capsys.readouterr().err


# --- names of other tools


def test_every_key_of_another_tool_leads_to_one_of_ours() -> None:
    for key, (target, _) in KEYS.items():
        assert has_place(load_schema(), target.split(".")), (key, target)
        assert hint_for_key(key, "/nowhere")


def test_no_value_of_another_tool_is_one_of_ours() -> None:
    for pointer, value in VALUES:
        schema = at(load_schema(), pointer.strip("/").split("/"))
        allowed = [schema.get("const"), *schema.get("enum", ())]
        assert value not in allowed, (pointer, value)
        assert value == value.lower()


def has_place(schema: dict[str, Any], path: list[str]) -> bool:
    return at(schema, path) is not None


def at(schema: dict[str, Any], path: list[str]) -> Any:
    """The schema of the key at `path`, in the first branch that has it."""
    if not path:
        return schema
    branches = [schema, *schema.get("oneOf", ())]
    children = [
        each["properties"][path[0]] for each in branches if path[0] in each.get("properties", {})
    ]
    return next((found for child in children if (found := at(child, path[1:])) is not None), None)


def test_a_key_of_one_other_place_is_sent_there() -> None:
    assert hint_for_key("packing", "/train") == "it belongs to data: data.packing"
    assert hint_for_key("learning_rate", "") == "it belongs to train: train.learning_rate"
    assert hint_for_key("seed", "/train") == ""  # of the recipe and of Ollama: which one?
    assert hint_for_key("wandb", "") == ""
