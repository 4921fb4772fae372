"""Is a DSSE envelope signed by a key? Its document is written only when it is.

spec.where.inputs: envelope, key (a public key as PEM). Writes `payload`.
https://github.com/secure-systems-lab/dsse
"""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from runner.scripts.spec import Events, ScriptError, Spec, main


def check_envelope(spec: Spec, events: Events) -> None:
    """Write the signed document. Raises ScriptError (E843, E846, E848)."""
    key = load_key(spec.inputs["key"])
    envelope = load_envelope(spec.inputs["envelope"])
    try:
        envelope.verify([key], 1)
    except VerificationError:
        raise ScriptError(
            f"{spec.inputs['envelope']} has no valid signature by {spec.inputs['key']}",
            hint="it was changed after it was signed, or another key signed it: do not trust it",
            code="E848",
        ) from None
    events.measure(payload_type=envelope.payload_type)
    (spec.folder / "payload").write_bytes(envelope.payload)


def load_key(path: Path) -> SSlibKey:
    """The public key in the PEM file `path`. Raises ScriptError (E843)."""
    try:
        return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ScriptError(
            f"{path} is no public key to check signatures with: {error}",
            hint="write it from the private key: openssl pkey -in key.pem -pubout -out public.pem",
            code="E843",
        ) from None


def load_envelope(path: Path) -> Envelope:
    """The envelope in the file `path`. Raises ScriptError (E846)."""
    try:
        envelope = Envelope.from_dict(json.loads(path.read_bytes()))
        envelope.pae()  # a media type that is no text fails here
        return envelope
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ScriptError(
            f"{path} is no signed envelope: {error}",
            hint="give the file that `recipe attest --key` wrote",
            code="E846",
        ) from None


if __name__ == "__main__":
    main(check_envelope)
