"""LLaMA Board, prepared from a recipe: Start gives the script's bytes, and nobody else gets in."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from runner.backends import llamafactory
from runner.capture.captured import Fate
from runner.capture.data_sets import Place
from runner.capture.keys import DEFAULTS, MAPPED
from runner.capture.settings import capture
from runner.capture.source import ARGUMENTS, RESULT, Source
from runner.errors import RecipeInvalid, UsageError
from runner.recipe.load import load_recipe
from runner.system import process_tree
from runner.webui.form import form_of
from runner.webui.workspace import origin_text
from tests.chain import Checkout, copy_checkout
from tests.tiny_chain import write_tiny_chain
from tests.two_machines import OTHER, SERVER, TwoMachines, ask_from, python, two_machines
from tests.unit.test_capture import load_text, write_project
from tests.unit.test_capture_round_trip import ADAPTERS, LENGTHS, SETTINGS, TRAIN, some

RECIPE: dict[str, Any] = {
    "schema": 1,
    "model": {"path": "../models/tiny", "dtype": "float32"},
    "data": {"train": [{"path": "../data/faq.jsonl", "format": "alpaca"}], "max_length": 48},
}
WEIGHTS = "adapter_model.safetensors"
UNCHANGED = {"__type__": "update"}  # what Gradio says of an element that stays as it is
PAIRED_ROWS = {
    "path": "../data/pairs.jsonl",
    "format": "preference",
    "columns": {"prompt": "question", "chosen": "good", "rejected": "bad"},
}
JUDGED_ROWS = {
    "path": "../data/judged.jsonl",
    "format": "kto",
    "columns": {"completion": "said"},
}
TESTS = Path(__file__).resolve().parent.parent


@dataclass
class Board:
    """A `recipe webui` that answers. `said` is what it printed until then."""

    process: subprocess.Popen[str]
    url: str
    said: str
    folder: Path  # its workspace
    python: Path  # of the environment `llamafactory`
    errors: Path  # its stderr

    def press(self, function: str, *, password: str = "", **changes: Any) -> list[dict[str, Any]]:
        """Press a button; every update of the page. Arguments: `train-output_dir` as train_..."""
        with self.pressed(function, password, changes) as client:
            said, _ = client.communicate(timeout=120)
        assert client.returncode == 0, (self.folder / "webui.log").read_text()
        return [json.loads(line) for line in said.splitlines()]

    def pressed(
        self, function: str, password: str = "", changes: dict[str, Any] | None = None
    ) -> subprocess.Popen[str]:
        """The same, at work."""
        named = {name.replace("__", "-"): value for name, value in (changes or {}).items()}
        script = str(TESTS / "board_client.py")
        words = [str(self.python), script, self.url, function, json.dumps(named), password]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def saved(self, name: str) -> Path:
        """A training's folder."""
        return self.folder / "saves" / "Custom" / "lora" / name

    def extra(self, **changes: Any) -> str:
        """The extra arguments of the form with some changed; None takes one out."""
        form = yaml.safe_load((self.folder / "llamaboard_config" / "tiny.yaml").read_text())
        extra = json.loads(form["train.extra_args"]) | changes
        return json.dumps({name: value for name, value in extra.items() if value is not None})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Checkout:
    """A project with a tiny recipe."""
    place = tmp_path_factory.mktemp("webui")
    checkout = copy_checkout(
        place / "checkout", cache=shared_cache, store=place / "store", home=place / "home"
    )
    write_tiny_chain(checkout)
    return checkout


PAIRS = """
schema: 1
name: pairs
model: {path: model, dtype: float32}
data:
  train: [{path: pairs.jsonl, format: preference, columns: {prompt: question}}]
train:
  backend: llamafactory
  method: dpo
  beta: 0.25
  label_smoothing: 0.125
  adapter: {type: lora, r: 4, lora_alpha: 8}
  max_steps: 4
  per_device_train_batch_size: 2
"""


def write_pairs(folder: Path) -> None:
    """A recipe that learns from preferences, beside tiny.yaml."""
    rows = [{"question": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "No."} for n in range(9)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pairs.yaml").write_text(PAIRS)


@pytest.fixture(scope="module")
def prepared(project: Checkout) -> Path:
    """Its workspace, prepared for both recipes; the form holds the last one."""
    write_pairs(project.folder)
    result = project.recipe("webui", "pairs.yaml", "--prepare")
    assert result.returncode == 0, result.stderr
    result = project.recipe("webui", "tiny.yaml", "--prepare")
    assert result.returncode == 0, result.stderr
    return project.folder / "webui"


@pytest.fixture(scope="module")
def start(
    project: Checkout,
    environment_python: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Board]]:
    """Start `recipe webui ARGUMENTS`, through another command when one is given."""
    started = []

    def board(*arguments: str, through: tuple[str, ...] = ()) -> Board:
        workspace = project.folder / arguments[arguments.index("--workspace") + 1]
        errors = tmp_path_factory.mktemp("board") / "stderr"
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                [*through, sys.executable, "-m", "runner", "webui", *arguments],
                cwd=project.folder,
                env=project.env,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        started.append(process)
        assert process.stdout is not None
        said = ""
        while "ends it" not in said:
            line = process.stdout.readline()
            assert line, said + errors.read_text()
            said += line
        found = re.search(r"is at (\S+)", said)
        assert found
        python = environment_python("llamafactory")
        return Board(process, found.group(1), said, workspace, python, errors)

    yield board
    for process in started:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def board(start: Callable[..., Board], prepared: Path) -> Board:
    """One for the tests that leave it as it is."""
    return start("--workspace", str(prepared), "--port", "0")


@pytest.fixture(scope="module")
def script_weights(project: Checkout) -> bytes:
    """What `recipe run --backend llamafactory` gives."""
    result = project.recipe("run", "tiny.yaml", "--backend", "llamafactory", "--until", "train")
    assert result.returncode == 0, result.stderr
    return (project.folder / "runs" / "tiny" / "latest" / "adapter" / WEIGHTS).read_bytes()


def wait_for(what: Callable[[], bool], seconds: float = 600.0) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.1)


def captured(project: Checkout, run: Path, to: str) -> tuple[str, Path]:
    """What `recipe capture` says, and the recipe that it wrote."""
    result = project.recipe("capture", str(run), "-o", to, "--force")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout, project.folder / to


# --- a training


def test_start_gives_the_bytes_of_the_script_and_capture_the_recipe(
    board: Board, project: Checkout, script_weights: bytes
) -> None:
    updates = board.press("run_train", train__output_dir="pressed")
    assert updates[-1]["train-output_box"].startswith("Finished.")
    run = board.saved("pressed")
    assert (run / WEIGHTS).read_bytes() == script_weights
    said, recipe = captured(project, run, "captured/tiny.yaml")
    assert "warning" not in said
    assert "not expressible" not in said
    assert "approximated" not in said
    before = load_recipe(project.folder / "tiny.yaml", overrides=["train.backend=llamafactory"])
    after = load_recipe(recipe).resolved()
    (rows,) = after.pop("data")["train"]
    assert (rows["path"], rows["format"]) == ("../rows.jsonl", "alpaca")
    assert after.pop("model")["path"] == "../model"
    wanted = before.resolved()
    assert after == {key: value for key, value in wanted.items() if key not in ("data", "model")}
    again = project.recipe("plan", str(recipe), "--until", "train", "--format", "json")
    stages = json.loads(again.stdout)["stages"]
    assert {stage["action"] for stage in stages} == {"reuse"}, again.stdout


def test_start_on_preferences_gives_the_bytes_of_the_script_and_capture_the_recipe(
    board: Board, project: Checkout
) -> None:
    result = project.recipe("run", "pairs.yaml", "--until", "train")
    assert result.returncode == 0, result.stderr
    latest = project.folder / "runs" / "pairs" / "latest" / "adapter" / WEIGHTS
    (loaded,) = board.press("load_args", train__config_path="pairs.yaml", top__lang="en")
    values = {name: value for name, value in loaded.items() if value != UNCHANGED}
    values.pop("train-output_box", None)
    form = ("train-training_stage", "train-pref_beta", "train-pref_loss", "train-dataset")
    assert [values[name] for name in form] == ["DPO", 0.25, "sigmoid", ["pairs"]]
    assert json.loads(values["train-extra_args"])["dpo_label_smoothing"] == 0.125
    updates = board.press("run_train", **values | {"train-output_dir": "preferred"})
    assert updates[-1]["train-output_box"].startswith("Finished."), updates[-1]
    run = board.saved("preferred")
    assert (run / WEIGHTS).read_bytes() == latest.read_bytes()
    said, recipe = captured(project, run, "pairs-captured.yaml")
    assert not {"warning", "not expressible", "approximated"} & set(re.split(r"  +|\n", said))
    before = load_recipe(project.folder / "pairs.yaml").resolved()
    assert load_recipe(recipe).resolved() == before | {"name": "pairs-captured"}


def test_the_settings_that_the_form_does_not_know_are_seen(board: Board) -> None:
    (shown,) = board.press("load_args", train__config_path="tiny.yaml", top__lang="en")
    extra = json.loads(shown["train-extra_args"])
    assert (extra["seed"], extra["data_seed"], extra["full_determinism"]) == (42, 42, True)
    assert (extra["tokenized_path"], extra["trust_remote_code"]) == ("tokens/tiny", False)
    assert (shown["top-model_path"], shown["train-lora_rank"]) == ("models/tiny", 4)
    (rows,) = board.press("load_args", train__config_path="tiny-rows.yaml", top__lang="en")
    assert json.loads(rows["train-extra_args"])["template"] is None


def test_a_closed_page_ends_no_training(
    board: Board, project: Checkout, script_weights: bytes
) -> None:
    with board.pressed("run_train", changes={"train__output_dir": "closed"}) as client:
        # early: the page is to be seen as closed before the training ends, else it sees that itself
        wait_for(lambda: trainings(board) != [])
        client.kill()
    wait_for((board.saved("closed") / RESULT).exists)
    wait_for((board.saved("closed") / WEIGHTS).exists)
    wait_for(lambda: trainings(board) == [])
    assert (board.saved("closed") / WEIGHTS).read_bytes() == script_weights
    said, _ = captured(project, board.saved("closed"), "captured/closed.yaml")
    assert "not finished" not in said
    # the page that is opened next sees its end, and then the next training may start
    assert board.press("monitor")[-1]["train-output_box"].startswith("Finished.")


def trainings(board: Board) -> list[int]:
    """Processes of trainings that run in it."""
    found = []
    for pid in process_tree.members(board.process.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"train" in words and any(word.endswith(b"llamafactory-cli") for word in words):
            found.append(pid)
    return found


def test_a_killed_training_is_told_and_is_no_success(board: Board, project: Checkout) -> None:
    changes = {"train__output_dir": "killed", "train__extra_args": board.extra(max_steps=100_000)}
    client = board.pressed("run_train", changes=changes)
    wait_for((board.saved("killed") / "trainer_log.jsonl").exists)
    for pid in trainings(board):
        os.kill(pid, signal.SIGKILL)
    said, _ = client.communicate(timeout=60)
    last = json.loads(said.splitlines()[-1])["train-output_box"]
    assert "Failed" in last
    assert "Exit code: -9" in last
    words, _ = captured(project, board.saved("killed"), "captured/killed.yaml")
    assert words.startswith("warning ")
    assert '"not finished" (the run has no trainer_state.json' in words


@pytest.mark.parametrize(
    ("changes", "extra", "said"),
    [
        ({"top__model_path": "models/none"}, {}, "Failed to load tokenizer"),
        ({"train__dataset": ["none"]}, {"tokenized_path": None}, "Undefined dataset none"),
        ({}, {"tokenized_path": None, "template": "nope"}, "Template nope does not exist"),
    ],
    ids=["model", "data set", "template"],
)
def test_what_llamafactory_does_not_have_is_said(
    changes: dict[str, Any],
    extra: dict[str, Any],
    said: str,
    board: Board,
    project: Checkout,
    request: pytest.FixtureRequest,
) -> None:
    name = request.node.callspec.id.replace(" ", "-")
    updates = board.press(
        "run_train", train__output_dir=name, train__extra_args=board.extra(**extra), **changes
    )
    last = updates[-1]["train-output_box"]
    assert "Failed" in last
    assert said in last
    assert not (board.saved(name) / RESULT).exists()
    assert (board.saved(name) / ARGUMENTS).exists()


# --- who gets in


def answer(url: str, path: str = "/config", **headers: str) -> int:
    request = urllib.request.Request(url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_pages_of_others_get_no_answer(board: Board) -> None:
    port = board.url.rpartition(":")[2]
    assert answer(board.url) == 200
    assert answer(board.url, Origin=board.url) == 200
    assert answer(board.url, Host=f"localhost:{port}") == 200
    assert answer(board.url, Origin="http://evil.example") == 403
    assert answer(board.url, Origin="null") == 403
    assert answer(board.url, Origin=f"http://127.0.0.1:{int(port) - 1}") == 403
    assert answer(board.url, Host=f"evil.example:{port}") == 403  # a name that leads here


def test_files_outside_of_the_workspace_are_not_served(board: Board, project: Checkout) -> None:
    inside = board.folder / "models" / "tiny" / "config.json"
    assert answer(board.url, f"/gradio_api/file={inside}") == 200
    assert (project.folder / "tiny.yaml").is_file()
    outside = (project.folder / "tiny.yaml", Path("/etc/passwd"), board.folder / "../tiny.yaml")
    for path in outside:
        assert answer(board.url, f"/gradio_api/file={path}") == 403


def test_the_workspace_is_not_gits(project: Checkout, prepared: Path) -> None:
    listed = subprocess.run(
        ["git", "status", "--short", "--untracked-files=all", str(prepared)],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout == ""


# Who asks is told by status; "none" is no connection.
ASK = """
import sys, urllib.error, urllib.parse, urllib.request
url, password = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor)
def ask(path, form=None):
    data = None if form is None else urllib.parse.urlencode(form).encode()
    try:
        return opener.open(url + path, data, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return "none"
paths = ("/config", "/gradio_api/info", "/gradio_api/file=/etc/passwd", "/gradio_api/queue/data")
said = [ask(path) for path in paths]
said.append(ask("/login", {"username": "recipe", "password": password}))
said.append(ask("/config"))
print(*said)
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[TwoMachines]:
    with two_machines() as both:
        yield both


def test_another_machine_gets_in_by_the_password_alone(
    start: Callable[..., Board], machines: TwoMachines, project: Checkout, prepared: Path
) -> None:
    """And the end of the runner, however it comes, ends the web UI and the training in it."""
    through = tuple(machines.on_server())
    options = ("--host", SERVER, "--expose", "--port", "7860")
    shutil.copytree(prepared, project.folder / "exposed")
    exposed = start("--workspace", "exposed", *options, through=through)
    found = re.search(r"user recipe, password (\S{20,})\n", exposed.said)
    assert found, exposed.said
    right = found.group(1)
    assert exposed.url == f"http://{SERVER}:7860"
    for password, after in ((right, "200 200"), (right[:-1], "400 401"), ("", "422 401")):
        said = ask_from(machines.on_other(*python(ASK, exposed.url, password)))
        assert said.split()[:4] == ["401"] * 4, said
        assert said.strip().endswith(after), said
    assert right not in (exposed.folder / "webui.log").read_text()

    inside = machines.on_server(str(exposed.python), str(TESTS / "board_client.py"), exposed.url)
    changes = json.dumps(
        {"train-output_dir": "left", "train-extra_args": exposed.extra(max_steps=100_000)}
    )
    client = subprocess.Popen([*inside, "run_train", changes, right], stdout=subprocess.DEVNULL)
    wait_for((exposed.saved("left") / "trainer_log.jsonl").exists)
    (training, *_) = trainings(exposed)
    assert right not in environment(training)
    tree = process_tree.members(exposed.process.pid)
    assert len(tree) >= 4  # runner, supervisor, LLaMA Board, training
    exposed.process.kill()
    exposed.process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in tree), 20)
    client.kill()
    client.wait()


def environment(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")


def test_without_being_asked_it_listens_to_its_own_machine_alone(
    start: Callable[..., Board], machines: TwoMachines, project: Checkout, prepared: Path
) -> None:
    """And it says how LLaMA Board ended when it was killed."""
    workspace = project.folder / "alone"
    near = start(
        *("--workspace", str(workspace), "--port", "7861"), through=tuple(machines.on_server())
    )
    on_server = ask_from(machines.on_server(*python(ASK, "http://127.0.0.1:7861", "")))
    assert on_server.split()[0] == "200"
    for machine in (machines.on_other, machines.on_server):
        said = ask_from(machine(*python(ASK, f"http://{SERVER}:7861", "")))
        assert said.split() == ["none"] * 6, said
    for pid in process_tree.members(near.process.pid):
        if "webui_llamafactory" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
    assert near.process.wait(timeout=30) == 1
    words = near.errors.read_text()
    assert "error[E886]: LLaMA Board has ended: python was killed by SIGKILL" in words
    assert str(workspace / "webui.log") in words


def test_ctrl_c_leaves_nothing_running(start: Callable[..., Board], prepared: Path) -> None:
    own = start("--workspace", str(prepared.parent / "interrupted"), "--port", "0")
    assert "The form holds" not in own.said  # nothing was prepared there
    assert answer(own.url) == 200
    tree = process_tree.members(own.process.pid)
    own.process.send_signal(signal.SIGINT)
    assert own.process.wait(timeout=30) == 130
    assert not any(Path(f"/proc/{pid}").exists() for pid in tree)


# --- what is refused before anything starts


def test_a_taken_port_names_who_holds_it(project: Checkout) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        result = project.recipe("webui", "--workspace", "refused", "--port", str(port))
    assert result.returncode == 4
    assert f"error[E880]: port {port} is taken by process {os.getpid()} (" in result.stderr
    assert "--port " in result.stderr
    assert not (project.folder / "refused").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--host", "0.0.0.0"), "E881", "--expose"),
        (("--host", "::"), "E881", "--expose"),
        (("--host", OTHER), "E881", "other machines"),
        (("--host", OTHER, "--expose"), "E882", "no address of this machine"),
        (("--host", "no.such.name.invalid", "--expose"), "E882", "no address"),
        (("--port", "70000"), "E002", "no port 70000"),
        (("--workspace", "recipes"), "E883", "something else"),
        (("--workspace", "tiny.yaml"), "E883", "something else"),
    ],
)
def test_what_cannot_be_served_is_refused(
    arguments: tuple[str, ...], code: str, said: str, project: Checkout
) -> None:
    free = () if "--port" in arguments else ("--port", "0")
    result = project.recipe("webui", *arguments, *free)
    assert result.returncode == 2, result.stderr
    assert f"error[{code}]" in result.stderr
    assert said in result.stderr


def test_a_workspace_serves_one_at_a_time(board: Board, project: Checkout) -> None:
    result = project.recipe("webui", "--workspace", str(board.folder), "--port", "0")
    assert result.returncode == 6
    assert "is in use by process" in result.stderr


def test_a_board_that_does_not_start_says_its_last_words(project: Checkout, prepared: Path) -> None:
    broken = project.folder / "broken"
    for name in ("tokens", "llamaboard_config"):
        (broken / name).mkdir(parents=True)
    (broken / "tokens" / "old.json").write_text("{}")
    (broken / "llamaboard_config" / "old.yaml").write_text("train.no_such_element: 1\n")
    result = project.recipe("webui", "--workspace", str(broken), "--port", "0")
    assert result.returncode == 4
    assert "error[E885]: LLaMA Board ended while it started" in result.stderr
    assert "KeyError: 'train.no_such_element'" in result.stderr
    assert str(broken / "webui.log") in result.stderr


# --- the form

# Method, rows, settings.
PREFERRED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("dpo", PAIRED_ROWS, {}),
    ("dpo", PAIRED_ROWS, {"beta": 0.015, "label_smoothing": 0.3, "bf16": True}),
    ("dpo", PAIRED_ROWS, {"beta": 1.0, "adapter": {"type": "none"}}),
    ("orpo", PAIRED_ROWS, {"beta": 0.5}),
    ("simpo", PAIRED_ROWS, {"beta": 0.75, "simpo_gamma": 0.5}),
    ("simpo", PAIRED_ROWS, {"beta": 0.75}),
    ("kto", JUDGED_ROWS, {}),
    ("kto", JUDGED_ROWS, {"desirable_weight": 0.5, "undesirable_weight": 1.5}),
]


def test_what_a_recipe_says_reaches_the_trainer_by_the_form(
    environment_python: Callable[[str], Path], tmp_path: Path
) -> None:
    """LLaMA Board's own parser, and `recipe capture` behind it, over random recipes."""
    place = write_project(tmp_path)
    (tmp_path / "tokens").mkdir()
    cases: list[tuple[Any, dict[str, Any]]] = []

    @settings(
        max_examples=90,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.filter_too_much],
    )
    @given(
        train=some(TRAIN, *SETTINGS),
        adapter=ADAPTERS,
        length=LENGTHS,
        seed=st.integers(0, 2**31),
        packing=st.booleans(),
    )
    def collect(train: Any, adapter: Any, length: Any, seed: int, packing: bool) -> None:
        text = {**RECIPE, "name": f"case-{len(cases)}", "seed": seed}
        text["data"] = {**RECIPE["data"], "packing": packing}
        text["train"] = {"backend": "llamafactory", "adapter": adapter, **train, **length}
        try:
            recipe = load_text(place, text)
            form_of(told_of(recipe))
        except (RecipeInvalid, UsageError):  # no recipe, or one that the form cannot hold
            assume(False)
        cases.append((recipe, told_of(recipe)))

    collect()
    for method, rows, train in PREFERRED:
        text = {**RECIPE, "name": f"case-{len(cases)}", "data": {**RECIPE["data"], "train": [rows]}}
        usual = {"backend": "llamafactory", "adapter": {"type": "lora"}, "max_steps": 5}
        text["train"] = {**usual, "method": method, **train}
        recipe = load_text(place, text)
        cases.append((recipe, told_of(recipe)))
    forms = [form_of(told).saved() for _, told in cases]
    said = subprocess.run(
        [str(environment_python("llamafactory")), str(TESTS / "board_parser.py")],
        input=json.dumps(forms),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    parsed = json.loads(said.stdout.splitlines()[-1])
    assert len(parsed) == len(cases) >= 40
    layers = {recipe.train.adapter.trainable_layers for recipe, _ in cases}
    assert None in layers
    assert layers - {None}  # the last ones, or the first
    for (recipe, told), started in zip(cases, parsed, strict=True):
        usual = {name: started.get(name, DEFAULTS.get(name)) for name in told}
        kept = {name for name in told if name in MAPPED}
        assert {name: usual[name] for name in kept} == {name: told[name] for name in kept}
        origin = tmp_path / "tokens" / f"{recipe.name}.json"
        origin.write_text(origin_text(recipe, tmp_path, told, "key"))
        made = capture(
            Source(origin, started, {}, True), Place(tmp_path, place.recipe), recipe.name
        )
        assert not [note for note in made.notes if note.fate in (Fate.LOST, Fate.CLOSE)]
        assert load_text(place, made.recipe).resolved() == recipe.resolved()


def told_of(recipe: Any) -> dict[str, Any]:
    """What LLaMA Factory is told of the recipe in a workspace."""
    targets = recipe.train.adapter.target_modules
    named = "all" if isinstance(targets, str) else ",".join(targets)
    return {
        **llamafactory.configuration(recipe),
        **({"lora_target": named} if recipe.train.adapter.type == "lora" else {}),
        "model_name_or_path": "models/tiny",
        "tokenized_path": f"tokens/{recipe.name}",
        "dataset_dir": "data",
        "dataset": recipe.name,
        "template": "empty",
        "cutoff_len": 48,
        "use_cpu": True,
        "save_steps": recipe.train.save_steps,
    }
