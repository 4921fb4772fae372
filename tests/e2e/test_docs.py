"""Every command that the documents show is run, and does what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from tests.chain import ROOT
from tests.e2e.conftest import Quickstart

_COMPOSE = "docker compose"
_QUICKSTART = "run --rm recipe run recipes/quickstart.yaml"

# Run by other tests: the make targets by this very test run, the container's by tests/container.
ELSEWHERE = {
    "recipe capture saves/Custom/lora/train_2026 -o recipes/clicked.yaml": (
        "tests/unit/test_capture.py"
    ),
    "recipe capture webui/saves/Custom/lora/train_2026 -o recipes/clicked.yaml": (
        "tests/integration/test_webui.py"
    ),
    # needs a large model
    **dict.fromkeys(
        (
            "recipe data synthesize recipes/course/10.4-synthesis.yaml -o rows.jsonl",
            "recipe data synthesize recipes/course/10.4-synthesis.yaml -o rows.jsonl --offline",
        ),
        "tests/integration/test_synthesis.py",
    ),
    **dict.fromkeys(
        (
            "recipe compare runs/quickstart runs/sft-then-dpo --judge judge.yaml",
            "recipe compare runs/quickstart runs/sft-then-dpo --judge judge.yaml --offline",
        ),
        "tests/integration/test_judge.py",
    ),
    # on tiny models, and which files of a folder are recipes to run
    ".venv/bin/recipe run recipes/course/10.5-*.yaml": "tests/integration/test_several_recipes.py",
    # servers, which do not end by themselves
    "recipe webui recipes/quickstart.yaml": "tests/integration/test_webui.py",
    ".venv/bin/recipe webui recipes/quickstart.yaml": "tests/integration/test_webui.py",
    f"{_COMPOSE} run --rm recipe webui recipes/quickstart.yaml --prepare": (
        "tests/container/test_compose.py"
    ),
    f"{_COMPOSE} up webui": "tests/container/test_compose.py",
    **dict.fromkeys(
        (
            ".venv/bin/recipe new mine.yaml --from lora.yml",
            "recipe new mine.yaml --from lora.yml",
            "recipe new mine.yaml --from notebook.ipynb --data rows.jsonl",
            "recipe new mine.yaml --from settings.yaml --as trl --report json",
        ),
        "tests/unit/test_imports.py",
    ),
    "recipe crosscheck recipes/quickstart.yaml --with native,llamafactory,webui": (
        "tests/e2e/test_crosscheck.py"
    ),
    ".venv/bin/recipe crosscheck recipes/quickstart.yaml": "tests/e2e/test_crosscheck.py",
    # ends with 1, since a row does not fit
    ".venv/bin/recipe data inspect recipes/data/support-raw.jsonl": "tests/e2e/test_course_data.py",
    **dict.fromkeys(
        (
            "sudo install -d -g team -m 2770 /srv/spark-recipes",
            "export SPARK_RECIPES_CACHE=/srv/spark-recipes",
        ),
        "tests/e2e/test_two_users.py",
    ),
    # the same on a tiny model: half a minute of a processor would say no more
    "recipe bench train recipes/quickstart.yaml": "tests/integration/test_bench.py",
    "make test": "this is the test run",
    "make test-container": "tests/container",
    f"{_COMPOSE} {_QUICKSTART}": "tests/container/test_compose.py",
    f"{_COMPOSE} -f compose.yaml -f compose.gpu.yaml {_QUICKSTART}": (
        "needs a GPU; tests/container/test_compose.py checks the files"
    ),
}


def shown_commands() -> list[tuple[str, str]]:
    """(document, command) of every line in a `sh` block, without its trailing comment."""
    found = []
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.findall(
            r"^```sh\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL
        ):
            for line in block.splitlines():
                command = re.split(r"\s+#", line)[0].strip()
                if command:
                    found.append((str(document.relative_to(ROOT)), command))
    return found


def test_the_documents_show_commands() -> None:
    assert len(shown_commands()) >= 8


@pytest.mark.parametrize(
    ("document", "command"),
    [(d, c) for d, c in shown_commands() if c not in ELSEWHERE],
)
def test_the_command_works(document: str, command: str, quickstart: Quickstart) -> None:
    words = shlex.split(command)
    if words[0] in (".venv/bin/recipe", "recipe"):
        words[:1] = [sys.executable, "-m", "runner"]
    result = subprocess.run(
        words,
        cwd=quickstart.checkout.folder,
        env=quickstart.checkout.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{document}: {command}\n{result.stdout}\n{result.stderr}"


def test_commands_that_are_run_elsewhere_are_still_shown() -> None:
    shown = {command for _, command in shown_commands()}
    assert set(ELSEWHERE) <= shown
