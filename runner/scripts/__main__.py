"""Start a script: `python .../runner/scripts NAME SPEC.json`.

The environment's interpreter does not have Spark Recipes installed, and must not see the packages
of the interpreter that has. So this file, run by its path, makes the package `runner` importable
from its own folder alone, without touching sys.path beyond removing its own entry.
"""

import importlib.util
import runpy
import sys
from pathlib import Path


def _make_runner_importable() -> None:
    package = Path(__file__).resolve().parent.parent
    own = package / "scripts"
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != own]
    if "runner" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "runner", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["runner"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    _make_runner_importable()
    name = sys.argv.pop(1)
    runpy.run_module(f"runner.scripts.{name}", run_name="__main__", alter_sys=True)
