"""Pinned downloads, against a package index of our own on the loopback and the real uv."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runner.errors import MachineCannot
from runner.system import downloads
from runner.system.downloads import Pin


def sdist() -> bytes:
    """A source distribution whose build would fail: nothing may try."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in (
            ("made_up-1.0/PKG-INFO", "Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n"),
            ("made_up-1.0/setup.py", "raise SystemExit('built')\n"),
            ("made_up-1.0/data", "x" * 100_000),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("made_up_wheel.py", "value = 1\n")
        folder = "made_up_wheel-1.0.dist-info"
        archive.writestr(
            f"{folder}/METADATA", "Metadata-Version: 2.1\nName: made-up-wheel\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{folder}/RECORD", "")
    return buffer.getvalue()


@dataclass
class Index:
    """A package index that can be told to misbehave."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut: int = 0  # so many of the next downloads break off in the middle
    asked: list[str] = field(default_factory=list)

    def pin(self, name: str, file: str) -> Pin:
        return Pin(name, "1.0", (hashlib.sha256(self.files[file]).hexdigest(),))


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    served = Index(
        files={"made_up-1.0.tar.gz": sdist(), "made_up_wheel-1.0-py3-none-any.whl": wheel()}
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            kind, name = self.path.strip("/").split("/")[:2]
            if kind == "simple":
                stem = name.replace("-", "_") + "-"
                links = [
                    f'<a href="/files/{file}">{file}</a>'
                    for file in served.files
                    if file.startswith(stem)
                ]
                self.answer("text/html", "".join(links).encode())
            else:
                self.answer("application/octet-stream", served.files[name])

        def answer(self, kind: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if kind != "text/html" and served.cut:
                served.cut -= 1
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                return
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"{served.url}/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_sdist_comes_from_the_users_index_without_being_built(
    index: Index, tmp_path: Path
) -> None:
    pin = index.pin("made-up", "made_up-1.0.tar.gz")
    path = downloads.fetch_sdist(pin, tmp_path / "downloads", tmp_path / "cache")
    assert path.read_bytes() == index.files["made_up-1.0.tar.gz"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_sdist_that_is_there_is_not_asked_for_again(index: Index, tmp_path: Path) -> None:
    pin = index.pin("made-up", "made_up-1.0.tar.gz")
    downloads.fetch_sdist(pin, tmp_path, tmp_path / "cache")
    index.asked.clear()
    downloads.fetch_sdist(pin, tmp_path, tmp_path / "cache")
    assert index.asked == []


def test_a_connection_that_breaks_off_is_tried_again(index: Index, tmp_path: Path) -> None:
    pin = index.pin("made-up", "made_up-1.0.tar.gz")
    index.cut = downloads.ATTEMPTS - 1
    path = downloads.fetch_sdist(pin, tmp_path, tmp_path / "cache")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == pin.sha256s[0]


def test_a_connection_that_always_breaks_off_leaves_no_file(index: Index, tmp_path: Path) -> None:
    index.cut = 99
    with pytest.raises(MachineCannot) as caught:
        downloads.fetch_sdist(index.pin("made-up", "made_up-1.0.tar.gz"), tmp_path / "d", tmp_path)
    assert caught.value.code == "E421"
    assert not list((tmp_path / "d").glob("*.tar.gz"))


def test_other_bytes_than_the_pinned_are_refused(index: Index, tmp_path: Path) -> None:
    pin = index.pin("made-up", "made_up-1.0.tar.gz")
    index.files["made_up-1.0.tar.gz"] += b"more"
    with pytest.raises(MachineCannot) as caught:
        downloads.fetch_sdist(pin, tmp_path / "d", tmp_path / "cache")
    assert caught.value.code == "E422"
    assert pin.sha256s[0] in caught.value.message
    assert list((tmp_path / "d").iterdir()) == []


def test_an_index_without_the_file_is_named(index: Index, tmp_path: Path) -> None:
    with pytest.raises(
        MachineCannot, match=r"cannot get made-up-wheel 1\.0|no source distribution"
    ):
        downloads.fetch_sdist(
            Pin("made-up-wheel", "1.0", ("0" * 64,)), tmp_path, tmp_path / "cache"
        )


def test_a_wheel_is_unpacked_into_its_folder(index: Index, tmp_path: Path) -> None:
    pin = index.pin("made-up-wheel", "made_up_wheel-1.0-py3-none-any.whl")
    downloads.install_wheels([pin], tmp_path / "wheels", tmp_path / "cache")
    assert (tmp_path / "wheels" / "made_up_wheel.py").read_text() == "value = 1\n"


def test_a_wheel_with_other_bytes_is_refused(index: Index, tmp_path: Path) -> None:
    with pytest.raises(MachineCannot) as caught:
        downloads.install_wheels(
            [Pin("made-up-wheel", "1.0", ("0" * 64,))], tmp_path / "w", tmp_path
        )
    assert caught.value.code == "E422"
    assert not (tmp_path / "w" / "made_up_wheel.py").exists()


def test_no_network_is_said_in_words_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    for get in (
        lambda: downloads.fetch_sdist(Pin("made-up", "1.0", ("0" * 64,)), tmp_path, tmp_path / "c"),
        lambda: downloads.install_wheels(
            [Pin("made-up", "1.0", ("0" * 64,))], tmp_path / "w", tmp_path
        ),
    ):
        with pytest.raises(MachineCannot, match=r"cannot get made-up 1\.0") as caught:
            get()
        assert caught.value.code == "E421"
        assert "network" in caught.value.hint
        assert "same command again" in caught.value.hint
