"""Training a tiny model by the native backend: equal bytes, resume, and errors that help."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.chain import ROOT
from tests.tiny_model import write_tiny_model
from tests.training_runs import (
    SETTINGS as PLAIN,
)
from tests.training_runs import (
    Finished,
    ScriptRun,
    WarmInterpreter,
    chat,
    documents,
    trace,
    write_tokens,
)

LORA = {
    "type": "lora",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "target_modules": "all-linear",
}
# 13 rows in batches of 2, two batches a step: 4 steps an epoch, the last one with a single row
SETTINGS: dict[str, Any] = PLAIN | {
    "max_steps": 6,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 1,
    "weight_decay": 0.01,
    "seed": 42,
    "adapter": LORA,
    "has_prompts": False,  # random bytes, not conversations
}
ADAPTER = "adapter/adapter_model.safetensors"
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ROWS = [[document] for document in documents(13)]
PACKS = [documents(3, seed=seed) for seed in range(13)]

Trainer = Callable[..., ScriptRun]
Finish = Callable[[ScriptRun], Finished]
Refused = Callable[[ScriptRun], dict[str, Any]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def trainer(
    environment_python: Callable[[str], Path],
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trainer:
    """Make a training of the tiny model; keywords replace settings."""

    def make(
        rows: Any = ROWS,
        *,
        packed: bool = False,
        save_steps: int = 1000,
        base: Path = model,
        canary: bool = True,
        **settings: Any,
    ) -> ScriptRun:
        place = tmp_path_factory.mktemp("training")
        tokens = write_tokens(place / "train.tokens.safetensors", rows, packed=packed)
        return ScriptRun(
            environment_python("native"),
            "train_native",
            {
                "settings": SETTINGS | {"packing": packed} | settings,
                "save_steps": save_steps,
                "canary": canary,
            },
            {"model": base, "tokens": tokens, "template": base / "chat_template.jinja"},
            place,
        )

    return make


@pytest.fixture(scope="module")
def uninterrupted(trainer: Trainer, finish: Finish) -> Callable[[bool], Finished]:
    """The result without any checkpoint before the end, of rows or of packs."""
    done: dict[bool, Finished] = {}

    def result(packed: bool) -> Finished:
        if packed not in done:
            done[packed] = finish(trainer(PACKS if packed else ROWS, packed=packed))
        return done[packed]

    return result


@pytest.fixture(scope="module")
def finish(warm: WarmInterpreter) -> Finish:
    """Run to the end, which must be a good one."""

    def run_to_end(run: ScriptRun) -> Finished:
        result = run.finish(warm)
        assert result.status == 0, result.log
        return result

    return run_to_end


# --- equal bytes


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packs"])
def test_two_trainings_with_dropout_give_the_same_bytes(
    trainer: Trainer, uninterrupted: Callable[[bool], Finished], packed: bool
) -> None:
    run = trainer(PACKS if packed else ROWS, packed=packed)
    again = run.finish_cold(LC_ALL="C", TZ="Asia/Tokyo", USER="somebody")
    assert again.status == 0, again.log
    assert sorted(again.files()) == ["adapter/adapter_config.json", ADAPTER, "trace.jsonl"]
    assert again.files() == uninterrupted(packed).files()


def test_the_adapter_configuration_says_nothing_of_the_machine(
    uninterrupted: Callable[[bool], Finished],
) -> None:
    text = uninterrupted(False).files()["adapter/adapter_config.json"].decode()
    config = json.loads(text)
    assert "/" not in text
    assert config["base_model_name_or_path"] is None
    assert config["target_modules"] == sorted(config["target_modules"])
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 8, 0.1)


def test_the_trace_has_a_line_a_step_and_no_clock(
    uninterrupted: Callable[[bool], Finished],
) -> None:
    lines = trace(uninterrupted(False))
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    told = {"step", "loss", "grad_norm", "learning_rate", "weights"}
    assert all(set(line) == told for line in lines)
    assert [line["learning_rate"] for line in lines[:2]] == [0.0, 0.01]  # one step of warm-up


def test_the_trace_has_a_digest_of_the_adapter_after_each_step(
    uninterrupted: Callable[[bool], Finished], tmp_path: Path
) -> None:
    digests = [line["weights"] for line in trace(uninterrupted(False))]
    assert len(set(digests)) == len(digests)
    saved = tmp_path / "adapter"
    saved.write_bytes(uninterrupted(False).files()[ADAPTER])
    tensors = load_file(saved)
    names = sorted(tensors, key=in_the_model)
    assert (
        hashlib.sha256(b"".join(tensors[name].tobytes() for name in names)).hexdigest()
        == (digests[-1])
    )


def in_the_model(name: str) -> tuple[int, int, str]:
    """Where the model has this tensor of an adapter on all linear layers: A comes before B."""
    _, _, _, _, layer, _, module, matrix, _ = name.split(".")
    return int(layer), LINEAR.index(module), matrix


def test_more_weights_are_hashed_less_often(environment_python: Callable[[str], Path]) -> None:
    program = (
        "import torch\n"
        "from runner.scripts.training.training_record import stride\n"
        "sizes = (10, (32 << 18) - 1, 32 << 18, 135_000_000)\n"
        "print([stride([torch.empty(size, device='meta')]) for size in sizes])"
    )
    argv = [environment_python("native"), "-c", program]
    found = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True)
    assert found.stdout == "[1, 1, 2, 17]\n"


def test_every_step_reports_loss_tokens_memory_and_time_left(
    uninterrupted: Callable[[bool], Finished],
) -> None:
    steps = [event for event in uninterrupted(False).events if event["event"] == "progress"]
    assert [(event["step"], event["total"]) for event in steps] == [(n, 6) for n in range(1, 7)]
    for event in steps:
        tokens = event["tokens"]
        assert 0 < tokens["supervised"] < tokens["non_pad"] <= tokens["padded"]
        assert event["memory"] > 50e6
        assert event["tokens_per_second"] > 0
    assert steps[-1]["eta"] == 0
    first_epoch = sum(event["tokens"]["non_pad"] for event in steps[:4])
    assert first_epoch == sum(len(tokens) for row in ROWS for tokens, _ in row)


# --- what is computed


def test_packs_compute_what_their_documents_compute_apart(trainer: Trainer, finish: Finish) -> None:
    pairs = [documents(2, seed=seed) for seed in range(4)]
    apart = [[document] for pair in pairs for document in pair]
    still = {
        "max_steps": 1,
        "gradient_accumulation_steps": 1,
        "adapter": LORA | {"lora_dropout": 0.0},
    }
    packed = finish(trainer(pairs, packed=True, per_device_train_batch_size=4, **still))
    plain = finish(trainer(apart, per_device_train_batch_size=8, **still))
    assert trace(packed)[0]["loss"] == pytest.approx(trace(plain)[0]["loss"], rel=1e-6)
    assert trace(packed)[0]["grad_norm"] == pytest.approx(trace(plain)[0]["grad_norm"], rel=1e-5)


# Logits of packs before and after every token of one document is another one.
CHANGE_ONE_DOCUMENT = """
import json, sys
import torch
from pathlib import Path
from runner.scripts.training.base_model import read_model
from runner.scripts.training.batches import Batches
from runner.scripts.training.token_rows import read_token_rows
from transformers import AutoModelForCausalLM

tokens, folder, attention = sys.argv[1:]
settings = {"dtype": "float32", "attn_implementation": attention}
model = read_model(Path(folder), settings, torch.device("cpu"), AutoModelForCausalLM).eval()
data = read_token_rows(Path(tokens))
batch = Batches(data, 2, torch.float32)([{"row": number} for number in range(len(data.rows))])
documents = [torch.from_numpy(row.documents) for row in data.rows]
inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}

def logits(**changed):
    with torch.no_grad():
        return model(**{**inputs, **changed}, use_cache=False).logits

plain = logits()
without_boundaries = torch.zeros_like(inputs["input_ids"])
for row, numbers in enumerate(documents):
    without_boundaries[row, : len(numbers)] = 1
found = {"apart": 0, "same": 0, "changed": 0, "leaking": 0}
for row, numbers in enumerate(documents):
    for document in sorted(set(numbers.tolist())):
        own = torch.zeros_like(inputs["input_ids"][row], dtype=torch.bool)
        own[: len(numbers)] = numbers == document
        ids = inputs["input_ids"].clone()
        ids[row, own] = (ids[row, own] + 100) % 250 + 3
        after = logits(input_ids=ids)
        others = ~own
        others[len(numbers):] = False
        found["apart"] += int(others.sum())
        found["same"] += int((after[row] == plain[row]).all(-1)[others].sum())
        found["changed"] += bool((after[row][own] != plain[row][own]).any(-1).all())
        before = logits(attention_mask=without_boundaries)[row]
        with_neighbours = logits(input_ids=ids, attention_mask=without_boundaries)[row]
        behind = others & (torch.arange(len(others)) > own.nonzero().max())
        found["leaking"] += bool((with_neighbours != before)[behind].any())
print(json.dumps(found))
"""


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_no_logit_of_a_document_depends_on_another_in_its_pack(
    environment_python: Callable[[str], Path], model: Path, tmp_path: Path, attention: str
) -> None:
    packs = [documents(3, seed=seed) for seed in range(2)]
    tokens = write_tokens(tmp_path / "train.tokens.safetensors", packs, packed=True)
    program = [CHANGE_ONE_DOCUMENT, str(tokens), str(model), attention]
    argv = [environment_python("native"), "-c", *program]
    run = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    lengths = [sum(len(ids) for ids, _ in pack) for pack in packs]
    assert found["apart"] == 2 * sum(lengths)  # each document is another of two others
    assert found["same"] == found["apart"]
    assert found["changed"] == 6
    # without the boundaries every document behind the changed one would see it
    assert found["leaking"] == 4


def test_accumulated_batches_count_every_token_once(trainer: Trainer, finish: Finish) -> None:
    still = {"max_steps": 3, "warmup_steps": 0, "adapter": LORA | {"lora_dropout": 0.0}}
    rows = ROWS[:8]
    parts = finish(
        trainer(rows, per_device_train_batch_size=1, gradient_accumulation_steps=4, **still)
    )
    whole = finish(
        trainer(rows, per_device_train_batch_size=4, gradient_accumulation_steps=1, **still)
    )
    for part, all_at_once in zip(trace(parts), trace(whole), strict=True):
        assert part["loss"] == pytest.approx(all_at_once["loss"], rel=1e-4)


def test_gradient_checkpointing_changes_no_byte(
    trainer: Trainer, uninterrupted: Callable[[bool], Finished], finish: Finish
) -> None:
    saving = finish(trainer(gradient_checkpointing=True))
    assert saving.files() == uninterrupted(False).files()


def test_bfloat16_is_explicit_and_repeatable(
    trainer: Trainer, uninterrupted: Callable[[bool], Finished], finish: Finish
) -> None:
    short = {"max_steps": 2}
    autocast = [finish(trainer(bf16=True, **short)).files() for _ in range(2)]
    assert autocast[0] == autocast[1]
    weights = finish(trainer(dtype="bfloat16", **short)).files()
    assert len({autocast[0][ADAPTER], weights[ADAPTER], uninterrupted(False).files()[ADAPTER]}) == 3
    stored = load_file_of(weights[ADAPTER])
    assert {tensor.dtype for tensor in stored.values()} == {np.dtype(np.float32)}


def load_file_of(content: bytes) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    return load(content)


def test_full_fine_tuning_writes_a_whole_model(
    trainer: Trainer, model: Path, finish: Finish
) -> None:
    settings = {"adapter": {"type": "none"}, "max_steps": 2, "warmup_steps": 0}
    results = [finish(trainer(**settings)).files() for _ in range(2)]
    assert results[0] == results[1]
    before = load_file(model / "model.safetensors")
    after = load_file_of(results[0]["model/model.safetensors"])
    assert after.keys() == before.keys()
    assert all((after[name] != before[name]).any() for name in before)
    assert {tensor.dtype for tensor in after.values()} == {np.dtype(np.float32)}
    assert json.loads(results[0]["model/config.json"])["dtype"] == "float32"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert results[0][f"model/{name}"] == (model / name).read_bytes()


@pytest.mark.parametrize(
    ("adapter", "learned"),
    [
        ({"trainable_layers": 1}, r"model\.layers\.1\."),
        ({"trainable_layers": -1}, r"model\.layers\.0\."),
        ({"trainable_layers": 2, "trainable_modules": ["mlp"]}, r"model\.layers\.\d\.mlp\."),
    ],
    ids=["last", "first", "mlp"],
)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_only_the_chosen_layers_learn(
    adapter: dict[str, Any],
    learned: str,
    checkpointing: bool,
    trainer: Trainer,
    model: Path,
    finish: Finish,
) -> None:
    settings = {"max_steps": 2, "warmup_steps": 0, "gradient_checkpointing": checkpointing}
    result = finish(trainer(adapter={"type": "none"} | adapter, **settings)).files()
    before = load_file(model / "model.safetensors")
    after = load_file_of(result["model/model.safetensors"])
    changed = {name for name in before if (after[name] != before[name]).any()}
    assert changed == {name for name in before if re.match(learned, name)}


# --- resume


@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packs"])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])  # in the first epoch, at its end, in the second
def test_a_killed_training_goes_on_to_the_same_bytes(
    trainer: Trainer,
    uninterrupted: Callable[[bool], Finished],
    packed: bool,
    step: int,
    finish: Finish,
    warm: WarmInterpreter,
) -> None:
    run = trainer(PACKS if packed else ROWS, packed=packed, save_steps=1)
    process = run.start(warm)
    run.wait_for_step(process, step + 1)  # step's checkpoint is complete, the next perhaps half
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not any(run.folder.iterdir())
    resumed = finish(run)
    assert resumed.measures()["steps_trained_now"] <= 6 - step
    assert resumed.files() == uninterrupted(packed).files()


def test_only_complete_checkpoints_count_and_a_finished_training_is_written_again(
    trainer: Trainer, uninterrupted: Callable[[bool], Finished], finish: Finish
) -> None:
    run = trainer(save_steps=2)
    finish(run)
    checkpoints = run.scratch / "checkpoints"
    assert sorted(path.name for path in checkpoints.glob("*-*")) == ["checkpoint-4", "checkpoint-6"]

    (run.folder / ADAPTER).unlink()  # as after a kill between the last step and the outputs
    again = finish(run)
    assert again.measures()["steps_trained_now"] == 0
    assert again.files() == uninterrupted(False).files()

    (checkpoints / "checkpoint-6" / "COMPLETE.json").unlink()
    (checkpoints / "checkpoint-6" / "optimizer.pt").write_bytes(b"half")
    again = finish(run)
    assert again.measures()["steps_trained_now"] == 2
    assert again.files() == uninterrupted(False).files()


def test_a_termination_signal_ends_the_training_at_once(
    trainer: Trainer, warm: WarmInterpreter
) -> None:
    run = trainer(max_steps=100000)
    process = run.start(warm)
    run.wait_for_step(process, 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
    assert not any(run.folder.iterdir())


# --- a base in 4 bits

FOUR_BITS = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
QLORA = {
    "quantization": FOUR_BITS,
    "dtype": "bfloat16",
    "bf16": True,
    "gradient_checkpointing": True,
}


@pytest.fixture(scope="module")
def qlora(trainer: Trainer, finish: Finish) -> Finished:
    return finish(trainer(**QLORA))


def test_two_trainings_over_four_bits_give_the_same_bytes(
    trainer: Trainer, qlora: Finished
) -> None:
    again = trainer(**QLORA).finish_cold(LC_ALL="C", TZ="Asia/Tokyo", USER="somebody")
    assert again.status == 0, again.log
    assert again.files() == qlora.files()
    assert qlora.measures()["quantized_modules"] == 2 * 7  # the head and the embeddings are not
    adapter = load_file_of(qlora.files()[ADAPTER])
    assert {tensor.dtype for tensor in adapter.values()} == {np.dtype(np.float32)}


def test_the_memory_by_kind_is_the_one_that_is_planned(qlora: Finished) -> None:
    """Weights in 4 bits with their scales, what learns, its gradients and the optimizer's state."""
    found = qlora.measures()["memory_by_phase"]
    adapter = load_file_of(qlora.files()[ADAPTER])
    trained = sum(tensor.nbytes for tensor in adapter.values())
    assert found["load"]["trained"] == found["train"]["trained"] == trained
    assert (found["load"]["gradients"], found["train"]["gradients"]) == (0, trained)
    counters = 4 * len(adapter)  # AdamW's, of its steps
    assert found["train"]["optimizer"] == 2 * trained + counters
    linear = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3)
    scales = linear // 64 + 4 * 2 * 7  # a byte each, and a float32 for every 256 of a weight
    others = 2 * (260 * 64 + 5 * 64)
    assert found["train"]["weights"] == linear // 2 + scales + others
    assert found["train"]["peak"] > 0
    assert found["first step"]["optimizer"] == 0
    assert "save" in found


def test_a_killed_training_over_four_bits_goes_on_to_the_same_bytes(
    trainer: Trainer, qlora: Finished, finish: Finish, warm: WarmInterpreter
) -> None:
    run = trainer(save_steps=1, **QLORA)
    process = run.start(warm)
    run.wait_for_step(process, 4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = finish(run)
    assert resumed.measures()["steps_trained_now"] <= 3
    assert resumed.files() == qlora.files()


@pytest.mark.parametrize(
    "other",
    [{"bnb_4bit_quant_type": "fp4"}, {"bnb_4bit_use_double_quant": False}, None],
    ids=["fp4", "single", "16 bits"],
)
def test_every_kind_of_four_bits_is_a_base_of_its_own(
    trainer: Trainer, qlora: Finished, finish: Finish, other: dict[str, Any] | None
) -> None:
    settings: dict[str, Any] = QLORA | {"quantization": FOUR_BITS | (other or {})}
    if other is None:
        del settings["quantization"]
    result = finish(trainer(**settings | {"max_steps": 1}))
    assert trace(result)[0]["loss"] != trace(qlora)[0]["loss"]
    assert trace(result)[0]["loss"] == pytest.approx(trace(qlora)[0]["loss"], rel=0.02)


def test_dora_is_trained_over_four_bits(trainer: Trainer, finish: Finish) -> None:
    result = finish(trainer(**QLORA | {"max_steps": 2, "adapter": LORA | {"use_dora": True}}))
    assert any("magnitude" in name for name in load_file_of(result.files()[ADAPTER]))


def test_a_four_bit_layer_is_not_trained_as_a_whole(trainer: Trainer, refused: Refused) -> None:
    adapter = LORA | {"target_modules": ["q_proj"], "modules_to_save": ["up_proj"]}
    error = refused(trainer(**QLORA | {"adapter": adapter}))
    assert error["code"] == "E520"
    assert "model.layers.0.mlp.up_proj is held in 4 bits" in error["message"]


# --- errors


@pytest.fixture(scope="module")
def refused(warm: WarmInterpreter) -> Refused:
    """Run to an error event that names no traceback, and leave nothing behind."""

    def run_to_error(run: ScriptRun) -> dict[str, Any]:
        result = run.finish(warm)
        assert result.status == 1, result.log
        assert "Traceback" not in result.log
        assert not result.files()
        return result.error()

    return run_to_error


TALK = [("user", "Hi"), ("assistant", "Hello."), ("user", "And?"), ("assistant", "Bye.")]


def test_every_answer_of_a_conversation_is_trained_on(trainer: Trainer, finish: Finish) -> None:
    result = finish(trainer([[chat(*TALK)]], has_prompts=True, max_steps=1))
    (step,) = [event for event in result.events if event["event"] == "progress"]
    assert step["tokens"]["supervised"] == len("Hello.") + 1 + len("Bye.") + 1


@pytest.mark.parametrize("shift", [-1, 1, -12])
def test_a_label_on_the_prompt_is_refused(trainer: Trainer, refused: Refused, shift: int) -> None:
    ids, mask = chat(*TALK)
    moved = [
        mask[index - shift] if 0 <= index - shift < len(mask) else 0 for index in range(len(mask))
    ]
    error = refused(trainer([[chat(*TALK)], [(ids, moved)]], has_prompts=True))
    assert error["code"] == "E515"
    assert "row 2 of train.tokens.safetensors: a label covers the prompt" in error["message"]


def test_an_answer_that_goes_on_into_the_next_turn_is_refused(
    trainer: Trainer, refused: Refused
) -> None:
    ids, mask = chat(*TALK)
    first, last = mask.index(1), len(mask) - 1
    running_on = [int(first <= index < last) for index in range(len(mask))]
    error = refused(trainer([[(ids, running_on)]], has_prompts=True))
    assert (error["code"], "goes on into the next turn" in error["message"]) == ("E515", True)


def test_a_row_without_labels_is_refused(trainer: Trainer, refused: Refused) -> None:
    tokens, _ = documents(1)[0]
    error = refused(trainer([*ROWS[:2], [(tokens, [0] * len(tokens))]]))
    assert (error["code"], "row 3" in error["message"]) == ("E515", True)


def test_a_token_beyond_the_vocabulary_is_refused(trainer: Trainer, refused: Refused) -> None:
    error = refused(trainer([[([5, 6, 999], [0, 1, 1])]]))
    assert (error["code"], "999" in error["message"]) == ("E514", True)


def test_an_unknown_target_module_names_the_real_ones(trainer: Trainer, refused: Refused) -> None:
    error = refused(trainer(adapter=LORA | {"target_modules": ["q_proj", "qproj"]}))
    assert error["code"] == "E516"
    assert error["message"] == "the model has no module named qproj"
    assert "did you mean q_proj?" in error["hint"]
    assert "up_proj (2 of 128x64)" in error["hint"]


@pytest.mark.parametrize(
    ("adapter", "said", "hint"),
    [
        ({"trainable_layers": 3}, "is 3, and the model has 2 layers", "write at most 2"),
        (
            {"trainable_layers": 1, "trainable_modules": ["mpl"]},
            "no layer of the model has a module named mpl; there are: input_layernorm, mlp,",
            "did you mean mlp?",
        ),
    ],
)
def test_layers_that_are_not_there_are_refused(
    adapter: dict[str, Any], said: str, hint: str, trainer: Trainer, refused: Refused
) -> None:
    error = refused(trainer(adapter={"type": "none"} | adapter))
    assert error["code"] == "E529"
    assert said in error["message"]
    assert hint in error["hint"]


def test_a_loss_that_is_not_finite_ends_the_training(
    trainer: Trainer, model: Path, tmp_path: Path, refused: Refused
) -> None:
    broken = write_tiny_model(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = np.inf
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    assert refused(trainer(base=broken))["code"] == "E945"  # before the first step
    error = refused(trainer(base=broken, canary=False))
    assert (error["code"], "at step 1" in error["message"]) == ("E517", True)


def test_a_processor_cap_without_effect_is_refused(trainer: Trainer) -> None:
    result = trainer().finish_cold(ATEN_CPU_CAPABILITY="no-such-set")
    assert (result.status, result.error()["code"]) == (1, "E518")


def test_a_finished_full_fine_tuning_is_written_again(trainer: Trainer, finish: Finish) -> None:
    run = trainer(adapter={"type": "none"}, num_train_epochs=0.5, max_steps=None)
    first = finish(run).files()
    (run.folder / "model" / "model.safetensors").unlink()
    again = finish(run)
    assert again.measures()["steps_trained_now"] == 0
    assert again.files() == first
