"""Recipes made to exhaust whoever checks them: refused in bounded time and memory.

Each case is the real command in a process of its own, with limits set by the kernel: address space,
processor time, and no core. It must end by itself, with diagnostics or with success.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.recipe.model import build
from runner.recipe.paths import named_paths
from runner.recipe.schema import Schema, fill_defaults, load_schema
from runner.recipe.source import MAX_BYTES, read_source
from tests.chain import ROOT

ADDRESS_SPACE = 512 << 20
CPU_SECONDS = 10
ROWS = '{"instruction": "a", "input": "", "output": "b"}\n' * 200
RECIPE = """schema: 1
name: x
model: {path: model}
data:
  train: [{path: rows.jsonl, format: alpaca}]
  chat_template: chat.jinja
train: {adapter: {type: lora}, max_steps: 1}
evaluate: {questions: questions.jsonl}
merge: {}
gguf: {quantize: [Q4_K_M]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A good recipe with every kind of file beside it."""
    folder = tmp_path / "project"
    (folder / "model").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "x.yaml").write_text(RECIPE)
    (folder / "rows.jsonl").write_text(ROWS)
    (folder / "questions.jsonl").write_text('{"question": "Who?", "expect": ["me"]}\n')
    (folder / "chat.jinja").write_text("{{ messages }}")
    (folder / "model" / "config.json").write_text('{"hidden_size": 256}')
    return folder


def limited(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `recipe ...` under the limits; it must not end by one of them."""
    ended = subprocess.run(
        [sys.executable, "-c", "from runner.cli.main import entry; entry()", *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SPARK_RECIPES_CACHE": str(folder / ".cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        preexec_fn=_limit,
    )
    assert ended.returncode in (0, 2), (ended.returncode, ended.stderr[-2000:])
    assert "Traceback" not in ended.stdout + ended.stderr
    assert len(ended.stdout) < 4 << 20, "the report itself is a bomb"
    return ended


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def codes(ended: subprocess.CompletedProcess[str]) -> set[str]:
    return {each["code"] for each in json.loads(ended.stdout)["diagnostics"]}


def validated(folder: Path, name: str = "x.yaml") -> set[str]:
    """Codes that `recipe validate` tells, under the limits."""
    return codes(limited("validate", "--format", "json", name, folder=folder))


def test_the_good_one_is_good(project: Path) -> None:
    """Else the cases below would end well for the wrong reason."""
    assert validated(project) == set()


@pytest.mark.parametrize("crime", ["b'x' * (1 << 30)", "any(iter(int, 1))"])
def test_the_limits_bite(crime: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", crime], capture_output=True, preexec_fn=_limit_soon
    )
    assert ended.returncode != 0


def _limit_soon() -> None:
    _limit()
    resource.setrlimit(resource.RLIMIT_CPU, (1, 2))


# --- bombs of text

_FULL = MAX_BYTES - 2048
BIG = "9" * 10**5


def inside(section: str, key: str, value: str) -> str:
    """The good recipe with one more key in a section that is written in braces or lines."""
    if section == "":
        return RECIPE + f"{key}: {value}\n"
    if section == "adapter":
        return RECIPE.replace("{type: lora}", f"{{type: lora, {key}: {value}}}")
    return RECIPE.replace("max_steps: 1}", f"max_steps: 1, {key}: {value}}}")


def expression(text: str) -> str:
    return inside("adapter", "target_modules", json.dumps(text))


TEXTS: dict[str, tuple[str, set[str]]] = {
    "brackets": ("a: " + "[" * _FULL, {"E112"}),
    "braces": ("a: " + "{a: " * (_FULL // 4), {"E112"}),
    "dashes": ("- " * (_FULL // 2), {"E112"}),
    "questions": ("? " * (_FULL // 2), {"E112"}),
    "blocks": ("".join(" " * n + "a:\n" for n in range(700)), {"E112"}),
    "laughs": (
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 99)),
        {"E117", "E124"},
    ),
    "many-keys": (RECIPE + "".join(f"k{n}: 1\n" for n in range(9000)), {"E102"}),
    "many-keys-in-a-branch": (
        RECIPE.replace("{path: model}", "{" + ", ".join(f"k{n}: 1" for n in range(9000)) + "}"),
        {"E102", "E103"},
    ),
    "many-duplicates": (RECIPE + "name: x\n" * 9000, {"E118", "E124"}),
    "many-items": (
        RECIPE.replace("[{path: rows", "[" + "{path: r, format: alpaca}, " * 3000 + "{path: rows"),
        {"E209", "E211"},
    ),
    "many-wrong-items": (
        RECIPE.replace("[{path: rows", "[" + "7, " * 15000 + "{path: rows"), {"E104", "E124"},
    ),
    "long-key": (RECIPE + "k" * (_FULL - 800) + ": 1\n", {"E113"}),
    "long-quoted-key": (RECIPE + '? "' + "k" * (_FULL - 800) + '"\n: 1\n', {"E102"}),
    "long-name": (RECIPE.replace("name: x", "name: " + "x" * (_FULL - 800)), {"E107"}),
    "long-wheel": (
        RECIPE.replace("{path: model}", "{file: a.gguf, wheel: " + "a." * (_FULL // 2 - 400) + "}"),
        {"E107"},
    ),
    "long-hub": (
        RECIPE.replace("{path: model}", "{hub: " + "a/" * (_FULL // 2 - 400) + "}"), {"E107"}
    ),
    "long-file": (
        RECIPE.replace("{path: model}", "{path: model, file: " + "a" * (_FULL - 800) + ".gguf}"),
        {"E209"},
    ),
    "long-template": (RECIPE.replace("chat.jinja", "a" * (_FULL - 800) + "!"), {"E107"}),
    "long-path": (RECIPE.replace("rows.jsonl", "a" * (_FULL - 800)), {"E209"}),
    "long-question": (RECIPE.replace("questions.jsonl", "a/" * (_FULL // 2 - 400)), {"E209"}),
    "blank-lines": (RECIPE.replace("schema: 1\n", "schema: 1" + "\n" * (_FULL - 800)), set()),
    "blank-text": (RECIPE + "description: |\n" + " \n" * (_FULL // 2 - 400), set()),
    "spaces": (RECIPE + " " * (_FULL - 800), set()),
    "comments": (RECIPE + "#\n" * (_FULL // 2 - 400), set()),
    "tabs-in-comments": (RECIPE + "#\t\n" * (_FULL // 3 - 400), set()),
    "tabs-in-quotes": (RECIPE + 'description: "' + "\t" * (_FULL - 800) + '"\n', {"E105"}),
    "nulls-in-blocks": (RECIPE + "gguf2:\n" + "  -\n" * 9000, {"E102"}),
    "forbidden": ("\u202e" * (_FULL // 3), {"E111"}),
    "zeros": ("\0" * _FULL, {"E111"}),
    "carriage-returns": (RECIPE + "\r" * (_FULL - 800), set()),
    "documents": (RECIPE + "---\n" * (_FULL // 4 - 400), {"E115"}),
    "integer": (inside("", "seed", BIG), {"E120"}),
    "negative-integer": (inside("", "seed", "-" + BIG), {"E120"}),
    "hexadecimal": (inside("", "seed", "0x" + BIG), {"E120"}),
    "exponent": (inside("train", "learning_rate", "1e999999"), {"E120"}),
    "tiny": (inside("train", "learning_rate", "1e-999999"), {"E120"}),
    "long-float": (inside("train", "learning_rate", "0." + BIG), {"E120"}),
    "quoted-integer": (inside("", "seed", f'"{BIG}"'), {"E104"}),
    "confusable-key": (inside("train", "l\u0435arning_rate", "1e-4"), {"E102"}),  # a Cyrillic e
    "confusable-value": (inside("train", "lr_scheduler_type", "\u0441\u043esin\u0435"), {"E106"}),
    "fullwidth-digits": (inside("", "seed", "\uff14\uff12"), {"E104"}),
    "nested-expression": (expression("(" * 495 + ")" * 495), {"E221"}),
    "open-expression": (expression("(" * 900), {"E221"}),
    "wide-expression": (expression("(?i)" + "[!-ￜ]" * 150), {"E180"}),
    "escaped-wide-expression": (expression("(?i)" + "[!-\\U0010ffff]" * 60), {"E180"}),
    "endless-expression": (expression("(.*)*" * 180 + "!"), set()),
    "huge-count": (expression("a{99999999999999999999}"), {"E221"}),
    "repeated-counts": (expression("(?:" * 90 + "a" + "){999}" * 90), {"E221", "E220", ""}),
    "classes": (expression("(?i)" + "[!-\\xff]" * 120), set()),
    "long-expression": (expression("a.?" * 80_000), {"E180"}),
    "many-expressions": (
        inside(
            "adapter", "rank_pattern",
            "{" + ", ".join(f'"{n}(?i:{"[!-~]" * 60})"' + ": 4" for n in range(600)) + "}",
        ),
        set(),
    ),
    "many-modules": (
        inside("adapter", "exclude_modules", "[" + ", ".join(f"m{n}" for n in range(9000)) + "]"),
        set(),
    ),
    "too-large": ("# " + "x" * MAX_BYTES, {"E112"}),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_bomb_of_text(name: str, project: Path) -> None:
    text, expected = TEXTS[name]
    assert len(text.encode()) <= MAX_BYTES or name == "too-large"
    (project / "x.yaml").write_bytes(text.encode())
    found = validated(project)
    assert {code for code in found if code[0] == "E"} == expected - {""} or "" in expected


def test_what_looks_like_another_letter_is_named(project: Path) -> None:
    (project / "x.yaml").write_text(TEXTS["confusable-key"][0])
    said = limited("validate", "x.yaml", folder=project).stdout
    assert 'did you mean "learning_rate"?' in said


# --- instead of a recipe


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "noise": lambda path: path.symlink_to("/dev/urandom"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "log-of-the-kernel": lambda path: path.symlink_to("/proc/kmsg"),
    "memory": lambda path: path.symlink_to("/proc/self/mem"),
    "endless-file": lambda path: path.symlink_to("/proc/self/pagemap"),
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "long-link": lambda path: path.symlink_to("a/" * 2000),
    "folder": lambda path: path.mkdir(),
    "sparse": lambda path: path.touch() or os.truncate(path, 1 << 40),
}


@pytest.mark.parametrize("command", ["validate", "show", "plan", "diff"])
def test_what_is_no_recipe(command: str, project: Path) -> None:
    (project / "x.yaml").unlink()
    for kind, make in SPECIAL.items() if command == "validate" else [("pipe", os.mkfifo)]:
        make(project / f"{kind}.yaml")
        names = [f"{kind}.yaml"] * (2 if command == "diff" else 1)
        ended = limited(command, *names, folder=project)
        assert ended.returncode == 2
        assert re.search(r"error\[E1\d\d\]", ended.stdout + ended.stderr), kind


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "\udcff.yaml", "a\nb.yaml"])
def test_a_name_that_no_file_has(name: str, project: Path) -> None:
    for report in ("text", "json", "github", "sarif"):
        assert limited("validate", "--format", report, name, folder=project).returncode == 2


def test_a_name_that_is_no_text(project: Path) -> None:
    """Git keeps names as bytes, and a report is text."""
    bad = os.fsencode(project) + b"/\xff\xfe.yaml"
    with open(bad, "w") as file:  # noqa: PTH123 - a name of bytes
        file.write("schema: 1\n")
    for report in ("text", "json", "github", "sarif"):
        ended = limited("validate", "--format", report, ".", folder=project)
        assert ended.returncode == 2
        assert "E103" in ended.stdout


# --- a folder of recipes


@contextlib.contextmanager
def folders(project: Path, name: str, depth: int) -> Iterator[None]:
    """That many folders, each in the one before; removed by rm, which does not use a stack."""
    here = os.open(project, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir(name, dir_fd=here)
            below = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        yield
    finally:
        os.close(here)
        subprocess.run(["rm", "-rf", str(project / name)], check=True)


def test_a_folder_deeper_than_the_stack(project: Path) -> None:
    """Git writes paths of up to 4096 bytes: two thousand folders."""
    with folders(project, "d", 1800):
        assert validated(project, ".") == set()


def test_a_folder_too_deep_to_be_looked_at_is_told(project: Path) -> None:
    with folders(project, "d" * 200, 30):
        assert validated(project, ".") == {"E101"}


def test_a_folder_of_traps(project: Path) -> None:
    (project / "round").symlink_to(".")
    (project / "up").symlink_to("..")
    for kind, make in SPECIAL.items():
        make(project / f"{kind}.yaml")
    ended = limited("validate", "--format", "json", ".", folder=project)
    report = json.loads(ended.stdout)
    named = {Path(each["file"]).stem for each in report["diagnostics"]}
    assert named == {"loop", "dangling", "long-link", "memory"}, "what cannot be looked at is told"
    assert report["files"] == 5


# --- path escapes: every field of a recipe that names a file


def fields_with_a_path(schema: Schema, pointer: str = "") -> set[str]:
    """Pointers (items as 0) of text that the schema's description calls a path or a file."""
    found = set()
    for branch in schema.get("oneOf", ()):
        found |= fields_with_a_path(branch, pointer)
    for key, inner in schema.get("properties", {}).items():
        words = inner.get("description", "").lower()
        text = "string" in inner.get("type", ())
        if text and any(
            word in words for word in ("path ", "jsonl file", "folder of the", "a gguf file")
        ):
            found.add(f"{pointer}/{key}")
        found |= fields_with_a_path(inner, f"{pointer}/{key}")
    if "items" in schema:
        found |= fields_with_a_path(schema["items"], f"{pointer}/0")
    return found


# Paths inside of a wheel or of a repository of the hub: checked to stay in it (E208), not here.
ELSEWHERE = {"/data/train/0/file", "/data/validation/files/0/file"}
ELSEWHERE |= {"/data/clean/decontaminate/files/0/file"}
FILE = "/model/file"
PATHS = sorted(fields_with_a_path(load_schema()) - ELSEWHERE)


def with_path(pointer: str, text: str) -> str:
    """The good recipe with another path at `pointer`."""
    content = {
        "schema": 1,
        "name": "x",
        "model": {"path": "model"},
        "data": {
            "train": [{"path": "rows.jsonl", "format": "alpaca"}],
            "validation": {"files": [{"path": "held.jsonl", "format": "alpaca"}]},
            "chat_template": "chat.jinja",
            "clean": {"decontaminate": {"files": [{"path": "held.jsonl"}]}},
        },
        "train": {"adapter": {"type": "lora"}, "max_steps": 1},
        "evaluate": {"questions": "questions.jsonl"},
    }
    if pointer.startswith("/reward/"):
        content["reward"], content["train"]["method"] = {}, "ppo"  # type: ignore[index]
    *holders, last = pointer.split("/")[1:]
    part = functools.reduce(lambda at, key: at[int(key) if key == "0" else key], holders, content)
    part[last] = text  # type: ignore[call-overload]
    return json.dumps(content)


def test_the_fields_with_a_path_are_those_that_are_checked(project: Path) -> None:
    """A new one is tried below as soon as the schema has it, and must be in `named_paths`."""
    named = set()
    for pointer in PATHS:
        text = {FILE: "x.gguf", "/data/chat_template": "x.jinja"}.get(pointer, "x")
        (project / "x.yaml").write_text(with_path(pointer, text))
        source = read_source(project / "x.yaml")
        recipe = build(fill_defaults(source.data, load_schema()), source)
        named |= {each.pointer for each in named_paths(recipe)}
    assert named == set(PATHS)


ESCAPES = {
    "absolute": "/etc/passwd",
    "up": "../../../../../../../../etc/passwd",
    "inside-and-up": "model/../../../../../../../../etc/passwd",
    "link": "link-out/passwd",
    "link-to-a-file": "link-passwd",
    "link-loop": "loop/x",
    "link-to-zeros": "link-zero",
    "link-to-the-kernel": "link-kmsg",
    "link-to-memory": "link-pagemap",
    "pipe": "pipe",
    "folder": ".",
    "zero-byte": "a\0b",
    "newline": "a\nb",
    "long": "x" * 5000,
    "home": "~/.ssh/id_rsa",
    "variable": "$HOME/.ssh/id_rsa",
    "address": "file:///etc/passwd",
}


@pytest.fixture
def traps(project: Path) -> Path:
    (project / "held.jsonl").write_text(ROWS)
    for suffix in ("", ".jinja", ".gguf"):
        os.mkfifo(project / f"pipe{suffix}")
        for name, to in {
            "link-passwd": "/etc/passwd", "link-zero": "/dev/zero", "link-kmsg": "/proc/kmsg",
            "link-pagemap": "/proc/self/pagemap",
        }.items():  # fmt: skip
            (project / (name + suffix)).symlink_to(to)
            (project / "model" / (name + suffix)).symlink_to(to)
        os.mkfifo(project / "model" / f"pipe{suffix}")
    (project / "link-out").symlink_to("/etc")
    (project / "loop").symlink_to("loop")
    return project


@pytest.mark.parametrize("pointer", PATHS)
def test_no_path_leads_out(pointer: str, traps: Path) -> None:
    """Each is refused, and nothing of the file outside is in what is said."""
    suffix = {"chat_template": ".jinja", "file": ".gguf"}.get(pointer.rpartition("/")[2], "")
    names = []
    for kind, text in ESCAPES.items():
        if pointer == "/model/path" and kind in ("absolute", "folder"):
            continue  # `model.path` may be absolute; a folder is what it names
        name = f"{kind}.yaml"
        (traps / name).write_text(with_path(pointer, text + suffix))
        names.append(name)
    ended = limited("validate", "--format", "json", *names, folder=traps)
    found = json.loads(ended.stdout)["diagnostics"]
    refused = {
        each["file"]
        for each in found
        if each["code"] in {"E104", "E107", "E208", "E209", "E210", "E230"}
    }
    assert refused == set(names)
    assert "root:" not in ended.stdout


def test_no_base_lies_outside(traps: Path) -> None:
    """The rule of every other path, for the file that a recipe extends."""
    names = []
    for kind, text in ESCAPES.items():
        name = f"{kind}.yaml"
        content = json.loads(with_path("/model/path", "model")) | {"extends": text}
        (traps / name).write_text(json.dumps(content))
        names.append(name)
    ended = limited("validate", "--format", "json", *names, folder=traps)
    found = json.loads(ended.stdout)["diagnostics"]
    assert {each["file"] for each in found if each["code"][0] == "E"} >= set(names)
    assert "root:" not in ended.stdout


def test_a_link_inside_of_a_model_folder_leads_out(project: Path) -> None:
    """A run would copy the file, and a bundle would hand it on."""
    (project / "model" / "tokenizer.json").symlink_to("/etc/passwd")
    assert validated(project) == {"E208"}
    (project / "model" / "tokenizer.json").unlink()
    (project / "model" / "tokenizer.json").symlink_to("config.json")
    assert validated(project) == set()


# --- files beside a recipe


CONFIGS = {
    "endless": lambda path: path.symlink_to("/proc/self/pagemap"),
    "waiting": lambda path: path.symlink_to("/proc/kmsg"),
    "pipe": os.mkfifo,
    "list": lambda path: path.write_text('{"text_config": [1]}'),
    "text": lambda path: path.write_text('"x"'),
    "huge-numbers": lambda path: path.write_text(
        json.dumps({"num_attention_heads": int("7" * 4000), "head_dim": int("7" * 4000)})
    ),
    "more-digits-than-python-reads": lambda path: path.write_text('{"hidden_size": ' + BIG + "}"),
    "infinite": lambda path: path.write_text('{"hidden_size": 1e999, "head_dim": NaN}'),
    "deep": lambda path: path.write_text("[" * 10**6),
    "sparse": lambda path: path.touch() or os.truncate(path, 1 << 40),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_is_a_trap(kind: str, project: Path) -> None:
    config = project / "model" / "config.json"
    config.unlink()
    CONFIGS[kind](config)
    assert validated(project) <= {"E208", "E210"}
    (project / "x.yaml").write_text(RECIPE.replace("model}", f"{project}/model}}"))
    assert validated(project) <= {"E210"}, "an absolute path is not exempt"


def gguf(tensors: int, values: int, rest: bytes = b"") -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, values) + rest


GGUFS = {
    "zeros-for-values": gguf(0, 90_000),
    "more-values-than-bytes": gguf(0, 2**64 - 1),
    "more-tensors-than-bytes": gguf(2**64 - 1, 0),
    "zeros-for-tensors": gguf(190_000, 0),
    "zeros-for-strings": gguf(0, 1, struct.pack("<QIIQ", 0, 9, 8, 2**60)),
    "an-array-beyond-everything": gguf(1, 1, struct.pack("<QIIQ", 0, 9, 12, 2**64 - 1)),
    "a-name-beyond-everything": gguf(1, 1, struct.pack("<Q", 2**64 - 1)),
}


@pytest.mark.parametrize("kind", GGUFS)
def test_a_gguf_of_holes(kind: str, project: Path) -> None:
    """A terabyte that takes no room, behind a header that says anything."""
    path = project / "model" / "tiny.gguf"
    path.write_bytes(GGUFS[kind])
    os.truncate(path, 1 << 40)
    (project / "x.yaml").write_text(RECIPE.replace("path: model", "path: model, file: tiny.gguf"))
    assert validated(project) == set()


def test_rows_that_grow_when_they_are_parsed(project: Path) -> None:
    (project / "rows.jsonl").write_bytes(b"[" + b"[]," * (5 << 20) + b"[]]")
    assert validated(project) == set()
    (project / "rows.jsonl").write_bytes(b"ab\n" * (5 << 20))
    assert validated(project) == set()


def test_one_large_file_under_many_names(project: Path) -> None:
    (project / "rows.jsonl").write_bytes(b"{}\n" * (5 << 20))
    for number in range(2000):
        (project / f"r{number}").symlink_to("rows.jsonl")
    many = ", ".join(f"{{path: r{number}, format: alpaca}}" for number in range(2000))
    (project / "x.yaml").write_text(RECIPE.replace("[{path: rows", f"[{many}, {{path: rows"))
    assert validated(project) == set()


def test_a_folder_with_many_files_beside_a_missing_one(project: Path) -> None:
    """Somebody's name of a file is looked for among them."""
    for number in range(3000):
        (project / f"{number:04}{'x' * 60}").touch()
    (project / "x.yaml").write_text(RECIPE.replace("rows.jsonl", "y" * 64))
    assert validated(project) == {"E209"}
