"""What `recipe bundle` writes: the same bytes for the same run, in whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
from pathlib import Path

import pytest

from runner.bundle import tar
from runner.bundle.archive import open_archive
from runner.bundle.contents import contents_of
from runner.bundle.index import Index, Member, parse
from runner.bundle.write import archive_size, write_archive
from runner.cli.main import main
from runner.errors import MachineCannot
from runner.execution.checksums import write_checksums
from runner.recipe.load import load_recipe
from runner.recipe.source import Source
from runner.verify.run import open_run
from tests.bundles import SmallRun, small_run, tiny_index
from tests.chain import ROOT
from tests.faults import faults


@pytest.fixture
def run(tmp_path: Path) -> SmallRun:
    return small_run(tmp_path / "machine")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))


def bundle(run: SmallRun, target: Path, *options: str) -> int:
    return main(["bundle", str(run.folder), "--output", str(target), *options])


# --- the same bytes


def test_equal_runs_give_equal_archives(tmp_path: Path, run: SmallRun) -> None:
    """Another folder, an absolute path of the model, another umask: nothing of it shows."""
    first = run.bundle(tmp_path / "first.tar")
    before = os.umask(0o077)
    try:
        other = small_run(tmp_path / "elsewhere" / "on another disk", absolute=True)
        second = other.bundle(tmp_path / "second.tar")
    finally:
        os.umask(before)
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path).encode() not in first.read_bytes()


def test_every_program_reads_it(tmp_path: Path, run: SmallRun) -> None:
    path = run.bundle(tmp_path / "x.tar")
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        names = [member.name for member in members]
        adapter = archive.extractfile("adapter/adapter_model.safetensors")
        assert adapter is not None
        assert adapter.read() == b"adapter" * 300
    assert names[0] == "index.json"
    assert names[1:] == sorted(names[1:])
    facts = {(m.mode, m.uid, m.gid, m.mtime, m.uname, m.gname, m.isreg()) for m in members}
    assert facts == {(0o644, 0, 0, 0, "", "", True)}
    listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True)
    assert listed.stdout.split("\n")[:-1] == names
    assert listed.stderr == ""


def test_a_member_of_eight_gibibytes_and_more_has_a_header_that_tar_knows() -> None:
    for size in (0, 1, (8 << 30) - 1, 8 << 30, 140 << 30):
        block = tar.header("merged/model/model.safetensors", size)
        assert len(block) == tar.BLOCK
        assert tarfile.TarInfo.frombuf(block, "utf-8", "strict").size == size
        assert tar.size_in(block) == size


def test_the_index_is_spelled_in_one_way() -> None:
    index = Index("x", "1", {"b": Member("0" * 64, 1), "a": Member("1" * 64, 2)}, ("base",))
    again = parse(index.text(), "x.tar")
    assert again == index
    assert again.digest == index.digest
    assert index.title == f"x-{index.digest[:16]}"


def test_the_size_that_is_told_is_the_size_that_is_written(tmp_path: Path, run: SmallRun) -> None:
    contents = contents_of(open_run(run.folder), run.store, base=True)
    assert archive_size(contents.index) == run.bundle(tmp_path / "x.tar").stat().st_size


# --- the command


def test_it_says_what_it_writes(
    tmp_path: Path, run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x.tar"
    assert bundle(run, target) == 0
    said = capsys.readouterr()
    assert f"writing {target}: 4" in said.err
    assert "--without-base leaves it out" in said.err
    with open_archive(target) as archive:
        assert archive.index.digest in said.out
        assert archive.index.left_out == ()
    assert "recipe run x.tar --offline" in said.out


def test_its_name_is_that_of_its_index(
    tmp_path: Path, run: SmallRun, monkeypatch: pytest.MonkeyPatch, capsys: object
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert main(["bundle", str(run.folder)]) == 0
    (path,) = (tmp_path / "work").iterdir()
    with open_archive(path) as archive:
        assert path.name == f"small-{archive.index.digest[:16]}.tar"
    before = path.read_bytes()
    assert main(["bundle", str(run.folder)]) == 0
    assert path.read_bytes() == before
    assert list((tmp_path / "work").iterdir()) == [path]


def test_the_result_as_data(
    tmp_path: Path, run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x.tar"
    assert bundle(run, target, "--format", "json", "--without-base") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bundle"] == str(target)
    assert told["size"] == target.stat().st_size
    assert told["left_out"] == ["base"]


def test_without_the_base_model(
    tmp_path: Path,
    run: SmallRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "x.tar"
    assert bundle(run, target, "--without-base") == 0
    with open_archive(target) as archive:
        assert not any(name.startswith("inputs/model") for name in archive.index.files)
    assert main(["verify", str(target)]) == 0
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())  # verifying has made the cache's folder
    assert main(["run", "x.tar"]) == 4
    assert "error[E828]" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_bundle_has_a_name_that_ends_in_tar(
    tmp_path: Path, run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bundle(run, tmp_path / "x.zip") == 2
    assert "x.zip.tar" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.zip*"))


def test_a_bundle_is_verified_like_a_run(
    tmp_path: Path, run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    target = run.bundle(tmp_path / "x.tar")
    assert main(["verify", str(target), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == str(target)
    with open_archive(target) as archive:
        assert found["files"] == len(archive.index.files)


def test_what_a_run_does_not_claim_its_bundle_does_not_claim_either(
    tmp_path: Path, run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training went on from a checkpoint where that is not proved to give equal bytes."""
    record = json.loads((run.folder / "run.json").read_text())
    for stage in record["stages"]:
        if stage["name"] == "train":
            stage["material"]["private"] = "20260101-000000"
    (run.folder / "run.json").write_text(json.dumps(record))
    target = run.bundle(tmp_path / "x.tar")
    assert main(["verify", str(target)]) == 0
    assert main(["verify", str(target), "--level", "train"]) == 7
    assert "NOT claimed: train went on from a checkpoint" in capsys.readouterr().out


# --- runs that cannot be bundled


def refused(run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Nothing is left of it, and the old archive is as it was."""
    target = tmp_path / "out" / "x.tar"
    target.parent.mkdir()
    target.write_bytes(b"the old one")
    assert bundle(run, target) in (2, 4)
    assert target.read_bytes() == b"the old one"
    assert list(target.parent.iterdir()) == [target]
    return capsys.readouterr().err


def edit_record(run: SmallRun, **fields: object) -> None:
    path = run.folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_shrunken_twin(tmp_path: Path, run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    edit_record(run, shrink={"/name": "small-tiny"})
    assert "error[E826]" in refused(run, tmp_path, capsys)


def test_a_run_without_a_lock(
    tmp_path: Path, run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.folder / "recipe.lock.yaml").unlink()
    assert "error[E826]" in refused(run, tmp_path, capsys)


def test_a_result_that_is_nowhere(
    tmp_path: Path, run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.folder / "trace.jsonl").unlink()
    said = refused(run, tmp_path, capsys)
    assert "error[E826]" in said
    assert "trace.jsonl, of the stage train, is neither in" in said


def test_a_name_that_no_bundle_has(
    tmp_path: Path, run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    from runner.lock.of_run import write_run_lock
    from runner.stages.contract import Outputs

    (run.project / "model" / "tøkens.json").write_text("{}")
    recipe = load_recipe(run.project / "small.yaml")
    model = Outputs("fetch", "", run.project, {}, {})
    manifest = json.loads((run.folder / "manifest.json").read_text())
    from runner.stages.contract import Class, FileEntry

    files = {
        path: FileEntry(path, facts["size"], facts["sha256"], Class.PORTABLE)
        for path, facts in manifest["stages"]["fetch"].items()
    }
    fetched = {"fetch": Outputs("fetch", "", model.folder, files, {})}
    write_run_lock(recipe, fetched, run.folder)
    said = refused(run, tmp_path, capsys)
    assert "error[E826]" in said
    assert "rename that file" in said


@pytest.mark.parametrize(
    "name",
    ["project/rows.jsonl", "project/model/model.safetensors", "run/merged/model/model.safetensors"],
)
@pytest.mark.parametrize("how", ["other bytes", "shorter", "longer", "gone"])
def test_a_file_that_is_not_what_it_was(
    name: str, how: str, tmp_path: Path, run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    where, _, rest = name.partition("/")
    path = (run.project if where == "project" else run.folder) / rest
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        new = {"other bytes": b"?" + content[1:], "shorter": content[:-1], "longer": content + b"?"}
        path.write_bytes(new[how])
    said = refused(run, tmp_path, capsys)
    code = "E826" if how == "gone" and where == "run" else "E827"
    assert f"error[{code}]" in said
    assert path.name in said


def test_a_manifest_that_is_not_the_runs(
    tmp_path: Path, run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.folder / "manifest.json").write_text('{"schema": 1, "stages": {}}')
    assert "error[E827]" in refused(run, tmp_path, capsys)


def test_a_lock_that_was_edited(
    tmp_path: Path, run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checksums(run.folder, (run.folder / "manifest.json").read_bytes(), {})
    run.bundle(tmp_path / "intact.tar")
    with (run.folder / "recipe.lock.yaml").open("a") as lock:
        lock.write("# seed: 43\n")
    said = refused(run, tmp_path, capsys)
    assert "error[E827]" in said
    assert "recipe.lock.yaml is not the one that the run wrote" in said


# --- the disk


def test_a_disk_that_is_too_small_is_said_before(
    tmp_path: Path,
    run: SmallRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    said = refused(run, tmp_path, capsys)
    assert "error[E830]" in said
    assert "and 1000 are free" in said


def test_a_disk_that_becomes_full_is_an_error(tmp_path: Path, run: SmallRun) -> None:
    """A limit of the process stands for it: a write is short, the next one fails."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from runner.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    (tmp_path / "out").mkdir()
    command = ["bundle", str(run.folder), "--output", str(tmp_path / "out" / "x.tar")]
    result = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 4, result.stderr
    assert "error[E830]" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


def test_no_folder_for_it(
    tmp_path: Path, run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bundle(run, tmp_path / "no" / "x.tar") == 4
    assert "error[E830]" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


# --- kills


def test_a_kill_while_it_is_written_leaves_nothing(tmp_path: Path) -> None:
    big, out = tmp_path / "big", tmp_path / "out"
    out.mkdir()
    with big.open("wb") as file:
        file.truncate(6 << 30)  # holes: hashing them takes seconds
    code = (
        "import sys; from pathlib import Path; from runner.bundle.index import Index, Member;"
        "from runner.bundle.write import write_archive;"
        "index = Index('x', '0', {'a': Member('0' * 64, 6 << 30)});"
        "print('begun', flush=True);"
        "write_archive(index, {'a': Path(sys.argv[1])}, Path(sys.argv[2]))"
    )
    for number in (signal.SIGKILL, signal.SIGTERM):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(big), str(out / "x.tar")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        time.sleep(0.3)
        assert child.poll() is None
        child.send_signal(number)
        assert child.wait() == -number
        child.stdout.close()
        assert list(out.iterdir()) == []


@pytest.mark.parametrize("old", [None, b"the old one"], ids=["new", "over-an-old-one"])
@pytest.mark.parametrize("mode", ["kill", "full-disk", "io-error"])
def test_any_fault_leaves_the_old_one_or_the_new_one(
    tmp_path: Path, mode: str, old: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    index, sources = tiny_index({"a": b"a" * 1000, "b/c": b"c"})
    folder = tmp_path / "scene"
    target = folder / "x.tar"
    write_archive(index, sources, tmp_path / "right.tar")
    right = (tmp_path / "right.tar").read_bytes()

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if old is not None:
            target.write_bytes(old)

    rounds = 0
    for fault in faults(lambda: write_archive(index, sources, target), prepare, mode):
        rounds += 1
        found = target.read_bytes() if target.exists() else None
        assert found in (old, right)
        assert found == right or not fault.survived
        more = [path for path in folder.iterdir() if path != target]
        # Between its two names the new file, whole, may be seen under the hidden one.
        assert mode == "kill" or not more or not fault.survived
        assert all(path.read_bytes() == right for path in more)
    assert rounds >= 3


def test_a_file_system_without_nameless_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There it is written under a hidden name, which an error takes away."""
    real, refused = os.open, []

    def without(path: object, flags: int, *args: object, **options: object) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            refused.append(path)
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return real(path, flags, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", without)
    index, sources = tiny_index({"a": b"a" * 1000})
    write_archive(index, sources, tmp_path / "x.tar")
    with open_archive(tmp_path / "x.tar") as archive:
        assert archive.read("a") == b"a" * 1000
    (tmp_path / "a").write_bytes(b"b" * 1000)
    with pytest.raises(MachineCannot, match="has other bytes"):
        write_archive(index, {"a": tmp_path / "a"}, tmp_path / "x.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "x.tar"]
    assert len(refused) == 2


# --- what the lock says of inputs


INPUTS = """
schema: 1
name: many
model: {path: sub/models, file: base.gguf, dtype: float32}
data:
  train:
    - {path: sub/a.jsonl, format: alpaca}
    - {path: sub/a.jsonl, format: alpaca}
  validation: {files: [{path: "sub/with space.JSON", format: alpaca}]}
  chat_template: sub/own.jinja
  max_length: 256
  clean: {decontaminate: {files: [{path: sub/bench.csv}]}}
train: {adapter: {type: lora, r: 4}, max_steps: 1}
evaluate: {questions: sub/questions.weird-ending}
"""


def test_every_kind_of_input_gets_the_name_of_its_part(tmp_path: Path) -> None:
    from runner.bundle.contents import moved_lock
    from runner.lock.pins import file_pins
    from runner.recipe.model import build
    from runner.recipe.schema import fill_defaults, load_schema
    from runner.recipe.source import parse_source

    texts = {
        "models/base.gguf": "gguf",
        "a.jsonl": "a",
        "with space.JSON": "v",
        "own.jinja": "t",
        "bench.csv": "b",
        "questions.weird-ending": "q",
    }
    for name, text in texts.items():
        (tmp_path / "sub" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sub" / name).write_text(text)
    source = parse_source(INPUTS.encode(), tmp_path / "many.yaml")
    recipe = build(fill_defaults(source.data, load_schema()), source)
    lock = {"recipe": recipe.resolved(), "files": file_pins(recipe)}
    moved = moved_lock(lock, tmp_path)
    new = moved.lock["recipe"]
    assert (new["model"]["path"], new["model"]["file"]) == ("inputs/model", "model.gguf")
    assert [file["path"] for file in new["data"]["train"]] == [
        "inputs/train-0.jsonl",
        "inputs/train-1.jsonl",
    ]
    assert new["data"]["validation"]["files"][0]["path"] == "inputs/validation-0.JSON"
    assert new["data"]["chat_template"] == "inputs/chat_template.jinja"
    assert new["evaluate"]["questions"] == "inputs/questions"
    measured = new["data"]["clean"]["decontaminate"]["files"]
    assert [file["path"] for file in measured] == ["inputs/decontaminate-0.csv"]
    for old, name in moved.names:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / old, tmp_path / "out" / name)
    again = build(new, Source(path=tmp_path / "out" / "recipe.lock.yaml", data=new))
    assert file_pins(again) == moved.lock["files"]
    assert len(moved.lock["files"]) == 7


# --- memory and reading


def test_memory_does_not_grow_with_the_members(tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(300 << 20)
    import hashlib

    with big.open("rb") as reader:
        digest = hashlib.file_digest(reader, "sha256").hexdigest()
    index = Index("x", "0", {"a": Member(digest, 300 << 20)})
    tracemalloc.start()
    write_archive(index, {"a": big}, tmp_path / "x.tar")
    with open_archive(tmp_path / "x.tar") as archive:
        archive.unpack("a", tmp_path / "again")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_each_file_is_opened_once(
    tmp_path: Path, run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = Path.open

    def counted(self: Path, *args: object, **options: object) -> object:
        opened.append(self.name)
        return real(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", counted)
    run.bundle(tmp_path / "x.tar")
    assert opened.count("model.safetensors") == 2  # the base model's, and the merged one


def test_a_source_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    index, _ = tiny_index({"a": b"a"})
    (tmp_path / "folder").mkdir()
    with pytest.raises(MachineCannot, match="folder cannot be read"):
        write_archive(index, {"a": tmp_path / "folder"}, tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()
