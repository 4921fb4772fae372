"""Ollama: find a server or start our own, and see what it has stored.

A server is looked for at OLLAMA_HOST, then on Ollama's usual port; where none runs, the program on
PATH is started on a free port of 127.0.0.1, else the one built into the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from runner.errors import MachineCannot
from runner.report.printable import quoted
from runner.store.locks import Lock
from runner.system import folders, process, tools
from runner.system.local_server import (
    NoAnswer,
    Order,
    Refused,
    ask,
    free_port,
    start_on_free_port,
)

USUAL_URL = "http://127.0.0.1:11434"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HOST = re.compile(r"[\w.-]+|[0-9a-f:.]+(%[\w.-]+)?", re.IGNORECASE)  # a name or IPv6
LOOK_SECONDS = 1.0  # planning must not hang on a server that does not answer
LIST_SECONDS = 30.0
MODEL_LAYER = "application/vnd.ollama.image.model"
TEMPLATE_LAYER = "application/vnd.ollama.image.template"
SYSTEM_LAYER = "application/vnd.ollama.image.system"
NO_TEMPLATE = "{{ .Prompt }}"  # what it shows for a model without a template layer
PARAMETERS_LAYER = "application/vnd.ollama.image.params"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers. `models` is the models folder of a server that we started."""

    url: str
    version: str
    where: str  # OLLAMA_HOST | running | started
    program: Path | None  # of a server that we started
    models: Path | None
    service: process.Service | None = None

    def ended(self) -> bool:
        """Has a server of our own stopped by itself?"""
        return self.service is not None and not self.service.alive()


@dataclass(frozen=True, slots=True)
class Stored:
    """What Ollama has under a name: sha256 (hex) of layers, and the parameters' lines, sorted."""

    model: str
    template: str | None
    system: str | None
    parameters: tuple[str, ...]


@contextlib.contextmanager
def serving(
    build: Callable[[], Path],
    *,
    folder: Path,
    log: Path,
    say: Callable[[str], None] = lambda message: None,
    choose_port: Callable[[], int] = free_port,
    own_models: Path | None = None,
) -> Iterator[Server]:
    """The server to use, started if none runs and then stopped at the end.

    `build` returns the root folder of the pinned Ollama and is called only when it is needed;
    `folder` is the home of a started server, where it keeps its own key. With `own_models` one is
    always started, with that models folder, and the user's server and models stay as they are.
    Raises MachineCannot when OLLAMA_HOST names a server that does not answer (E440) or when ours
    does not start (E441).
    """
    if own_models is None and (found := find_running()):
        yield found
        return
    program = find_program() or build() / "bin" / "ollama"
    models = own_models or models_folder()
    # Two servers over one models folder tidy away each other's half-made models.
    with Lock(
        folders.cache_folder() / "locks" / f"ollama-{_short_digest(str(models))}.lock",
        f"the models folder {models}",
        on_wait=lambda holder: say(f"waiting for {holder}, which uses the models in {models}"),
    ):
        service, port = start_on_free_port(
            lambda port: Order([str(program), "serve"], _server_env(port, models, folder)),
            name="Ollama",
            ready_path="/api/version",
            folder=folder,
            log=log,
            choose_port=choose_port,
        )
        with service:
            url = f"http://127.0.0.1:{port}"
            yield Server(url, _version(url) or "?", "started", program, models, service)


def find_running() -> Server | None:
    """The server that OLLAMA_HOST names, else the one on the usual port; None when none runs.

    Raises MachineCannot (E440) when OLLAMA_HOST is set and nothing answers there.
    """
    named = os.environ.get("OLLAMA_HOST", "").strip()
    url = server_url()
    version = _version(url)
    if version is not None:
        return Server(url, version, "OLLAMA_HOST" if named else "running", None, None)
    if not named:
        return None
    raise MachineCannot(
        f"no Ollama answers at {url} (OLLAMA_HOST is {named})",
        hint=f"start it with `OLLAMA_HOST={named} ollama serve`, or unset OLLAMA_HOST to have one "
        "started for you",
        code="E440",
    )


def find_program() -> Path | None:
    """The `ollama` on PATH."""
    found = shutil.which("ollama")
    return Path(found) if found else None


def parse_host(value: str) -> str:
    """OLLAMA_HOST as a URL, read as Ollama reads it; "all addresses" becomes the loopback.

    Raises MachineCannot (E440) for what is no address.

    >>> parse_host("0.0.0.0:8080")
    'http://127.0.0.1:8080'
    """
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "http", value
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, given = parts.hostname or "127.0.0.1", parts.port
    except ValueError:  # a port that is none, a bracket without its other
        raise _no_address(value) from None
    if scheme not in ("http", "https") or not _HOST.fullmatch(host):
        raise _no_address(value)
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    usual = {"http": 80, "https": 443} if separator else {}
    port = given or usual.get(scheme, 11434)
    bracketed = f"[{host}]" if ":" in host else host
    return f"{scheme}://{bracketed}:{port}{parts.path.rstrip('/')}"


def _no_address(value: str) -> MachineCannot:
    return MachineCannot(
        f"OLLAMA_HOST is {quoted(value, 80)}, which is no address of a server",
        hint="write it as HOST, HOST:PORT or http://HOST:PORT, as in 127.0.0.1:11434, with a port "
        "of at most 65535; or unset OLLAMA_HOST to have one started for you",
        code="E440",
    )


def models_folder() -> Path:
    """Where a server of ours keeps its models: OLLAMA_MODELS, else Ollama's own default."""
    chosen = os.environ.get("OLLAMA_MODELS")
    return Path(chosen) if chosen else Path.home() / ".ollama" / "models"


def split_name(name: str) -> tuple[str, str, str]:
    """Namespace, model and tag of a model's name.

    >>> split_name("quickstart")
    ('library', 'quickstart', 'latest')
    """
    path, _, tag = name.partition(":")
    namespace, _, model = path.rpartition("/")
    return namespace or "library", model, tag or "latest"


def stored_online(url: str, name: str, timeout: float = 60.0) -> Stored | None:
    """What the server has under `name`, or None. Raises NoAnswer and Refused."""
    try:
        shown = ask(url, "POST", "/api/show", {"model": name}, timeout=timeout)
    except Refused as error:
        if error.status == 404:
            return None
        raise
    lines = str(shown.get("parameters", "")).splitlines()
    template = shown.get("template")
    return Stored(
        model=_digest_in(str(shown.get("modelfile", ""))),
        template=None if template == NO_TEMPLATE else text_digest(template),
        system=text_digest(shown.get("system")),
        parameters=tuple(sorted(" ".join(line.split(maxsplit=1)) for line in lines)),
    )


def layers_offline(models: Path, name: str) -> dict[str, str] | None:
    """Media type -> sha256 (hex) of a model's layers, from its manifest file; None without one.

    A model's manifest names every layer by its digest, so this needs no server.
    """
    namespace, model, tag = split_name(name)
    found = sorted(models.glob(f"manifests/*/{namespace}/{model}/{tag}"))
    if not found:
        return None
    try:
        manifest = json.loads(found[0].read_bytes())
        layers = {layer["mediaType"]: _hex(layer["digest"]) for layer in manifest["layers"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if all(blob_path(models, digest).is_file() for digest in layers.values()):
        return layers
    return None


def blob_path(models: Path, digest: str) -> Path:
    """Where a models folder keeps the layer with this sha256 (hex)."""
    return models / "blobs" / f"sha256-{digest}"


def may_be_asked_while_planning(url: str) -> bool:
    """The loopback, and a name without dots: a neighbour service of the same compose project."""
    host = urlsplit(url).hostname or ""
    return host in LOOPBACK or ("." not in host and ":" not in host)


def server_url() -> str:
    """The server that OLLAMA_HOST names, else the one on the usual port; it may not run."""
    named = os.environ.get("OLLAMA_HOST", "").strip()
    return parse_host(named) if named else USUAL_URL


def loaded(url: str) -> list[tuple[str, int]]:
    """Name and bytes in memory of the models that a server keeps loaded, largest first."""
    try:
        answer = ask(url, "GET", "/api/ps", timeout=LOOK_SECONDS)
        models = [(str(each["name"]), int(each["size"])) for each in answer.get("models") or ()]
    except (NoAnswer, Refused, AttributeError, KeyError, TypeError, ValueError):
        return []
    return sorted(models, key=lambda model: (-model[1], model[0]))


def answers(url: str) -> bool:
    """Is there an Ollama, at once?"""
    return _version(url) is not None


def talk_command(name: str) -> str:
    """What to type to talk to the model `name`, with full paths where Ollama is in the cache."""
    return _typed([["run", name]])


def pull_command(*names: str) -> str:
    """What to type to have Ollama fetch models, wherever the next command will look for them."""
    return _typed([["pull", name] for name in names])


def _typed(orders: Sequence[Sequence[str]]) -> str:
    """Orders of Ollama's client; a server is started for them where none runs, and ended."""
    named = os.environ.get("OLLAMA_HOST", "").strip()
    url = server_url()
    program = find_program()
    cached = tools.find_tool("ollama", folders.cache_folder())
    client = "ollama" if program else str(cached / "bin" / "ollama") if cached else ""
    call = shlex.quote(client or "ollama")
    if named and not client and urlsplit(url).hostname not in LOOPBACK:
        call = f"docker compose exec {urlsplit(url).hostname} ollama"
    elif named:
        call = f"OLLAMA_HOST={shlex.quote(named)} {call}"
    typed = " && ".join(f"{call} {shlex.join(words)}" for words in orders)
    if named or answers(url):
        return typed
    models = os.environ.get("OLLAMA_MODELS")
    serve = f"OLLAMA_MODELS={shlex.quote(models)} {call}" if models else call
    ready = f"until {call} list >/dev/null 2>&1; do sleep 1; done"
    return f"{serve} serve >/dev/null 2>&1 & {ready}; {typed}; kill $!"


def lacking(url: str, names: Iterable[str]) -> list[str]:
    """Which models the server at `url` has not, sorted; none where it does not tell."""
    try:
        listed = ask(url, "GET", "/api/tags", timeout=LIST_SECONDS)["models"] or ()
        there = {_full_name(str(each["name"])) for each in listed}
        unlisted = sorted({name for name in names if _full_name(name) not in there})
        return [name for name in unlisted if stored_online(url, name, LIST_SECONDS) is None]
    except (NoAnswer, Refused, KeyError, TypeError):
        return []


def _full_name(name: str) -> str:
    """With its tag, in small letters, as Ollama compares names."""
    tagged = ":" in name.rpartition("/")[2]
    return (name if tagged else f"{name}:latest").lower()


def _server_env(port: int, models: Path, home: Path) -> dict[str, str]:
    users = {key: value for key, value in os.environ.items() if key.startswith("OLLAMA_")}
    gpu = {key: value for key, value in os.environ.items() if key.endswith("_VISIBLE_DEVICES")}
    ours = {
        "HOME": str(home),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(models),
        "OLLAMA_NO_CLOUD": "1",
    }
    return {**process.child_env({}), **gpu, **users, **ours}


def _version(url: str) -> str | None:
    try:
        answer = ask(url, "GET", "/api/version", timeout=LOOK_SECONDS)
    except (NoAnswer, Refused):
        return None
    version = answer.get("version") if isinstance(answer, Mapping) else None
    return str(version) if version else None


def _digest_in(modelfile: str) -> str:
    """The sha256 (hex) of the model's file, from the path after FROM; "" when there is none."""
    for line in modelfile.splitlines():
        if line.startswith("FROM "):
            _, found, digest = line.rpartition("sha256-")
            return digest.strip() if found else ""
    return ""


def text_digest(text: str | None) -> str | None:
    """Hex sha256 of the layer that Ollama makes of a text; it makes none of an empty one."""
    return hashlib.sha256(text.encode()).hexdigest() if text else None


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
