"""Completion scripts, one template a shell: `recipe.SHELL`, with a table put in.

The table says for each place of a command line what may stand there; the rest the shell reads from
the disk by itself. So completing starts no program. A new shell is a template, how it writes the
table down, and a line in SHELLS.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from runner.completion.interface import Command, Takes, Word, commands

_MARK = "@TABLE@\n"
_GENERAL = (
    Word("--help", "show the commands"),
    Word("--version", "show the version"),
)
# Function of the script -> what it is asked for -> its answer.
Table = Mapping[str, Sequence[tuple[str, Sequence[str]]]]
ShowWord = Callable[[Word], str]


def script(shell: str) -> str:
    """The completion script of a shell in SHELLS."""
    template = Path(__file__).with_name(f"recipe.{shell}").read_text(encoding="utf-8")
    before, mark, behind = template.partition(_MARK)
    assert mark, f"the template of {shell} has no place for the table"
    show_word, write_down = SHELLS[shell]
    return before + "".join(write_down(table_of(commands(), show_word))) + behind


def table_of(known: Sequence[Command], show_word: ShowWord) -> Table:
    """What every script knows. An option that may be given again is marked by a `+` behind it."""
    every = [show_word(command.word) for command in known]
    options = [("", [show_word(word) for word in _GENERAL])]
    options += [(command.word.text, list(_options(command, show_word))) for command in known]
    takes = [
        (f"{command.word.text} {place}", _answer(what, show_word))
        for command in known
        for place, what in _places(command)
    ]
    return {"commands": [("", every)], "options": options, "takes": takes}


def _options(command: Command, show_word: ShowWord) -> Iterator[str]:
    """By their long names; the short ones of those that have none."""
    for option in command.options:
        names = [word for word in option.names if word.text.startswith("--")] or option.names
        for word in names:
            mark = "+" if option.repeats else ""
            yield show_word(Word(word.text + mark, word.help))


def _places(command: Command) -> Iterator[tuple[str, Takes]]:
    """`0`, `1`, … and `+` for the last one when it is repeated; names of options with a value."""
    for index, takes in enumerate(command.places):
        yield str(index), takes
    if command.more:
        yield "+", command.places[-1]
    for option in command.options:
        if option.takes is not None:
            yield from ((word.text, option.takes) for word in option.names)


def _answer(takes: Takes, show_word: ShowWord) -> list[str]:
    words = ["words", *map(show_word, takes.words)] if takes.words else []
    return [*takes.kinds, *words]


# --- words and tables in the languages of the shells


def _alone(word: Word) -> str:
    return word.text


def _with_colon(word: Word) -> str:
    """As `_describe` of zsh reads it."""
    name = word.text.replace("\\", "\\\\").replace(":", "\\:")
    return f"{name}:{_short(word.help)}" if word.help else name


def _with_tab(word: Word) -> str:
    """As fish reads it."""
    return f"{word.text}\t{_short(word.help)}" if word.help else word.text


def _short(words: str) -> str:
    """The first sentence, as far as it fits beside a word."""
    return textwrap.shorten(re.split(r"(?<=\w)[;.] ", words)[0], 72, placeholder=" …")


def _arrays(table: Table) -> Iterator[str]:
    """bash and zsh: functions that set the array `answer`."""
    for name, rows in table.items():
        yield f"_recipe_{name}() {{\n  case $1 in\n"
        for asked, answer in rows:
            yield f"    {shlex.quote(asked)}) answer=({shlex.join(answer)}) ;;\n"
        yield "    *) return 1 ;;\n  esac\n}\n\n"


def _lines(table: Table) -> Iterator[str]:
    """fish: functions that print their answer, one item a line."""
    for name, rows in table.items():
        yield f"function __recipe_{name}\n    switch $argv[1]\n"
        for asked, answer in rows:
            items = " ".join(map(_fish_quote, answer))
            yield f"        case {_fish_quote(asked)}\n            printf '%s\\n' {items}\n"
        yield "        case '*'\n            return 1\n    end\nend\n\n"


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: Mapping[str, tuple[ShowWord, Callable[[Table], Iterator[str]]]] = {
    "bash": (_alone, _arrays),
    "zsh": (_with_colon, _arrays),
    "fish": (_with_tab, _lines),
}
