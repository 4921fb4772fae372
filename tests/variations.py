"""Run a recipe in surroundings that must not decide a byte, varied as reprotest varies a build's.

`VARIATIONS` is the list: each changes one thing of the base. `Harness.run` runs a recipe in given
surroundings, always at the same place, so that nothing else differs; docs/reproducibility.md shows
the list with its results (tests/unit/test_variation_table.py).

What the runner hides from its scripts is varied around the runner. The rest reaches every process
by a preloaded library (variation_shim/vary.c), and the date by libfaketime.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.system.process import FROM_HOST
from tests.chain import ROOT, copy_checkout
from tests.debian import unpacked

SOURCES = ROOT / "tests" / "variation_shim" / "vary.c"
OTHER_USER = 54321  # in no user database
LOCALE = "tr_TR.UTF-8"  # a comma in numbers, days in Turkish, and i is not the small I
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


@dataclass(frozen=True)
class Surroundings:
    """What is around a run. The defaults are the base that variations are compared with."""

    folder: str = "plain"
    user: int | None = None  # None: whoever runs the tests
    home: str = "home"
    locale: str = "C.UTF-8"
    time_zone: str = "UTC0"
    umask: int = 0o022
    hash_seed: int = 1
    order: str = "as-stored"
    # Of which the runner may use one: how many threads compute is a part of the platform.
    processors: int = 1
    warm: bool = False
    date: str | None = None  # in libfaketime's words


@dataclass(frozen=True)
class Variation:
    """One change of the base. `seen_by_scripts`: else the scripts' environment hides it."""

    name: str
    what: str
    changes: dict[str, Any]
    seen_by_scripts: bool = True

    def of(self, surroundings: Surroundings) -> Surroundings:
        """`surroundings` with this change."""
        return dataclasses.replace(surroundings, **self.changes)


VARIATIONS = (
    Variation(
        "folder",
        "checkout, cache and store at another depth, in folders with a blank, a quote and an ü",
        {"folder": "some where/it's/für alle"},
    ),
    Variation("user", "a user and a group that no database knows", {"user": OTHER_USER}),
    Variation(
        "home",
        "another HOME, where a user's own Python packages are broken",
        {"home": "another home"},
    ),
    Variation(
        "locale", "Turkish in place of C (LC_ALL)", {"locale": LOCALE}, seen_by_scripts=False
    ),
    Variation(
        "time zone", "14 hours ahead of UTC", {"time_zone": "EAST-14"}, seen_by_scripts=False
    ),
    Variation("umask", "077 in place of 022", {"umask": 0o077}),
    Variation("hash seed", "another PYTHONHASHSEED", {"hash_seed": 4321}, seen_by_scripts=False),
    Variation("directory order", "every folder is listed backwards", {"order": "reversed"}),
    Variation(
        "workers",
        "7 processors in place of 1, and a runner that may use one: more workers beside the one "
        "thread that computes",
        {"processors": 7},
    ),
    Variation(
        "caches",
        "bytecode of an earlier run, and a store with the base model and another recipe's tokens",
        {"warm": True},
    ),
    Variation("date", "2000 days later", {"date": "+2000d"}),
)


def all_at_once() -> Surroundings:
    """Every change together."""
    surroundings = Surroundings()
    for variation in possible():
        surroundings = variation.of(surroundings)
    return surroundings


def possible() -> tuple[Variation, ...]:
    """Those that can be made here: only root can become another user."""
    return tuple(each for each in VARIATIONS if each.name != "user" or os.geteuid() == 0)


@dataclass(frozen=True)
class Finished:
    """A recipe that was run to its end."""

    manifest: bytes
    record: bytes  # run.json
    seen: tuple[str, ...]  # the preloaded library's lines
    log: str


@dataclass(frozen=True)
class Tools:
    """What changes the surroundings."""

    shim: Path
    faketime: Path
    locales: Path

    @staticmethod
    def ready(cache: Path, place: Path) -> Tools:
        """Compile the library below `place`; packages lie in the tests' cache."""
        shim = place / "vary.so"
        flags = ["-O1", "-Wall", "-Werror", "-fPIC", "-shared"]
        subprocess.run(["cc", *flags, "-o", str(shim), str(SOURCES), "-ldl"], check=True)
        faketime = unpacked(["libfaketime"], cache)
        (library,) = faketime.rglob("libfaketime.so.1")
        return Tools(shim, library, _locales(cache, place))


def _locales(cache: Path, place: Path) -> Path:
    """A folder for LOCPATH with LOCALE in it, compiled from Debian's sources of locales."""
    sources = unpacked(["locales"], cache) / "usr" / "share" / "i18n"
    target = place / "locales"
    target.mkdir()
    language, _, encoding = LOCALE.partition(".")
    # 1: there were warnings
    subprocess.run(
        ["localedef", "-i", language, "-f", encoding, str(target / LOCALE)],
        env=os.environ | {"I18NPATH": str(sources)},
        capture_output=True,
        check=False,
    )
    assert (target / LOCALE / "LC_NUMERIC").is_file(), "localedef made no locale"
    return target


class Harness:
    """Runs recipes below `place`. `write` puts a recipe and what it needs into a checkout."""

    def __init__(self, tools: Tools, place: Path, shared_cache: Path) -> None:
        self._tools, self._place, self._shared = tools, place, shared_cache

    def run(
        self, surroundings: Surroundings, write: Callable[[Path], str], *options: str
    ) -> Finished:
        """Run `recipe run RECIPE OPTIONS...` from nothing.

        `write` fills a checkout and returns the recipe's path in it. For warm caches it must also
        write `earlier.yaml` beside it, which is prepared before.
        """
        folder = self._place / surroundings.folder
        home = self._place / surroundings.home
        checkout = copy_checkout(
            folder / "checkout", cache=folder / "cache", store=folder / "store", home=home
        ).folder
        (folder / "cache").mkdir()
        if home.name != Surroundings.home:
            _write_broken_packages(home)
        recipe = write(checkout)
        seen = self._place / "seen"
        seen.touch()
        self._give_away(surroundings)
        try:
            if surroundings.warm:
                earlier = str(Path(recipe).with_name("earlier.yaml"))
                then = dataclasses.replace(surroundings, date=None)
                self._command(then, "run", earlier, "--until", "prepare")
            log = self._command(surroundings, "run", recipe, *options)
            (run,) = [
                path
                for path in (checkout / "runs").glob("*/latest")
                if path.parent.name != "earlier"
            ]
            return Finished(
                (run / "manifest.json").read_bytes(),
                (run / "run.json").read_bytes(),
                tuple(seen.read_text().split("\n")[:-1]),
                log,
            )
        finally:
            seen.unlink()
            for path in (self._place / Path(surroundings.folder).parts[0], home):
                subprocess.run(
                    ["chmod", "-R", "u+w", str(path)], check=True
                )  # as stored: read-only
                shutil.rmtree(path)

    def _give_away(self, surroundings: Surroundings) -> None:
        """Let the other user own what is his, down from the place itself."""
        if surroundings.user is not None:
            owner = f"{surroundings.user}:{surroundings.user}"
            subprocess.run(["chown", "-R", owner, str(self._place)], check=True)

    def _command(self, surroundings: Surroundings, *arguments: str) -> str:
        env = self._env(surroundings)
        # Once the user is another one: what is preloaded must not have begun as the first.
        late = ["env", *(f"{name}={value}" for name, value in env.items())]
        python = [sys.executable, "-m", "runner", *arguments]
        result = subprocess.run(
            [*_as_user(surroundings.user), *late, *python],
            cwd=self._place / surroundings.folder / "checkout",
            env={"PATH": os.environ["PATH"]},
            umask=surroundings.umask,
            capture_output=True,
            check=False,
        )
        log = (result.stdout + result.stderr).decode(errors="replace")
        assert result.returncode == 0, f"{surroundings}\n{log}"
        return log

    def _env(self, surroundings: Surroundings) -> dict[str, str]:
        folder = self._place / surroundings.folder
        libraries = [self._tools.shim]
        env = {
            **_network(),
            "HOME": str(self._place / surroundings.home),
            "PYTHONPATH": str(folder / "checkout"),
            "PYTHONHASHSEED": str(surroundings.hash_seed),
            "LC_ALL": surroundings.locale,
            "LOCPATH": str(self._tools.locales),
            "TZ": surroundings.time_zone,
            "SPARK_RECIPES_CACHE": str(folder / "cache"),
            "SPARK_RECIPES_STORE": str(folder / "store"),
            # environments and tools: they take minutes to build, and nothing is added to them
            "SPARK_RECIPES_PREBUILT": str(self._shared),
            "VARY_ORDER": surroundings.order,
            "VARY_PROCESSORS": str(surroundings.processors),
            "VARY_AFFINITY": "1",
            "VARY_SEEN": str(self._place / "seen"),
            "VARY_STORE": str(folder / "store"),
        }
        if not surroundings.warm:
            env["PYTHONDONTWRITEBYTECODE"] = "1"
        if surroundings.date is not None:
            libraries.append(self._tools.faketime)
            env |= {"FAKETIME": surroundings.date, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        return env | {"LD_PRELOAD": ":".join(map(str, libraries))}


def _as_user(user: int | None) -> list[str]:
    """Become this user, who may read what root may, since Python and the tests may lie there."""
    if user is None:
        return []
    may = f"+{_reading_capability()}"
    who = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    # else access(2), which asks for the real user, would leave the capability out
    who.append("--securebits=+no_setuid_fixup")
    return ["setpriv", *who, f"--inh-caps={may}", f"--ambient-caps={may}"]


def _reading_capability() -> str:
    """Containers often lack the one that is for reading alone."""
    status = Path("/proc/self/status").read_text()
    bounding = int(status.split("CapBnd:")[1].split()[0], 16)
    return "dac_read_search" if bounding >> CAP_DAC_READ_SEARCH & 1 else "dac_override"


def _network() -> dict[str, str]:
    """PATH, and how this machine reaches a package index."""
    return {
        name: value for name, value in os.environ.items() if name in FROM_HOST or "INDEX" in name
    }


def _write_broken_packages(home: Path) -> None:
    """A user's own packages, of every Python that may run, and each of them raises."""
    for minor in range(11, 15):
        site = home / ".local" / "lib" / f"python3.{minor}" / "site-packages"
        for name in ("numpy", "torch", "yaml", "usercustomize"):
            (site / name).mkdir(parents=True, exist_ok=True)
            (site / name / "__init__.py").write_text(
                'raise RuntimeError("a user\'s own package")\n'
            )


def not_reached(seen: Iterable[str]) -> set[str]:
    """Programs that a process became without the library in them: they saw the machine as it is."""
    lines = [line.split(" ", 2) for line in seen]
    reached = {pid for what, pid, _ in lines if what == "seen"}
    return {Path(path).name for what, pid, path in lines if what == "exec" and pid not in reached}


def programs(seen: Iterable[str]) -> set[str]:
    """Names of the programs that had the library in them."""
    return {Path(line.split(" ", 2)[2]).name for line in seen if line.startswith("seen ")}


def table(results: dict[str, str]) -> str:
    """The list with a result each, as Markdown."""
    rows = [f"| {each.name} | {each.what} | {results[each.name]} |" for each in VARIATIONS]
    return "\n".join(["| Variation | What | Manifest |", "|---|---|---|", *rows])
