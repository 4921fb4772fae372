"""Where those who are asked are; an Ollama is started where one is needed and none runs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from runner.asking.asker import addresses_of
from runner.asking.http import Address
from runner.asking.settings import Asks, Endpoint
from runner.errors import MachineCannot
from runner.system import folders, ollama, tools

Say = Callable[[str], None]


@contextlib.contextmanager
def addresses(settings: Asks, say: Say) -> Iterator[dict[Endpoint, Address]]:
    """Every endpoint's address; an Ollama is started where one is needed and none runs.

    Raises MachineCannot: no key (E902), no Ollama (E901, E440, E441), not the model in it (E903).
    """
    if all(each.url is not None for each in settings.endpoints):
        yield addresses_of(settings, "")
        return
    addresses_of(settings, "")  # a key that is missing is said before a server is started
    with tempfile.TemporaryDirectory(prefix="asking-") as home:
        folder = Path(home)
        with ollama.serving(_cached, folder=folder, log=folder / "ollama.log", say=say) as server:
            _check_models(settings, server.url)
            yield addresses_of(settings, server.url)


def _check_models(settings: Asks, url: str) -> None:
    """Raises MachineCannot (E903) where Ollama lacks one: before anything is asked or paid for."""
    wanted = [each.model for each in settings.endpoints if each.url is None]
    if missing := ollama.lacking(url, wanted):
        raise MachineCannot(
            f"no such model: the Ollama at {url} has no {' and no '.join(missing)}",
            hint=f"run the same command again after: {ollama.pull_command(*missing)}",
            code="E903",
        )


def _cached() -> Path:
    """The Ollama that a run has built. Raises MachineCannot (E901): none is built for this."""
    found = tools.find_tool("ollama", folders.cache_folder())
    if found is None:
        raise MachineCannot(
            "no Ollama runs, and none is installed",
            hint="install Ollama and start `ollama serve`, or set OLLAMA_HOST to where one runs",
            code="E901",
        )
    return found
