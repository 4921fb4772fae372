"""Train in LLaMA Board as a person does: a real browser fills in the form and presses Start.

spec.hashed: `config` (saved arguments to load), `model_path`, `stage`, `datasets`,
`extra_args` (to type), `output_dir`, `sandbox`, `device`. spec.inputs: `board` (the workspace of
runner/webui), `start` (how the Board is started in it), `chromium`. Writes `screenshots/*.png` and
`clicked.json`: the form's labels, the command that the Board showed, and its progress.

Needs Playwright. The Board listens on 127.0.0.1 alone, and ends with this script.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Error, FloatRect, Page, expect, sync_playwright

from runner.scripts.process_memory import PeakMemory
from runner.scripts.spec import Events, ScriptError, Spec, main

START_SECONDS = 300.0
ACTION_SECONDS = 60.0  # for one click or field: a busy machine is slow
LOOK_SECONDS = 0.5
WIDE, HIGH = 1400, 1700  # of the window, in pixels
MOST_PIXELS = 3600  # of a picture's height: the form, and the beginning of the log
PROGRESS = re.compile(r"Running (\d+)/(\d+)")
FINISHED, FAILED = "Finished.", "Failed."  # what the output box begins with at the end


def drive(spec: Spec, events: Events) -> None:
    """Start the Board, train in it, end it. Raises ScriptError E894 when it does not train."""
    pictures = spec.folder / "screenshots"
    pictures.mkdir(parents=True, exist_ok=True)
    with (
        running_board(spec) as (process, address),
        PeakMemory(process.pid, "train") as peak,
        open_page(spec, address) as page,
    ):
        try:
            fill_in(page, spec)
            take(page, pictures / "1-form.png")
            labels = page.get_by_test_id("block-info").all_inner_texts()
            command = preview(page)
            take(page, pictures / "2-command.png")
            page.locator("#train-start_btn").click()
            progress = watch(page, process, events, pictures)
            take(page, pictures / "4-finished.png")
        except (Error, AssertionError) as error:
            take(page, spec.scratch / "webui-failed.png")
            raise ScriptError(
                f"LLaMA Board cannot be driven: {str(error).splitlines()[0]}",
                hint=f"see {spec.scratch / 'webui-failed.png'}, and the log",
                code="E894",
            ) from error
    clicked = {"labels": labels, "command": command, "progress": progress}
    (spec.folder / "clicked.json").write_text(json.dumps(clicked, indent=1) + "\n", "utf-8")
    if spec.hashed["device"] == "cpu":
        events.measure(peak_memory=peak.bytes)


# --- Board and browser


@contextlib.contextmanager
def running_board(spec: Spec) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The Board's process and its address, once it answers."""
    start = json.loads(spec.inputs["start"].read_bytes())
    port = free_port()
    job = spec.scratch / "board-job.json"
    # nothing in its form yet: that is what the browser is for
    where = {"host": "127.0.0.1", "port": port, "form": {"top.lang": "en"}, "any_host": False}
    job.write_text(json.dumps(where), encoding="utf-8")
    process = subprocess.Popen(
        [*start["argv"], str(job)], cwd=spec.inputs["board"], env=start["env"]
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for_answer(process, address)
        yield process, address
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_answer(process: subprocess.Popen[bytes], address: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    limit = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < limit:
        with contextlib.suppress(urllib.error.URLError, OSError):
            opener.open(f"{address}/config", timeout=5).close()
            return
        time.sleep(LOOK_SECONDS)
    raise ScriptError("LLaMA Board does not start", hint="read the log", code="E894")


@contextlib.contextmanager
def open_page(spec: Spec, address: str) -> Iterator[Page]:
    """The Board's page in a browser whose profile is thrown away."""
    options = ["--no-proxy-server", "--disable-dev-shm-usage"]
    options += [] if spec.hashed["sandbox"] else ["--no-sandbox"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=spec.inputs["chromium"],
            args=options,
            chromium_sandbox=spec.hashed["sandbox"],
        )
        try:
            page = browser.new_page(viewport={"width": WIDE, "height": HIGH}, locale="en-US")
            page.set_default_timeout(1000 * ACTION_SECONDS)
            expect.set_options(timeout=1000 * ACTION_SECONDS)
            page.goto(address)
            yield page
        finally:
            browser.close()


# --- the form; every element has its name in the Board as id


def fill_in(page: Page, spec: Spec) -> None:
    """Model, stage, data, saved arguments, extra arguments, output folder; in this order.

    A choice of the model changes the template, and a choice of the stage which data are listed.
    """
    hashed = spec.hashed
    choose(page, "#top-model_name", "Custom")
    type_into(page, "#top-model_path", hashed["model_path"])
    choose(page, "#train-training_stage", hashed["stage"])
    for name in hashed["datasets"]:
        page.locator("#train-dataset input").click()
        page.get_by_role("option", name=name, exact=True).click()
    choose(page, "#train-config_path", hashed["config"])
    page.locator("#train-arg_load_btn").click()
    expect(page.locator("#train-output_box")).to_contain_text("restored")
    for tab in ("#train-extra_tab", "#train-lora_tab"):
        page.locator(f"{tab} > button").click()
    type_into(page, "#train-extra_args", json.dumps(hashed["extra_args"]))
    choose(page, "#train-output_dir", hashed["output_dir"])


def choose(page: Page, element: str, value: str) -> None:
    """Type a value into a list that takes any, and leave it."""
    field = page.locator(f"{element} input")
    field.click()
    field.fill(value)
    field.press("Enter")
    field.press("Tab")


def type_into(page: Page, element: str, value: str) -> None:
    field = page.locator(f"{element} textarea")
    field.fill(value)
    field.press("Tab")


def take(page: Page, path: Path) -> None:
    """A picture of the page, without the end of a long log."""
    high = min(int(page.evaluate("document.documentElement.scrollHeight")), MOST_PIXELS)
    clip = FloatRect(x=0, y=0, width=WIDE, height=high)
    page.screenshot(path=path, full_page=True, clip=clip)


def preview(page: Page) -> str:
    """What the Board says that it will run."""
    page.locator("#train-cmd_preview_btn").click()
    box = page.locator("#train-output_box")
    expect(box).to_contain_text("llamafactory-cli train")
    return str(box.inner_text())


# --- the training


def watch(
    page: Page, process: subprocess.Popen[bytes], events: Events, pictures: Path
) -> list[list[int]]:
    """Follow the page to the end; the [step, steps] that it showed. Raises ScriptError E894."""
    seen: list[list[int]] = []
    box, bar = page.locator("#train-output_box"), page.locator("#train-progress_bar")
    while True:
        said = box.inner_text()
        found = PROGRESS.search(bar.inner_text()) if bar.is_visible() else None
        now = [int(number) for number in found.groups()] if found else []
        if now and now not in seen:
            seen.append(now)
            events.progress(*now, message="in LLaMA Board")
            if len(seen) == 1 or 2 * now[0] <= now[1]:  # the last one of the first half
                take(page, pictures / "3-training.png")
        if said.startswith(FAILED):
            raise ScriptError(
                f"the training in LLaMA Board failed: {reason(said)}",
                hint="read the log, then run the same command again",
                code="E894",
            )
        if said.startswith(FINISHED):
            if not seen:  # it was over between two looks
                take(page, pictures / "3-training.png")
            return seen
        if process.poll() is not None:
            raise ScriptError("LLaMA Board ended by itself", hint="read the log", code="E894")
        time.sleep(LOOK_SECONDS)


def reason(text: str) -> str:
    """The last line that an exception of Python's wrote."""
    lines = [line for line in text.splitlines() if re.match(r"\w+(Error|Exception)\b", line)]
    return lines[-1][:300] if lines else "it does not say why"


if __name__ == "__main__":
    main(drive)
