"""What a careless program would let into its outputs: one fact for each variation.

`plant` puts it into a copy of the checkout, where `prepare` then writes all facts into outputs of
its own: those that the runner's process sees, and those that a script sees. Run under a variation,
exactly one of each must change; tests/variations.py says which ones a script does not see.
Standard library only, since it runs in the scripts' environments.
"""

from __future__ import annotations

import datetime
import json
import locale
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

STAGE = """

# ---- planted ----
from tests import variation_leaks

OUTPUTS |= {"runner-*": Class.PORTABLE, "script-*": Class.PORTABLE}
_run = run


def run(recipe, inputs, folder, context):
    _run(recipe, inputs, folder, context)
    context.run_script("variation_leaks", {}, folder=folder)
    variation_leaks.write(folder, "runner", __file__)
"""


def plant(checkout: Path) -> None:
    """Make `prepare` of this checkout leak."""
    shutil.copyfile(__file__, checkout / "runner" / "scripts" / "variation_leaks.py")
    with (checkout / "runner" / "stages" / "prepare.py").open("a") as stage:
        stage.write(STAGE)


def write(folder: Path, who: str, program: str) -> None:
    """A file for each fact: WHO-FACT."""
    for name, value in facts(Path(program)).items():
        (folder / f"{who}-{name.replace(' ', '-')}").write_text(f"{value}\n", encoding="utf-8")


def facts(program: Path) -> dict[str, str]:
    """Variation -> what it changes, as a careless program would write it."""
    return {
        "folder": str(program.resolve()),
        "user": f"{os.getuid()} {os.getgid()}",
        "home": str(Path.home()),
        "locale": _in_the_users_locale(),
        "time zone": time.strftime("%H:%M", time.localtime(0)),
        "umask": _mode_of_a_new_file(),
        "hash seed": str(hash("a word")),
        "directory order": _order_of_a_folder(),
        "workers": f"{len(os.sched_getaffinity(0))} {os.cpu_count()}",
        "caches": str(len(list((Path(os.environ["VARY_STORE"]) / "prepare").glob("*")))),
        # not the day: two runs may have a midnight between them
        "date": str(datetime.date.today().year),
    }


def _in_the_users_locale() -> str:
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, "")
        return locale.str(1234.5) + time.strftime(" %A", time.gmtime(0))
    finally:
        locale.setlocale(locale.LC_ALL, before)


def _mode_of_a_new_file() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new"
        path.touch()
        return oct(path.stat().st_mode)


def _order_of_a_folder() -> str:
    with tempfile.TemporaryDirectory() as folder:
        for name in "acbd":
            (Path(folder) / name).touch()
        return "".join(os.listdir(folder))  # noqa: PTH208  (as careless as can be)


if __name__ == "__main__":
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    write(Path(spec["where"]["folder"]), "script", __file__)
