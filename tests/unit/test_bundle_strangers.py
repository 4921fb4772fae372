"""A bundle from a stranger: whatever is wrong with it is said, and nothing of it is unpacked."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.bundle import tar
from runner.bundle.index import MAX_BYTES, MAX_MEMBERS
from runner.cli.main import main
from tests.bundles import Forger, forged, small_run

ROWS = "inputs/train-0.jsonl"
LOCK = "recipe.lock.yaml"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("good")
    return small_run(place).bundle(place / "good.tar")


@pytest.fixture
def forger(good: Path) -> Forger:
    return Forger.of(good)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of nothing but the archive, to work in, with a cache elsewhere."""
    folder = tmp_path / "deep" / "here"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPARK_RECIPES_STORE", str(tmp_path / "cache" / "store"))
    return folder


def refused(
    place: Path, capsys: pytest.CaptureFixture[str], code: str, words: str, *, exit_code: int = 2
) -> None:
    """Both commands refuse ./x.tar with this code, and nothing appears anywhere."""
    before = everything(place.parent.parent)
    for command in (["verify", "x.tar"], ["run", "x.tar"]):
        assert main(command) == exit_code, capsys.readouterr()
        said = capsys.readouterr().err
        assert f"error[{code}]" in said, said
        assert words in said
        assert "\n  next: " in said
        assert "\x1b" not in said
    assert everything(place.parent.parent) == before


def everything(folder: Path) -> set[str]:
    """All that lies below; locks and empty folders of the cache are no leftovers."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix != ".lock" and not (path.is_dir() and "cache" in path.parts)
    }


def test_the_good_one_is_good(good: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(good, place / "x.tar")
    assert main(["verify", "x.tar"]) == 0
    assert "all as recorded" in capsys.readouterr().out


def test_the_forger_writes_what_we_write(good: Path, forger: Forger, place: Path) -> None:
    """Else the attacks below would fail for the wrong reason."""
    assert forger.write(place / "x.tar").read_bytes() == good.read_bytes()


# --- names


BAD_NAMES = {
    "absolute": "/etc/cron.d/x",
    "parent": "../x",
    "parent-inside": "inputs/../../x",
    "dot": "inputs/./x",
    "empty-part": "inputs//x",
    "trailing-slash": "inputs/x/",
    "zero-byte": "inputs/x\0y",
    "backslash": "inputs\\..\\x",
    "drive": "C:x",
    "newline": "inputs/a\nb",
    "escape": "inputs/\x1b[2J",
    "hidden": "inputs/.bashrc",
    "trailing-dot": "inputs/x.",
    "trailing-space": "inputs/x ",
    "direction-mark": "inputs/a\u202eb",
    "not-ascii": "inputs/ä",
    "empty": "",
    "long": "inputs/" + "x" * 200,
    "case": "inputs/TRAIN-0.jsonl",
    "case-of-folder": "INPUTS/other.jsonl",
    "a-folder-of-a-file": f"{ROWS}/x",
    "the-index": "index.json",
    "the-index-in-capitals": "INDEX.json",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_a_name_that_leads_elsewhere_or_collides(
    name: str, forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forger.index["files"][name] = {"sha256": "0" * 64, "size": 0}
    forger.write(place / "x.tar")
    refused(place, capsys, "E822", "is not safe to unpack")


# --- members


KINDS = {
    "symbolic-link": ({"type": tarfile.SYMTYPE, "linkname": "/etc"}, "a symbolic link"),
    "hard-link": ({"type": tarfile.LNKTYPE, "linkname": "manifest.json"}, "a hard link"),
    "device": ({"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, "a device"),
    "disk": ({"type": tarfile.BLKTYPE}, "a device"),
    "pipe": ({"type": tarfile.FIFOTYPE}, "a pipe"),
    "folder": ({"type": tarfile.DIRTYPE}, "a folder"),
    "sparse": ({"type": tarfile.GNUTYPE_SPARSE}, "a sparse file"),
    "long-name": ({"type": tarfile.GNUTYPE_LONGNAME}, "an extended header"),
    "pax": ({"type": tarfile.XHDTYPE, "size": 1 << 40}, "an extended header"),
    "pax-for-all": ({"type": tarfile.XGLTYPE}, "an extended header"),
    "contiguous": ({"type": b"7"}, "of the unknown kind"),
    "setuid": ({"mode": 0o4755}, "of mode 4755"),
    "setgid": ({"mode": 0o2644}, "of mode 2644"),
    "executable": ({"mode": 0o755}, "otherwise than a bundle writes it"),
    "owner": ({"uid": 1000}, "otherwise than a bundle writes it"),
    "time": ({"mtime": 1}, "otherwise than a bundle writes it"),
    "declared-larger": ({"size": 1 << 40}, "otherwise than a bundle writes it"),
    "declared-smaller": ({"size": 1}, "otherwise than a bundle writes it"),
}


@pytest.mark.parametrize(("fields", "words"), KINDS.values(), ids=KINDS.keys())
def test_a_member_that_is_no_plain_file(
    fields: dict, words: str, forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forger.swap_header(ROWS, **fields)
    forger.write(place / "x.tar")
    refused(place, capsys, "E823", words)


def test_a_link_in_place_of_a_folder_above_a_member(
    forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = forged(tar.header("inputs", 0), type=tarfile.SYMTYPE, linkname="/tmp")
    forger.members.insert(forger.place(ROWS), (link, b""))
    forger.write(place / "x.tar")
    refused(place, capsys, "E823", '"inputs", which is not in its index')


def test_a_member_twice(forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = forger.place(ROWS)
    forger.members.insert(number, forger.members[number])
    forger.write(place / "x.tar")
    refused(place, capsys, "E823", "twice")


def test_a_second_index(forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forger.members.append((tar.header("index.json", 2), b"{}"))
    forger.write(place / "x.tar")
    refused(place, capsys, "E823", '"index.json" twice')


@pytest.mark.parametrize("number", [0, 3, -1], ids=["first", "middle", "last"])
def test_a_missing_member(
    number: int, forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del forger.members[number]
    forger.write(place / "x.tar")
    refused(place, capsys, "E823", "should be" if number != -1 else "trace.jsonl is missing")


@pytest.mark.parametrize("name", ["a", "zzz"], ids=["before-all", "behind-all"])
def test_a_member_that_is_in_no_index(
    name: str, forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forger.members.insert(0 if name == "a" else len(forger.members), (tar.header(name, 1), b"x"))
    forger.write(place / "x.tar")
    refused(place, capsys, "E823", f'"{name}", which is not in its index')


def test_members_in_another_order(
    forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forger.members.reverse()
    forger.write(place / "x.tar")
    refused(place, capsys, "E823", "should be")


def test_hidden_bytes_behind_a_member(
    forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = forger.place(ROWS)
    header, data = forger.members[number]
    padded = data + b"x" + bytes(tar.padding(len(data)) - 1)
    forger.members[number] = (header, padded)
    forger.write(place / "x.tar")
    refused(place, capsys, "E823", "belong to nothing")


# --- the end


def test_cut_off_anywhere(good: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = good.read_bytes()
    for size in (100, 512, 700, len(whole) // 2, len(whole) - 1, len(whole) - 1024):
        (place / "x.tar").write_bytes(whole[:size])
        code = "E820" if size < 512 else "E823"
        refused(place, capsys, code, "does not begin" if code == "E820" else "x.tar")


@pytest.mark.parametrize("more", [b"\0", b"x", bytes(9216), b"PK\x03\x04"])
def test_something_behind_the_end(
    more: bytes, forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forger.end += more
    forger.write(place / "x.tar")
    refused(place, capsys, "E823", "behind its end")


# --- the index


def test_a_newer_version(forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forger.index["bundle"] = 2
    forger.write(place / "x.tar")
    refused(place, capsys, "E821", "a bundle of version 2; this Spark Recipes knows 1")


SPELLINGS: dict[str, Callable[[dict], bytes]] = {
    "no-json": lambda index: b"{",
    "a-list": lambda index: b"[]",
    "nothing": lambda index: b"",
    "deep": lambda index: b"[" * 200_000,
    "version-0": lambda index: json.dumps(index | {"bundle": 0}).encode(),
    "version-true": lambda index: json.dumps(index | {"bundle": True}).encode(),
    "a-name-with-a-path": lambda index: json.dumps(index | {"name": "../x"}).encode(),
    "files-a-list": lambda index: json.dumps(index | {"files": []}).encode(),
    "unknown-left-out": lambda index: json.dumps(index | {"left_out": ["all"]}).encode(),
    "negative-size": lambda index: _with(index, {"sha256": "0" * 64, "size": -1}),
    "no-whole-size": lambda index: _with(index, {"sha256": "0" * 64, "size": 1.0}),
    "huge-size": lambda index: _with(index, {"sha256": "0" * 64, "size": 1 << 60}),
    "no-digest": lambda index: _with(index, {"sha256": "x", "size": 1}),
    "otherwise-spelled": lambda index: json.dumps(index).encode(),
    "a-key-more": lambda index: (
        json.dumps(index | {"more": 1}, indent=1, sort_keys=True).encode() + b"\n"
    ),
    "a-key-twice": lambda index: (
        json.dumps(index, indent=1, sort_keys=True)
        .replace('"bundle": 1,', '"bundle": 1,\n "bundle": 1,')
        .encode()
        + b"\n"
    ),
}


def _with(index: dict, facts: dict) -> bytes:
    files = {**index["files"], "x": facts}
    return json.dumps(index | {"files": files}, indent=1, sort_keys=True).encode() + b"\n"


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_an_index_that_is_none(
    spell: Callable[[dict], bytes],
    forger: Forger,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forger.spelled = spell(forger.index)
    forger.write(place / "x.tar")
    refused(place, capsys, "E820", "its index is damaged")


def test_more_members_than_any_run_has(
    forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fact = {"sha256": "0" * 64, "size": 0}
    forger.index["files"] = {f"x{n}": fact for n in range(MAX_MEMBERS + 1)}
    forger.write(place / "x.tar")
    refused(place, capsys, "E820", f"more than {MAX_MEMBERS} files")


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 1 << 50])
def test_an_index_larger_than_is_read(
    size: int, forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its size is known from its header, before any memory is taken for it."""
    forger.index_header = tar.header("index.json", size)
    forger.write(place / "x.tar")
    refused(place, capsys, "E820", f"its index has {size} bytes")


def test_a_file_that_is_mostly_holes(
    place: Path, capsys: pytest.CaptureFixture[str], forger: Forger
) -> None:
    """A member of 100 TB of nothing, which costs the archive's own file not one block."""
    name, size = "inputs/zz", 100 << 40
    forger.put(name, b"")
    number = forger.place(name)
    forger.index["files"][name]["size"] = size
    forger.members[number] = (tar.header(name, size), b"")
    forger.holes = {number: size}
    try:
        forger.write(place / "x.tar")
    except OSError:  # a file system that knows no files so large: the bomb has no fuse here
        forger.holes = {number: (size := 8 << 40)}
        forger.index["files"][name]["size"] = size
        forger.members[number] = (tar.header(name, size), b"")
        forger.write(place / "x.tar")
    before = everything(place.parent.parent)
    assert main(["run", "x.tar"]) == 4
    said = capsys.readouterr().err
    assert "error[E830]" in said
    assert "it needs " in said
    assert everything(place.parent.parent) == before


def test_what_is_no_archive_at_all(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused_absent(place, capsys)
    for content in (b"", b"\0" * 10240, b"hello\n" * 1000):
        (place / "x.tar").write_bytes(content)
        refused(place, capsys, "E820", "does not begin with index.json")
    (place / "x.tar").unlink()
    with tarfile.open(place / "x.tar", "w") as archive:
        archive.add(__file__, "index.json")
    refused(place, capsys, "E820", "does not begin with index.json as a bundle writes it")


def refused_absent(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(place, capsys, "E820", "cannot be read: No such file")
    (place / "x.tar").mkdir()
    refused(place, capsys, "E820", "cannot be read: Is a directory")
    (place / "x.tar").rmdir()


def test_a_pipe_is_not_waited_for(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(place / "x.tar")
    keeper = os.open(place / "x.tar", os.O_RDWR)
    refused(place, capsys, "E820", "it is no regular file")
    os.close(keeper)


# --- contents that disagree


def test_one_bit_in_any_member_is_named(
    good: Path, place: Path, capsys: pytest.CaptureFixture[str], forger: Forger
) -> None:
    whole = good.read_bytes()
    offset = whole.index(b"adapteradapter") + 5
    (place / "x.tar").write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
    assert main(["verify", "x.tar"]) == 7
    said = capsys.readouterr().out
    assert "changed   x.tar/adapter/adapter_model.safetensors has sha256" in said
    assert "next: get the archive again" in said
    assert said.count("changed ") == 1


def test_a_damaged_input_is_not_run(
    good: Path, place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    whole = good.read_bytes()
    offset = whole.index(b'{"instruction"') + 20
    (place / "x.tar").write_bytes(whole[:offset] + b"\x01" + whole[offset + 1 :])
    before = everything(tmp_path)
    assert main(["run", "x.tar"]) == 2
    assert "error[E824]" in capsys.readouterr().err
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["manifest.json", "run.json", LOCK])
def test_without_the_files_that_say_what_it_is(
    name: str, forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forger.drop(name)
    forger.write(place / "x.tar")
    refused(place, capsys, "E820", f"holds no {name}")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (ROWS, lambda data: data + b"\n", f"{ROWS} is not the one of the lock"),
        (
            "merged/model/model.safetensors",
            lambda data: data[:-1],
            "merged/model/model.safetensors is not the one of the manifest",
        ),
    ],
)
def test_an_index_that_agrees_with_a_forged_member(
    name: str,
    change: Callable[[bytes], bytes],
    words: str,
    forger: Forger,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forger.edit(name, change)
    forger.write(place / "x.tar")
    assert main(["verify", "x.tar"]) == 7
    assert f"changed   x.tar/{words}" in capsys.readouterr().out


def test_a_member_that_neither_manifest_nor_lock_knows(
    forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forger.put("extra/payload", b"x")
    forger.write(place / "x.tar")
    assert main(["verify", "x.tar"]) == 7
    assert "extra/payload is in no manifest and no lock" in capsys.readouterr().out


def test_a_result_that_is_missing(
    forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forger.drop("trace.jsonl")
    forger.write(place / "x.tar")
    assert main(["verify", "x.tar"]) == 7
    assert "trace.jsonl is missing" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["/etc/hostname", "../../secret.jsonl", "inputs/../../s"])
def test_a_lock_that_reads_outside_of_the_bundle(
    path: str, forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (LOCK, "run.json"):
        forger.edit(name, lambda data: data.replace(ROWS.encode(), path.encode()))
    forger.write(place / "x.tar")
    before = everything(place.parent.parent)
    assert main(["run", "x.tar"]) == 2
    said = capsys.readouterr().err
    assert "error[E825]" in said
    assert path in said
    assert everything(place.parent.parent) == before


def test_a_lock_that_is_none(
    forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forger.edit(LOCK, lambda data: b"a: &a [*a]\n")
    forger.write(place / "x.tar")
    before = everything(place.parent.parent)
    for command in ("verify", "run"):
        assert main([command, "x.tar"]) == 2
        assert "error[E801]" in capsys.readouterr().err
    assert everything(place.parent.parent) == before


def test_a_bundle_that_brings_code_is_not_run_unasked(
    forger: Forger, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says that the code is a repository's, and could be anybody's."""
    lock = forger.content(LOCK).decode()
    old = "    path: inputs/model\n"
    assert lock.count(old) == 1
    hub = f"    hub: acme/known\n    revision: {'c' * 40}\n    trust_remote_code: true\n"
    lock = lock.replace(old, hub)
    kept = [line for line in lock.split("\n") if "inputs/model/" not in line]
    forger.put(LOCK, "\n".join(kept).encode())
    forger.put("fetched/fetch/model/modeling.py", b"import os")
    recipe = json.loads(forger.content("run.json"))["resolved"]
    recipe["model"] |= {"hub": "acme/known", "revision": "c" * 40, "trust_remote_code": True}
    del recipe["model"]["path"]
    forger.edit("run.json", _record(resolved=recipe))
    forger.write(place / "x.tar")
    before = everything(place.parent.parent)
    assert main(["run", "x.tar"]) == 2
    assert "error[E832]" in capsys.readouterr().err
    assert everything(place.parent.parent) == before


def _record(**fields: object) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(json.loads(data) | fields).encode()


def _stage(**fields: object) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        record = json.loads(data)
        record["stages"][0] |= fields
        return json.dumps(record).encode()

    return change


FORGED_TEXTS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "no-json": ("run.json", lambda data: b"{"),
    "deep-json": ("run.json", lambda data: b"[" * 200_000),
    "a-list": ("run.json", lambda data: b"[]"),
    "no-platform": ("run.json", _record(platform=None)),
    "an-escape-for-a-stage": ("run.json", _record(until="\x1b[2J")),
    "another-recipe": ("run.json", _record(resolved={"model": {"path": "/etc"}})),
    "a-key-that-is-a-path": ("run.json", _stage(key="../../../../etc")),
    "no-stage": ("run.json", _stage(name="../x")),
    "no-material": ("run.json", _stage(material=None)),
    "stages-missing": ("run.json", _record(stages=[])),
    "no-manifest": ("manifest.json", lambda data: b'{"schema": 1, "stages": {"x": {}}}'),
    "a-path-in-the-manifest": (
        "manifest.json",
        lambda data: data.replace(b"trace.jsonl", b"../trace.jsonl"),
    ),
    "a-digest-that-is-none": (
        "manifest.json",
        lambda data: data.replace(b'"sha256": "', b'"sha256": "x'),
    ),
    "manifest-no-json": ("manifest.json", lambda data: b"\xff"),
    "no-recipe": (LOCK, lambda data: data.replace(b"  train:\n    backend", b"  tr:\n    backend")),
    "model-a-list": (LOCK, lambda data: data.replace(b"  model:\n", b"  model: []\n  x:\n", 1)),
    "another-name": (LOCK, lambda data: data.replace(b"name: small", b"name: other")),
}


@pytest.mark.parametrize(("name", "change"), FORGED_TEXTS.values(), ids=FORGED_TEXTS.keys())
def test_what_says_what_it_is_and_says_nonsense(
    name: str,
    change: Callable[[bytes], bytes],
    forger: Forger,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = forger.content(name)
    forger.edit(name, change)
    assert forger.content(name) != before
    forger.write(place / "x.tar")
    refused(place, capsys, "E820", "is not a bundle")


def test_a_folder_in_the_way(good: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(good, place / "x.tar")
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years of work")
    assert main(["run", "x.tar", "--into", "mine"]) == 2
    assert "error[E831]" in capsys.readouterr().err
    assert sorted(path.name for path in place.rglob("*")) == ["mine", "thesis.txt", "x.tar"]


def test_what_is_unpacked_has_no_rights_but_the_umasks(good: Path, place: Path) -> None:
    from runner.bundle.archive import open_archive
    from runner.bundle.unpacked import unpack_inputs

    with open_archive(good) as archive:
        unpack_inputs(archive, place / "out", place.parent.parent / "cache")
    files = [path for path in (place / "out").rglob("*") if path.is_file()]
    assert len(files) == 11
    for path in files:
        assert stat.S_IMODE(path.lstat().st_mode) & 0o7133 == 0
