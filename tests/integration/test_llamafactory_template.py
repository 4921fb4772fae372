"""One of LLaMA Factory's own templates in the place of the shared tokens: used, and compared."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.backends import llamafactory
from runner.recipe.load import load_recipe
from runner.stages import prepare
from runner.stages.templates import shipped_templates
from tests.chain import ROOT
from tests.family_models import KINDS, write_family_model
from tests.tiny_model import write_tiny_model
from tests.training_runs import (
    Finished,
    ScriptRun,
    WarmInterpreter,
    chat,
    done,
    write_tokens,
)

WEIGHTS = "adapter/adapter_model.safetensors"
ASKED = [(("user", f"Say {n}."), ("assistant", f"It is {n}.")) for n in range(9)]
Turns = tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def training(
    environment_python: Callable[[str], Path], model: Path, tmp_path: Path
) -> Callable[..., ScriptRun]:
    """A training by the template of that name; `prepared`: the tokens are those of these rows."""

    def make(
        template: str, rows: list[Turns] = ASKED, prepared: list[Turns] | None = None
    ) -> ScriptRun:
        place = tmp_path / template
        place.mkdir()
        recipe = load_recipe(write_recipe(place, model, template, rows))
        shared = [[chat(*turns)] for turns in prepared or rows]
        more = {"rows": prepare.reading(recipe)} if template != "shared" else {}
        return ScriptRun(
            environment_python("llamafactory"),
            llamafactory.script(recipe),
            {"settings": llamafactory.spec(recipe), "save_steps": 1000, **more},
            {
                "model": model,
                "tokens": write_tokens(place / "train.tokens.safetensors", shared, packed=False),
                "template": model / "chat_template.jinja",
                "train-0": place / "rows.jsonl",
            },
            place / "run",
        )

    return make


def write_recipe(place: Path, model: Path, template: str, rows: list[Turns]) -> Path:
    lines = [
        json.dumps({"messages": [{"role": role, "content": said} for role, said in turns]})
        for turns in rows
    ]
    (place / "rows.jsonl").write_text("\n".join(lines) + "\n")
    recipe = {
        "schema": 1,
        "name": "own",
        "model": {"path": str(model), "dtype": "float32"},
        "data": {
            "train": [{"path": "rows.jsonl", "format": "messages"}],
            "validation": {"fraction": 0.0},
            "max_length": 128,
        },
        "train": {
            "backend": "llamafactory",
            "template": template,
            "adapter": {"type": "lora", "r": 4, "lora_dropout": 0.05},
            "max_steps": 3,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-3,
        },
    }
    (place / "own.yaml").write_text(yaml.safe_dump(recipe))
    return place / "own.yaml"


def told(result: Finished) -> dict[str, Any]:
    """What the file says; the measure says the same."""
    found: dict[str, Any] = json.loads(result.files()["template/difference.json"])
    assert result.measures()["template"] == found
    return found


def test_another_label_is_a_difference_and_the_first_one_is_shown(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    """Its ChatML has the tokens of ours, and also trains the line end behind an answer."""
    shared = done(training("shared").finish(warm_factory))
    own = done(training("chatml").finish(warm_factory))
    assert "template/difference.json" not in shared.files()
    found = told(own)
    assert (found["name"], found["rows"], found["different"]) == ("chatml", 9, 9)
    ids, mask = chat(*ASKED[0])
    first = found["first"]
    assert first["row"] == "rows.jsonl:1"
    assert first["token"] == len(ids) - 1
    assert first["shared"]["ids"] == first["own"]["ids"] == ids[-9:]
    assert first["shared"]["trained"] == mask[-9:]
    assert first["own"]["trained"] == [*mask[-9:-1], 1]
    assert "9 of 9 rows" in [e["message"] for e in own.events if "message" in e][-1]
    assert own.files()[WEIGHTS] != shared.files()[WEIGHTS]


def test_other_tokens_are_shown_as_text_and_ids(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    first = told(done(training("vicuna").finish(warm_factory)))["first"]
    assert first["token"] == 0
    assert first["shared"]["text"].startswith("<|im_start|>user")
    assert first["own"]["text"].startswith("A chat")
    assert first["own"]["ids"] != first["shared"]["ids"]
    assert first["own"]["tokens"] > first["shared"]["tokens"]


def test_it_trains_what_the_command_line_trains_on_the_rows(
    training: Callable[..., ScriptRun],
    warm_factory: WarmInterpreter,
    environment_python: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """`llamafactory-cli train` on the rows themselves, without any tokens of ours."""
    run = training("chatml")
    result = done(run.finish(warm_factory))
    configuration = yaml.safe_load((run.scratch / "configuration.yaml").read_text())
    configuration |= {
        "tokenized_path": None,
        "dataset": "rows",
        "dataset_dir": str(run.scratch / "own-template"),
        "cutoff_len": 128,
        "overwrite_cache": True,
        "output_dir": str(tmp_path / "saves"),
        "resume_from_checkpoint": None,
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(configuration))
    command = environment_python("llamafactory").with_name("llamafactory-cli")
    said = subprocess.run(
        [str(command), "train", str(tmp_path / "train.yaml")],
        env=run.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    weights = (tmp_path / "saves" / "adapter_model.safetensors").read_bytes()
    assert weights == result.files()[WEIGHTS]


def test_rows_that_it_leaves_out_end_the_training(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    odd: Turns = (("user", "One."), ("user", "Two."), ("assistant", "Both."))
    result = training("chatml", [*ASKED, odd]).finish(warm_factory)
    assert result.status == 1
    assert result.error()["code"] == "E531"
    assert "9 rows of 10" in result.error()["message"]


def test_rows_that_are_not_those_that_were_prepared_end_the_training(
    training: Callable[..., ScriptRun], warm_factory: WarmInterpreter
) -> None:
    result = training("chatml", ASKED, [*ASKED[1:], ASKED[0]]).finish(warm_factory)
    assert result.status == 1
    assert result.error()["code"] == "E532"


def test_the_known_templates_are_those_of_the_environment(
    environment_python: Callable[[str], Path],
) -> None:
    ask = "from llamafactory.data.template import TEMPLATES; print('\\n', *TEMPLATES)"
    said = subprocess.run(
        [str(environment_python("llamafactory")), "-c", ask],
        capture_output=True,
        text=True,
        check=True,
    )
    names = said.stdout.splitlines()[-1].split()
    assert llamafactory.own_templates() == sorted(names)
    page = (Path(__file__).parents[2] / "docs" / "templates.md").read_text()
    assert [name for name in names if f"`{name}`" not in page] == []


def test_shipped_templates_are_held_against_its_own(
    environment_python: Callable[[str], Path], tmp_path: Path
) -> None:
    """Where they differ is written down with the reason, and said in docs/templates.md."""
    recorded = json.loads((ROOT / "tests" / "llamafactory_ids.json").read_text(encoding="utf-8"))
    kinds = {kind.name: kind for kind in KINDS}
    names = [pair.split(" and ") for pair in recorded]
    shipped = dict.fromkeys(ours for ours, _ in names)
    models = {ours: write_family_model(tmp_path / ours, kinds[ours]) for ours in shipped}
    assert sorted(models) == list(shipped_templates.names())
    pairs = [{"ours": ours, "theirs": own, "model": str(models[ours])} for ours, own in names]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    said = subprocess.run(
        [environment_python("llamafactory"), ROOT / "tests" / "llamafactory_ids.py", "pairs.json"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found == {pair: each["found"] for pair, each in recorded.items()}
    page = (ROOT / "docs" / "templates.md").read_text(encoding="utf-8")
    for (ours, own), each in zip(names, recorded.values(), strict=True):
        assert bool(each["why"]) == any(each["found"].values()), (ours, own)
        assert f"| `{ours}` | `{own}` | {each['why'] or 'the same'} |" in page
