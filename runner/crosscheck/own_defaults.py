"""What each way would have done where the recipe is silent: the programs' own defaults.

They are read off the installed packages by a script in each environment, and kept in the cache
under that environment's identity.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.backends.llamafactory_preferences import NAMES
from runner.backends.trainer_arguments import SAME
from runner.errors import StageFailed
from runner.recipe.methods import METHODS
from runner.recipe.methods import SETTINGS as METHOD_SETTINGS

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

VERSION = 2  # raise when the scripts below say more
# role -> the script that reads its defaults
SCRIPTS = {
    "native": "own_defaults_of_trl",
    "llamafactory": "own_defaults_of_llamafactory",
}
# column -> (environment, groups of its defaults; the first that has the name says it)
COLUMNS = {
    "trl": ("native", ("trl-{method}", "peft")),
    "llamafactory": ("llamafactory", ("llamafactory",)),
    "board": ("llamafactory", ("board", "llamafactory")),
}
TITLES = {"trl": "TRL and PEFT", "llamafactory": "LLaMA Factory", "board": "LLaMA Board"}


@dataclass(frozen=True)
class Setting:
    """One setting: its place in a recipe, and its name where TRL and where LLaMA Factory have it.

    `inverted`: LLaMA Factory's says the opposite. "" is what has no such setting.
    """

    pointer: str
    trl: str
    factory: str
    inverted: bool = False
    absent: Any = None  # what it means that a recipe of this kind has no such field

    def of(self, method: str) -> bool:
        """Has `method` it? Most are every method's."""
        name = self.pointer.removeprefix("/train/")
        return name not in METHOD_SETTINGS or name in METHODS[method].settings


_ADAPTER = "/train/adapter/"
SETTINGS = (
    Setting("/seed", "seed", "seed"),
    Setting("/train/num_train_epochs", "num_train_epochs", "num_train_epochs"),
    Setting("/train/max_steps", "max_steps", "max_steps"),
    *(Setting(f"/train/{name}", name, name) for name in SAME),
    Setting(
        "/train/gradient_checkpointing",
        "gradient_checkpointing",
        "disable_gradient_checkpointing",
        inverted=True,
    ),
    Setting("/train/save_steps", "save_steps", "save_steps"),
    *(Setting(f"/train/{name}", name, NAMES.get(name, "")) for name in METHOD_SETTINGS),
    Setting("/data/max_length", "max_length", "cutoff_len"),
    Setting("/data/packing", "packing", "packing"),
    Setting("/model/attn_implementation", "", "flash_attn"),
    Setting("/model/trust_remote_code", "trust_remote_code", "trust_remote_code", absent=False),
    Setting(f"{_ADAPTER}r", "r", "lora_rank"),
    Setting(f"{_ADAPTER}lora_alpha", "lora_alpha", "lora_alpha"),
    Setting(f"{_ADAPTER}lora_dropout", "lora_dropout", "lora_dropout"),
    Setting(f"{_ADAPTER}target_modules", "target_modules", "lora_target"),
    Setting(f"{_ADAPTER}use_dora", "use_dora", "use_dora"),
    Setting(f"{_ADAPTER}use_rslora", "use_rslora", "use_rslora"),
)
ABSENT = object()


@dataclass(frozen=True)
class Row:
    """`recipe`: the value that all ways were given; `given`: the recipe's file says it.

    `own`: column -> the program's own default, without columns that have no such setting.
    """

    pointer: str
    recipe: Any
    given: bool
    own: Mapping[str, Any]

    @property
    def differs(self) -> bool:
        """Would somebody have trained with another value?"""
        return any(not _same(value, self.recipe) for value in self.own.values())


def rows(
    recipe: Recipe, read: Mapping[str, Mapping[str, Any]], columns: Sequence[str]
) -> list[Row]:
    """One row a setting of the recipe's method. `read`: group -> defaults, as the scripts say
    them. Pure."""
    resolved, method = recipe.resolved(), recipe.train.method
    return [
        Row(
            setting.pointer,
            _at(resolved, setting),
            recipe.origin(setting.pointer) is not None,
            {
                column: value
                for column in columns
                if (value := _own(setting, column, method, read)) is not ABSENT
            },
        )
        for setting in SETTINGS
        if setting.of(method)
    ]


def _own(setting: Setting, column: str, method: str, read: Mapping[str, Mapping[str, Any]]) -> Any:
    name = setting.trl if column == "trl" else setting.factory
    for group in COLUMNS[column][1]:
        own = read[group.format(method=method)]
        if name in own:
            value = own[name]
            return not value if setting.inverted and column != "trl" else value
    return ABSENT


def _at(data: Any, setting: Setting) -> Any:
    for name in setting.pointer.strip("/").split("/"):
        data = data.get(name) if isinstance(data, dict) else None
    return setting.absent if data is None else data


def _same(value: Any, wanted: Any) -> bool:
    """LLaMA Factory's `all` is the recipe's all-linear, -1 steps are none, and so is no packing."""
    if value in ("all", ["all"]):
        return bool(wanted == "all-linear")
    if value is None or value == -1:
        return wanted is None or wanted is False
    return bool(value == wanted)


def read_defaults(
    columns: Sequence[str], cache: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Group -> defaults, of every environment that the columns need. Raises StageFailed (E896)."""
    found: dict[str, Any] = {}
    for role in sorted({COLUMNS[column][0] for column in columns}):
        found |= _of_environment(role, cache, say)
    return found


def _of_environment(role: str, cache: Path, say: Callable[[str], None]) -> dict[str, Any]:
    from runner.store.atomic import write_atomic
    from runner.system import environments

    environment = environments.ensure(role, cache, say)
    file = cache / "own-defaults" / f"{role}-{environment.identity[:16]}-{VERSION}.json"
    if not file.is_file():
        say(f"reading the own defaults of environment {role}")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(_ask(environment.python, role, cache), indent=1) + "\n")
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


def _ask(python: Path, role: str, cache: Path) -> dict[str, Any]:
    """Run the environment's script and return what it wrote."""
    import tempfile

    from runner.execution.context import SCRIPTS as ENTRY
    from runner.system import determinism, platforms, process

    name = SCRIPTS[role]
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        (place / "scratch").mkdir()
        spec = {
            "stage": "train",
            "hashed": {},
            "where": {
                "inputs": {},
                "folder": str(place),
                "scratch": str(place / "scratch"),
                "events": str(place / "events.jsonl"),
            },
        }
        (place / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        env = process.child_env(determinism.script_env(platforms.compute_threads()))
        result = process.run_child(
            [str(python), str(ENTRY), name, str(place / "spec.json")],
            env=env | {"PYTHONPYCACHEPREFIX": str(cache / "pycache")},
            cwd=place / "scratch",
            stdout=place / "log",
            stderr=place / "log",
        )
        if not result.ok:
            raise StageFailed(
                f"the own defaults of environment {role} cannot be read: "
                f"{process.describe_exit(result)}",
                hint="run the same command again",
                code="E896",
            )
        answer: dict[str, Any] = json.loads((place / "defaults.json").read_bytes())
        return answer
