"""Attestations signed with keys made here, offline, and what a changed byte does to them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.system import environments
from tests.finished_runs import write_finished_run

KINDS = ("P-256", "P-384", "P-521", "ed25519", "rsa", "ML-DSA-65")
# Made with the environment's own library; read and checked below by another one, openssl.
MAKE_KEYS = """
import sys
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, mldsa, rsa, x25519
keys = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ML-DSA-65": mldsa.MLDSA65PrivateKey.generate(),
    "rsa": rsa.generate_private_key(65537, 2048),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "x25519": x25519.X25519PrivateKey.generate(),
    "dsa": dsa.generate_private_key(2048),
}
for name, key in keys.items():
    pem, pkcs8 = s.Encoding.PEM, s.PrivateFormat.PKCS8
    public = key.public_key().public_bytes(pem, s.PublicFormat.SubjectPublicKeyInfo)
    open(f"{sys.argv[1]}/{name}.pem", "wb").write(key.private_bytes(pem, pkcs8, s.NoEncryption()))
    open(f"{sys.argv[1]}/{name}.pub", "wb").write(public)
locked = keys["P-256"].private_bytes(pem, pkcs8, s.BestAvailableEncryption(b"a passphrase"))
open(f"{sys.argv[1]}/locked.pem", "wb").write(locked)
"""


@pytest.fixture(scope="module")
def keys(
    tmp_path_factory: pytest.TempPathFactory, environment_python: Callable[[str], Path]
) -> Path:
    """NAME.pem and NAME.pub of every kind, and locked.pem."""
    folder = tmp_path_factory.mktemp("keys")
    subprocess.run([environment_python("sign"), "-I", "-c", MAKE_KEYS, folder], check=True)
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_cache: Path, keys: Path) -> Path:
    """A finished run; whoever asks for the network from here on fails."""
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(shared_cache))
    monkeypatch.setenv("SPARK_RECIPES_STORE", str(tmp_path / "store"))
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return write_finished_run(tmp_path / "project")


def sign(run: Path, key: Path, *options: str) -> Path:
    """The file of the signed attestation."""
    file = run.parents[3] / "signed.json"
    assert main(["attest", str(run), "--key", str(key), "--output", str(file), *options]) == 0
    return file


def check(run: Path, file: Path, key: Path) -> int:
    return main(["attest", str(run), "--check", str(file), "--public-key", str(key)])


@pytest.mark.parametrize("kind", KINDS)
def test_signed_with_one_half_and_checked_with_the_other(
    run: Path, keys: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sign(run, keys / f"{kind}.pem")
    assert check(run, file, keys / f"{kind}.pub") == 0
    assert f"signature   valid, by {keys / kind}.pub" in capsys.readouterr().out


@pytest.mark.parametrize("style", ["intoto", "cyclonedx"])
def test_what_is_signed_is_what_would_be_printed(
    run: Path, keys: Path, style: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["attest", str(run), "--format", style]) == 0
    printed = capfdbinary.readouterr().out
    file = sign(run, keys / "P-256.pem", "--format", style)
    envelope = json.loads(file.read_bytes())
    assert base64.b64decode(envelope["payload"]) == printed
    assert check(run, file, keys / "P-256.pub") == 0


def test_the_signature_is_one_by_the_envelopes_specification(run: Path, keys: Path) -> None:
    """Checked by openssl over bytes put together here: "DSSEv1" LEN(type) type LEN(body) body."""
    envelope = json.loads(sign(run, keys / "P-256.pem").read_bytes())
    body, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    assert kind == b"application/vnd.in-toto+json"
    (signature,) = envelope["signatures"]
    folder = run.parents[3]
    (folder / "sig").write_bytes(base64.b64decode(signature["sig"]))
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)
    command = ["openssl", "dgst", "-sha256", "-verify", keys / "P-256.pub"]
    command += ["-signature", folder / "sig", folder / "message"]
    for content, code in ((message, 0), (message + b" ", 1)):
        (folder / "message").write_bytes(content)
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr


def change(file: Path, **members: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | members))


def flipped(text: str) -> str:
    """Base64 text with one bit of its content changed."""
    content = bytearray(base64.b64decode(text))
    content[len(content) // 2] ^= 1
    return base64.b64encode(content).decode()


def change_payload(file: Path) -> None:
    change(file, payload=flipped(json.loads(file.read_text())["payload"]))


def change_signature(file: Path) -> None:
    (signature,) = json.loads(file.read_text())["signatures"]
    change(file, signatures=[signature | {"sig": flipped(signature["sig"])}])


def change_type(file: Path) -> None:
    change(file, payloadType="application/vnd.cyclonedx+json")


def remove_signatures(file: Path) -> None:
    change(file, signatures=[])


@pytest.mark.parametrize("damage", [change_payload, change_signature, change_type,
                                    remove_signatures])  # fmt: skip
def test_a_changed_envelope_is_noticed(
    run: Path, keys: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    file = sign(run, keys / "P-256.pem")
    damage(file)
    assert check(run, file, keys / "P-256.pub") == 7
    assert "error[E848]" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["P-384", "ed25519", "rsa"])
def test_another_key_did_not_sign(
    run: Path, keys: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sign(run, keys / "P-256.pem")
    assert check(run, file, keys / f"{other}.pub") == 7
    assert "error[E848]" in capsys.readouterr().err


def test_a_key_of_another_kind_that_takes_the_name_did_not_sign(run: Path, keys: Path) -> None:
    """The name of a key in the envelope is only a hint: it proves nothing."""
    file = sign(run, keys / "P-256.pem")
    ours = json.loads(file.read_text())["signatures"][0]["keyid"]
    forged = sign(run, keys / "ed25519.pem")
    (signature,) = json.loads(forged.read_text())["signatures"]
    change(forged, signatures=[signature | {"keyid": ours}])
    assert check(run, forged, keys / "P-256.pub") == 7


def test_a_changed_file_of_the_run_is_noticed(
    run: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sign(run, keys / "P-256.pem")
    (run / "trace.jsonl").write_text("train: trace.jsonL")
    assert check(run, file, keys / "P-256.pub") == 7
    said = capsys.readouterr().err
    assert "error[E841]" in said
    assert "trace.jsonl has sha256" in said


def test_a_valid_signature_on_another_run_proves_nothing(
    run: Path, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sign(run, keys / "P-256.pem")
    other = write_finished_run(tmp_path / "other", seed=7)
    assert check(other, file, keys / "P-256.pub") == 7
    said = capsys.readouterr().err
    assert "error[E847]" in said
    assert "externalParameters.recipe.seed: 42 → 7" in said


def test_a_signed_document_of_another_kind_is_no_attestation(
    run: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from runner.attest.signing import signed

    file = run.parents[3] / "signed.json"
    for document, kind in ((b'{"a": 1}', "application/json"), (b"text", "text/plain")):
        file.write_bytes(signed(document, kind, keys / "P-256.pem"))
        assert check(run, file, keys / "P-256.pub") == 2
        assert "error[E846]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("locked.pem", "E844", "a key with a passphrase"),
        ("secp256k1.pem", "E843", "unsupported curve"),
        ("x25519.pem", "E843", "unsupported key"),
        ("dsa.pem", "E843", "unsupported key"),
        ("P-256.pub", "E843", "cannot be used to sign"),
        ("none.pem", "E843", "No such file"),
        (".", "E843", "Is a directory"),
    ],
)
def test_keys_that_cannot_sign(
    run: Path, keys: Path, name: str, code: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attest", str(run), "--key", str(keys / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"error[{code}]" in err
    assert words in err
    assert "next: " in err


@pytest.mark.parametrize("name", ["P-256.pem", "x25519.pub", "none.pub"])
def test_keys_that_cannot_check(
    run: Path, keys: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sign(run, keys / "P-256.pem")
    assert check(run, file, keys / name) == 2
    assert "error[E843]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"signatures": None}, "E846"),
        ({"signatures": [1]}, "E846"),
        ({"signatures": [{"sig": "AAAA"}]}, "E846"),
        ({"signatures": [{"keyid": "1", "sig": "AAAA"}]}, "E848"),
        ({"payload": 1}, "E846"),
        ({"payload": ""}, "E848"),
        ({"payloadType": 1}, "E846"),
        ({"payloadType": "\ud800"}, "E846"),
    ],
)
def test_an_envelope_that_is_none_is_told(
    run: Path,
    keys: Path,
    members: dict[str, Any],
    code: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = sign(run, keys / "P-256.pem")
    change(file, **members)
    assert check(run, file, keys / "P-256.pub") == (7 if code == "E848" else 2)
    assert f"error[{code}]" in capsys.readouterr().err


def test_no_copy_of_key_or_document_stays_in_the_cache(
    run: Path, keys: Path, shared_cache: Path
) -> None:
    before = set(shared_cache.glob("sign-*"))
    sign(run, keys / "P-256.pem")
    assert main(["attest", str(run), "--key", str(keys / "locked.pem")]) == 2
    assert set(shared_cache.glob("sign-*")) <= before


def test_without_the_environment_and_the_network_the_next_step_is_named(
    run: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.delenv("SPARK_RECIPES_PREBUILT", raising=False)
    assert environments._find("sign", environments.identity("sign"), tmp_path / "empty") is None
    assert main(["attest", str(run), "--key", str(keys / "P-256.pem")]) == 4
    assert "error[E421]" in capsys.readouterr().err
