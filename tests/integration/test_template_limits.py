"""A chat template that does not end is stopped, and what was going on before goes on after it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.chain import ROOT

ENDLESS = """
import signal, sys, threading
from pathlib import Path
from runner.scripts.data.tokens import template_limits
from runner.scripts.data.tokens.chat_tokens import ChatTokenizer
from runner.scripts.data.conversation import Conversation, message
from runner.scripts.data.files.rows import RowError

template_limits.SECONDS = 0.3
loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
turns = [{"role": "user", "content": "Hello."}]
tokenizer = ChatTokenizer(Path(sys.argv[1]), loop, [])
before = signal.getsignal(signal.SIGVTALRM)
row = Conversation((*turns, message("assistant", "Hello.")))
for render in (lambda: tokenizer.render(turns), lambda: tokenizer.tokens(row)):
    try:
        render()
    except RowError as error:
        print(error.code, error.message)
assert signal.getsignal(signal.SIGVTALRM) is before
assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
well = ChatTokenizer(Path(sys.argv[1]), "{{ messages[0].content }}", [])
said = []
thread = threading.Thread(target=lambda: said.append(well.render(turns)))
thread.start()
thread.join()
print(well.render(turns), *said)
"""


def test_a_template_without_an_end_is_stopped(
    environment_python: Callable[[str], Path], tiny: Path
) -> None:
    done = subprocess.run(
        [str(environment_python("data")), "-c", ENDLESS, str(tiny)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stopped, row_stopped, went_on = done.stdout.splitlines()
    assert stopped == row_stopped == "E326 the chat template has not ended after 0.3 s"
    assert went_on == "Hello. Hello."
