"""The hub as the fetching scripts see it: commits, lists of files, and bytes that are checked.

API, session, headers and errors are huggingface_hub's. The transfer of bytes is not: its download
functions begin anew in every process (a temporary name each), and wait as long as a server asks.
Here a partial file goes on where it ended, every wait is bounded, and nothing counts as there
before its digest is the one that the hub lists. docs/decisions/0011-fetching-from-the-hub.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_session, hf_hub_url, set_client_factory
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, parse_ratelimit_headers

from runner.scripts.spec import Events, ScriptError

TIMEOUT_SECONDS = 30.0  # without a byte
WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds between two tries that got nowhere
MAX_WAIT = 300.0  # seconds; the hub's rate limits count in windows of five minutes
EVENT_SECONDS = 0.2  # between two progress events
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at a revision: a branch or a tag as long as nobody has asked for its commit."""

    id: str  # ORGANISATION/NAME
    kind: str  # model | dataset
    revision: str | None  # None: the hub's main branch

    @property
    def page(self) -> str:
        """Where a person reads about it and accepts its licence."""
        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub lists it. Large files have a sha256, small ones git's blob id alone."""

    path: str
    size: int  # bytes
    sha256: str | None
    blob_id: str | None  # sha1 of "blob SIZE\0" and the content

    def is_held_by(self, path: Path) -> bool:
        """Does the file at `path` hold these very bytes?"""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            if self.sha256 is not None:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
            blob = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
            return hashlib.file_digest(file, lambda: blob).hexdigest() == self.blob_id


class Transfer:
    """Progress over all files of a download, in bytes."""

    def __init__(self, events: Events, total: int) -> None:
        self._events, self._total = events, total
        self._done = 0
        self._next = 0.0

    def add(self, count: int, file: str) -> None:
        """`count` more bytes of `file` are there; a negative number: they are to be had again."""
        self._done += count
        now = time.monotonic()
        if now >= self._next or self._done >= self._total:
            self._next = now + EVENT_SECONDS
            self._events.progress(self._done, self._total, message=file, unit="bytes")

    def say(self, message: str) -> None:
        """Tell why nothing moves."""
        self._events.progress(self._done, self._total, message=message, unit="bytes")


class Hub:
    """One conversation with the hub at HF_ENDPOINT, with the token of HF_TOKEN if there is one."""

    def __init__(self) -> None:
        self._token = os.environ.get("HF_TOKEN") or None
        # False: no token, and none to be looked for anywhere
        self._api = HfApi(token=self._token or False)
        set_client_factory(
            # a redirect to another origin loses the token: httpx strips it
            lambda: httpx2.Client(follow_redirects=True, timeout=TIMEOUT_SECONDS)
        )

    def commit(self, repository: Repository) -> str:
        """The commit of the repository's revision, 40 hex digits. Raises ScriptError."""
        commit = str(self._info(repository, files=False).sha)
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise ScriptError(
                f"the server at {constants.ENDPOINT} answers, but not as the hub does: it names no "
                f"commit of {repository.id}",
                hint="HF_ENDPOINT must be a mirror that serves the hub's API: correct or unset it",
                code="E319",
            )
        return commit

    def check_access(self, repository: Repository) -> None:
        """May the repository's files be had? Its facts are shown to all. Raises ScriptError."""
        url = hf_hub_url(
            repository.id,
            "config.json",
            revision=repository.revision,
            repo_type=repository.kind,
            endpoint=constants.ENDPOINT,
        )

        def ask() -> None:
            with contextlib.suppress(EntryNotFoundError):  # a repository of GGUF files has none
                self._api.get_hf_file_metadata(url=url)

        self._ask(ask, repository)

    def files(self, repository: Repository) -> dict[str, RemoteFile]:
        """Every file of the repository. Raises ScriptError."""
        siblings = self._info(repository, files=True).siblings or ()
        return {
            each.rfilename: RemoteFile(
                each.rfilename,
                each.size or 0,
                each.lfs.sha256 if each.lfs else None,
                each.blob_id,
            )
            for each in siblings
        }

    def file(self, repository: Repository, path: str) -> RemoteFile:
        """One file; a data set may have too many to list. Raises ScriptError."""

        def ask() -> Any:
            return self._api.get_paths_info(
                repository.id, [path], revision=repository.revision, repo_type=repository.kind
            )

        for each in self._ask(ask, repository):
            if each.path == path and hasattr(each, "blob_id"):
                sha256 = each.lfs.sha256 if each.lfs else None
                return RemoteFile(path, each.size, sha256, each.blob_id)
        raise no_file(repository, path)

    def download(
        self, repository: Repository, file: RemoteFile, target: Path, transfer: Transfer
    ) -> None:
        """Put the file at `target`, going on with what an earlier try left. Raises ScriptError."""
        if file.sha256 is None and file.blob_id is None:
            raise ScriptError(
                f"the hub at {constants.ENDPOINT} lists no digest of {repository.id}/{file.path}, "
                "so that its bytes cannot be checked",
                hint="a mirror must serve the hub's digests: check HF_ENDPOINT",
                code="E318",
            )
        if file.is_held_by(target):
            transfer.add(file.size, file.path)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_of(target)
        for _ in range(2):  # a file that went wrong is fetched anew, once
            self._complete(repository, file, partial, transfer)
            if file.is_held_by(partial):
                partial.replace(target)
                return
            transfer.add(-partial.stat().st_size, file.path)
            partial.unlink()
        raise ScriptError(
            f"{repository.id}/{file.path} has other bytes than the hub lists for it "
            f"({'sha256' if file.sha256 else 'git blob'} {file.sha256 or file.blob_id})",
            hint="a mirror or a proxy may serve another file: check HF_ENDPOINT, then run again",
            code="E318",
        )

    def _complete(
        self, repository: Repository, file: RemoteFile, partial: Path, transfer: Transfer
    ) -> None:
        """Fetch what `partial` lacks of the file's size, over as many connections as it takes."""
        if partial.is_file() and partial.stat().st_size > file.size:
            partial.unlink()
        partial.touch()
        transfer.add(partial.stat().st_size, file.path)
        tries, furthest = 0, partial.stat().st_size
        while furthest < file.size:
            try:
                self._stream(repository, file, partial, transfer)
                error: Exception = httpx2.RemoteProtocolError("the connection ended early")
            except (HfHubHTTPError, httpx2.HTTPError) as caught:
                error = caught
            have = partial.stat().st_size
            tries = 1 if have > furthest else tries + 1
            furthest = max(furthest, have)  # who begins anew each time does not get on
            if have >= file.size:
                return
            self._wait(error, tries, repository, transfer.say, file.path)

    def _stream(
        self, repository: Repository, file: RemoteFile, partial: Path, transfer: Transfer
    ) -> None:
        """One connection: append to `partial`, or begin it anew when the server does not go on."""
        have = partial.stat().st_size
        assert repository.revision is not None
        url = hf_hub_url(
            repository.id, file.path, repo_type=repository.kind, revision=repository.revision
        )
        headers = build_hf_headers(token=self._token or False) | {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with get_session().stream("GET", url, headers=headers) as response:
            if response.status_code == 416:  # what is there is no beginning of this file
                transfer.add(-have, file.path)
                partial.write_bytes(b"")
                return
            if response.status_code >= 400:
                response.read()
                hf_raise_for_status(response)
            goes_on = response.status_code == 206
            if have and not goes_on:
                transfer.add(-have, file.path)
            with partial.open("ab" if goes_on else "wb") as out:
                for chunk in response.iter_bytes():
                    out.write(chunk)
                    transfer.add(len(chunk), file.path)
                    if out.tell() > file.size:  # whatever this is, it is not the file
                        return

    def _info(self, repository: Repository, *, files: bool) -> Any:
        ask = self._api.dataset_info if repository.kind == "dataset" else self._api.model_info
        return self._ask(
            lambda: ask(
                repository.id,
                revision=repository.revision,
                files_metadata=files,
                timeout=TIMEOUT_SECONDS,
            ),
            repository,
        )

    def _ask(self, call: Callable[[], T], repository: Repository) -> T:
        """`call`, again after a wait while the hub is busy or out of reach. Raises ScriptError."""
        tries = 0
        while True:
            try:
                return call()
            except (HfHubHTTPError, httpx2.HTTPError) as error:
                tries += 1
                self._wait(error, tries, repository, lambda message: None)
            except HFValidationError as error:
                raise ScriptError(
                    f"{repository.id} is no name of a repository: {error}", code="E317"
                ) from error
            except (ValueError, KeyError, TypeError) as error:  # a page where data were asked for
                self._explain(error, repository, "")

    def _wait(
        self,
        error: Exception,
        tries: int,
        repository: Repository,
        say: Callable[[str], None],
        path: str = "",
    ) -> None:
        """Sleep before the next try; raises ScriptError when there is no use in one."""
        if not _is_transient(error):
            self._explain(error, repository, path)
        asked = _asked_to_wait(error)
        if tries > len(WAITS) or (asked or 0) > MAX_WAIT:
            raise self._no_answer(error, asked)
        seconds = WAITS[tries - 1] if asked is None else asked
        say(f"{_words(error)}; again in {seconds:g} s")
        time.sleep(seconds)

    def _no_answer(self, error: Exception, asked: float | None) -> ScriptError:
        if asked:
            return ScriptError(
                f"the hub at {constants.ENDPOINT} limits how often it is asked, and wants us to "
                f"wait {asked:g} s",
                hint="run the same command again after that time; with a token (HF_TOKEN) the "
                "limit is higher",
                code="E319",
            )
        return ScriptError(
            f"the hub at {constants.ENDPOINT} does not answer: {self._scrubbed(_words(error))}",
            hint="check the network, the proxy and HF_ENDPOINT, then run the same command again: "
            "it goes on where it stopped",
            code="E319",
        )

    def _explain(self, error: Exception, repository: Repository, path: str) -> NoReturn:
        """Raise what `error` means to the person who wrote the recipe."""
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
        what = "data set" if repository.kind == "dataset" else "model"
        if isinstance(error, GatedRepoError):
            raise self._gated(repository, what, error) from error
        if _is_refused_token(error):
            raise ScriptError(
                f"the hub at {constants.ENDPOINT} refuses the token",
                hint=f"it may have expired: make one at {constants.ENDPOINT}/settings/tokens and "
                "put it into HF_TOKEN",
                code="E316",
            ) from error
        if isinstance(error, RevisionNotFoundError):
            raise ScriptError(
                f"{repository.id} has no revision {repository.revision}",
                hint=f"{repository.page}/commits/main lists the commits",
                code="E317",
            ) from error
        if isinstance(error, EntryNotFoundError):
            raise no_file(repository, path) from error
        if isinstance(error, RepositoryNotFoundError | DisabledRepoError) or status == 404:
            raise ScriptError(
                f"there is no {what} {repository.id} at {constants.ENDPOINT}, or it is private",
                hint="check the spelling; for a private one set HF_TOKEN to a token that may read "
                "it",
                code="E317",
            ) from error
        if status in (401, 403):
            raise ScriptError(
                f"the hub does not let us read the {what} {repository.id} (status {status})",
                hint=f"can you see {repository.page} when you are logged in? Then give HF_TOKEN a "
                "token of that account with the right to read it",
                code="E316",
            ) from error
        raise ScriptError(
            f"the server at {constants.ENDPOINT} answers, but not as the hub does: "
            f"{self._scrubbed(_words(error))}",
            hint="is HF_ENDPOINT the hub or a mirror of it, and does a proxy answer in its place? "
            "Then run the same command again",
            code="E319",
        ) from error

    def _gated(self, repository: Repository, what: str, error: GatedRepoError) -> ScriptError:
        """A licence must be accepted by a person, in a browser."""
        said = self._scrubbed(" ".join((error.server_message or "").split()))[:200]
        licence = f"accept the licence at {repository.page}"
        hint = (
            f"{licence} with the account that the token belongs to, and give the token the right "
            "to read gated repositories"
            if self._token
            else f"{licence}, make a token at {constants.ENDPOINT}/settings/tokens and put it into "
            "HF_TOKEN"
        )
        return ScriptError(
            f"the {what} {repository.id} is gated, and the hub does not let us read it"
            + (f": {said}" if said else ""),
            hint=hint + "; then run the same command again",
            code="E316",
        )

    def _scrubbed(self, words: str) -> str:
        """A server's words without the token, should it repeat it."""
        return words.replace(self._token, "***") if self._token else words


def partial_of(target: Path) -> Path:
    """Where a file lies until it is complete and checked."""
    return target.with_name(f"{target.name}.part")


def no_file(repository: Repository, path: str, others: list[str] | None = None) -> ScriptError:
    """`path` is not in the repository; `others` could have been meant."""
    known = f"there are: {', '.join(others[:10])}" if others else f"{repository.page}/tree/main"
    return ScriptError(
        f"{repository.id} holds no file {path!r} at {repository.revision}",
        hint=known,
        code="E317",
    )


def _is_transient(error: Exception) -> bool:
    """Worth another try: the line broke, the hub is busy."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in TRANSIENT
    return isinstance(error, httpx2.TransportError) and not isinstance(
        error, httpx2.UnsupportedProtocol
    )


def _is_refused_token(error: Exception) -> bool:
    if not isinstance(error, HfHubHTTPError) or error.response.status_code != 401:
        return False
    return "Invalid credentials" in error.response.headers.get("X-Error-Message", "")


def _asked_to_wait(error: Exception) -> float | None:
    """Seconds that the hub asks for, by its own rate limit header or by Retry-After."""
    if not isinstance(error, HfHubHTTPError):
        return None
    headers = error.response.headers
    limits = parse_ratelimit_headers(headers)
    if limits is not None and limits.remaining == 0 and error.response.status_code == 429:
        return float(limits.reset_in_seconds)
    after = headers.get("Retry-After", "").strip()
    return float(after) if re.fullmatch(r"\d{1,9}", after) else None


def _words(error: Exception) -> str:
    """An error on one line."""
    if isinstance(error, HfHubHTTPError):
        return f"status {error.response.status_code}"
    return " ".join(str(error).split()) or type(error).__name__
