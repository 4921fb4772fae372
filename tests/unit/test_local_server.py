"""Servers of our own on 127.0.0.1, and how they can fail to come up."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from runner.errors import MachineCannot
from runner.system import process_tree
from runner.system.local_server import NoAnswer, Order, Refused, ask, free_port, start_on_free_port

SERVER = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = {"/ok": (200, b'{"ok": 1}'), "/text": (200, b"hello")}.get(
            self.path, (500, json.dumps({"error": {"message": "broken"}}).encode()))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *a): pass
server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.serve_forever()
"""


def order(port: int) -> Order:
    return Order([sys.executable, "-c", SERVER, str(port)], dict(os.environ))


def test_a_server_is_started_asked_and_stopped(tmp_path: Path) -> None:
    service, port = start_on_free_port(
        order, name="it", ready_path="/ok", folder=tmp_path, log=tmp_path / "log"
    )
    with service:
        url = f"http://127.0.0.1:{port}"
        assert ask(url, "GET", "/ok", timeout=5) == {"ok": 1}
        assert ask(url, "GET", "/text", timeout=5) == {}
        with pytest.raises(Refused, match="broken") as caught:
            ask(url, "POST", "/other", {"a": 1}, timeout=5)
        assert caught.value.status == 500
        assert process_tree.memory(service.pid) > 1 << 20
    assert not service.alive()
    with pytest.raises(NoAnswer):
        ask(url, "GET", "/ok", timeout=5)
    assert process_tree.memory(service.pid) == 0


def test_a_port_that_was_taken_meanwhile_is_left_for_the_next(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ports = iter([taken, taken, free_port()])
        service, port = start_on_free_port(
            order,
            name="it",
            ready_path="/ok",
            folder=tmp_path,
            log=tmp_path / "log",
            choose_port=lambda: next(ports),
        )
        service.stop()
    assert port != taken


def test_an_impostor_on_the_port_is_not_taken_for_the_server(tmp_path: Path) -> None:
    impostor, port = start_on_free_port(
        order, name="other", ready_path="/ok", folder=tmp_path, log=tmp_path / "other.log"
    )
    with impostor, pytest.raises(MachineCannot, match="does not start"):
        start_on_free_port(
            order,
            name="it",
            ready_path="/ok",
            folder=tmp_path,
            log=tmp_path / "log",
            choose_port=lambda: port,
        )


def test_a_server_that_ends_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(MachineCannot, match=r"it does not start: .*no weights") as caught:
        start_on_free_port(
            lambda port: Order([sys.executable, "-c", "raise SystemExit('no weights')"], {}),
            name="it",
            ready_path="/ok",
            folder=tmp_path,
            log=tmp_path / "log",
        )
    assert caught.value.code == "E441"
    assert str(tmp_path / "log") in caught.value.hint


def test_a_server_that_never_answers_is_stopped(tmp_path: Path) -> None:
    code = f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
    code += "import time; time.sleep(1000)"
    with pytest.raises(MachineCannot, match="did not answer within 1 s"):
        start_on_free_port(
            lambda port: Order([sys.executable, "-c", code], {}),
            name="it",
            ready_path="/ok",
            folder=tmp_path,
            log=tmp_path / "log",
            ready_seconds=1.0,
        )
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_a_server_that_dies_while_it_is_asked_is_no_answer(tmp_path: Path) -> None:
    code = SERVER.replace(
        "def do_GET(self):",
        "def do_GET(self):\n        if self.path == '/long':\n            time.sleep(60)",
    )
    service, port = start_on_free_port(
        lambda port: Order([sys.executable, "-c", code, str(port)], dict(os.environ)),
        name="it",
        ready_path="/ok",
        folder=tmp_path,
        log=tmp_path / "log",
    )
    with service:
        if os.fork() == 0:
            time.sleep(0.5)
            os.kill(service.pid, signal.SIGKILL)
            os._exit(0)
        with pytest.raises(NoAnswer):
            ask(f"http://127.0.0.1:{port}", "GET", "/long", timeout=30)
        os.wait()
