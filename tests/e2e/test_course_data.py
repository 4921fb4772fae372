"""The course's preparation of data: what the page shows is what the command prints."""

from __future__ import annotations

import re

from tests.chain import ROOT
from tests.e2e.conftest import Quickstart

RECIPE = "recipes/course/10.4-preparation.yaml"


def test_the_page_shows_what_is_printed(quickstart: Quickstart) -> None:
    done = quickstart.checkout.recipe("data", "prepare", RECIPE)
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "course" / "10.4-data.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    about_the_run = ("run folder:", "everything is up to date")
    printed = [line for line in done.stdout.splitlines() if not line.startswith(about_the_run)]
    assert printed == shown.splitlines()


def test_every_step_finds_something(quickstart: Quickstart) -> None:
    done = quickstart.checkout.recipe("data", "prepare", RECIPE)
    steps = re.findall(r"^  (\w+): (\d+) rows? changed, dropped: (\w+)", done.stdout, re.MULTILINE)
    assert len(steps) == 12
    idle = [name for name, changed, dropped in steps if changed == "0" and dropped == "none"]
    assert idle == []


def test_the_row_that_does_not_fit_is_named(quickstart: Quickstart) -> None:
    done = quickstart.checkout.recipe("data", "inspect", "recipes/data/support-raw.jsonl")
    assert done.returncode == 1
    assert "looks like sharegpt" in done.stdout
    assert "recipes/data/support-raw.jsonl:11: turn 2" in done.stdout
