"""`--shrink`: what of a recipe changes, what its keys say, and which gates only record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.cli.main import main
from runner.errors import StageFailed
from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe
from runner.recipe.schema import load_schema
from runner.recipe.shrink import shrink_recipe
from runner.recipe.validate import findings
from runner.scripts.shrunken_config import few_layers, head_structure, shrunken_config, thinned
from runner.stages import benchmark, fetch, gguf, ollama
from runner.stages.contract import Class, FileEntry, Outputs
from runner.stages.models import shrunken
from runner.verify.run import Run

RECIPE = """\
schema: 1
name: t
model: {path: model}
data:
  train: [{path: rows.jsonl, format: alpaca}]
  max_length: 4096
train:
  adapter: {type: lora, r: 32, lora_alpha: 64}
  num_train_epochs: 3
  warmup_steps: 20
gguf: {quantize: [Q4_K_M]}
merge: {}
ollama: {name: "team/t:v1"}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text('{"instruction": "q", "output": "a"}\n' * 20)
    (tmp_path / "t.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def recipe(project: Path) -> Recipe:
    return load_recipe(project / "t.yaml")


def test_only_names_lengths_and_steps_change(recipe: Recipe) -> None:
    small = shrink_recipe(recipe)
    assert small.shrink == {
        "/name": "t-shrink",
        "/ollama/name": "team/t-shrink:v1",
        "/train/max_steps": 8,
        "/train/warmup_steps": 2,
        "/data/max_length": 512,
        "/data/too_long": "truncate",
    }
    before, after = recipe.resolved(), small.resolved()
    assert before["train"].pop("num_train_epochs") == 3
    for pointer, value in small.shrink.items():
        *path, last = pointer[1:].split("/")
        for tree in (before, after):
            section = tree
            for name in path:
                section = section[name]
            if tree is after:
                assert section[last] == value
            section.pop(last, None)
    assert before == after
    assert small.train.num_train_epochs is None
    assert small.train.max_steps == 8


def test_answers_that_are_learnt_from_are_short_and_prompts_whole(project: Path) -> None:
    (project / "rows.jsonl").write_text('{"prompt": "q", "answer": "a"}\n' * 20)
    text = RECIPE.replace("format: alpaca", "format: prompt").replace(
        "train:\n  adapter",
        "train:\n  method: grpo\n  per_device_train_batch_size: 8\n"
        "  rewards: [{name: exact-answer}]\n  adapter",
    )
    (project / "t.yaml").write_text(text)
    small = shrink_recipe(load_recipe(project / "t.yaml"))
    assert small.shrink is not None
    assert small.shrink["/train/max_completion_length"] == 64
    assert small.shrink["/data/too_long"] == "drop"
    assert findings(small.resolved(), load_schema()) == []


def test_what_is_small_already_stays(project: Path) -> None:
    text = RECIPE.replace("max_length: 4096", "max_length: 64")
    text = text.replace("num_train_epochs: 3", "max_steps: 4").replace("warmup_steps: 20", "")
    (project / "t.yaml").write_text(text)
    small = shrink_recipe(load_recipe(project / "t.yaml"))
    assert small.shrink is not None
    assert set(small.shrink) == {"/name", "/ollama/name"}


def test_the_twin_is_itself_a_valid_recipe(project: Path) -> None:
    (project / "t.yaml").write_text(RECIPE.replace("name: t\n", f"name: {'n' * 63}\n"))
    small = shrink_recipe(load_recipe(project / "t.yaml"))
    assert findings(small.resolved(), load_schema()) == []
    assert small.name == "n" * 56 + "-shrink"


def test_keys_differ_by_the_shrink_fact_alone(recipe: Recipe) -> None:
    small = shrink_recipe(recipe)
    plain, twin = (fetch.key_inputs(each, {}) for each in (recipe, small))
    assert "shrink" not in plain
    fact = twin.pop("shrink")
    assert fact == {"seed": shrunken.SEED, "version": shrunken.VERSION}
    assert twin == plain
    upstream = {name: outputs(name) for name in ("fetch", "prepare", "train", "merge", "gguf")}
    for stage, own in ((gguf, {"name"}), (ollama, {"name", "file"})):
        plain, twin = (stage.key_inputs(each, upstream) for each in (recipe, small))
        assert twin.pop("shrink") == fact
        assert {key for key in plain if plain[key] != twin[key]} <= own


def outputs(stage: str) -> Outputs:
    names = ("model/a", "adapter/a", "validation.txt", "prompts.jsonl")
    files = {name: FileEntry(name, 1, "0" * 64, Class.PORTABLE) for name in names}
    return Outputs(stage, "key", Path("/store") / stage, files)


def test_a_twin_reads_no_weights(recipe: Recipe, project: Path) -> None:
    for name in ("model.safetensors", "model.safetensors.index.json", "tokenizer.json"):
        (project / "model" / name).write_text("{}")
    assert set(fetch.snapshot(shrink_recipe(recipe))) == {"config.json", "tokenizer.json"}
    assert len(fetch.snapshot(recipe)) == 4


def test_show_says_what_the_shrinking_changed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "--shrink", str(project / "t.yaml")]) == 0
    text = capsys.readouterr().out
    marked = [line.split(":")[0].strip() for line in text.split("\n") if line.endswith("# shrink")]
    assert marked == ["name", "max_length", "too_long", "warmup_steps", "max_steps", "name"]
    assert main(["show", "--shrink", "--format", "json", str(project / "t.yaml")]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["origin"]["/train/max_steps"] == {"given": False, "shrink": True}
    assert main(["show", str(project / "t.yaml")]) == 0
    assert "shrink" not in capsys.readouterr().out


def test_a_lock_says_nothing_of_a_twin(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--shrink", "--locked", str(project / "t.yaml")]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_a_recorded_twin_is_verified_as_a_twin(recipe: Recipe, tmp_path: Path) -> None:
    small = shrink_recipe(recipe)
    record = {"recipe_file": str(tmp_path / "t.yaml"), "resolved": small.resolved()}
    record |= {"platform": {}, "environments": {}, "tools": {}}
    assert small.shrink is not None
    twin = Run(tmp_path, record | {"shrink": dict(small.shrink)}, {}).recipe()
    assert fetch.key_inputs(twin, {}) == fetch.key_inputs(small, {})
    assert Run(tmp_path, record, {}).recipe().shrink is None


# --- gates


def test_a_high_perplexity_is_no_failure_and_an_endless_one_is(recipe: Recipe) -> None:
    small = shrink_recipe(recipe)
    gguf.check_increase(small, "f", 10.0, 30.0)
    with pytest.raises(StageFailed, match="is allowed"):
        gguf.check_increase(recipe, "f", 10.0, 30.0)
    with pytest.raises(StageFailed):
        gguf.check_increase(small, "f", 10.0, float("inf"))


def test_a_smoke_answer_without_an_end_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = {"message": {"content": "x" * 300}, "done_reason": "length"}
    monkeypatch.setattr(ollama, "ask", lambda *args, **more: reply)
    assert ollama.smoke("url", "t", "Who?", must_stop=False) == "x" * 300
    with pytest.raises(StageFailed, match="without an end"):
        ollama.smoke("url", "t", "Who?")


def test_an_answer_that_ends_before_it_begins_has_a_speed_of_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = {"eval_count": None, "eval_duration": None}
    prompt = {"prompt_eval_count": 20, "prompt_eval_duration": 10**9}
    last = {"message": {"content": ""}, **counts, **prompt}
    monkeypatch.setattr(benchmark, "chat", lambda *args: iter([last]))
    answer = benchmark.one_answer("url", "t", 1, 16)
    assert answer["generated_tokens"] == 0
    assert answer["generation_tokens_per_second"] == 0
    assert answer["generation_tokens_per_second_wall"] == 0
    assert answer["prompt_tokens_per_second"] == pytest.approx(20)


# --- the small config


@pytest.mark.parametrize(
    ("heads", "pairs", "expected"),
    [
        (32, 32, (256, 4, 4)),
        (32, 8, (256, 8, 2)),
        (64, 8, (256, 16, 2)),
        (24, 8, (768, 6, 2)),
        (4, 1, (256, 4, 1)),
        (28, 4, (256, 16, 2)),  # 7 has no width: 8
        (40, 8, (256, 8, 2)),  # 5 has none: 4
    ],
)
def test_heads_keep_their_ratio_where_a_width_allows_it(
    heads: int, pairs: int, expected: tuple[int, int, int]
) -> None:
    config = {"model_type": "qwen2", "hidden_size": heads * 128, "num_attention_heads": heads}
    found = head_structure(config | {"num_key_value_heads": pairs})
    assert tuple(found.values()) == expected


def test_heads_that_are_wider_than_the_model_stay_so() -> None:
    config = {"model_type": "qwen3", "hidden_size": 1024, "num_attention_heads": 16}
    found = head_structure(config | {"num_key_value_heads": 8, "head_dim": 128})
    assert found["num_attention_heads"] * found["head_dim"] == 2 * found["hidden_size"]


def test_layers_are_as_few_as_show_every_kind() -> None:
    near, far = "sliding_attention", "full_attention"
    assert few_layers(None) == (2, None)
    assert few_layers([near, far] * 13) == (2, [near, far])
    assert few_layers([far] * 28 + [near] * 4) == (2, [far, near])
    assert few_layers([near] * 7 + [far]) == (8, [near] * 7 + [far])


def test_a_list_of_factors_keeps_its_ends() -> None:
    assert thinned([1, 2, 3, 4, 5, 6], 2) == [1, 6]
    assert thinned([1.0, 1.5], 1) == [1.0]


def test_each_of_two_ropes_is_fitted() -> None:
    config = {
        "model_type": "gemma3_text",
        "hidden_size": 1152,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "sliding_window": 64,
        "rope_parameters": {
            "full_attention": {"rope_type": "longrope", "long_factor": list(range(128))},
            "sliding_attention": {"rope_type": "default"},
        },
    }
    small = shrunken_config(config, None, 100)
    ropes = small["rope_parameters"]
    assert len(ropes["full_attention"]["long_factor"]) == small["head_dim"] // 2
    assert ropes["sliding_attention"] == {"rope_type": "default"}
    assert small["sliding_window"] == 64
