"""A run goes to another machine as one archive, and is done again there without a network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chain import Checkout
from tests.hub_server import HubServer
from tests.other_machine import OtherMachine, other_machine
from tests.tiny_model import write_tiny_model


@pytest.fixture
def there(shared_cache: Path) -> Iterator[OtherMachine]:
    with other_machine(shared_cache) as machine:
        yield machine


def bundled(checkout: Checkout, name: str, there: OtherMachine, *options: str) -> Path:
    """The newest run of the recipe `name`, as x.tar on the other machine."""
    here = checkout.folder / "x.tar"
    result = checkout.recipe("bundle", f"runs/{name}", "--output", "x.tar", *options)
    assert result.returncode == 0, result.stderr
    return Path(shutil.copy(here, there.folder / "x.tar"))


def newest(folder: Path, name: str) -> Path:
    (unpacked,) = folder.glob(f"{name}-*")
    return (unpacked / "runs" / name / "latest").resolve()


def test_nobody_on_another_machine_without_a_network(there: OtherMachine) -> None:
    """Else the tests below would prove nothing."""
    code = "import socket; socket.create_connection(('192.0.2.1', 80), 3)"
    asked = there.run("python3", "-c", code)
    assert "unreachable" in asked.stderr
    assert there.run("sh", "-c", "touch /etc/x-of-a-test").returncode != 0
    assert list((there.folder.parent / "cache").iterdir()) == []


def test_the_whole_chain_again_from_the_bundle_alone(
    tmp_path: Path, make_tiny: Callable[[Path], Checkout], there: OtherMachine
) -> None:
    checkout = make_tiny(tmp_path)
    assert checkout.recipe("run", "tiny.yaml").returncode == 0
    archive = bundled(checkout, "tiny", there)
    manifest = (checkout.folder / "runs" / "tiny" / "latest" / "manifest.json").read_bytes()
    shutil.rmtree(checkout.folder / "runs")
    shutil.rmtree(checkout.folder / "model")
    (checkout.folder / "rows.jsonl").unlink()
    files = there.recipe("verify", "x.tar")
    assert files.returncode == 0, files.stdout + files.stderr
    export = there.recipe("verify", "x.tar", "--level", "export")
    assert export.returncode == 0, export.stdout + export.stderr
    assert "every byte equal: fetch, merge" in export.stdout
    result = there.recipe("run", "x.tar", "--offline")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the same bytes as in the bundle: manifest" in result.stderr
    run = newest(there.folder, "tiny")
    assert (run / "manifest.json").read_bytes() == manifest
    again = there.recipe("run", "x.tar", "--offline")
    assert "up to date" in again.stdout
    back = there.recipe("bundle", str(run), "--output", "y.tar")
    assert back.returncode == 0, back.stderr
    assert (there.folder / "y.tar").read_bytes() == archive.read_bytes()


def test_what_is_not_there_is_said_before_anything_runs(
    tmp_path: Path, make_tiny: Callable[[Path], Checkout], there: OtherMachine
) -> None:
    checkout = make_tiny(tmp_path)
    assert checkout.recipe("run", "tiny.yaml", "--until", "prepare").returncode == 0
    bundled(checkout, "tiny", there)
    bare = OtherMachine(there.folder, there.folder)
    result = bare.recipe("run", "x.tar", "--offline")
    assert result.returncode == 4, result.stderr
    assert "error[E829]" in result.stderr
    assert "the environment data" in result.stderr
    assert "next: while the network is up: recipe run x.tar --get" in result.stderr
    assert list(there.folder.glob("*/runs")) == []


# --- what comes from a hub


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def fetched(tmp_path: Path, make_tiny: Callable[[Path], Checkout], hub: HubServer) -> Checkout:
    """A recipe whose model and rows are on a hub, run up to its tokens."""
    checkout = make_tiny(tmp_path)
    model = write_tiny_model(tmp_path / "published")
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    rows = (checkout.folder / "rows.jsonl").read_bytes()
    recipe = {
        "schema": 1,
        "name": "x",
        "model": {"hub": "acme/m", "revision": hub.commit("acme/m", files), "dtype": "float32"},
        "data": {
            "train": [
                {
                    "hub": "acme/d",
                    "revision": hub.commit("acme/d", {"r.jsonl": rows}, kind="dataset"),
                    "file": "r.jsonl",
                    "format": "alpaca",
                }
            ],
            "max_length": 256,
        },
        "train": {"adapter": {"type": "lora", "r": 2}, "max_steps": 1},
    }
    (checkout.folder / "x.yaml").write_text(json.dumps(recipe))
    return checkout


def test_models_and_data_of_a_hub_travel_in_the_bundle(
    fetched: Checkout, hub: HubServer, there: OtherMachine
) -> None:
    ran = fetched.recipe("run", "x.yaml", "--until", "prepare", HF_ENDPOINT=hub.url)
    assert ran.returncode == 0, ran.stderr
    here = (fetched.folder / "runs" / "x" / "latest").resolve()
    archive = bundled(fetched, "x", there)
    result = there.recipe("run", "x.tar", "--offline")
    assert result.returncode == 0, result.stdout + result.stderr
    run = newest(there.folder, "x")
    assert (run / "manifest.json").read_bytes() == (here / "manifest.json").read_bytes()
    assert keys(run)["fetch"] != keys(here)["fetch"]
    assert keys(run)["prepare"] == keys(here)["prepare"]
    for what in ("x.tar", str(run)):
        proved = there.recipe("verify", what, "--level", "train")
        assert proved.returncode == 0, proved.stdout + proved.stderr
        assert "every byte equal: fetch, fetch_data, prepare" in proved.stdout
    back = there.recipe("bundle", str(run), "--output", "y.tar")
    assert back.returncode == 0, back.stderr
    assert (there.folder / "y.tar").read_bytes() == archive.read_bytes()


def keys(run: Path) -> dict[str, str]:
    return {
        each["name"]: each["key"] for each in json.loads((run / "run.json").read_text())["stages"]
    }


def test_a_base_that_was_left_out_is_named_offline(
    fetched: Checkout, hub: HubServer, there: OtherMachine
) -> None:
    ran = fetched.recipe("run", "x.yaml", "--until", "prepare", HF_ENDPOINT=hub.url)
    assert ran.returncode == 0, ran.stderr
    bundled(fetched, "x", there, "--without-base")
    assert there.recipe("verify", "x.tar").returncode == 0
    result = there.recipe("run", "x.tar", "--offline")
    assert result.returncode == 4
    assert "the base model acme/m at " in result.stderr
    assert "acme/d" not in result.stderr


def test_what_was_got_before_needs_no_network(fetched: Checkout, hub: HubServer) -> None:
    got = fetched.recipe("run", "x.yaml", "--until", "prepare", "--get", HF_ENDPOINT=hub.url)
    assert got.returncode == 0, got.stderr
    assert "everything is here: recipe run x.yaml --until prepare --offline" in got.stdout
    assert not (fetched.folder / "runs" / "x").exists()
    asked = len(hub.requests)
    assert asked > 0
    result = fetched.recipe("run", "x.yaml", "--until", "prepare", "--offline", HF_ENDPOINT=hub.url)
    assert result.returncode == 0, result.stderr
    assert len(hub.requests) == asked
