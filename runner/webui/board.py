"""Start LLaMA Board under the supervisor, wait until it answers, and watch it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import MachineCannot, StageFailed, UsageError
from runner.store.atomic import write_atomic
from runner.system import determinism, environments, platforms, process, process_tree
from runner.system.local_server import NoAnswer, Refused, ask, free_port, is_loopback

USER = "recipe"  # as in runner/scripts/webui_llamafactory.py
PASSWORD = "SPARK_RECIPES_WEBUI_PASSWORD"  # the name of a variable
READY_SECONDS = 300.0
LOG = "webui.log"
_SCRIPTS = Path(__file__).parent.parent / "scripts"
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Address:
    """Where it listens. `password` is "" for none."""

    host: str
    port: int
    password: str

    @property
    def is_loopback(self) -> bool:
        """Can nobody but this machine reach it?"""
        return is_loopback(self.host)

    @property
    def url(self) -> str:
        """What a browser on this machine takes."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def address(host: str, port: int, *, expose: bool) -> Address:
    """Where to listen, with a password wherever another machine could come.

    Raises UsageError: E881 for an address that others reach, unless `expose`; E882 for none of this
    machine. MachineCannot (E880) when the port is taken.
    """
    if not is_loopback(host) and not expose:
        raise UsageError(
            f"{host} can be reached from other machines, and who reaches the web UI can run "
            "programs here",
            hint="leave --host out and come by `ssh -L`, or add --expose: then it asks for a "
            "password",
            code="E881",
        )
    chosen = os.environ.get(PASSWORD, "")
    password = chosen or ("" if is_loopback(host) else secrets.token_urlsafe(18))
    return Address(host, _usable(host, port), password)


def _usable(host: str, port: int) -> int:
    """The port, free now; 0 for any. Raises E880, E882."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return int(probe.getsockname()[1])
        except PermissionError:
            why = f"port {port} is for root"
        except (socket.gaierror, OverflowError):
            raise _no_address(host, port) from None
        except OSError:
            why = f"port {port} is taken"
            if not _listens_somewhere(port):
                raise _no_address(host, port) from None
    by = process_tree.listener(port)
    raise MachineCannot(
        f"{why}{f' by {by}' if by else ''}",
        hint=f"use another one: --port {free_port()}",
        code="E880",
    )


def _listens_somewhere(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return True
    return False


def _no_address(host: str, port: int) -> UsageError:
    return UsageError(
        f"{host}, port {port}, is no address of this machine",
        hint="`ip address` shows them; leave --host out for this machine alone",
        code="E882",
    )


def start(
    workspace: Path, where: Address, form: Mapping[str, Any], cache: Path, lock_fd: int, say: Any
) -> process.Service:
    """LLaMA Board in `workspace`, when it answers. Raises MachineCannot (E885) with its last words.

    It lives until it is stopped or this process ends; so do the trainings that were started in it.
    """
    python = environments.ensure("llamafactory", cache, say).python
    log = workspace / LOG
    log.write_bytes(b"")
    job = workspace / ".cache" / "webui.json"
    content = {
        "host": where.host,
        "port": where.port,
        "form": {"top.lang": "en", **form},
        "any_host": not where.is_loopback,
    }
    write_atomic(job, json.dumps(content, ensure_ascii=False) + "\n")
    service = process.start_service(
        [str(python), str(_SCRIPTS), "webui_llamafactory", str(job)],
        env={**environment(python, workspace, cache), PASSWORD: where.password},
        cwd=workspace,
        log=log,
        lock_fds=[lock_fd],
    )
    try:
        _wait(service, where, log)
    except BaseException:
        service.stop()
        raise
    return service


def environment(python: Path, workspace: Path, cache: Path) -> dict[str, str]:
    """What a script's environment is, so that a training started in the web UI gives its bytes.

    Homes and caches lie in the workspace; the trainings find `llamafactory-cli` on the PATH.
    """
    hashed = determinism.script_env(platforms.compute_threads())
    base = process.child_env(hashed)
    own = workspace / ".cache"
    near = "localhost,127.0.0.1,::1"
    return {
        **base,
        "PATH": f"{python.parent}:{base.get('PATH', os.defpath)}",
        "HOME": str(own / "home"),
        "HF_HOME": str(own / "huggingface"),
        "MPLCONFIGDIR": str(own / "matplotlib"),
        "XDG_CACHE_HOME": str(own / "xdg"),
        "TRITON_CACHE_DIR": str(own / "triton"),
        "CUDA_CACHE_PATH": str(own / "cuda"),
        "GRADIO_TEMP_DIR": str(own / "gradio"),
        "PYTHONPYCACHEPREFIX": str(cache / "pycache"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "NO_PROXY": near,
        "no_proxy": near,
    }


def _wait(service: process.Service, where: Address, log: Path) -> None:
    limit = time.monotonic() + READY_SECONDS
    while service.alive():
        if process_tree.listens(service.pid, where.port) and _answers(where.url):
            return
        if time.monotonic() > limit:
            raise _did_not_start(f"did not answer within {READY_SECONDS:.0f} s", log)
        time.sleep(_LOOK_SECONDS)
    raise _did_not_start("ended while it started", log)


def _answers(url: str) -> bool:
    try:
        ask(url, "GET", "/", timeout=5.0)
    except (NoAnswer, Refused):
        return False
    return True


def _did_not_start(what: str, log: Path) -> MachineCannot:
    said = process.tail(log, 8)
    return MachineCannot(
        f"LLaMA Board {what}:\n{said}" if said else f"LLaMA Board {what}",
        hint=f"read {log}",
        code="E885",
    )


def watch(service: process.Service, log: Path) -> None:
    """Return never: raises StageFailed (E886) when LLaMA Board ends, Interrupted on a signal."""
    while service.alive():
        time.sleep(_LOOK_SECONDS)
    ended = process.describe_exit(service.stop())
    raise StageFailed(
        f"LLaMA Board has ended: {ended}",
        hint="start it again; `recipe capture` tells of each folder below saves/ whether its "
        "training was finished",
        code="E886",
        log=str(log),
    )
