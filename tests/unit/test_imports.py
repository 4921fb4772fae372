"""Settings of other tools become recipes, and every one of them is told of, once."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from runner.capture.captured import Fate
from runner.cli.main import main
from runner.imports import REGISTRY, load_import, methods, templates
from runner.imports.document import read_document
from runner.imports.kinds import kind_of
from runner.imports.methods import Method
from runner.imports.sheet import flat
from runner.recipe.load import load_recipe
from runner.recipe.source import read_source
from runner.stages.templates.shipped_templates import names as shipped_names
from tests.imported import COMMIT, EXAMPLES, fates, imported
from tests.imported import project as project  # a fixture

# --- whose file it is


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_kind_is_told_with_its_reason(path: Path) -> None:
    kind, reason = kind_of(read_document(path))
    assert kind == path.parent.name
    assert "has " in reason or "calls " in reason


def write(text: str, name: str = "x.yaml") -> str:
    Path(name).write_text(text)
    return name


REFUSED = [
    ("x.yaml", "- a\n- b\n", [], "E853", "no mapping"),
    ("x.yaml", "a: [\n", [], "E853", "line"),
    ("x.yaml", "a: 1\na: 2\n", [], "E853", "duplicate"),
    ("x.yaml", "a: &x 1\nb: *x\n", [], "E853", "anchor"),
    ("x.yaml", "a: !!python/object/apply:os.system [ls]\n", [], "E853", "tag"),
    ("x.yaml", "base_model: '" + "x" * 300_000 + "'\n", [], "E853", "bytes"),
    ("x.json", '{"a": NaN}', [], "E853", "NaN"),
    ("x.json", '{"a": 1, "a": 2}', [], "E853", "twice"),
    ("x.json", "[" * 100_000, [], "E853", "recursion"),
    ("x.ipynb", '{"cells": 1}', [], "E853", "no list of cells"),
    ("x.ipynb", '{"cells": [{"cell_type": "code", "source": [1]}]}', [], "E853", "no text"),
    ("x.py", "def (", [], "E853", "no Python"),
    ("x.py", "x = " + "(" * 5000, [], "E853", "nested"),
    ("x.py", "#" * 1_000_000, [], "E853", "bytes"),
    ("x.py", "import torch\n", [], "E854", "loads no model by Unsloth"),
    ("x.yaml", "a: 1\nb: 2\n", [], "E854", "not those of one of them"),
    ("x.yaml", "learning_rate: 1.0e-4\nseed: 1\n", [], "E854", "--as axolotl"),
    ("x.yaml", "schema: 1\nmodel: {}\ndata: {}\ntrain: {}\n", [], "E854", "a recipe already"),
    ("x.yaml", "a: 1\n", ["--as", "unsloth"], "E854", "no Python program"),
    ("x.py", "import torch\n", ["--as", "trl"], "E854", "a Python program"),
    ("x.yaml", "base_model: a/b\nmicro_batch_size: 1\nrl: grpo\n", [], "E855", '"grpo"'),
    ("x.yaml", "base_model: a/b\nrl: dpo\ndatasets: [{path: data/faq.jsonl, type: x}]\n",
     ["--as", "axolotl"], "E856", "its rows are alpaca, and the method learns from preference"),
    ("x.yaml", "base_model: a/b\nmicro_batch_size: 1\nprocess_reward_model: true\n", [], "E855",
     '"process reward"'),
    ("x.yaml", "model_name_or_path: a/b\nuse_peft: true\ndataset_name: x\ncpo_alpha: 1\n", [],
     "E855", '"cpo"'),
    ("x.yaml", "model_name_or_path: a/b\nuse_peft: true\ndataset_name: x\nnum_generations: 4\n",
     ["--as", "trl"], "E855", '"grpo"'),
    ("x.yaml", "model_name_or_path: a/b\nuse_peft: true\ndataset_name: data/faq.jsonl\nbeta: 1\n",
     [], "E856", "its rows are alpaca, and the method learns from preference"),
    ("x.yaml", "base_model: a/b\nmicro_batch_size: 1\n", ["--method", "dpo"], "E857",
     "--method is for files of TRL"),
    ("x.py", "from_pretrained = FastLanguageModel.from_pretrained('a/b')\nCPOTrainer(beta=2)\n", [],
     "E855", "CPOTrainer without loss_type simpo"),
    ("x.py", "FastLanguageModel.from_pretrained('a/b')\nGRPOTrainer()\n", [], "E855",
     '"GRPOTrainer"'),
    ("x.yaml", "model_name_or_path: a/b\nstage: ppo\ntemplate: x\ndataset: x\n", [], "E851",
     "stage: ppo"),
    ("x.yaml", "micro_batch_size: 1\nsequence_len: 2\n", [], "E856", "names no model"),
    ("x.yaml", "base_model: a/b\nmicro_batch_size: 1\n", [], "E856", "names none"),
    ("x.yaml", "base_model: a/b\ndatasets: [{path: a/rows, type: alpaca}]\n", ["--as", "axolotl"],
     "E856", "a data set of the hub"),
    ("x.yaml", "base_model: a/b\ndatasets: [{path: ../../rows.json, type: alpaca}]\n",
     ["--as", "axolotl"], "E856", "leads out of the project"),
    ("x.yaml", "base_model: a/b\ndatasets: [{path: /etc/rows.json, type: alpaca}]\n",
     ["--as", "axolotl"], "E856", "leads out of the project"),
    ("x.yaml", "base_model: a/b\n", ["--model", "smollm2"], "E857", "--model and --from"),
    ("x.yaml", "base_model: a/b\n", ["--max-length", "9", "--goal", "sft"], "E857", "--goal, --m"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "flags", "code", "said"), REFUSED)
def test_what_cannot_be_imported_is_refused_and_nothing_written(
    name: str,
    text: str,
    flags: list[str],
    code: str,
    said: str,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(text, name)
    assert main(["new", "made.yaml", "--from", name, *flags]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"error[{code}]" in shown.err
    assert said in shown.err
    assert "next: " in shown.err
    assert not Path("made.yaml").exists()


def test_a_pipe_or_a_folder_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "made.yaml", "--from", "data"]) == 2
    assert "recipe capture" in capsys.readouterr().err
    assert main(["new", "made.yaml", "--from", "/dev/zero"]) == 2
    assert main(["new", "made.yaml", "--from", "none.yaml"]) == 2
    assert capsys.readouterr().err.count("error[E853]") == 2


def test_nothing_of_a_program_is_run(project: Path) -> None:
    program = Path("unsloth/full.py").read_text()
    harm = '__import__("pathlib").Path("harmed").touch()\n'
    write(harm + program.replace("2 * 1024", f"max(2048, {harm.strip()} or 0)"), "x.py")
    made = imported(project, "x.py")
    assert not Path("harmed").exists()
    assert fates(made)["from_pretrained.max_seq_length"] is Fate.LOST
    assert made.recipe["data"]["max_length"] == 2048  # Unsloth's own


@pytest.mark.parametrize(
    ("change", "method", "held"),
    [
        ({"rl": "orpo", "orpo_alpha": 0.3, "rl_beta": None}, "orpo", {"beta": 0.3}),
        ({"rl": "orpo"}, "orpo", {"beta": 0.2}),
        ({"rl": None, "reward_model": True, "center_rewards_coefficient": 0.01}, "reward",
         {"center_rewards_coefficient": 0.01}),
        ({"rl_beta": None, "dpo_label_smoothing": 0.1, "dpo_loss_type": ["robust"]}, "dpo",
         {"beta": 0.1, "loss_type": "robust", "label_smoothing": 0.1}),
    ],
)  # fmt: skip
def test_a_method_brings_its_own_settings(
    change: dict[str, Any], method: str, held: dict[str, Any], project: Path
) -> None:
    config = yaml.safe_load(Path("axolotl/dpo.yml").read_text()) | change
    Path("x.yml").write_text(yaml.safe_dump(config))
    train = imported(project, "x.yml").recipe["train"]
    assert (train["method"], {name: train.get(name) for name in held}) == (method, held)
    assert main(["new", "made.yaml", "--from", "x.yml"]) == 0


@pytest.mark.parametrize(
    ("method", "fate"),
    [("orpo", Fate.MAPPED), ("dpo", Fate.MAPPED), (None, Fate.CLOSE)],
)
def test_whose_beta_it_is_a_flag_may_say(method: str | None, fate: Fate, project: Path) -> None:
    config = {"model_name_or_path": "models/tiny", "dataset_name": "data/preferences.jsonl"}
    Path("x.yaml").write_text(yaml.safe_dump(config | {"beta": 0.3, "use_peft": True}))
    made = imported(project, "x.yaml", method=method)
    assert (made.recipe["train"]["method"], made.recipe["train"]["beta"]) == (method or "dpo", 0.3)
    assert fates(made)["beta"] is fate
    flags = ["--method", method] if method else []
    assert main(["new", "made.yaml", "--from", "x.yaml", *flags]) == 0
    assert load_recipe(Path("made.yaml")).train.method == (method or "dpo")


@pytest.mark.parametrize("file", ["axolotl/simpo.yml", "trl/simpo.json", "unsloth/simpo.py"])
@pytest.mark.parametrize("alpha", ["1.0", "0.5", None])
def test_what_cpo_adds_to_simpo_is_said(file: str, alpha: str | None, project: Path) -> None:
    lines = [
        line if "cpo_alpha" not in line else _with_alpha(line, alpha)
        for line in Path(file).read_text().splitlines()
    ]
    copy = Path(f"x{Path(file).suffix}")
    copy.write_text("\n".join(line for line in lines if line is not None))
    made = imported(project, copy)
    (note,) = [note for note in made.notes if note.name.endswith("cpo_alpha")]
    assert note.fate is Fate.LOST
    assert note.value == float(alpha or 1.0)
    assert "adds the likelihood of the better answer" in note.why


def _with_alpha(line: str, alpha: str | None) -> str | None:
    """The line with another value, or without the setting; None where nothing is left."""
    if alpha is not None:
        return line.replace("0.0", alpha)
    left = line.replace("cpo_alpha=0.0, ", "")
    return None if left == line else left


@pytest.mark.parametrize(
    ("file", "change", "name", "fate", "said"),
    [
        ("trl/dpo.yaml", {"packing": True}, "packing", Fate.LOST, "not packed"),
        ("trl/dpo.yaml", {"loss_type": "apo_zero"}, "loss_type", Fate.LOST, "one at a time"),
        ("trl/dpo.yaml", {"loss_type": ["sigmoid", "bco_pair"]}, "loss_type", Fate.LOST, "one at"),
        ("trl/dpo.yaml", {"disable_dropout": False}, "lora_dropout", Fate.LOST, "without dropout"),
        ("trl/dpo.yaml", {"max_prompt_length": 128}, "max_prompt_length", Fate.LOST, "one limit"),
        ("trl/dpo.yaml", {"rpo_alpha": 1.0}, "rpo_alpha", Fate.LOST, "of another method"),
        ("trl/kto.yaml", {"loss_type": "apo_zero_unpaired"}, "loss_type", Fate.LOST, "KTO's own"),
        ("trl/kto.yaml", {}, "train_sampling_strategy", Fate.CLOSE, "in their order"),
        ("trl/reward.yaml", {"lora_modules_to_save": ["score", "embed_tokens"]},
         "lora_modules_to_save", Fate.MAPPED, ""),
        ("axolotl/simpo.yml", {"simpo_gamma": None}, "simpo_gamma", Fate.CLOSE, "needs it"),
        ("axolotl/ipo.yml", {"dpo_loss_type": "sigmoid"}, "dpo_loss_type", Fate.NO_EFFECT, "rl"),
        ("llamafactory/simpo.yaml", {"ref_model": "a/b"}, "ref_model", Fate.NO_EFFECT, "simpo"),
    ],
)  # fmt: skip
def test_what_a_trainer_of_preferences_does_otherwise_is_said(
    file: str, change: dict[str, Any], name: str, fate: Fate, said: str, project: Path
) -> None:
    Path("x.yaml").write_text(yaml.safe_dump(yaml.safe_load(Path(file).read_text()) | change))
    made = imported(project, "x.yaml")
    (note,) = [note for note in made.notes if note.name == name]
    assert note.fate is fate, note
    assert said in note.why


def test_a_new_method_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["new", "made.yaml", "--from", "trl/full.yaml"]
    monkeypatch.setattr(methods, "METHODS", {"orpo": Method({"trl": ("sft",)}, "preference")})
    assert main([*command, "--data", "data/preferences.jsonl"]) in (0, 2)
    assert read_source(Path("made.yaml")).data["train"]["method"] == "orpo"


def test_data_sets_of_axolotl_that_are_taken_twice_or_in_part_are_repeated(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"path": "data/faq.jsonl", "type": "alpaca"}
    part = {"path": "data/chats.jsonl", "type": "chat_template", "shards": 4, "shards_idx": 1}
    config = yaml.safe_load(Path("axolotl/lora.yml").read_text())
    config |= {"datasets": [rows, part, dict(rows)]}
    command = ["new", "made.yaml", "--from", write(yaml.safe_dump(config), "twice.yml")]
    assert main([*command, "--report", "json"]) == 0
    told = {note["name"]: note for note in json.loads(capsys.readouterr().out)["settings"]}
    assert told["datasets[1].shards"]["becomes"] == "repeat: 0.25"
    found = [(file.path, file.repeat) for file in load_recipe(Path("made.yaml")).data.train]
    assert found == [("data/faq.jsonl", 2), ("data/chats.jsonl", 0.25)]


# --- the command


def test_rows_of_ones_own_stand_for_those_of_the_file(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = "base_model: models/tiny\ndatasets: [{path: far/away, type: alpaca}]\nlora_r: 4\n"
    config += "lora_alpha: 8\nadapter: lora\nmicro_batch_size: 1\nlearning_rate: 1.0e-4\n"
    config += "lora_target_linear: true\n"
    command = ["new", "--from", write(config, "My Config.yml"), "--data", "data/chats.jsonl"]
    assert main(command) == 0
    assert "wrote my-config.yaml" in capsys.readouterr().err
    recipe = load_recipe(Path("my-config.yaml"))
    assert (recipe.name, recipe.data.train[0].format) == ("my-config", "messages")
    assert main(command) == 2
    assert "error[E155]" in capsys.readouterr().err
    assert main([*command, "--stdout"]) == 0
    shown = capsys.readouterr()
    assert shown.out == Path("my-config.yaml").read_text()
    assert "the rows are those of --data" in shown.err
    assert main([*command, "-o", "sub/other.yaml"]) == 0
    assert load_recipe(Path("sub/other.yaml")).data.train[0].path == "../data/chats.jsonl"
    assert main([*command, "a.yaml", "-o", "b.yaml"]) == 2


@pytest.mark.parametrize("flags", [["--as", "trl"], ["--workspace", "."], ["--report", "json"]])
def test_what_is_about_a_file_needs_one(
    flags: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "made.yaml", "--model", "smollm2", "--data", "data/faq.jsonl", *flags]) == 2
    assert f"error[E857]: {flags[0]} is about a file of settings" in capsys.readouterr().err
    assert not Path("made.yaml").exists()


def test_what_is_not_here_is_written_and_said_to_be_unsound(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("data")
    assert main(["new", "made.yaml", "--from", "axolotl/full.yml"]) == 2
    shown = capsys.readouterr()
    assert "[E209]" in shown.err
    assert "made.yaml is not sound yet" in shown.err
    assert Path("made.yaml").exists()


def test_a_workspace_is_where_the_files_paths_start(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "work").mkdir()
    for name in ("data", "models"):
        (project / name).rename(project / "work" / name)
    assert main(["new", "made.yaml", "--from", "trl/full.yaml", "--workspace", "work"]) == 0
    recipe = load_recipe(Path("made.yaml"))
    assert (recipe.model.path, recipe.data.train[0].path) == (
        "work/models/tiny", "work/data/chats.jsonl",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        ({"learning_rate": "fast"}, "learning_rate", "no number"),
        ({"learning_rate": 5}, "learning_rate", "at most 1"),
        ({"lora_r": 0}, "lora_r", "at least 1"),
        ({"lora_r": 1.5}, "lora_r", "no whole number"),
        ({"num_epochs": [1]}, "num_epochs", "no number"),
        ({"gradient_checkpointing": 3}, "gradient_checkpointing", "neither true nor false"),
        ({"optimizer": "lion_8bit"}, "optimizer", "a recipe has adafactor, adamw_8bit,"),
        ({"adapter": "llama-adapter"}, "adapter", "LoRA adapters"),
        ({"val_set_size": 500}, "val_set_size", "not a number of rows"),
        ({"load_in_8bit": True}, "load_in_8bit", "in 4 bits or in 16"),
        ({"train_on_inputs": True}, "train_on_inputs", "trains on answers"),
        ({"odd\x1b[2J": 1}, "odd\x1b[2J", "no setting of axolotl"),
        ({"neftun_noise_alpha": 5}, "neftun_noise_alpha", "did you mean neftune_noise_alpha?"),
    ],
)
def test_a_value_that_a_recipe_does_not_take_is_said(
    change: dict[str, Any], name: str, said: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(Path("axolotl/lora.yml").read_text()) | change
    Path("x.yml").write_text(yaml.safe_dump(config))
    made = imported(project, "x.yml")
    (note,) = [note for note in made.notes if note.name == name]
    assert note.fate is Fate.LOST
    assert said in note.why
    assert main(["new", "made.yaml", "--from", "x.yml"]) == 0
    shown = capsys.readouterr()
    assert not set(shown.out + shown.err + Path("made.yaml").read_text()) & set("\x1b\x0e\u202e")


def test_a_strangers_text_makes_no_line_of_a_recipe(project: Path) -> None:
    config = yaml.safe_load(Path("axolotl/lora.yml").read_text())
    config |= {
        "neftune_noise_alpha": "x\nmodel: {path: /etc}\n",
        "default_system_message": "a\nb: c",
    }
    Path("x.yml").write_text(yaml.safe_dump(config))
    assert main(["new", "made.yaml", "--from", "x.yml"]) == 0
    recipe = load_recipe(Path("made.yaml"))
    assert recipe.model.hub == "acme/small-1B-Instruct"
    assert recipe.data.system == "a\nb: c"


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
@given(data=st.data())
def test_any_value_of_any_setting_ends_well(project: Path, data: st.DataObject) -> None:
    """A recipe or words why not, never a crash; and still a note for every setting."""
    path = data.draw(st.sampled_from([each for each in EXAMPLES if each.parent.name != "unsloth"]))
    config = yaml.safe_load(path.read_text())
    for name in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3)):
        config[name] = data.draw(ODD)
    Path("x.json").write_text(json.dumps(config))
    command = ["new", "made.yaml", "--from", "x.json", "--as", path.parent.name]
    Path("made.yaml").unlink(missing_ok=True)
    shown = io.StringIO()
    with redirect_stdout(shown), redirect_stderr(io.StringIO()):
        status = main([*command, "--report", "json"])
    assert status in (0, 2)
    if Path("made.yaml").exists():
        report = json.loads(shown.getvalue())
        names = [note["name"] for note in report["settings"]]
        leaves = [name for name, _ in flat(config)]
        assert len(names) == len(set(names))
        assert set(config if path.parent.name == "llamafactory" else leaves) <= set(names)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from([[], {}, [[]], [{}], [1], ["q_proj"], {"x": 1}, [{"path": "data/faq.jsonl"}],
                     "auto", "../x", "/dev/zero", "1e999", "a/b", "0.5"]),
)  # fmt: skip


def test_a_strangers_file_chooses_no_folder_of_tokens(project: Path) -> None:
    config = yaml.safe_load(Path("llamafactory/full.yaml").read_text())
    Path("x.yml").write_text(yaml.safe_dump(config | {"tokenized_path": "../../tokens"}))
    made = imported(project, "x.yml")
    assert fates(made)["tokenized_path"] is Fate.LOST
    assert made.recipe["data"]["train"][0]["path"] == "data/faq.jsonl"


def test_a_commit_that_is_given_pins_every_kind(project: Path) -> None:
    for file in ("axolotl/lora.yml", "trl/lora.yaml", "llamafactory/lora.yaml",
                 "unsloth/qlora.ipynb"):  # fmt: skip
        assert imported(project, file, revision=COMMIT).recipe["model"]["revision"] == COMMIT


# --- the tables


@pytest.mark.parametrize("kind", REGISTRY)
def test_every_setting_is_in_one_table(kind: str) -> None:
    source = load_import(kind)
    cannot = [name for table in source.CANNOT.values() for name in table]
    assert len(cannot) == len(set(cannot))
    assert not source.MAPPED & source.NO_EFFECT
    assert not (source.MAPPED | source.NO_EFFECT) & set(cannot)


def test_every_template_that_is_meant_is_shipped() -> None:
    assert set(templates.SHIPPED.values()) == set(shipped_names())
