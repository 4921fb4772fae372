"""The canary on a real small model, whole and with faults planted in its files, and on tiny ones.

Every fault is a folder whose weights are links to the whole model's: what differs is the one file
that is wrong, and the real training script is what finds it.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from runner.recipe.methods import METHODS
from runner.scripts.training.canary.canary_limits import MOST_BITS
from tests.smollm_models import FILE, published_gguf
from tests.tiny_model import write_tiny_model
from tests.training_runs import (
    SETTINGS as PLAIN,
)
from tests.training_runs import (
    Document,
    Finished,
    ScriptRun,
    WarmInterpreter,
    answers,
    chat,
    documents,
    done,
    trace,
    write_preferences,
    write_tokens,
)

LORA = {
    "type": "lora",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "target_modules": "all-linear",
}
SETTINGS: dict[str, Any] = PLAIN | {"adapter": LORA, "max_steps": 1, "learning_rate": 1e-4}
# Of the methods whose answers the model draws: two short ones to one prompt.
DRAWN: dict[str, Any] = SETTINGS | {
    "adapter": LORA | {"lora_dropout": 0.0},
    "per_device_train_batch_size": 2,
}
GRPO: dict[str, Any] = DRAWN | {
    "method": "grpo",
    **METHODS["grpo"].settings,
    "num_generations": 2,
    "max_completion_length": 4,
    "rewards": [{"name": "length", "weight": 1.0, "min_words": 1, "max_words": 9}],
}
# The scorer is the whole model with a head that is drawn.
PPO: dict[str, Any] = DRAWN | {
    "method": "ppo",
    "shrunken": True,
    **METHODS["ppo"].settings,
    "num_ppo_epochs": 1,
    "response_length": 4,
}
TALK = (
    "<|im_start|>user\nHow much memory does the machine have?<|im_end|>\n<|im_start|>assistant\n"
    "It has 128 GB of memory, which the GPU and the processor share.<|im_end|>\n"
)
LLAMA3 = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|im_end|>{% endfor %}"
)

Change = Callable[[Path], None]
Train = Callable[..., Finished]


@pytest.fixture(scope="module")
def smollm(
    shared_cache: Path,
    environment_python: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """SmolLM2-135M-Instruct as `fetch` makes it of the published file, in bfloat16."""
    run = ScriptRun(
        environment_python("data"),
        "fetch",
        {"kind": "gguf", "file": FILE, "dtype": "bfloat16"},
        {"source": published_gguf(shared_cache).parents[1]},
        tmp_path_factory.mktemp("smollm"),
    )
    return done(run.finish_cold()).folder / "model"


_ENCODE = """
import json, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
print(json.dumps([tokenizer.encode(text).ids for text in sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def talk(smollm: Path, environment_python: Callable[[str], Path]) -> tuple[list[int], list[int]]:
    """TALK in ids, and where it is trained on."""
    before = TALK[: TALK.index("It has")]
    argv = [environment_python("data"), "-c", _ENCODE, smollm / "tokenizer.json", before, TALK]
    done = subprocess.run([str(each) for each in argv], capture_output=True, check=True)
    prompt, ids = json.loads(done.stdout)
    assert ids[: len(prompt)] == prompt
    end = len(ids) - ids[::-1].index(2)
    return ids, [int(len(prompt) <= number < end) for number in range(len(ids))]


@pytest.fixture
def trained(
    smollm: Path,
    talk: tuple[list[int], list[int]],
    environment_python: Callable[[str], Path],
    warm: WarmInterpreter,
    tmp_path: Path,
) -> Train:
    """One step of training on SmolLM2 with something changed in its folder."""

    def train(change: Change, row: Document = talk) -> Finished:
        model = changed(smollm, change, tmp_path / "model")
        tokens = write_tokens(tmp_path / "train.tokens.safetensors", [[row]], packed=False)
        run = ScriptRun(
            environment_python("native"),
            "train_native",
            {"settings": SETTINGS, "save_steps": 1000},
            {"model": model, "tokens": tokens, "template": model / "chat_template.jinja"},
            tmp_path / "run",
        )
        return run.finish(warm)

    return train


def changed(whole: Path, change: Change, model: Path) -> Path:
    """A folder of links to the files of `whole`, with something changed in it."""
    model.mkdir()
    for path in whole.iterdir():
        (model / path.name).symlink_to(path)
    change(model)
    return model


@pytest.fixture
def drawing(
    smollm: Path,
    talk: tuple[list[int], list[int]],
    environment_python: Callable[[str], Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Callable[[str, Change], Finished]:
    """The same by `grpo` or `ppo`, whose answers the model draws itself."""

    def train(method: str, change: Change) -> Finished:
        path = tmp_path / "train.tokens.safetensors"
        model = changed(smollm, change, tmp_path / "model")
        inputs = {"model": model, "tokens": path, "template": model / "chat_template.jinja"}
        if method == "ppo":
            write_tokens(path, [[talk]] * 2, packed=False)
            script, settings, more = "train_ppo", PPO, {"reward_model": smollm}
        else:
            write_prompt(path, talk)
            script, settings, more = "train_grpo_native", GRPO, {}
        environment, warmed = {"ppo": ("ppo", "warm_ppo"), "grpo": ("native", "warm")}[method]
        run = ScriptRun(
            environment_python(environment),
            script,
            {"settings": settings, "save_steps": 1000, "signal_required": False},
            inputs | more,
            tmp_path / "run",
        )
        return run.finish(request.getfixturevalue(warmed))

    return train


def write_prompt(path: Path, row: Document) -> None:
    """What stands before the answer of `row`, as `prepare_prompts` writes it."""
    ids, mask = row
    write_tokens(path, [[(ids[: mask.index(1)], [0] * mask.index(1))]], packed=False)
    none = {"answers": [], "answer_offsets": [0, 0], "answered": [0]}
    tensors = {
        name: np.array(values, np.uint8 if name == "answers" else np.int64)
        for name, values in none.items()
    }
    save_file(load_file(path) | tensors, path)


def rewrite(name: str, change: Callable[[str], str]) -> Change:
    """Replace a file of the folder by its changed text."""

    def apply(model: Path) -> None:
        text = (model / name).read_text(encoding="utf-8")
        (model / name).unlink()
        (model / name).write_text(change(text), encoding="utf-8")

    return apply


def with_rope(**rope: Any) -> Change:
    """What the model's config says of its positions."""

    def change(text: str) -> str:
        config = json.loads(text)
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": 100000.0, **rope}
        config.pop("rope_theta", None)
        return json.dumps(config)

    return rewrite("config.json", change)


def called_float16(model: Path) -> None:
    """The bfloat16 weights in a file whose header says float16."""
    path = model / "model.safetensors"
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = raw[8 : 8 + size].replace(b'"BF16"', b'"F16"')
    path.unlink()
    path.write_bytes(raw[:8] + header + b" " * (size - len(header)) + raw[8 + size :])


def with_weights_that_are_none(model: Path) -> None:
    """NaN in place of the last norm's weights, which are bfloat16."""
    path = model / "model.safetensors"
    raw = bytearray(path.read_bytes())
    (size,) = struct.unpack("<Q", raw[:8])
    begin, end = json.loads(raw[8 : 8 + size])["model.norm.weight"]["data_offsets"]
    raw[8 + size + begin : 8 + size + end] = b"\xc0\x7f" * ((end - begin) // 2)
    path.unlink()
    path.write_bytes(raw)


def with_the_tokenizer_of_another(model: Path) -> None:
    """Of a model with one token a byte."""
    other = write_tiny_model(model.parent / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
        shutil.copyfile(other / name, model / name)


def test_a_sane_model_is_trained_and_its_numbers_are_kept(
    trained: Train,
) -> None:
    found = done(trained(lambda model: None)).measures()["canary"]
    assert found["base"] == "trained"
    assert found["random"] is False
    assert 0.8 < found["text_bits"] < 1.4 < MOST_BITS
    assert 0.5 < found["data_bits"] < MOST_BITS
    assert found["again"] < found["once"] / 4


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        pytest.param(with_rope(rope_type="linear", factor=8.0), {"E941"}, id="rope scaling"),
        pytest.param(with_rope(rope_theta=100.0), {"E941"}, id="rope theta"),
        pytest.param(called_float16, {"E941", "E945"}, id="dtype"),
        pytest.param(rewrite("chat_template.jinja", lambda text: LLAMA3), {"E943"}, id="template"),
    ],
)
def test_a_planted_fault_ends_the_training_before_its_first_step(
    change: Change, codes: set[str], trained: Train
) -> None:
    result = trained(change)
    assert result.status == 1, result.log
    error = result.error()
    assert error["code"] in codes
    assert error["hint"]
    assert not [event for event in result.events if event["event"] == "progress"]


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_a_sane_model_draws_answers(
    method: str, drawing: Callable[[str, Change], Finished]
) -> None:
    found = done(drawing(method, lambda model: None)).measures()["canary"]
    assert found["base"] == "trained"
    assert 0.8 < found["text_bits"] < 1.4
    assert 0.5 < found["data_bits"] < MOST_BITS
    assert found["again"] < found["once"] / 4


@pytest.mark.parametrize("method", ["grpo", "ppo"])
@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param(with_rope(rope_type="linear", factor=8.0), "E941", id="rope scaling"),
        pytest.param(rewrite("chat_template.jinja", lambda text: LLAMA3), "E943", id="template"),
        pytest.param(with_weights_that_are_none, "E945", id="no numbers"),
    ],
)
def test_a_planted_fault_ends_it_before_answers_are_drawn(
    change: Change, code: str, method: str, drawing: Callable[[str, Change], Finished]
) -> None:
    result = drawing(method, change)
    assert result.status == 1, result.log
    assert (result.error()["code"], bool(result.error()["hint"])) == (code, True)
    assert not [event for event in result.events if event["event"] == "progress"]


def test_the_tokenizer_of_another_model_is_found(trained: Train) -> None:
    """Its rows were made by that tokenizer, too, so that only what the model reads can tell."""
    row = chat(("user", "How much memory has it?"), ("assistant", "It has 128 GB of memory."))
    error = trained(with_the_tokenizer_of_another, row).error()
    assert (error["code"], "cannot read" in error["message"]) == ("E941", True)


# --- on tiny models: no byte depends on it


@pytest.fixture(scope="module")
def tiny_run(
    tiny: Path, environment_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., ScriptRun]:
    """A training of the tiny model; `canary`: does it look?"""

    def make(rows: Any, *, canary: bool, method: str = "sft", **settings: Any) -> ScriptRun:
        place = tmp_path_factory.mktemp("tiny-run")
        path = place / "train.tokens.safetensors"
        preferences = method != "sft"
        if preferences:
            write_preferences(path, rows)
        else:
            write_tokens(path, rows, packed=False)
        return ScriptRun(
            environment_python("native"),
            "train_preference_native" if preferences else "train_native",
            {
                "settings": SETTINGS | {"method": method, "max_steps": 5} | settings,
                "save_steps": 1000,
                **({} if canary else {"canary": False}),
            },
            {"model": tiny, "tokens": path, "template": tiny / "chat_template.jinja"},
            place,
        )

    return make


CASES = {
    "dropout": (lambda: [[each] for each in documents(5)], {"has_prompts": False}),
    "every weight": (
        lambda: [[each] for each in documents(5)],
        {"has_prompts": False, "adapter": {"type": "none"}, "gradient_checkpointing": True},
    ),
    "reward": (
        lambda: answers(4),
        {
            "method": "reward",
            "adapter": LORA | {"lora_dropout": 0.0},
            "center_rewards_coefficient": None,
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_no_byte_depends_on_whether_it_looks(
    case: str, tiny_run: Callable[..., ScriptRun], warm: WarmInterpreter
) -> None:
    rows, settings = CASES[case]
    looked = done(tiny_run(rows(), canary=True, **settings).finish(warm))
    not_looked = done(tiny_run(rows(), canary=False, **settings).finish(warm))
    assert looked.files() == not_looked.files()
    assert len(trace(looked)) == 5
    found = looked.measures()["canary"]
    assert found["base"] == ("unread" if case == "reward" else "small")
    assert found["seconds_left"] > 0
    assert "canary" not in not_looked.measures()


def test_a_label_on_a_prompt_without_a_mark_is_refused(
    tiny_run: Callable[..., ScriptRun], warm: WarmInterpreter
) -> None:
    ids, _ = chat(("user", "Hi"), ("assistant", "Hello"))
    run = tiny_run([[(ids, [1] * len(ids))]], canary=True)
    spec = json.loads((run.folder.parent / "spec.json").read_text())
    bare = run.folder.parent / "bare.jinja"
    bare.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    spec["where"]["inputs"]["template"] = str(bare)
    (run.folder.parent / "spec.json").write_text(json.dumps(spec))
    assert run.finish(warm).error()["code"] == "E944"
