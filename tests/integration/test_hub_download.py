"""The script that downloads from the hub, against a hub of our own that misbehaves on demand."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import HubServer
from tests.script_runs import SCRIPTS

TOKEN = "hf_PlantedTokenThatNobodyMaySee0123456789"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": WEIGHTS,
    "README.md": b"# A model",
    "pytorch_model.bin": b"pickle",
    "training_args.bin": b"pickle",
    "modeling_tiny.py": b"print('code')",
    "consolidated.safetensors": b"the same again, in another form",
    "original/params.json": b"{}",
}


class Downloads:
    """Runs hub_download as the stage does; what a try leaves in scratch stays for the next one."""

    def __init__(self, python: Path, hub: HubServer, folder: Path) -> None:
        self._python, self._hub, self._folder = python, hub, folder
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True)
        self.events: list[dict[str, Any]] = []
        self.log = ""

    def run(
        self,
        *wanted: dict[str, Any],
        token: str | None = None,
        limit: int | None = None,
        **env: str,
    ) -> int:
        """Exit status. `limit` is the largest file that may be written, in bytes."""
        events = self._folder / "events.jsonl"
        events.unlink(missing_ok=True)
        where = {
            "inputs": {},
            "folder": str(self._folder),
            "scratch": str(self.scratch),
            "events": str(events),
        }
        spec = self._folder / "spec.json"
        hashed = {"wanted": list(wanted), "copies": 1}
        spec.write_text(json.dumps({"stage": "fetch", "hashed": hashed, "where": where}))
        variables = {"HF_ENDPOINT": self._hub.url, "HF_HUB_OFFLINE": "0", "PATH": "/usr/bin:/bin"}
        variables |= {"HF_HUB_DISABLE_TELEMETRY": "1"}
        variables |= {"HF_TOKEN": token} if token else {}
        result = subprocess.run(
            [str(self._python), str(SCRIPTS), "hub_download", str(spec)],
            env={**variables, "HOME": str(self._folder), **env},
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=None
            if limit is None
            else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )
        self.log = result.stdout + result.stderr
        self.events = [json.loads(line) for line in events.read_text().split("\n") if line]
        return result.returncode

    def error(self, *wanted: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The error event of a run that must fail, and fail in words of ours."""
        assert self.run(*wanted, **options) == 1, self.log
        errors = [event for event in self.events if event["event"] == "error"]
        assert errors, self.log
        assert "Traceback" not in self.log
        return errors[-1]

    def files(self) -> dict[str, bytes]:
        """Everything that lies in scratch."""
        root = self.scratch / "hub" / "model"
        return {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.tokens |= {TOKEN}
        yield server


@pytest.fixture
def downloads(
    hub: HubServer, environment_python: Callable[[str], Path], tmp_path: Path
) -> Downloads:
    return Downloads(environment_python("data"), hub, tmp_path / "downloads")


def model(hub: HubServer, files: dict[str, bytes] | None = None, **changes: Any) -> dict[str, Any]:
    """The entry of `wanted` for a new commit of acme/tiny."""
    commit = hub.commit("acme/tiny", MODEL if files is None else files)
    entry = {"id": "acme/tiny", "kind": "model", "revision": commit, "file": None, "code": False}
    return {**entry, "place": "model", **changes}


def ranges(hub: HubServer, path: str) -> list[str | None]:
    """The ranges that were asked for, in order."""
    return [each.headers.get("range") for each in hub.asked(path, "cdn")]


# --- what is taken


def test_weights_configuration_tokenizer_and_template_are_taken_and_nothing_else(
    hub: HubServer, downloads: Downloads
) -> None:
    assert downloads.run(model(hub)) == 0, downloads.log
    taken = {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert downloads.files() == {name: MODEL[name] for name in (*taken, "model.safetensors")}
    for name in ("pytorch_model.bin", "modeling_tiny.py", "consolidated", "README", "original"):
        assert hub.asked(name) == []


def test_code_is_taken_along_only_when_it_is_trusted(hub: HubServer, downloads: Downloads) -> None:
    assert downloads.run(model(hub, code=True)) == 0, downloads.log
    assert downloads.files()["modeling_tiny.py"] == MODEL["modeling_tiny.py"]


def test_the_shards_that_the_index_names_are_taken(hub: HubServer, downloads: Downloads) -> None:
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    files = {name: MODEL[name] for name in ("config.json", "tokenizer.json")}
    files |= {"model.safetensors.index.json": json.dumps(index).encode()}
    files |= {name: name.encode() for name in shards}
    assert downloads.run(model(hub, {**files, "consolidated.safetensors": b"x"})) == 0
    assert downloads.files() == files


def test_a_gguf_file_is_taken_alone(hub: HubServer, downloads: Downloads) -> None:
    wanted = model(hub, {**MODEL, "quants/tiny.Q8_0.gguf": b"GGUF"}, file="quants/tiny.Q8_0.gguf")
    assert downloads.run(wanted) == 0, downloads.log
    assert downloads.files() == {"quants/tiny.Q8_0.gguf": b"GGUF"}


def test_progress_counts_bytes(hub: HubServer, downloads: Downloads) -> None:
    hub.slow["model.safetensors"] = 0.01
    downloads.run(model(hub))
    steps = [event for event in downloads.events if event["event"] == "progress"]
    total = sum(map(len, downloads.files().values()))
    assert len(steps) >= 3
    assert {event["total"] for event in steps} == {total}
    assert {event["unit"] for event in steps} == {"bytes"}
    assert steps[-1]["step"] == total


# --- the line breaks


def test_a_connection_that_is_cut_goes_on_where_it_ended(
    hub: HubServer, downloads: Downloads
) -> None:
    hub.cuts["model.safetensors"] = [400_000, 300_000]
    assert downloads.run(model(hub)) == 0, downloads.log
    assert downloads.files()["model.safetensors"] == WEIGHTS
    asked = ranges(hub, "model.safetensors")
    assert asked[0] is None
    assert len(asked) == 3
    first, second = (int(str(each).removeprefix("bytes=").rstrip("-")) for each in asked[1:])
    assert 0 < first <= 400_000 < second <= 700_000


def test_a_next_process_goes_on_with_the_part_of_the_last_one(
    hub: HubServer, downloads: Downloads
) -> None:
    wanted = model(hub)
    hub.cuts["model.safetensors"] = [500_000, *[0] * 20]  # then nothing more comes
    assert downloads.error(wanted)["code"] == "E319"
    part = downloads.files()["model.safetensors.part"]
    assert 0 < len(part) <= 500_000
    hub.cuts.clear()
    hub.requests.clear()
    assert downloads.run(wanted) == 0, downloads.log
    assert ranges(hub, "model.safetensors") == [f"bytes={len(part)}-"]
    assert downloads.files()["model.safetensors"] == WEIGHTS
    assert hub.asked("resolve") == hub.asked("model.safetensors", "hub"), "the rest was there"


def test_a_server_without_ranges_begins_anew(hub: HubServer, downloads: Downloads) -> None:
    hub.ignores_ranges = True
    hub.cuts["model.safetensors"] = [400_000]
    assert downloads.run(model(hub)) == 0, downloads.log
    assert downloads.files()["model.safetensors"] == WEIGHTS


@pytest.mark.parametrize("part", [b"x" * 1000, b"x" * (len(WEIGHTS) + 1), b"x" * len(WEIGHTS)])
def test_a_part_of_another_file_costs_one_more_download(
    hub: HubServer, downloads: Downloads, part: bytes
) -> None:
    place = downloads.scratch / "hub" / "model"
    place.mkdir(parents=True)
    (place / "model.safetensors.part").write_bytes(part)
    assert downloads.run(model(hub)) == 0, downloads.log
    assert downloads.files()["model.safetensors"] == WEIGHTS


def test_what_is_there_is_checked_before_it_is_used(hub: HubServer, downloads: Downloads) -> None:
    place = downloads.scratch / "hub" / "model"
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"\0" * len(WEIGHTS))
    assert downloads.run(model(hub)) == 0, downloads.log
    assert downloads.files()["model.safetensors"] == WEIGHTS


# --- other bytes


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_wrong_bytes_are_never_taken(hub: HubServer, downloads: Downloads, name: str) -> None:
    wanted = model(hub)
    hub.wrong[name] = bytes(len(MODEL[name]))
    error = downloads.error(wanted)
    assert error["code"] == "E318"
    assert name in error["message"]
    assert "HF_ENDPOINT" in error["hint"]
    assert not any(path.startswith(name) for path in downloads.files()), "nor kept"
    assert (
        len([e for e in hub.asked(name) if e.server == ("cdn" if "safe" in name else "hub")]) == 2
    )


def test_more_bytes_than_announced_are_wrong_too(hub: HubServer, downloads: Downloads) -> None:
    hub.wrong["model.safetensors"] = WEIGHTS + b"more"
    assert downloads.error(model(hub))["code"] == "E318"


def test_fewer_bytes_than_announced_end_in_an_error(hub: HubServer, downloads: Downloads) -> None:
    hub.wrong["model.safetensors"] = WEIGHTS[:1000]
    assert downloads.error(model(hub))["code"] == "E319"


def test_a_mirror_without_digests_is_refused(hub: HubServer, downloads: Downloads) -> None:
    hub.lists_digests = False
    error = downloads.error(model(hub))
    assert error["code"] == "E318"
    assert "lists no digest of acme/tiny/config.json" in error["message"]


# --- refused, or not there


def test_a_gated_repository_says_how_to_get_in(hub: HubServer, downloads: Downloads) -> None:
    wanted = model(hub)
    hub.repos["model", "acme/tiny"].gated = True
    error = downloads.error(wanted)
    assert error["code"] == "E316"
    assert "acme/tiny is gated" in error["message"]
    assert f"accept the licence at {hub.url}/acme/tiny" in error["hint"]
    assert f"{hub.url}/settings/tokens" in error["hint"]
    assert "HF_TOKEN" in error["hint"]


def test_a_token_without_the_licence_is_told_apart(hub: HubServer, downloads: Downloads) -> None:
    wanted = model(hub)
    hub.repos["model", "acme/tiny"].gated = True
    error = downloads.error(wanted, token=TOKEN)
    assert error["code"] == "E316"
    assert "with the account that the token belongs to" in error["hint"]
    assert TOKEN not in downloads.log + json.dumps(downloads.events)


def test_a_licensed_token_gets_in(hub: HubServer, downloads: Downloads) -> None:
    wanted = model(hub)
    hub.repos["model", "acme/tiny"].gated = True
    hub.licensed.add(TOKEN)
    assert downloads.run(wanted, token=TOKEN) == 0, downloads.log


def test_a_token_that_the_hub_does_not_know_is_said(hub: HubServer, downloads: Downloads) -> None:
    error = downloads.error(model(hub), token="hf_expired")
    assert error["code"] == "E316"
    assert "refuses the token" in error["message"]
    assert "hf_expired" not in downloads.log + json.dumps(downloads.events)


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_repository_that_is_not_there(
    hub: HubServer, downloads: Downloads, token: str | None
) -> None:
    error = downloads.error(model(hub, id="acme/tinny"), token=token)
    assert error["code"] == "E317"
    assert "there is no model acme/tinny" in error["message"]


def test_a_private_repository_looks_like_none(hub: HubServer, downloads: Downloads) -> None:
    wanted = model(hub)
    hub.repos["model", "acme/tiny"].private = True
    error = downloads.error(wanted)
    assert error["code"] == "E317"
    assert "HF_TOKEN" in error["hint"]
    assert downloads.run(wanted, token=TOKEN) == 0


def test_a_commit_that_is_not_there(hub: HubServer, downloads: Downloads) -> None:
    error = downloads.error(model(hub, revision="0" * 40))
    assert error["code"] == "E317"
    assert f"no revision {'0' * 40}" in error["message"]


def test_a_file_that_is_not_there_lists_the_others(hub: HubServer, downloads: Downloads) -> None:
    error = downloads.error(model(hub, {**MODEL, "a.Q8_0.gguf": b"x"}, file="a.Q4_0.gguf"))
    assert error["code"] == "E317"
    assert "a.Q8_0.gguf" in error["hint"]


def test_pickles_alone_are_refused_before_anything_is_downloaded(
    hub: HubServer, downloads: Downloads
) -> None:
    files = {name: MODEL[name] for name in MODEL if not name.endswith(".safetensors")}
    error = downloads.error(model(hub, files))
    assert error["code"] == "E311"
    assert "only pickles (pytorch_model.bin, training_args.bin)" in error["message"]
    assert hub.asked("/resolve/") == []


def test_a_repository_of_ggufs_says_how_to_name_one(hub: HubServer, downloads: Downloads) -> None:
    error = downloads.error(model(hub, {"a.Q8_0.gguf": b"x", "b.Q4_0.gguf": b"x"}))
    assert error["code"] == "E311"
    assert "model.file: a.Q8_0.gguf, b.Q4_0.gguf" in error["hint"]


def test_a_shard_that_the_index_names_and_nobody_has(hub: HubServer, downloads: Downloads) -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors"}}).encode()
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors.index.json": index}
    error = downloads.error(model(hub, files))
    assert error["code"] == "E311"
    assert "model-1.safetensors" in error["message"]


def test_an_index_leads_out_of_nothing(hub: HubServer, downloads: Downloads) -> None:
    index = json.dumps({"weight_map": {"a": "../../model.safetensors"}}).encode()
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors.index.json": index}
    assert downloads.error(model(hub, files))["code"] == "E312"


# --- a hub that is busy


@pytest.mark.parametrize(
    "headers", [{"Retry-After": "1"}, {"RateLimit": '"api";r=0;t=1'}], ids=["retry-after", "limit"]
)
@pytest.mark.parametrize("part", ["/api/models", "/resolve/"])
def test_a_rate_limit_is_waited_for(
    hub: HubServer, downloads: Downloads, part: str, headers: dict[str, str]
) -> None:
    hub.fail(part, 429, headers=headers)
    assert downloads.run(model(hub)) == 0, downloads.log


def test_a_wait_is_bounded(hub: HubServer, downloads: Downloads) -> None:
    hub.fail("/api/models", 429, headers={"Retry-After": "3600"})
    error = downloads.error(model(hub))
    assert error["code"] == "E319"
    assert "wait 3600 s" in error["message"]
    assert len(hub.asked("/api/models")) == 1


def test_the_tries_are_bounded(hub: HubServer, downloads: Downloads) -> None:
    hub.fail("model.safetensors", 503, times=100)
    error = downloads.error(model(hub))
    assert error["code"] == "E319"
    assert "status 503" in error["message"]
    assert len(hub.asked("model.safetensors", "hub")) == 5
    said = [event.get("message", "") for event in downloads.events]
    assert "status 503; again in 0.5 s" in said


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_error_is_tried_again(hub: HubServer, downloads: Downloads, status: int) -> None:
    hub.fail("/api/models", status)
    hub.fail("config.json", status)
    assert downloads.run(model(hub)) == 0, downloads.log


def test_nobody_there(hub: HubServer, downloads: Downloads) -> None:
    wanted = model(hub)
    hub.stop()
    error = downloads.error(wanted)
    assert error["code"] == "E319"
    assert hub.url in error["message"]


def test_an_answer_of_something_else(hub: HubServer, downloads: Downloads) -> None:
    hub.fail("/api/models", 200)
    hub.fail("/api/models", 418)
    wanted = model(hub)
    for _ in range(2):
        error = downloads.error(wanted)
        assert error["code"] == "E319"
        assert "not as the hub does" in error["message"]


# --- the token


def test_the_token_does_not_travel_to_another_host(hub: HubServer, downloads: Downloads) -> None:
    assert downloads.run(model(hub), token=TOKEN) == 0, downloads.log
    assert {each.token for each in hub.asked("", "hub")} == {TOKEN}
    assert hub.asked("model.safetensors", "cdn"), "the redirect was followed"
    for each in hub.asked("", "cdn"):
        assert TOKEN not in json.dumps([each.path, each.headers])


def test_without_a_token_none_is_sent(hub: HubServer, downloads: Downloads) -> None:
    (downloads.scratch.parent / ".cache" / "huggingface").mkdir(parents=True)
    (downloads.scratch.parent / ".cache" / "huggingface" / "token").write_text(TOKEN)
    assert downloads.run(model(hub)) == 0
    assert {each.token for each in hub.requests} == {None}


# --- no room


def test_what_cannot_fit_is_not_begun(hub: HubServer, downloads: Downloads) -> None:
    class Huge(bytes):
        """A file that says it has 4 EiB."""

        def __len__(self) -> int:
            return 1 << 62

    wanted = model(hub, {**MODEL, "model.safetensors": Huge(b"x")})
    error = downloads.error(wanted)
    assert error["code"] == "E410"
    assert "make 9,223,372,036,854,775,890" in error["message"]
    assert " are free" in error["message"]
    assert hub.asked("/resolve/") == []


def test_a_disk_that_fills_up_meanwhile(hub: HubServer, downloads: Downloads) -> None:
    wanted = model(hub)
    error = downloads.error(wanted, limit=600_000)
    assert error["code"] == "E410"
    assert "goes on where it stopped" in error["hint"]
    hub.requests.clear()
    assert downloads.run(wanted) == 0
    assert ranges(hub, "model.safetensors") == ["bytes=600000-"]


# --- data sets


def test_a_file_of_a_data_set(hub: HubServer, downloads: Downloads) -> None:
    rows = b'{"text": "a"}\n'
    commit = hub.commit("acme/rows", {"data/train.jsonl": rows, "x.jsonl": b""}, kind="dataset")
    wanted = {"id": "acme/rows", "kind": "dataset", "revision": commit, "code": False}
    wanted |= {"file": "data/train.jsonl", "place": "model"}
    assert downloads.run(wanted) == 0, downloads.log
    assert downloads.files() == {"data/train.jsonl": rows}
    error = downloads.error({**wanted, "file": "data/none.jsonl"})
    assert error["code"] == "E317"
    error = downloads.error({**wanted, "id": "acme/none"})
    assert "no data set acme/none" in error["message"]
