"""A synthesis recipe is checked as a recipe is: every error at once, with file, line and column."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from runner.cli.main import main
from runner.errors import RecipeInvalid
from runner.recipe.load import check_recipe
from runner.recipe.schema import load_schema, schema_path
from runner.recipe.source import read_source
from runner.recipe.validate import ANNOTATIONS, KEYWORDS, findings
from runner.report.reporters import REPORTERS
from runner.synthesis.kinds import KINDS
from runner.synthesis.report import _TIMES
from runner.synthesis.settings import SCHEMA, Endpoint, read_settings
from runner.synthesis.sources import cut, seeds_of
from runner.synthesis.synthesize import material_of
from tests.chain import ROOT

EXAMPLE = ROOT / "recipes" / "course" / "10.4-synthesis.yaml"
ROWS = "rows: [{path: seeds.jsonl, format: alpaca}]"


def subschemas(schema: Any) -> Any:
    yield schema
    for inner in (*schema.get("properties", {}).values(), *schema.get("oneOf", ())):
        yield from subschemas(inner)
    if "items" in schema:
        yield from subschemas(schema["items"])


def write(folder: Path, text: str) -> Path:
    (folder / ".git").mkdir(exist_ok=True)
    seed = {"instruction": "What is LoRA?", "output": "A small update."}
    (folder / "seeds.jsonl").write_text(json.dumps(seed) + "\n")
    (folder / "text.md").write_text("# A\n\nWords.\n")
    path = folder / "s.yaml"
    path.write_text(text)
    return path


def said(path: Path) -> list[tuple[str, int, int, str, str]]:
    with pytest.raises(RecipeInvalid) as caught:
        material_of(read_settings(path))
    return [(d.code, d.line, d.column, d.message, d.hint) for d in caught.value.diagnostics]


def test_the_shipped_example_is_right_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "synthesize", str(EXAMPLE), "--check"]) == 0
    out = capsys.readouterr().out
    assert "is right: question-answer, 0 seed rows, " in out
    first = EXAMPLE.read_text().splitlines()[0]
    assert (EXAMPLE.parent / first.partition("$schema=")[2]).resolve() == schema_path(SCHEMA)


def test_the_schema_has_a_branch_for_each_kind_and_only_what_we_check() -> None:
    schema = load_schema(SCHEMA)
    assert [branch["title"] for branch in schema["oneOf"]] == list(KINDS)
    used = {keyword for each in subschemas(schema) for keyword in each}
    assert used <= KEYWORDS | ANNOTATIONS
    for each in subschemas(schema):
        if each.get("type") == "object" and "properties" in each:
            assert each["additionalProperties"] is False
        for name, field in each.get("properties", {}).items():
            assert field["description"].endswith("."), name
            assert field["examples"], name
            assert all(not findings(example, field) for example in field["examples"]), name


def test_the_page_names_every_key_and_its_default() -> None:
    page = (ROOT / "docs" / "synthesis.md").read_text(encoding="utf-8")
    for schema in subschemas(load_schema(SCHEMA)):
        for name, field in schema.get("properties", {}).items():
            assert re.search(rf"\b{name}\b", page), name
            default = field.get("default")
            if isinstance(default, (int, float)) and not isinstance(default, bool):
                assert re.search(rf"(?<![\d.]){re.escape(str(default))}(?![\d.]*\d)", page), name


def test_our_validator_and_jsonschema_agree_on_the_example(tmp_path: Path) -> None:
    data = read_source(EXAMPLE).data | {"documents": ["README.md"]}
    whole = jsonschema.Draft7Validator(json.loads(schema_path(SCHEMA).read_text()))
    assert whole.is_valid(data)
    for key in data:
        for changed in (
            {name: value for name, value in data.items() if name != key},
            data | {key: None},
            data | {key: [1]},
            data | {key: {"x": 1}},
            data | {key: "paraphrase"},
            data | {f"{key}x": data[key]},
        ):
            ours = not findings(changed, load_schema(SCHEMA))
            assert ours == whole.is_valid(changed), changed
            path = write(tmp_path, json.dumps(changed))
            (tmp_path / "README.md").write_text("Words.")
            with contextlib.suppress(RecipeInvalid):
                read_settings(path)
                assert ours


def test_defaults_and_endpoints(tmp_path: Path) -> None:
    ollama = f"synthesis: 1\nkind: preference\ncount: 3\nendpoint: {{ollama: m}}\n{ROWS}\n"
    settings = read_settings(write(tmp_path, ollama + "judge: {api: 'http://h:1/v1/', model: j}\n"))
    assert settings.endpoint == Endpoint("m", None, None, True)
    assert settings.judge == Endpoint("j", "http://h:1/v1", None, True)
    assert (settings.seed, settings.requests.attempts, settings.own["candidates"]) == (42, 3, 4)
    assert settings.sampling == {"temperature": 0.8, "top_p": 0.95, "max_tokens": 1024}
    assert [seed.question for seed in seeds_of(settings)] == ["What is LoRA?"]


START = "synthesis: 1\nkind: paraphrase\ncount: 3\n"  # three lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"{START}endpoint: {{ollama: m}}\n{ROWS}\nvariant: 2\n",
            [("E102", 6, 1, 'unknown key "variant"', 'did you mean "variants"?')],
        ),
        (
            f"{START}endpoint: {{ollama: m}}\n{ROWS}\nchunk: 500\n",
            [("E102", 6, 1, '"chunk" does not go with "paraphrase"', "keys that do: ")],
        ),
        (  # what a recipe of a training has elsewhere, is not recommended here
            f"{START}endpoint: {{ollama: m}}\n{ROWS}\nmax_length: 9\n",
            [("E102", 6, 1, 'unknown key "max_length"', "docs/synthesis.md shows every key")],
        ),
        (
            "synthesis: 1\nkind: paraphrases\ncount: many\nendpoint: {}\n" + ROWS,
            [
                ("E106", 2, 7, '"paraphrases" is not a value of kind', "did you mean paraphrase?"),
                ("E104", 3, 8, "count must be a whole number", "for example: 100"),
                ("E103", 4, 1, "endpoint needs exactly one of ollama or api", "add ollama: "),
            ],
        ),
        (
            f"{START}endpoint: {{ollama: m, api: 'http://h'}}\n{ROWS}\n",
            [("E108", 4, 23, '"api" and "ollama" exclude each other', "keep one of ollama")],
        ),
        (
            START + "endpoint: {ollama: m}\nrows: [{path: sedes.jsonl, format: alpaca}]\n",
            [("E910", 5, 15, '"sedes.jsonl" is not there', 'did you mean "seeds.jsonl"?')],
        ),
        (
            START + "endpoint: {ollama: m}\nrows: [{path: ../x.jsonl, format: alpaca}]\n",
            [("E910", 5, 15, '"../x.jsonl" leads out of the project', "move the file")],
        ),
        (
            START + "endpoint: {ollama: m}\nrows: [{path: text.md, format: alpaca}]\n",
            [("E911", 5, 15, "text.md:1: broken JSON", "recipe data inspect ")],
        ),
        (
            "synthesis: 1\nkind: preference\ncount: 1\nendpoint: {ollama: m}\n",
            [("E103", 1, 1, 'kind preference needs "rows" or "documents"', "add rows: ")],
        ),
        (
            "synthesis: 1\nkind: preference\ncount: 1\n"
            f"endpoint: {{ollama: m}}\n{ROWS}\nrounds: 2\n",
            [("E912", 6, 1, '"rounds" is for documents, and there are none', "add documents")],
        ),
        (  # nobody could say what such a row's answer is worth
            f"{START}endpoint: {{ollama: m}}\nrows: [{{path: seeds.jsonl, format: prompt}}]\n",
            [("E106", 5, 36, '"prompt" is not a value of', "write messages")],
        ),
        (
            "synthesis: 1\nkind: preference\ncount: 1\nendpoint: {ollama: m}\nweak: {ollama: m}\n"
            f"judge: {{ollama: j}}\n{ROWS}\nfilters: {{min_characters: 9, max_characters: 3}}\n",
            [
                ("E912", 5, 7, "the weak model is the strong one", "name another model"),
                ("E912", 6, 1, '"judge" does not go with "weak"', "keep one way"),
                ("E912", 8, 27, "no text has 9 characters and at most 3", "lower one"),
            ],
        ),
        (
            START + f"endpoint: {{api: 'http://h:99999/', model: m}}\n{ROWS}\n",
            [("E912", 4, 17, "this is not the address of a server", "write it as https://")],
        ),
        ("- x\n", [("E121", 1, 1, "a synthesis recipe is a mapping", "start from recipes/course")]),
        ("schema: 1\nname: x\n", [("E121", 1, 1, "this is a recipe of a training", "recipe run")]),
        (
            f"{START}endpoint: &a {{ollama: m}}\n{ROWS}\n",
            [("E117", 4, 11, "anchors are not allowed", "remove &a")],
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    text: str, expected: list[tuple[str, int, int, str, str]], tmp_path: Path
) -> None:
    found = said(write(tmp_path, text))
    assert len(found) >= len(expected)
    for (code, line, column, message, hint), wanted in zip(found, expected, strict=False):
        assert (code, line, column) == wanted[:3], found
        assert message.startswith(wanted[3]), message
        assert hint.startswith(wanted[4]), hint


@pytest.mark.parametrize(
    ("bad", "lines"),
    [(10, "10 rows: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)"),
     (13, "13 rows: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 3 more)")],
)  # fmt: skip
def test_bad_seed_rows_beyond_the_first_ten_are_counted(
    bad: int, lines: str, tmp_path: Path
) -> None:
    path = write(tmp_path, f"{START}endpoint: {{ollama: m}}\n{ROWS}\n")
    seed = (tmp_path / "seeds.jsonl").read_text()
    (tmp_path / "seeds.jsonl").write_text("x\n" * bad + seed)
    found = said(path)
    assert [code for code, *_ in found] == ["E911"]
    assert found[0][3].startswith("seeds.jsonl:1: ")
    assert found[0][3].endswith(lines)


def test_reasons_beyond_the_first_ten_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, f"{START}endpoint: {{ollama: m}}\n{ROWS}\n")
    bad = "".join(f'{{"instruction": "Q", {" " * number}x\n' for number in range(13))
    (tmp_path / "seeds.jsonl").write_text(bad)
    found = [message for *_, message, _ in said(path)]
    assert (len(found), "seeds.jsonl: 3 more rows cannot be used" in found) == (11, True)


def test_only_rows_that_inspect_finds_too_are_laid_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "syn").mkdir()
    turns = [["user", "assistant"], ["assistant"], ["assistant"], ["unknown"]]
    rows = [{"messages": [{"role": role, "content": "x"} for role in each]} for each in turns]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "data" / "msgs.jsonl").write_text(text)
    rows_of = "rows: [{path: ../data/msgs.jsonl, format: messages}]\n"
    path = write(tmp_path / "syn", f"{START}endpoint: {{ollama: m}}\n{rows_of}")
    (tmp_path / "syn" / ".git").rename(tmp_path / ".git")
    hints = {message: hint for *_, message, hint in said(path)}
    (both,) = [message for message in hints if "(2 rows: 2, 3)" in message]
    assert "does not begin with a question and its answer" in both
    assert "inspect" not in hints.pop(both)
    ((message, hint),) = hints.items()
    assert message.startswith("../data/msgs.jsonl:4: ")
    words = shlex.split(hint.removesuffix(" shows what is wrong"))
    assert ".." not in words[3]
    assert main(words[1:]) == 1
    assert "msgs.jsonl:4: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "place", ["key: {}", "api: 'https://{}@h/v1'", "api: 'https://h/v1?key={}'"]
)
def test_a_key_that_stands_in_the_file_is_not_repeated(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "sk-plantedKeyThatNobodyMaySee0123456789"
    other = "api: 'http://h'" if place.startswith("key") else "key: KEY"
    endpoint = f"{{model: m, {other}, {place.format(key)}}}"
    path = write(tmp_path, f"{START}endpoint: {endpoint}\n{ROWS}\n")
    assert main(["data", "synthesize", str(path), "--check"]) == 2
    err = capsys.readouterr().err
    assert "[E107]" in err
    assert "planted" not in err


@pytest.mark.parametrize(
    "lines",
    [
        "key: planted-key",
        "key: 'planted key'",
        "key: 12planted34",
        "key:\n    planted-key",
        "key: >-\n    planted-key",
        'key: "planted',  # no YAML
        "key: [planted}",
        "key: planted: key",
        "api_key: planted-key",
        "api: https://planted:planted@h/v1?planted=planted",
    ],
)
@pytest.mark.parametrize("form", REPORTERS)
def test_no_format_and_no_line_shows_what_stands_at_a_key(
    form: str, lines: str, tmp_path: Path
) -> None:
    path = write(tmp_path, f"{START}{ROWS}\nendpoint:\n  model: m\n  {lines}\n")
    with pytest.raises(RecipeInvalid) as caught:
        read_settings(path)
    shown = REPORTERS[form](caught.value.diagnostics)
    assert "s.yaml" in shown
    assert "planted" not in shown


@pytest.mark.parametrize("value", ["1234567", "[1234567]", "12.34567", "true"])
@pytest.mark.parametrize("key", ["key", "api"])
def test_a_key_that_is_no_text_is_not_repeated(key: str, value: str, tmp_path: Path) -> None:
    other = "api: 'http://h'" if key == "key" else "key: KEY"
    path = write(tmp_path, f"{START}{ROWS}\nendpoint: {{model: m, {other}, {key}: {value}}}\n")
    ((code, *_, message, hint),) = said(path)
    assert (code, message.startswith(f"endpoint.{key} must be ")) == ("E104", True)
    assert value not in message + hint


def test_the_name_of_a_variable_is_shown(tmp_path: Path) -> None:
    path = write(
        tmp_path, f"{START}{ROWS}\nendpoint: {{api: 'https://h', modle: m, key: MY_KEY}}\n"
    )
    with pytest.raises(RecipeInvalid) as caught:
        read_settings(path)
    assert "modle: m, key: MY_KEY}" in REPORTERS["text"](caught.value.diagnostics)


def test_a_run_says_which_command_makes_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, EXAMPLE.read_text())
    (tmp_path / "x.yaml").write_text("base_model: a\nsequence_len: 8\nmicro_batch_size: 1\n")
    folder = tmp_path.name
    monkeypatch.chdir(tmp_path.parent)
    hints = []
    for name in (path.name, "x.yaml"):
        (only,) = check_recipe(Path(folder, name))[1]
        assert only.code == "E121"
        hints.append(only.hint)
    assert hints == [
        f"make them: recipe data synthesize {folder}/s.yaml -o rows.jsonl",
        f"make a recipe of them: recipe new --from {folder}/x.yaml",
    ]


# --- documents


def test_documents_are_cut_between_paragraphs_and_nothing_is_lost() -> None:
    paragraphs = [f"Paragraph {number} " + "word " * number for number in range(40)]
    text = "\n\n".join(each.strip() for each in paragraphs)
    parts = list(cut(text, "t.md", 400))
    assert "\n\n".join(part.text for part in parts) == text
    assert all(len(part.text) <= 400 for part in parts)
    lines = text.split("\n")
    for part in parts:
        name, _, line = part.place.partition(":")
        assert (name, lines[int(line) - 1]) == ("t.md", part.text.split("\n")[0])


def test_a_long_paragraph_is_cut_behind_a_sentence_else_a_word_else_anywhere() -> None:
    sentences = "One sentence is here. " * 30
    assert {part.text[-1] for part in cut(sentences, "t", 200)} == {"."}
    words = list(cut("word " * 200, "t", 203))
    assert all(part.text.split(" ")[-1] == "word" for part in words)
    assert [len(part.text) for part in cut("x" * 500, "t", 200)] == [200, 200, 100]


def test_a_heading_begins_a_part_once_the_part_before_is_half_full() -> None:
    text = f"# A\n\n{'a ' * 60}\n\n# B\n\n{'b ' * 60}"
    assert [part.text[:3] for part in cut(text, "t", 200)] == ["# A", "# B"]
    assert len(list(cut(text, "t", 1000))) == 1


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a\0b", b"  \n\n"])
def test_a_document_that_is_no_text_is_an_error(content: bytes, tmp_path: Path) -> None:
    text = "synthesis: 1\nkind: question-answer\ncount: 1\nendpoint: {ollama: m}\n"
    path = write(tmp_path, text + "documents: [text.md]\n")
    (tmp_path / "text.md").write_bytes(content)
    assert [each[:3] for each in said(path)] == [("E910", 5, 13)]


DOCUMENTS = "documents: [text.md]"


@pytest.mark.parametrize(
    ("kind", "sources", "most", "words"),
    [
        ("paraphrase", ROWS, 1, "1 seed rows with variants: 1"),
        ("paraphrase", f"{ROWS}\nvariants: 4", 4, "1 seed rows with variants: 4"),
        ("critique", f"{ROWS}\nrounds: 3", 1, "1 seed rows"),
        (
            "preference",
            f"{ROWS}\n{DOCUMENTS}\nrounds: 2",
            3,
            "1 seed rows and 1 parts of documents",
        ),
        (
            "question-answer",
            f"{DOCUMENTS}\nper_chunk: 5\nrounds: 2",
            10,
            "rounds: 2 and per_chunk: 5",
        ),
    ],
)
def test_more_rows_than_there_can_be_are_a_warning_at_the_count(
    kind: str,
    sources: str,
    most: int,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for count, warned in ((most, False), (most + 1, True)):
        text = f"synthesis: 1\nkind: {kind}\ncount: {count}\nendpoint: {{ollama: m}}\n{sources}\n"
        path = write(tmp_path, text)
        assert main(["data", "synthesize", str(path), "--check"]) == 0
        err = capsys.readouterr().err
        assert (f"s.yaml:3:8: warning[W900]: at most {most} rows can come of " in err) is warned
        assert (words in err) is warned
        assert (f"hint: lower count to {most}, " in err) is warned


def test_a_kind_whose_rows_only_the_model_can_end_is_not_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"synthesis: 1\nkind: self-instruct\ncount: 100000\nendpoint: {{ollama: m}}\n{ROWS}\n"
    assert main(["data", "synthesize", str(write(tmp_path, text)), "--check"]) == 0
    assert capsys.readouterr().err == ""


def test_every_kind_is_counted_by_its_settings_or_not_at_all() -> None:
    assert set(_TIMES) == set(KINDS) - {"self-instruct"}
