"""Sign a document with a private key: a DSSE envelope around the document's very bytes.

spec.hashed: payload_type, the media type. spec.where.inputs: payload, key (a PEM file). Writes
envelope.json. https://github.com/secure-systems-lab/dsse
"""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from runner.scripts.spec import Events, ScriptError, Spec, main


def sign_envelope(spec: Spec, events: Events) -> None:
    """Write the envelope. Raises ScriptError (E843, E844)."""
    signer = load_signer(spec.inputs["key"])
    payload = spec.inputs["payload"].read_bytes()
    envelope = Envelope(payload, spec.hashed["payload_type"], {})
    envelope.sign(signer)
    text = json.dumps(envelope.to_dict(), separators=(",", ":"), sort_keys=True)
    (spec.folder / "envelope.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def load_signer(path: Path) -> CryptoSigner:
    """The signer for the private key in the PEM file `path`. Raises ScriptError (E843, E844)."""
    try:
        return CryptoSigner(load_pem_private_key(path.read_bytes(), password=None))
    except TypeError:  # how the library says that a passphrase is needed
        raise ScriptError(
            f"{path} is a key with a passphrase, and nobody can be asked for it",
            hint=f"write one without for this use: openssl pkey -in {path} -out plain.pem",
            code="E844",
        ) from None
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ScriptError(
            f"{path} cannot be used to sign: {error}",
            hint="give a private key as PEM: ECDSA on P-256, P-384 or P-521, Ed25519 or RSA; "
            "to make one: openssl genpkey -algorithm ed25519 -out key.pem",
            code="E843",
        ) from None


if __name__ == "__main__":
    main(sign_envelope)
