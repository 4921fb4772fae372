"""What an interpreter's torch sees, as one line of JSON. Run by the path of this file."""

import json
import sys
from importlib import metadata

LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "unsloth",
)


def versions():
    """Library -> version, None where it is not installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def device():
    """The first GPU, None where there is none. `memory` in bytes."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    seen = torch.cuda.get_device_properties(0)
    return {
        "name": seen.name,
        "capability": f"{seen.major}.{seen.minor}",
        "memory": seen.total_memory,
        "unified": bool(seen.is_integrated),
        "cuda": torch.version.cuda,
    }


if __name__ == "__main__":
    told = {"device": device(), "python": sys.version.split()[0], "libraries": versions()}
    print(json.dumps(told))
