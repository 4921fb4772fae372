"""A hub on the loopback: the part of its protocol that is used, and failures on demand.

    with HubServer() as hub:
        commit = hub.commit("acme/tiny", {"config.json": b"{}"})
        env = {"HF_ENDPOINT": hub.url}

It serves the info and paths-info API of models and data sets, and `resolve` with HEAD, GET, byte
ranges and, for files in LFS, redirects to a second server: the CDN, another origin. Every request
is kept in `requests`. Names and codes are those of the real hub.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, quote, unquote, urlsplit

Files = dict[str, bytes]
LFS_SUFFIXES = (".safetensors", ".gguf", ".bin", ".jsonl")
CHUNK = 16 * 1024


@dataclass(frozen=True)
class Request:
    """One request as it arrived. `server` is `hub` or `cdn`; header names are lower-case."""

    server: str
    method: str
    path: str
    headers: dict[str, str]

    @property
    def token(self) -> str | None:
        """What the client said who it is."""
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None


@dataclass
class Repo:
    """A repository: commits, and branches that point to them."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False


@dataclass
class Failure:
    """An answer for the next `times` requests whose path has `part` in it."""

    part: str
    status: int
    headers: dict[str, str]
    times: int


class HubServer:
    """Two servers and what they hold. Faults are set between requests, from the test's thread."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[Request] = []
        self.tokens: set[str] = set()  # valid ones
        self.licensed: set[str] = set()  # tokens whose account has accepted the licences
        self.failures: list[Failure] = []
        self.cuts: dict[
            str, list[int]
        ] = {}  # file -> bytes after which each next answer breaks off
        self.wrong: dict[str, bytes] = {}  # file -> what is served instead
        self.ignores_ranges = False
        self.lists_digests = True
        self.names_commits = True
        self.slow: dict[str, float] = {}  # file -> seconds before every chunk
        self._lock = threading.Lock()
        self._hub = _serve(self, "hub")
        self._cdn = _serve(self, "cdn")
        self.port = self._hub.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.cdn_url = f"http://127.0.0.1:{self._cdn.server_address[1]}"

    def commit(self, name: str, files: Files, *, kind: str = "model", branch: str = "main") -> str:
        """Add a commit with exactly these files, let `branch` point to it, and return its id."""
        repo = self.repos.setdefault((kind, name), Repo())
        listing = "".join(f"{path} {blob_id(content)}\n" for path, content in sorted(files.items()))
        parent = repo.branches.get(branch, "")
        commit = hashlib.sha1(f"{kind} {name} {parent}\n{listing}".encode()).hexdigest()
        repo.commits[commit] = dict(files)
        repo.branches[branch] = commit
        return commit

    def fail(
        self, part: str, status: int, *, times: int = 1, headers: dict[str, str] | None = None
    ) -> None:
        """Answer the next `times` requests for paths with `part` in them by `status`."""
        self.failures.append(Failure(part, status, headers or {}, times))

    def asked(self, part: str, server: str | None = None) -> list[Request]:
        """Requests so far whose path has `part` in it."""
        return [
            each for each in self.requests if part in each.path and server in (None, each.server)
        ]

    def stop(self) -> None:
        """Answer nobody any more."""
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()

    def __enter__(self) -> HubServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def note(self, request: Request) -> Failure | None:
        """Keep the request; the failure to answer it with, if one is due."""
        with self._lock:
            self.requests.append(request)
            for failure in self.failures:
                if failure.part in request.path and failure.times:
                    failure.times -= 1
                    return failure
        return None

    def next_cut(self, path: str) -> int | None:
        """After how many bytes this answer breaks off."""
        with self._lock:
            cuts = self.cuts.get(path)
            return cuts.pop(0) if cuts else None


def blob_id(content: bytes) -> str:
    """Git's id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def in_lfs(path: str) -> bool:
    return path.endswith(LFS_SUFFIXES)


def _serve(hub: HubServer, name: str) -> ThreadingHTTPServer:
    class Handler(_Handler):
        owner = hub
        server_name = name

    server = _Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away in the middle is what some tests are about."""


_INFO = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/revision/([^/]+))?\Z")
_PATHS = re.compile(r"/api/(model|dataset)s/([^/]+/[^/]+)/paths-info/([^/]+)\Z")
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)\Z")
_BLOB = re.compile(r"/blobs/([^/]+)/(.+)\Z")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: HubServer
    server_name: str

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Tests look into `requests`."""

    def _answer(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.server_name, self.command, self.path, headers)
        failure = self.owner.note(request)
        if failure is not None:
            self._send(failure.status, b'{"error":"injected"}', failure.headers)
            return
        path = urlsplit(self.path).path
        if self.server_name == "cdn":
            self._blob(path)
        elif found := _INFO.match(path):
            self._info(request, found[1], found[2], unquote(found[3] or "main"))
        elif found := _PATHS.match(path):
            self._paths(request, found[1], found[2], unquote(found[3]))
        elif found := _RESOLVE.match(path):
            kind = "dataset" if found[1] else "model"
            self._resolve(request, kind, found[2], unquote(found[3]), unquote(found[4]))
        else:
            self._error(404, "NotFound", "Sorry, there is nothing here")

    # --- who may see what

    def _files(
        self, request: Request, kind: str, name: str, revision: str, *, content: bool
    ) -> tuple[str, Files] | None:
        """Commit and files, or None when an error has been sent. `content`: licences count."""
        token, repo = request.token, self.owner.repos.get((kind, name))
        if token is not None and token not in self.owner.tokens:
            self._error(401, None, "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and token is None):
            status = 404 if token else 401
            words = "Repository not found" if token else "Invalid username or password."
            self._error(status, "RepoNotFound", words)
        elif content and repo.gated and token not in self.owner.licensed:
            words = (
                f"Access to model {name} is restricted and you are not in the authorized list."
                if token
                else f"Access to model {name} is restricted. You must have access to it and be "
                "authenticated to access it. Please log in."
            )
            self._error(403 if token else 401, "GatedRepo", words)
        else:
            commit = repo.branches.get(revision, revision)
            if commit in repo.commits:
                return commit, repo.commits[commit]
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    # --- the API

    def _info(self, request: Request, kind: str, name: str, revision: str) -> None:
        found = self._files(request, kind, name, revision, content=False)
        if found is None:
            return
        commit, files = found
        with_blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings = [
            {"rfilename": path, **(_sibling(path, files[path]) if with_blobs else {})}
            for path in sorted(files)
        ]
        if not self.owner.lists_digests:
            siblings = [{key: s[key] for key in ("rfilename", "size")} for s in siblings]
        info: dict[str, object] = {"id": name, "modelId": name, "siblings": siblings}
        if self.owner.names_commits:
            info["sha"] = commit
        self._send_json(info | {"private": False, "tags": [], "downloads": 0, "likes": 0})

    def _paths(self, request: Request, kind: str, name: str, revision: str) -> None:
        found = self._files(request, kind, name, revision, content=False)
        if found is None:
            return
        asked = parse_qs(self._body.decode())["paths"]
        entries = []
        for path in asked:
            if path in found[1]:
                content = found[1][path]
                entry = {"type": "file", "path": path, "size": len(content)}
                entry["oid"] = blob_id(content)
                if in_lfs(path):
                    digest = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
                entries.append(entry)
        self._send_json(entries)

    # --- files

    def _resolve(self, request: Request, kind: str, name: str, revision: str, path: str) -> None:
        found = self._files(request, kind, name, revision, content=True)
        if found is None:
            return
        commit, files = found
        if path not in files:
            self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        content = files[path]
        facts = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if in_lfs(path):
            digest = hashlib.sha256(content).hexdigest()
            facts |= {
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(content)),
                "Location": f"{self.owner.cdn_url}/blobs/{digest}/{quote(path)}?Signature=s3cret",
            }
            self._send(302, b"Found", facts)
        else:
            self._content(path, content, {**facts, "ETag": f'"{blob_id(content)}"'})

    def _blob(self, path: str) -> None:
        found = _BLOB.match(path)
        for repo in self.owner.repos.values():
            for files in repo.commits.values():
                for name, content in files.items():
                    if found and hashlib.sha256(content).hexdigest() == found[1]:
                        self._content(name, content, {"Accept-Ranges": "bytes"})
                        return
        self._send(404, b"<Error/>", {})

    def _content(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        content = self.owner.wrong.get(path, content)
        size, first = len(content), 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        status = 200
        if asked and not self.owner.ignores_ranges:
            first = int(asked[1])
            if first >= size:
                self._send(416, b"", {"Content-Range": f"bytes */{size}"})
                return
            status = 206
            headers = {**headers, "Content-Range": f"bytes {first}-{size - 1}/{size}"}
        self._head(status, size - first, headers)
        if self.command == "HEAD":
            return
        cut = self.owner.next_cut(path)
        end = size if cut is None else min(size, first + cut)
        for begin in range(first, end, CHUNK):
            time.sleep(self.owner.slow.get(path, 0.0))
            self.wfile.write(content[begin : min(end, begin + CHUNK)])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    # --- answers

    def _error(
        self, status: int, code: str | None, words: str, headers: dict[str, str] | None = None
    ) -> None:
        facts = {"X-Error-Message": words, **(headers or {})}
        if code is not None:
            facts["X-Error-Code"] = code
        self._send(status, json.dumps({"error": words}).encode(), facts)

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


def _sibling(path: str, content: bytes) -> dict[str, object]:
    facts: dict[str, object] = {"size": len(content), "blobId": blob_id(content)}
    if in_lfs(path):
        digest = hashlib.sha256(content).hexdigest()
        facts["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
    return facts
