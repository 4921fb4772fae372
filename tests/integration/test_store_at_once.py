"""Several processes on one store, a collector among them, and one that keeps being killed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from runner.store.collect import collect
from runner.store.roots import read_roots
from runner.store.store import State, Store

ROOT = Path(__file__).resolve().parents[2]
KEYS = ["11" * 32, "22" * 32]

# Uses its keys in turn, as the executor does, and looks at what it was promised.
WORKER = """
import sys
import time
from pathlib import Path
from runner.stages.contract import Class
from runner.store.roots import register_root
from runner.store.store import Store
store, run, rounds = Store(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
run.mkdir(parents=True, exist_ok=True)
for _ in range(rounds):
    register_root(store, run, [])
    time.sleep(0.05)  # now the collector may take what nobody else uses
    used = []
    for key in sys.argv[4:]:
        with store.lock("merge", key):
            outputs = store.reuse("merge", key)
            if outputs is None:
                staging = store.staging("merge", key)
                for name in ("a", "b", "c"):
                    (staging.out / name).write_text(key * 100)
                outputs = store.commit(
                    staging, version=1, key_inputs={}, classes={"*": Class.PORTABLE}
                )
            used.append(("merge", key))
            register_root(store, run, used)
        for name in outputs.files:
            assert outputs.path(name).read_text() == key * 100
print("done")
"""
COLLECTOR = """
import sys
from pathlib import Path
from runner.store.collect import collect
from runner.store.store import Store
removed = 0
while not Path(sys.argv[2]).exists():
    removed += len(collect(Store(Path(sys.argv[1])), dry_run=False).removed)
print(removed)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_workers_are_never_robbed_by_a_collector(tmp_path: Path) -> None:
    store, stop = tmp_path / "store", tmp_path / "stop"
    collector = start(COLLECTOR, store, stop)
    # One key for all of them, and one for each alone.
    own = [f"{n}" * 64 for n in range(3, 6)]
    workers = [start(WORKER, store, tmp_path / key[0], 15, KEYS[0], key) for key in own]
    ends = [worker.communicate(timeout=300) for worker in workers]
    stop.touch()
    removed, said = collector.communicate(timeout=60)
    assert [out for out, _ in ends] == ["done\n"] * 3, [err for _, err in ends]
    assert collector.returncode == 0, said
    assert int(removed) > 0


def test_a_worker_killed_at_any_moment_leaves_a_right_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    chance = random.Random(0)
    for _ in range(12):
        worker = start(WORKER, store.root, tmp_path / "run", 1000, *KEYS)
        time.sleep(0.1 + chance.random() * 0.4)
        worker.kill()
        worker.communicate()
        for key in KEYS:
            assert store.inspect("merge", key).state in (State.OK, State.MISSING)
        # So that the next worker has something to do.
        with store.lock("merge", KEYS[0]):
            if store.folder("merge", KEYS[0]).exists():
                store.throw_away(store.folder("merge", KEYS[0]))
    finished = start(WORKER, store.root, tmp_path / "run", 1, *KEYS)
    assert finished.communicate()[0] == "done\n"
    collect(store, dry_run=False)
    assert [store.inspect("merge", key).state for key in KEYS] == [State.OK, State.OK]
    (root,) = read_roots(store)
    names = ("a", "b", "c", ".stage.json")
    outputs = {store.folder("merge", key) / name for key in KEYS for name in names}
    left = {path for path in store.root.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left == {root.file, *outputs}
