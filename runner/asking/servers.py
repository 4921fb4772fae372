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
    """Every endpoint's address; an Ollama is started where one is needed and none runs."""
    if all(each.url is not None for each in settings.endpoints):
        yield addresses_of(settings, "")
        return
    addresses_of(settings, "")  # a key that is missing is said before a server is started
    with tempfile.TemporaryDirectory(prefix="asking-") as home:
        folder = Path(home)
        with ollama.serving(_cached, folder=folder, log=folder / "ollama.log", say=say) as server:
            yield addresses_of(settings, server.url)


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
