"""Write what the base image supplies: part of every environment's identity built on it.

usage: image_identity.py OUTPUT.json

A base without torch supplies nothing. NGC's PyTorch images supply torch and its companions, and a
constraint file that says at which versions.
"""

import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path

SUPPLIED = ("torch", "torchvision", "torchaudio", "triton")
CONSTRAINT = Path("/etc/pip/constraint.txt")


def supplied_versions() -> dict[str, str]:
    """Versions of torch and its companions in the interpreter that runs this."""
    versions = {}
    for name in SUPPLIED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def main(output: Path) -> None:
    """Write the identity, sorted, so that equal bases give equal files."""
    supplied = supplied_versions()
    identity: dict[str, object] = {"python": sys.executable, "supplied": supplied}
    if supplied and CONSTRAINT.is_file():
        identity["constraint_sha256"] = hashlib.sha256(CONSTRAINT.read_bytes()).hexdigest()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(identity, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
