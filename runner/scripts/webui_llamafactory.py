"""LLaMA Factory's web UI, LLaMA Board, as it is; with a log-in, and a recipe's values in its form.

`webui_llamafactory JOB.json`: `host`, `port`, `form` (element id -> value), `any_host` (answer
under any name). The password, if any, is in the environment, where the trainings do not get it.
Works in the folder that it is started in, and serves files of no other one. Every element of the
page has its name in LLaMA Board as id: `train-start_btn`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from gradio import networking
from llamafactory.extras.constants import DEFAULT_TEMPLATE
from llamafactory.extras.misc import fix_proxy
from llamafactory.webui import runner as trainings
from llamafactory.webui.interface import create_ui
from llamafactory.webui.locales import LOCALES
from llamafactory.webui.manager import Manager
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

USER = "recipe"
PASSWORD = "SPARK_RECIPES_WEBUI_PASSWORD"  # the name of a variable
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class OwnPagesOnly:
    """Answers to nobody but the pages of this server.

    A page of another site may send requests to a server on the loopback, by the reader's browser;
    it says where it comes from, or has the server under a name of its own.
    """

    def __init__(self, app: ASGIApp, names: tuple[str, ...]) -> None:
        self._app = app
        self._names = names  # the server's own; () for any

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not self._is_own(scope):
            response = PlainTextResponse("this page is not of this server\n", status_code=403)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_own(self, scope: Scope) -> bool:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._names and urlsplit(f"//{host}").hostname not in self._names:
            return False
        return origin is None or urlsplit(origin).netloc == host


class Watched(Popen[str]):
    """A training whose words are taken from it, whether or not a page is open that shows them.

    LLaMA Board reads them while it shows the progress; once the page is closed nobody does, and a
    training that nobody listens to stands still when the pipe is full.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._said: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.stderr is not None
        for line in self.stderr:
            self._said.append(line)
            sys.stderr.write(line)

    def communicate(self, input: str | None = None, timeout: float | None = None) -> Any:
        """Wait for the end, and tell what it said. Raises TimeoutExpired."""
        self.wait(timeout)
        self._listener.join(timeout=10)
        return None, "".join(self._said)


def prefilled(values: dict[str, Any]) -> gr.Blocks:
    """LLaMA Board with `values` in its form from the first page on."""
    elements: dict[str, Any] = {}
    add_elems = Manager.add_elems

    def noted(self: Manager, tab: str, added: dict[str, Any]) -> None:
        add_elems(self, tab, added)
        for name, element in added.items():
            element.elem_id = f"{tab}-{name}"
            elements[f"{tab}.{name}"] = element

    Manager.add_elems = noted  # type: ignore[method-assign]
    if "top.template" in values:  # else it comes back to `default` with the choice of the model
        DEFAULT_TEMPLATE[values["top.model_name"]] = values["top.template"]
    board = create_ui()
    write_labels(elements, values["top.lang"])
    for name, value in values.items():
        elements[name].value = value
    return board


def write_labels(elements: dict[str, Any], language: str) -> None:
    """Name every field, as LLaMA Board does when the language changes; from `top.lang` on it is."""
    for name, element in elements.items():
        words = LOCALES.get(name.split(".")[-1], {})
        for attribute, text in words.get(language, {}).items():
            setattr(element, attribute, text)


def serve(job: dict[str, Any]) -> None:
    """Serve until a signal comes."""
    password = os.environ.pop(PASSWORD, "")
    trainings.Popen = Watched
    fix_proxy()
    # Gradio ends itself where it gets no answer in 3 s; who started this waits for one, for longer.
    networking.url_ok = lambda url: True
    names = () if job["any_host"] else (*_LOOPBACK, job["host"])
    prefilled(job["form"]).queue().launch(
        server_name=job["host"],
        server_port=job["port"],
        auth=(USER, password) if password else None,
        auth_message="The password is shown where the web UI was started.",
        allowed_paths=[str(Path.cwd())],
        app_kwargs={"middleware": [Middleware(OwnPagesOnly, names=names)]},
        share=False,
        inbrowser=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
    )


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
