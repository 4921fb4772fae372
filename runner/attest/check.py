"""Does an attestation say what a run is? Signed or not, every byte of it must be so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.attest.formats import FORMATS, format_of, text_of
from runner.errors import NotReproduced, UsageError

if TYPE_CHECKING:
    from runner.attest.finished import Finished

SHOWN = 20  # differences, at most


@dataclass(frozen=True, slots=True)
class Attestation:
    """The document of an attestation; `signed` when a key was checked."""

    content: bytes
    data: dict[str, Any]
    signed: bool


def read_attestation(file: Path, public_key: Path | None) -> Attestation:
    """Read `file` and, when a key is given, check who signed it.

    Raises UsageError (E846: no attestation; E849: a signature that no key was given for; E843) and
    NotReproduced (E848: not signed by that key).
    """
    content = _read(file)
    data = _parse(content, file)
    if "payloadType" not in data:
        if public_key is not None:
            raise NotReproduced(
                f"{file} is not signed at all",
                hint="ask for a signed one, or check it without --public-key",
                code="E848",
            )
        return Attestation(content, data, signed=False)
    if public_key is None:
        raise UsageError(
            f"{file} is signed, and no key was given to check that with",
            hint="add --public-key FILE: the public half of the signer's key, as PEM",
            code="E849",
        )
    from runner.attest.signing import checked

    payload, kind = checked(file, public_key)
    data = _parse(payload, file)
    found = format_of(data)
    if found is None or kind != found.PAYLOAD_TYPE:
        raise _no_attestation(file, f"what is signed is no attestation, but {kind}")
    return Attestation(payload, data, signed=True)


def compare(attestation: Attestation, about: Finished, file: Path) -> None:
    """Raise NotReproduced (E847) unless the document is the run's, byte for byte."""
    kind = format_of(attestation.data)
    if kind is None:
        raise _no_attestation(file, f"it is none of {', '.join(FORMATS)}")
    expected = kind.document(about, times=kind.has_times(attestation.data))
    if attestation.content == text_of(expected):
        return
    from runner.plan.plan import list_changes

    changes = list_changes(_by_name(attestation.data), _by_name(expected))
    more = [f"and {len(changes) - SHOWN} more"] if len(changes) > SHOWN else []
    raise NotReproduced(
        f"{file} is not about {about.run.folder}",
        hint="each line has what the attestation says, then what the run is",
        code="E847",
        entries=[*changes[:SHOWN], *more] or ["the same statements, written with other bytes"],
    )


def _by_name(value: Any) -> Any:
    """Lists of named things as maps, so that one more or less does not shift all others."""
    if isinstance(value, dict):
        return {key: _by_name(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    names = [str(item.get("bom-ref", item.get("name"))) if isinstance(item, dict) else ""
             for item in value]  # fmt: skip
    if len(set(names)) == len(names) and all(names) and "None" not in names:
        return {name: _by_name(item) for name, item in zip(names, value, strict=True)}
    return [_by_name(item) for item in value]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _no_attestation(file, f"it cannot be read: {error.strerror}") from None


def _parse(content: bytes, file: Path) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        raise _no_attestation(file, "it is not JSON") from None
    if not isinstance(data, dict):
        raise _no_attestation(file, "it is no JSON object")
    return data


def _no_attestation(file: Path, why: str) -> UsageError:
    return UsageError(
        f"{file} is no attestation of a run: {why}",
        hint="give the file that `recipe attest --output FILE` wrote",
        code="E846",
    )
