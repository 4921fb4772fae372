"""Run scripts in forks of an interpreter that has loaded the heavy packages once.

Loading torch and trl takes longer than training a tiny model. Every fork is a process of its own
with its own environment, folders and pid, so it can be killed like any other; what a library read
from the environment while it was loaded is what the parent had, which is the scripts' environment.

Requests come as JSON lines on stdin: {"argv", "cwd", "env", "log"}. Answers go to stdout: {"pid"}
when the fork runs, {"status"} (as of subprocess) when it ended. One fork at a time.
"""

import importlib
import json
import os
import runpy
import sys
import traceback

HEAVY = (
    *("torch", "numpy", "safetensors.numpy", "transformers", "peft", "datasets", "trl"),
    *("trl.experimental.ppo", "llamafactory.train.tuner"),
)


def main() -> None:
    for name in HEAVY:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # the environment does without it
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401

    if "trl" in sys.modules:
        from trl import SFTTrainer  # noqa: F401
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_run(request))
        _answer(pid=pid)
        _, status = os.waitpid(pid, 0)
        _answer(status=os.waitstatus_to_exitcode(status))


def _run(request: dict) -> int:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _answer(**fields: int) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


if __name__ == "__main__":
    main()
