"""bash, zsh and fish as a person at the keyboard has them: what does Tab offer?

bash is the machine's own. zsh and fish are Debian's, unpacked into the tests' cache. None of them
finds a program on its path, so a completion that starts one offers nothing.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.debian import unpacked

TIMEOUT_SECONDS = 60
_LIBRARIES = "usr/lib/x86_64-linux-gnu"

# line -> what Tab offers behind it, in the folder that the shell was started in
Offers = Callable[[str], list[str]]


def bash(script: Path, folder: Path, cache: Path) -> Offers:
    """The completion function, called as readline does it."""
    program = str(shutil.which("bash"))

    def offers(line: str) -> list[str]:
        # readline also breaks words at "=", which is then a word of its own
        words = [part for word in line.split(" ") for part in re.split(r"(=)(?=.)|(=)$", word)]
        words = [word for word in words if word is not None]
        if line.endswith("="):
            words.pop()
        called = (
            f"source {shlex.quote(str(script))}; COMP_WORDS=({shlex.join(words)}); "
            f"COMP_CWORD={len(words) - 1}; _recipe; "
            'for each in "${COMPREPLY[@]}"; do printf "%s\\n" "$each"; done'
        )
        return _lines([program, "--norc", "-c", called], folder, {})

    return offers


def fish(script: Path, folder: Path, cache: Path) -> Offers:
    """`complete -C`, which is what Tab calls."""
    root = unpacked(["fish", "fish-common", "libpcre2-32-0"], cache)
    env = {"LD_LIBRARY_PATH": str(root / _LIBRARIES), "HOME": str(script.parent)}

    def offers(line: str) -> list[str]:
        called = f"source {_fish_quoted(str(script))}; complete -C {_fish_quoted(line)}"
        command = [str(root / "usr/bin/fish"), "--no-config", "-c", called]
        return [line.split("\t")[0] for line in _lines(command, folder, env)]

    return offers


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _lines(command: list[str], folder: Path, env: Mapping[str, str]) -> list[str]:
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": "/nothing", "LC_ALL": "C.UTF-8", **env},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


class Zsh:
    """An interactive zsh on a terminal of its own, with its whole completion system."""

    def __init__(self, script: Path, folder: Path, cache: Path) -> None:
        root = unpacked(["zsh", "zsh-common", "libcap2"], cache)
        home = script.parent / "zsh"
        home.mkdir()
        self._told = home / "told"
        modules = next(root.glob(f"{_LIBRARIES}/zsh/*"))
        functions = sorted((root / "usr/share/zsh/functions").rglob("*"))
        (home / ".zshenv").write_text(f"unsetopt global_rcs; module_path=({modules})\n")
        (home / ".zshrc").write_text(_ZSH_SETTINGS)
        env = {
            "PATH": "/nothing",
            "TERM": "dumb",
            "LC_ALL": "C.UTF-8",
            "HOME": str(home),
            "FPATH": ":".join(str(each) for each in functions if each.is_dir()),
            "LD_LIBRARY_PATH": str(root / _LIBRARIES),
            "SCRIPT": str(script),
            "TOLD": str(self._told),
        }
        self._terminal, theirs = pty.openpty()
        self._shell = subprocess.Popen(
            [str(root / "bin/zsh"), "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env=env,
            start_new_session=True,
        )
        os.close(theirs)
        os.set_blocking(self._terminal, False)
        self._ask("")

    def __call__(self, line: str) -> list[str]:
        """What Tab behind `line` offers; zsh adds a match once for each way in which it fits."""
        return list(dict.fromkeys(self._ask(f"{line}\t\x15")))

    def _ask(self, keys: str) -> list[str]:
        """Type `keys`, and wait until all of it was read; what was told meanwhile."""
        self._told.write_text("")
        os.write(self._terminal, f"{keys}print -r -- END >> $TOLD\n".encode())
        end = time.monotonic() + TIMEOUT_SECONDS
        while not (told := self._told.read_text()).endswith("END\n"):
            assert time.monotonic() < end, f"no answer to {keys!r}, but {told!r}"
            with contextlib.suppress(BlockingIOError):  # a full terminal would stop the shell
                os.read(self._terminal, 1 << 16)
            time.sleep(0.01)
        return told.split("\n")[:-2]

    def close(self) -> None:
        """End the shell."""
        os.write(self._terminal, b"exit\n")
        self._shell.wait(TIMEOUT_SECONDS)
        os.close(self._terminal)


# `compadd` is how every match reaches zsh: it tells the matches before it adds them.
_ZSH_SETTINGS = r"""
unsetopt auto_list auto_menu beep prompt_cr prompt_sp
PS1=
autoload -Uz compinit; compinit -D -u
compadd() {
  if [[ " ${(j: :)@} " != *' -'[a-zA-Z]#[OAD]' '* ]]; then
    local -a compadd_hits
    builtin compadd -O compadd_hits "$@"
    (($#compadd_hits)) && print -rl -- $compadd_hits >> $TOLD
  fi
  builtin compadd "$@"
}
source $SCRIPT
"""
