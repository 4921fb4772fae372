"""Parquet files, by the real environment: the rows as JSON lines, or an error that says why."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.cli.main import main
from runner.errors import RecipeInvalid
from runner.recipe.checks.parquet import sample_row
from runner.scripts.data.files.parquet_footer import read_footer
from runner.scripts.data.formats import EVERY
from runner.synthesis.settings import read_settings
from runner.synthesis.synthesize import material_of
from tests.script_runs import ScriptRun, run_script
from tests.tiny_model import write_tiny_model

WRITE = """
import sys, datetime, json, decimal, pyarrow as pa, pyarrow.parquet as pq
here = sys.argv[1] + "/"
turn = {"role": "user", "content": "Q", "name": None}
answer = {"role": "assistant", "content": "A", "name": "Ann"}
chats = pa.table({"id": [1, 2], "messages": [[turn, answer]] * 2})
dated = pa.table({"text": ["T", "U"], "at": [None, datetime.date(2020, 1, 1)]})
pq.write_table(chats, here + "a.parquet")
pq.write_table(dated, here + "b.parquet")

rows = [json.loads(line) for line in open(here + "rows.jsonl")]
table = pa.Table.from_pylist(rows)
pq.write_table(table, here + "rows.parquet")
picture = pa.array([b"no text"] * len(rows))
table = table.append_column("picture", picture)
pq.write_table(table, here + "rows-2.parquet", compression="zstd", row_group_size=7)
with pa.CompressedOutputStream(here + "rows.jsonl.zst", "zstd") as file:
    file.write(open(here + "rows.jsonl", "rb").read())
with pa.CompressedOutputStream(here + "rows.csv.zst", "zstd") as file:
    file.write(b"text\\n" + b"x\\n" * 3)

wrong = {
    "nan": [0.5, float("nan")],
    "bytes": [None, b"x"],
    "day": [None, datetime.date(2020, 1, 1)],
    "price": [None, decimal.Decimal("1.5")],
}
for name, values in wrong.items():
    pq.write_table(pa.table({"text": ["a", "b"], name: values}), here + name + ".parquet")
ends = pa.py_buffer(b"".join(end.to_bytes(4, "little") for end in (0, 1, 2)))
latin = pa.StringArray.from_buffers(2, ends, pa.py_buffer(b"a\\xff"))
pq.write_table(pa.table({"text": latin}), here + "latin.parquet")
maps = pa.array([[("k", 1)], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))
pq.write_table(pa.table({"text": ["a", "b"], "map": maps}), here + "map.parquet")
"""
ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n}?"},
            {
                "role": "assistant",
                "content": ("", None)[n % 3 == 0],
                "tool_calls": [
                    {
                        "type": "function",
                        "function": {"name": "f", "arguments": {("x", "y")[n % 2]: f"é{n}"}},
                    }
                ],
            },
            {"role": "tool", "content": f"{n}"},
            {"role": "assistant", "content": f"It is {n}.", "weight": 1},
        ]
    }
    for n in range(20)
]
TEMPLATE = """{% for turn in messages %}<|im_start|>{{ turn.role }}
{{ turn.content }}{% if turn.tool_calls %}{{ turn.tool_calls | tojson }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
RECIPE = """
schema: 1
name: r
model: {path: model, dtype: float32}
data:
  train: [{path: FILE, format: messages}, {path: OTHER, format: messages}]
  chat_template: tools.jinja
  max_length: 512
train:
  adapter: {type: lora, r: 4, lora_alpha: 8}
  max_steps: 4
"""


@pytest.fixture(scope="module")
def python(environment_python: Callable[[str], Path]) -> Path:
    return environment_python("parquet")


@pytest.fixture(scope="module")
def files(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    subprocess.run([python, "-I", "-c", WRITE, folder], check=True)
    return folder


@pytest.fixture
def made_plain(python: Path, tmp_path: Path) -> Callable[..., ScriptRun]:
    def run(path: Path, columns: list[str] | str | None = None) -> ScriptRun:
        described = {"files": {"rows": {"name": path.name, "columns": columns}}}
        return run_script(
            python,
            "plain_rows",
            described,
            {"rows": path},
            tmp_path / "runs" / f"{path.name}-{columns}",
        )

    return run


def test_parquet_is_inspected_and_converted(
    files: Path,
    shared_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(shared_cache))
    monkeypatch.chdir(files)
    capsys.readouterr()  # what building the environment said
    before = set(shared_cache.glob("rows-*"))
    assert main(["data", "inspect", "a.parquet", "--format", "json"]) == 0
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert (file["format"], file["rows"], file["fit"]) == ("messages", 2, 2)
    out = tmp_path / "a.jsonl"
    assert main(["data", "convert", "a.parquet", str(out), "--to", "messages"]) == 0
    turns = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A", "name": "Ann"},
    ]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == [{"messages": turns, "id": number} for number in (1, 2)]
    capsys.readouterr()
    words = ["data", "convert", "b.parquet", str(tmp_path / "b.jsonl"), "--to", "text"]
    for more in ([], ["--from", "text"]):
        assert main([*words, *more]) == 2
        lost = 'the column "at", which is no JSON (it holds date32[day]): 2 rows'
        assert lost in capsys.readouterr().err
    assert main([*words, "--lossy"]) == 0
    assert (tmp_path / "b.jsonl").read_text() == '{"text": "T"}\n{"text": "U"}\n'
    capsys.readouterr()
    for name in ("b", "nan", "bytes", "price"):
        assert main(["data", "inspect", f"{name}.parquet", "--format", "json"]) == 0
        (file,) = json.loads(capsys.readouterr().out)["files"]
        assert (file["fit"], [*file["left_out"]]) == (2, ["at" if name == "b" else name])
    assert main(["data", "inspect", "nan.parquet"]) == 0
    told = 'left out: "nan", which is no JSON: nan.parquet:2: the column "nan" has a value that'
    assert told in capsys.readouterr().out
    assert main(["data", "inspect", "rows.csv.zst", "--format", "json"]) == 0
    (file,) = json.loads(capsys.readouterr().out)["files"]
    assert (file["format"], file["fit"]) == ("text", 3)
    assert set(shared_cache.glob("rows-*")) == before


def test_a_synthesis_starts_from_parquet_and_zstd(
    files: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(shared_cache))
    (tmp_path / ".git").mkdir()
    for name in ("a.parquet", "b.parquet", "latin.parquet", "rows.jsonl.zst"):
        shutil.copy(files / name, tmp_path)
    start = "synthesis: 1\ncount: 1\nendpoint: {ollama: m}\nkind: "
    seeds = "rows: [{path: a.parquet, format: messages}]\n"
    texts = "documents: [b.parquet, rows.jsonl.zst]\n"
    (tmp_path / "seeds.yaml").write_text(f"{start}paraphrase\n{seeds}")
    (tmp_path / "texts.yaml").write_text(f"{start}question-answer\n{texts}")
    found = material_of(read_settings(tmp_path / "seeds.yaml")).seeds
    assert [(seed.question, seed.place) for seed in found] == [
        ("Q", "a.parquet:1"),
        ("Q", "a.parquet:2"),
    ]
    parts = material_of(read_settings(tmp_path / "texts.yaml")).parts
    assert [(part.text, part.place) for part in parts[:2]] == [
        ("T", "b.parquet:1"),
        ("U", "b.parquet:2"),
    ]
    assert parts[2].place == "rows.jsonl.zst:1"
    assert "What is 0?" in parts[2].text
    wrong = "paraphrase\nrows: [{path: latin.parquet, format: messages}]\n"
    (tmp_path / "wrong.yaml").write_text(f"{start}{wrong}")
    with pytest.raises(RecipeInvalid) as caught:
        material_of(read_settings(tmp_path / "wrong.yaml"))
    (error,) = caught.value.diagnostics
    assert (error.code, error.line) == ("E911", 5)
    assert "latin.parquet" in error.message


TURNS = [{"role": "user", "content": "Q", "name": "Ann"}, {"role": "assistant", "content": "A\r"}]
OF_EACH_FORMAT: dict[str, list[dict[str, Any]]] = {
    "messages": [
        *ROWS,
        {
            "messages": [
                {"role": "user", "content": "é"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {"function": {"name": "g", "arguments": {"n": None, "deep": {"x": [1]}}}},
                        {"function": {"name": "h", "arguments": {}}, "id": "1"},
                    ],
                },
                {"role": "assistant", "content": "B", "weight": 0},
                {"role": "assistant", "content": "C"},
            ],
            "tools": [{"type": "function", "function": {"name": "g", "parameters": {}}}],
            "about": {"tags": ["a"], "score": 1},
        },
        {"messages": TURNS, "about": {"score": 0.5, "by": "me"}},
    ],
    "alpaca": [
        {"instruction": "Q", "output": "A", "input": "I", "history": [["q", "a"]], "id": 7},
        {"instruction": "R", "output": "B", "system": "S", "id": 2**60},
    ],
    "sharegpt": [
        {
            "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
            "tools": '[{"name": "clock"}]',
        }
    ],
    "prompt-completion": [
        {"prompt": "Q", "completion": "A"},
        {"prompt": [{"role": "system", "content": "S"}, *TURNS[:1]], "completion": "B"},
    ],
    "preference": [
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
        {"chosen": TURNS, "rejected": [*TURNS[:1], {"role": "assistant", "content": "B"}]},
    ],
    "kto": [{"prompt": "Q", "completion": "A", "label": label} for label in (True, False)],
    "prompt": [{"prompt": "Q", "answer": "2"}, {"prompt": "R"}],
    "text": [{"text": "\0T\n"}],
}


@pytest.mark.parametrize("format_name", OF_EACH_FORMAT)
def test_what_is_written_as_parquet_comes_back(
    format_name: str,
    python: Path,
    shared_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(shared_cache))
    monkeypatch.chdir(tmp_path)
    rows = OF_EACH_FORMAT[format_name]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = ["--to", format_name, "--from", format_name]
    assert main(["data", "convert", "in.jsonl", "a.parquet", *kept]) == 0
    assert main(["data", "convert", "a.parquet", "back.jsonl", *kept]) == 0
    back = [json.loads(line) for line in Path("back.jsonl").read_text().splitlines()]
    read = EVERY[format_name]
    assert [read(row) for row in back] == [read(row) for row in rows]
    for name in ("about", "id"):
        assert [row.get(name) for row in back] == [row.get(name) for row in rows]
    before = Path("a.parquet").read_bytes()
    assert main(["data", "convert", "in.jsonl", "a.parquet", *kept, "--force"]) == 0
    assert Path("a.parquet").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "a.parquet", "back.jsonl"}


def test_what_parquet_cannot_hold_is_lost_only_if_wanted(
    python: Path,
    shared_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(shared_cache))
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"text": "T", "id": 1}\n{"text": "U", "id": "b"}\n')
    capsys.readouterr()
    words = ["data", "convert", "in.jsonl", "a.parquet", "--to", "text"]
    assert main(words) == 2
    lost = 'that "id" holds values of several kinds, which become texts: 1 row, the first at in.'
    assert lost in capsys.readouterr().err
    assert not Path("a.parquet").exists()
    assert main([*words, "--lossy"]) == 0
    assert main(["data", "convert", "a.parquet", "back.jsonl", "--to", "text"]) == 0
    back = Path("back.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in back] == ["1", "b"]


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.csv.zst", "a.json.zst"])
def test_what_zstandard_compressed_comes_back(
    name: str, python: Path, shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(shared_cache))
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"{n}\r"} for n in range(1000)]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "convert", "in.jsonl", name, "--to", "text"]) == 0
    assert Path(name).read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
    assert main(["data", "convert", name, "back.jsonl", "--to", "text"]) == 0
    assert Path("back.jsonl").read_text() == Path("in.jsonl").read_text()


def test_a_recipe_gives_the_same_bytes_of_parquet_as_of_json_lines(
    files: Path,
    shared_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Arguments that only some calls have, a column of bytes, several row groups included."""
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(shared_cache))
    monkeypatch.setenv("SPARK_RECIPES_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(files)
    write_tiny_model(files / "model")
    (files / "tools.jinja").write_text(TEMPLATE)
    shutil.copy("rows.jsonl", "same.jsonl")
    made = []
    for name, other in (("rows.jsonl", "same.jsonl"), ("rows-2.parquet", "rows.jsonl.zst")):
        Path("r.yaml").write_text(RECIPE.replace("FILE", name).replace("OTHER", other))
        assert main(["data", "prepare", "r.yaml"]) == 0
        run = Path("runs", "r", "latest")
        made.append(json.loads((run / "manifest.json").read_text())["stages"]["prepare"])
    assert len(made[0]) == 6
    assert made[0] == made[1]


def test_each_row_is_named_by_its_number(files: Path, made_plain: Callable[..., ScriptRun]) -> None:
    for name in ("nan", "bytes", "day", "price"):
        error = made_plain(files / f"{name}.parquet").error
        wrong = f'{name}.parquet:2: the column "{name}" has a value that is no JSON'
        assert (error["code"], error["message"]) == ("E353", wrong)


def test_only_the_columns_that_are_asked_for_are_read(
    files: Path, made_plain: Callable[..., ScriptRun]
) -> None:
    run = made_plain(files / "day.parquet", ["prompt", "text"])
    assert (run.folder / "rows.jsonl").read_text() == '{"text": "a"}\n{"text": "b"}\n'
    run = made_plain(files / "bytes.parquet", "texts")  # what JSON has no kind for is left aside
    lines = (run.folder / "rows.jsonl").read_text().splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"text"}, {"text"}]
    error = made_plain(files / "bytes.parquet", ["instruction"]).error
    assert error["code"] == "E371"
    assert error["message"].endswith('its columns: "text", "bytes"')


def test_what_is_hostile_or_damaged_is_an_error(
    files: Path, tmp_path: Path, made_plain: Callable[..., ScriptRun]
) -> None:
    error = made_plain(files / "latin.parquet").error
    assert (error["code"], error["message"]) == ("E320", "latin.parquet:2: a text is not UTF-8")
    error = made_plain(files / "map.parquet").error  # a key that occurs twice
    assert (error["code"], error["message"][:14]) == ("E353", "map.parquet:2:")
    whole = (files / "rows.parquet").read_bytes()
    for number, content in enumerate(
        (
            whole[:40],
            whole[: len(whole) // 2] + whole[-8:],
            whole[:200] + bytes(200) + whole[400:],
            b"PAR1" + b"\xff" * 100 + b"PAR1",
        )
    ):
        path = tmp_path / f"torn-{number}.parquet"
        path.write_bytes(content)
        run = made_plain(path)
        assert run.returncode == 1
        assert run.error["code"] in ("E353", "E320"), run.log
    packed = (files / "rows.jsonl.zst").read_bytes()
    for number, content in enumerate((packed[:-5], packed[:20] + b"\0" * 50 + packed[70:])):
        path = tmp_path / f"torn-{number}.zst"
        path.write_bytes(content)
        assert made_plain(path).error["code"] == "E347"


def test_footers_say_what_the_library_says(files: Path, python: Path) -> None:
    asked = "import sys, pyarrow.parquet as pq; m = pq.read_metadata(sys.argv[1]);"
    asked += "print(m.num_rows, *pq.read_schema(sys.argv[1]).names)"
    for name in ("a", "b", "rows", "rows-2", "map", "price"):
        path = files / f"{name}.parquet"
        said = subprocess.run(
            [python, "-I", "-c", asked, path], check=True, capture_output=True, text=True
        )
        with path.open("rb") as file:
            found = read_footer(file)
        names = [column.name for column in found.columns]
        assert said.stdout.split() == [str(found.rows), *names]
        assert set(sample_row(found.columns)) == set(names)
