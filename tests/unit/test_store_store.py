"""The store: what is committed comes back, and nothing else ever does."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.errors import MachineCannot, StageFailed
from runner.stages import evaluate
from runner.stages.contract import Class, Outputs
from runner.store import store as store_module
from runner.store.record import FILE_NAME
from runner.store.store import Staging, State, Store
from tests.faults import recorded

KEY = "ab" * 32
CLASSES = {
    "model/*": Class.PORTABLE,
    "speed.json": Class.MEASURED,
    "optional-*": Class.PLATFORM,
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def write_outputs(staging: Staging) -> None:
    (staging.out / "model" / "deep").mkdir(parents=True)
    (staging.out / "model" / "a.bin").write_bytes(b"a" * 1000)
    (staging.out / "model" / "deep" / "b.bin").write_bytes(b"b")
    (staging.out / "speed.json").write_text("{}")


def commit(store: Store, write: Callable[[Staging], None] = write_outputs) -> Outputs:
    staging = store.staging("merge", KEY)
    write(staging)
    return store.commit(
        staging,
        version=3,
        key_inputs={"merge": {"dtype": "bfloat16"}},
        classes=CLASSES,
        measures={"elements": 7},
        seconds=1.5,
    )


def test_what_was_committed_is_found(store: Store) -> None:
    outputs = commit(store)
    assert store.lookup("merge", KEY) == outputs
    assert outputs.folder == store.root / "merge" / KEY
    assert {path: entry.cls for path, entry in outputs.files.items()} == {
        "model/a.bin": Class.PORTABLE,
        "model/deep/b.bin": Class.PORTABLE,
        "speed.json": Class.MEASURED,
    }
    assert outputs.path("model/a.bin").read_bytes() == b"a" * 1000
    assert outputs.measures == {"elements": 7}
    assert not (store.root / ".staging" / "merge" / KEY).exists()


def test_the_record_explains_the_key(store: Store) -> None:
    commit(store)
    record = store.inspect("merge", KEY).record
    assert record is not None
    assert record.key_inputs == {"merge": {"dtype": "bfloat16"}}
    assert (record.version, record.seconds) == (3, 1.5)


def test_files_are_read_only_whatever_the_umask(store: Store) -> None:
    before = os.umask(0)
    try:
        outputs = commit(store)
    finally:
        os.umask(before)
    for path in outputs.files:
        assert stat.S_IMODE(outputs.path(path).stat().st_mode) == 0o444


def test_nothing_is_missing_and_nothing_is_created_by_looking(store: Store) -> None:
    assert store.inspect("merge", KEY).state is State.MISSING
    assert store.lookup("merge", KEY) is None
    assert not store.root.exists()


def test_looking_at_an_intact_entry_reads_no_output_and_writes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store)
    monkeypatch.setattr("runner.store.record.file_sha256", lambda path: pytest.fail("was read"))
    log = recorded(lambda: store.lookup("merge", KEY))
    assert {name for name, _ in log} <= {"scandir", "listdir"}


def _overwrite(folder: Path) -> None:
    file = folder / "model" / "a.bin"
    file.chmod(0o644)
    file.write_bytes(b"x" * 1000)


def _truncate(folder: Path) -> None:
    file = folder / "model" / "a.bin"
    file.chmod(0o644)
    os.truncate(file, 10)


def _flip_a_bit_of_the_record(folder: Path) -> None:
    text = (folder / FILE_NAME).read_bytes()
    (folder / FILE_NAME).write_bytes(text.replace(b'"elements": 7', b'"elements": 6'))


def _replace_by_a_link(folder: Path) -> None:
    file = folder / "model" / "a.bin"
    file.rename(folder.parent / "elsewhere")
    file.symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_overwrite, "model/a.bin has sha256"),
        (_truncate, "model/a.bin has 10 bytes instead of 1000"),
        (_replace_by_a_link, "model/a.bin is no longer a regular file"),
        (lambda folder: (folder / "model/deep/b.bin").unlink(), "model/deep/b.bin is gone"),
        (lambda folder: (folder / "model/c").touch(), "model/c was not put there"),
        (lambda folder: (folder / FILE_NAME).unlink(), ".stage.json is gone"),
        (lambda folder: (folder / FILE_NAME).write_text("{"), "cannot be read"),
        (lambda folder: (folder / FILE_NAME).write_text("[]"), "cannot be read"),
        (_flip_a_bit_of_the_record, "does not match its own digest"),
    ],
)
def test_a_damaged_entry_is_named_never_reused_and_replaced(
    store: Store, damage: Callable[[Path], object], words: str
) -> None:
    first = commit(store)
    damage(first.folder)
    found = store.inspect("merge", KEY)
    assert found.state is State.DAMAGED
    assert words in found.detail
    assert store.lookup("merge", KEY) is None
    assert commit(store).digest() == first.digest()
    assert store.inspect("merge", KEY).state is State.OK


def test_an_entry_moved_to_another_key_is_damaged(store: Store) -> None:
    commit(store)
    shutil.move(store.folder("merge", KEY), store.folder("merge", "cd" * 32))
    assert "belongs to merge abab" in store.inspect("merge", "cd" * 32).detail


def test_a_copied_store_is_read_once_and_then_trusted_again(store: Store, tmp_path: Path) -> None:
    outputs = commit(store)
    copy = Store(tmp_path / "copy")
    shutil.copytree(store.root, copy.root, copy_function=shutil.copyfile)
    found = copy.inspect("merge", KEY)
    assert found.state is State.OK
    assert not found.stamped
    assert found.outputs is not None
    assert found.outputs.digest() == outputs.digest()
    with copy.lock("merge", KEY):
        assert copy.reuse("merge", KEY) == found.outputs
    assert copy.inspect("merge", KEY).stamped


def test_the_scratch_outlives_a_failed_try_and_the_output_does_not(store: Store) -> None:
    first = store.staging("train", KEY)
    (first.out / "half").touch()
    (first.scratch / "checkpoint").touch()
    second = store.staging("train", KEY)
    assert list(second.out.iterdir()) == []
    assert [path.name for path in second.scratch.iterdir()] == ["checkpoint"]
    store.discard(second, keep_scratch=True)
    assert not second.out.exists()
    assert (second.scratch / "checkpoint").exists()
    store.discard(second, keep_scratch=False)
    assert not second.scratch.exists()


def _symbolic_link(staging: Staging) -> None:
    write_outputs(staging)
    (staging.out / "model" / "link").symlink_to("a.bin")


def _link_to_a_folder(staging: Staging) -> None:
    write_outputs(staging)
    (staging.out / "model" / "link").symlink_to("/etc")


def _hard_link(staging: Staging) -> None:
    write_outputs(staging)
    (staging.scratch / "mine").write_bytes(b"x")
    (staging.out / "model" / "hard").hardlink_to(staging.scratch / "mine")


def _pipe(staging: Staging) -> None:
    write_outputs(staging)
    os.mkfifo(staging.out / "model" / "pipe")


def _socket(staging: Staging) -> None:
    write_outputs(staging)
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(staging.out)  # the name of a socket is limited to 107 bytes
        try:
            server.bind("model/socket")
        finally:
            os.chdir(here)


def _undeclared(staging: Staging) -> None:
    write_outputs(staging)
    (staging.out / "surprise").touch()


def _incomplete(staging: Staging) -> None:
    (staging.out / "model").mkdir()


@pytest.mark.parametrize(
    ("write", "code", "words"),
    [
        (_symbolic_link, "E512", "model/link, which is a symbolic link"),
        (_link_to_a_folder, "E512", "model/link, which is a symbolic link"),
        (_hard_link, "E512", "model/hard, which is a hard link"),
        (_pipe, "E512", "model/pipe, which is not a regular file"),
        (_socket, "E512", "model/socket, which is not a regular file"),
        (_undeclared, "E510", "wrote surprise, which it does not declare"),
        (_incomplete, "E511", r"ended without writing speed\.json"),
    ],
)
def test_outputs_that_are_not_what_the_stage_declares_are_refused(
    store: Store, write: Callable[[Staging], None], code: str, words: str
) -> None:
    with pytest.raises(StageFailed, match=words) as caught:
        commit(store, write)
    assert (caught.value.code, caught.value.stage) == (code, "merge")
    assert store.inspect("merge", KEY).state is State.MISSING


@pytest.mark.parametrize("names", [[], ["examples.jsonl"]], ids=["without", "with"])
def test_an_evaluation_is_whole_with_and_without_its_examples(
    names: list[str], store: Store
) -> None:
    staging = store.staging("evaluate", KEY)
    for name in ("answers.jsonl", "evaluation.json", *names):
        (staging.out / name).write_text("{}\n")
    found = store.commit(staging, version=1, key_inputs={}, classes=evaluate.OUTPUTS)
    assert set(found.files) == {"answers.jsonl", "evaluation.json", *names}


def test_the_bytes_are_on_the_disk_before_the_entry_appears(store: Store) -> None:
    staging = store.staging("merge", KEY)
    write_outputs(staging)
    log = recorded(lambda: store.commit(staging, version=1, key_inputs={}, classes=CLASSES))
    moved = next(at for at, (name, path) in enumerate(log)
                 if name == "rename" and path == str(staging.out))  # fmt: skip
    synced = {Path(path).name for name, path in log[:moved] if name == "fsync"}
    assert {"a.bin", "b.bin", "speed.json", "model", "deep", "out"} <= synced
    assert any(name.startswith(f".{FILE_NAME}") for name in synced)
    after = [path for name, path in log[moved:] if name == "fsync"]
    assert str(store.root / "merge") in after


def test_a_record_is_plain_json_that_a_person_can_read(store: Store) -> None:
    commit(store)
    data = json.loads((store.folder("merge", KEY) / FILE_NAME).read_text())
    assert set(data) == {
        *("schema", "stage", "key", "version", "key_inputs"),
        *("files", "measures", "seconds", "sha256"),
    }
    assert set(data["files"]["model/a.bin"]) == {"size", "sha256", "class", "mtime_ns", "inode"}


def test_a_paranoid_store_trusts_no_stamp(store: Store) -> None:
    """A changed byte under the old size, time and inode: only reading can tell."""
    outputs = commit(store)
    path = outputs.path("model/a.bin")
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"b")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.lookup("merge", KEY) is not None
    assert Store(store.root, paranoid=True).inspect("merge", KEY).state is State.DAMAGED


def test_outputs_that_cannot_be_read_are_neither_used_nor_thrown_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store)

    def failing(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as disk:
        disk.setattr(store_module, "read_record", failing)
        assert store.inspect("merge", KEY).state is State.UNREADABLE
        with pytest.raises(MachineCannot, match="cannot be read: Input/output error") as caught:
            store.reuse("merge", KEY)
    assert caught.value.code == "E861"
    assert store.reuse("merge", KEY) is not None
