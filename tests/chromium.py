"""Debian's Chromium, unpacked into the tests' cache, as a program that can be put on a PATH."""

from __future__ import annotations

from pathlib import Path

from tests.debian import unpacked

_LIBRARIES = "usr/lib/x86_64-linux-gnu"


def chromium(cache: Path, folder: Path) -> Path:
    """Write `folder/chromium`, which starts it with its own libraries and fonts."""
    root = unpacked(["chromium"], cache, whole=True)
    places = (f"{_LIBRARIES}/pulseaudio", _LIBRARIES, "lib/x86_64-linux-gnu", "usr/lib/chromium")
    libraries = ":".join(str(root / place) for place in places)
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "chromium"
    program.write_text(
        "#!/bin/sh\n"
        f"export LD_LIBRARY_PATH='{libraries}' FONTCONFIG_PATH='{root}/etc/fonts'\n"
        f"exec '{root}/usr/lib/chromium/chromium' \"$@\"\n"
    )
    program.chmod(0o755)
    return program
