"""Types, fallbacks, the recommendation and its table, and what a recipe is warned of."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf as library
import pytest
from rich.console import Console

from runner.cli.main import main
from runner.execution.record import _measures
from runner.recipe.gguf_header import NotGgufError, read_matrices
from runner.recipe.load import check_recipe, load_recipe
from runner.recipe.schema import load_schema
from runner.report.gguf_table import quantisation_lines, quantisation_table
from runner.stages import gguf, imatrix, load_stage, stages_of
from runner.stages.contract import Class, FileEntry, Outputs
from runner.stages.export import perplexity
from runner.stages.export.gguf_types import FALLBACK, KINDS, Matrix, Tensor, fallback, fallen_back
from tests.gguf_files import write_gguf_of_model
from tests.tiny_model import write_tiny_model

DESCRIPTION = Path(__file__).parents[2] / "docs" / "quantisation.md"


def test_the_schema_has_the_types_of_the_table_and_the_page_explains_each() -> None:
    section = load_schema()["properties"]["gguf"]["properties"]
    assert section["quantize"]["items"]["enum"] == list(KINDS)
    page = DESCRIPTION.read_text(encoding="utf-8")
    table = page.split("## Types")[1].split("## ")[0]
    rows = [row for row in table.split("\n") if row.startswith("|")]
    for name, kind in KINDS.items():
        (row,) = [row for row in rows if name in row.split("|")[1].replace(",", " ").split()]
        words = {"unused": "not used", "helps": "helps", "needed": "needed"}
        assert words[kind.matrix.value] in row


def test_an_unquantised_type_fits_every_row() -> None:
    assert fallback("F16", 7) is None
    assert fallen_back("BF16", [Tensor("blk.0.ffn_up.weight", "BF16", 7, 8)]) == {}


@pytest.mark.parametrize(("wanted", "instead"), FALLBACK.items())
def test_a_fallback_has_blocks_of_32_and_is_not_smaller(wanted: str, instead: str) -> None:
    sizes = {
        kind.name: (block, bytes_ / block)
        for kind, (block, bytes_) in library.GGML_QUANT_SIZES.items()
    }
    assert sizes[wanted][0] == 256
    assert sizes[instead][0] == 32
    assert sizes[instead][1] > sizes[wanted][1]


def test_norms_and_fitting_rows_are_no_fallback() -> None:
    tensors = [
        Tensor("blk.0.attn_q.weight", "Q5_0", 576, 576),
        Tensor("blk.0.attn_v.weight", "Q8_0", 576, 192),
        Tensor("blk.0.ffn_down.weight", "Q4_K", 1536, 576),
        Tensor("blk.0.attn_norm.weight", "F32", 576, 1),
        Tensor("blk.0.attn_q_norm.weight", "F32", 576, 2),
        Tensor("blk.0.ffn_gate_inp.weight", "F32", 576, 8),
    ]
    assert fallen_back("Q4_K_M", tensors) == {"Q5_0": 1, "Q8_0": 1}
    found = gguf.fallback_of("Q4_K_M", tensors)
    assert found == {"to": {"Q5_0": 1, "Q8_0": 1}, "weights": 4, "row_lengths": [576]}


# --- what llama-perplexity prints


ROW = "   {n}      12.3456 ±    0.9000       0.01000 ±    0.00200       {kl} ±    0.00100    "
REST = " 1.234 ±  0.100 %    98.425 ±  0.500 %"


def rows(kl: str = "0.01234", count: int = 3) -> str:
    header = "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence\n"
    return header + "".join(ROW.format(n=n, kl=kl) + REST + "\n" for n in range(1, count + 1))


def test_the_last_row_is_what_counts() -> None:
    found = perplexity.last_distance(rows(), 3)
    assert found is not None
    assert (found.perplexity, found.kl_divergence) == (12.3456, 0.01234)
    assert found.same_top_token == pytest.approx(0.98425)


def test_a_divergence_below_zero_is_rounding() -> None:
    found = perplexity.last_distance(rows("-0.00002"), 3)
    assert found is not None
    assert found.kl_divergence == 0.0


@pytest.mark.parametrize("said", ["", rows(count=2), rows("nan"), rows("    inf")])
def test_what_did_not_get_to_the_end_is_no_result(said: str) -> None:
    assert perplexity.last_distance(said, 3) is None


class NoLogits:
    """A context whose llama-perplexity leaves a file that a full disk has cut short."""

    def __init__(self, folder: Path, content: bytes | None) -> None:
        self.scratch = self.log_folder = folder
        self._content = content
        self.measures: dict[str, Any] = {}

    def measure(self, name: str, value: Any) -> None:
        self.measures[name] = value

    def run_program(self, argv: list[str], **how: Any) -> str:
        if self._content is not None:
            (self.scratch / "logits.bin").write_bytes(self._content)
        return ""


@pytest.mark.parametrize("content", [None, b"", b"_logits_" + b"\0" * 2000])
def test_logits_that_are_not_whole_are_an_error(tmp_path: Path, content: bytes | None) -> None:
    protocol = perplexity.Protocol(tmp_path / "text", tmp_path / "ids", 32, 8)
    context: Any = NoLogits(tmp_path, content)
    with pytest.raises(perplexity.StageFailed, match="no result for the merged model") as caught:
        perplexity.keep_logits(protocol, tmp_path / "x.gguf", tmp_path, context)
    assert caught.value.code == "E543"
    assert context.measures == {"repeats_of_logits": 1}


PROGRAM = """\
#!/bin/sh
# Ends without its last chunk the first TIMES times.
echo run >> {place}/runs
[ $(wc -l < {place}/runs) -gt {times} ] && cat {place}/whole || cat {place}/part
"""


class Programs:
    """A context that runs programs and keeps measures."""

    def __init__(self, folder: Path) -> None:
        self.scratch = self.log_folder = folder
        self.measures: dict[str, Any] = {}

    def measure(self, name: str, value: Any) -> None:
        self.measures[name] = value

    def run_program(self, argv: list[str], *, log: str) -> str:
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def with_program(place: Path, times: int) -> Path:
    """The root of a llama.cpp whose llama-perplexity is whole only after `times` runs."""
    (place / "whole").write_text(rows())
    (place / "part").write_text(rows(count=2))
    program = place / "bin" / "llama-perplexity"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(place=place, times=times))
    program.chmod(0o755)
    return place


@pytest.mark.parametrize(("times", "measured"), [(0, {}), (1, {"repeats_of_distance-x": 1})])
def test_a_run_without_its_last_chunk_is_repeated_once_and_counted(
    tmp_path: Path, times: int, measured: dict[str, int]
) -> None:
    tool, context = with_program(tmp_path, times), Programs(tmp_path)
    protocol = perplexity.Protocol(tmp_path / "text", tmp_path / "ids", 32, 3)
    asked: Any = context
    found = perplexity.of_file(protocol, tmp_path / "x.gguf", tmp_path / "logits", tool, asked)
    assert found == perplexity.last_distance(rows(), 3)
    assert context.measures == measured
    assert (tmp_path / "runs").read_text().count("run") == times + 1


def test_a_run_that_is_twice_without_its_last_chunk_is_an_error(tmp_path: Path) -> None:
    tool, context = with_program(tmp_path, 2), Programs(tmp_path)
    protocol = perplexity.Protocol(tmp_path / "text", tmp_path / "ids", 32, 3)
    asked: Any = context
    with pytest.raises(perplexity.StageFailed, match=r"no result for x\.gguf") as caught:
        perplexity.of_file(protocol, tmp_path / "x.gguf", tmp_path / "logits", tool, asked)
    assert caught.value.code == "E543"
    assert (tmp_path / "runs").read_text().count("run") == perplexity.TRIES


# --- which to ship


def row(kind: str, size: int, kl: float, change: float = 0.01, **more: Any) -> dict[str, Any]:
    about = {
        "file": f"q-{kind}.gguf",
        "type": kind,
        "imatrix": False,
        "size": size,
        "perplexity": 10 * (1 + change),
        "perplexity_merged": 10.0,
        "perplexity_increase": change,
        "kl_divergence": kl,
        "same_top_token": 0.975,
        "tensors": {},
        "fallback": None,
    }
    return about | more


def limits(kl: float = 0.05, change: float = 0.05) -> Any:
    section = SimpleNamespace(max_kl_divergence=kl, max_perplexity_increase=change)
    return SimpleNamespace(gguf=section)


TABLE = [row("Q2_K", 300, 0.3), row("Q4_K_M", 450, 0.04), row("Q8_0", 800, 0.001)]


@pytest.mark.parametrize(
    ("asked", "ship"),
    [
        (limits(), "q-Q4_K_M.gguf"),
        (limits(kl=0.01), "q-Q8_0.gguf"),
        (limits(kl=0.5), "q-Q2_K.gguf"),
        (limits(kl=0.0001), None),
        (limits(change=0.001), None),
    ],
)
def test_the_smallest_file_within_both_limits_is_recommended(asked: Any, ship: str | None) -> None:
    assert gguf.to_ship(asked, TABLE) == ship
    assert gguf.to_ship(asked, reversed(TABLE)) == ship


def test_of_equally_small_files_the_nearer_one_is_recommended() -> None:
    table = [row("Q4_0", 450, 0.03), row("IQ4_NL", 450, 0.02)]
    assert gguf.to_ship(limits(), table) == "q-IQ4_NL.gguf"


def test_the_recommendation_is_in_the_record_by_the_limits_of_this_run() -> None:
    stored = Outputs("gguf", "key", Path("/store"), {}, {"files": TABLE})
    found = _measures(load_stage("gguf"), limits(kl=0.01), stored)
    assert found == {"files": TABLE, "ship": "q-Q8_0.gguf"}
    assert _measures(load_stage("merge"), limits(), stored) == {"files": TABLE}


def test_the_table_marks_the_file_to_ship() -> None:
    table = quantisation_table({"files": [*TABLE, row("IQ2_M", 290, 0.2, imatrix=True)],
                                "ship": "q-Q4_K_M.gguf"})  # fmt: skip
    stream = io.StringIO()
    Console(file=stream, width=120).print(table)
    lines = stream.getvalue().split("\n")
    marked = [line for line in lines if "ship" in line]
    assert len(marked) == 1
    for part in ("Q4_K_M", "10.100", "+1.00%", "0.0400", "97.5%"):
        assert part in marked[0]
    assert any("IQ2_M (imatrix)" in line for line in lines)
    assert quantisation_table({}) is None


def test_the_lines_say_where_a_type_fell_back_and_by_which_limits_one_ships() -> None:
    fallen = {"to": {"Q5_0": 11, "Q8_0": 2}, "weights": 15, "row_lengths": [576]}
    files = [row("Q4_K_M", 450, 0.04, fallback=fallen)]
    by = {"max_kl_divergence": 0.05, "max_perplexity_increase": 0.05}
    said = quantisation_lines({"files": files, "ship": "q-Q4_K_M.gguf"}, by)
    assert said == [
        "asked Q4_K_M: 13 of 15 weights fell back, 11 to Q5_0 and 2 to Q8_0 "
        "(rows of 576 values are no multiple of 256)",
        "ship              q-Q4_K_M.gguf: the smallest within KL divergence up to 0.05 and "
        "perplexity up to +5.0%",
    ]
    assert said[0] in DESCRIPTION.read_text(encoding="utf-8")
    (none,) = quantisation_lines({"files": TABLE, "ship": None}, by)
    assert none.startswith("ship              none: no file is within KL divergence up to 0.05")
    assert quantisation_lines({}, {}) == []


# --- keys


def gguf_recipe(tmp_path: Path, section: str) -> Any:
    (tmp_path / ".git").mkdir(exist_ok=True)
    model = tmp_path / "model"
    if not model.exists():
        write_tiny_model(model)
        (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * 3)
    path = tmp_path / "r.yaml"
    path.write_text(
        "schema: 1\nname: r\nmodel: {path: model}\n"
        "data:\n  train: [{path: rows.jsonl, format: alpaca}]\n"
        "train: {adapter: {type: lora}, max_steps: 1}\nmerge: {}\n"
        f"gguf: {section}\n"
    )
    return load_recipe(path)


def outputs(stage: str, *paths: str, cls: Class = Class.PORTABLE) -> Outputs:
    files = {path: FileEntry(path, 1, "a" * 64, cls) for path in paths}
    return Outputs(stage, "key", Path("/store"), files)


UPSTREAM = {
    "merge": outputs("merge", "model/config.json"),
    "prepare": outputs("prepare", "validation.txt", "prompts.jsonl", "train.tokens.safetensors"),
    "imatrix": outputs("imatrix", "imatrix.gguf", cls=Class.PLATFORM),
}


def test_without_a_matrix_neither_stage_nor_key_know_of_it(tmp_path: Path) -> None:
    plain = gguf_recipe(tmp_path, "{quantize: [Q8_0]}")
    assert [stage.NAME for stage in stages_of(plain)][-2:] == ["merge", "gguf"]
    key = gguf.key_inputs(plain, UPSTREAM)
    assert set(key) == {
        "name", "dtype", "quantize", "max_perplexity_increase", "model", "validation", "prompts",
    }  # fmt: skip
    other = gguf_recipe(tmp_path, "{quantize: [Q8_0], max_kl_divergence: 0.5}")
    assert gguf.key_inputs(other, UPSTREAM) == key


def test_the_bytes_of_the_matrix_are_in_the_key_and_its_settings_in_its_own(tmp_path: Path) -> None:
    asked = gguf_recipe(tmp_path, "{quantize: [IQ2_XS], imatrix: {}}")
    assert [stage.NAME for stage in stages_of(asked)][-3:] == ["merge", "imatrix", "gguf"]
    assert gguf.key_inputs(asked, UPSTREAM)["imatrix"]
    key = imatrix.key_inputs(asked, UPSTREAM)
    fewer = gguf_recipe(tmp_path, "{quantize: [IQ2_XS], imatrix: {chunks: 9}}")
    assert gguf.key_inputs(fewer, UPSTREAM) == gguf.key_inputs(asked, UPSTREAM)
    assert imatrix.key_inputs(fewer, UPSTREAM) == key | {"chunks": 9}
    more = gguf_recipe(tmp_path, "{quantize: [IQ2_XS, Q8_0], imatrix: {}}")
    assert imatrix.key_inputs(more, UPSTREAM) == key


@pytest.mark.parametrize(
    ("tokens", "chunks", "cut"),
    [
        (50, 128, (32, 1)),
        (300, 128, (32, 9)),
        (4096, 128, (512, 8)),
        (10**6, 128, (512, 128)),
        (5000, 8, (512, 8)),
    ],
)
def test_a_text_is_cut_into_the_largest_chunks_that_are_enough(
    tokens: int, chunks: int, cut: tuple[int, int]
) -> None:
    assert imatrix.cut(tokens, chunks) == cut


# --- what is known before a run


def test_the_widths_of_a_gguf_are_read_from_its_header(tmp_path: Path) -> None:
    file = write_gguf_of_model(write_tiny_model(tmp_path / "m"), tmp_path / "m.gguf")
    theirs = {
        tensor.name: int(tensor.shape[0])
        for tensor in library.GGUFReader(file).tensors
        if len(tensor.shape) > 1
    }
    assert read_matrices(file) == theirs
    assert len(theirs) == 15


@pytest.mark.parametrize("cut", [0, 3, 20, 200, 3000])
def test_a_damaged_header_is_an_error_and_nothing_else(tmp_path: Path, cut: int) -> None:
    file = write_gguf_of_model(write_tiny_model(tmp_path / "m"), tmp_path / "m.gguf")
    whole = file.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:cut])
    with pytest.raises(NotGgufError):
        read_matrices(tmp_path / "cut.gguf")


def test_no_flipped_byte_of_a_header_does_more_than_be_refused(tmp_path: Path) -> None:
    file = write_gguf_of_model(write_tiny_model(tmp_path / "m"), tmp_path / "m.gguf")
    whole = bytearray(file.read_bytes())
    refused = 0
    for place in [*range(24), *range(24, 6000, 37)]:
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        file.write_bytes(damaged)
        try:
            read_matrices(file)
        except NotGgufError:
            refused += 1
    assert refused > 24


def test_the_widths_of_a_gguf_are_warned_of(tmp_path: Path) -> None:
    gguf_recipe(tmp_path, "{quantize: [Q8_0]}")
    write_gguf_of_model(tmp_path / "model", tmp_path / "model" / "m.gguf")
    path = tmp_path / "r.yaml"
    text = path.read_text().replace("{path: model}", "{path: model, file: m.gguf}")
    path.write_text(text.replace("[Q8_0]", "[Q8_0, IQ4_XS, Q4_0, F16]"))
    _, (found,) = check_recipe(path)
    assert found.code == "W213"
    assert found.message == (
        "IQ4_XS packs 256 values of a row, and token_embd, ffn_gate, ffn_up, attn_k, attn_output, "
        "attn_q, attn_v, ffn_down (rows of 64 or 128) become IQ4_NL or wider"
    )


@pytest.mark.parametrize(
    ("config", "warned"),
    [
        ({"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32}, None),
        ({"hidden_size": 4096, "intermediate_size": 11000, "num_attention_heads": 32}, "ffn_down"),
        ({"text_config": {"hidden_size": 1152}}, "token_embd"),
        ({"hidden_size": 512, "num_attention_heads": 6, "head_dim": 64}, "attn_output"),
        ({"hidden_size": "512"}, None),
        ([], None),
    ],
)
def test_the_widths_of_a_config_are_warned_of(
    tmp_path: Path, config: Any, warned: str | None
) -> None:
    gguf_recipe(tmp_path, "{quantize: [Q6_K]}")
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    _, found = check_recipe(tmp_path / "r.yaml")
    assert [each.code for each in found] == (["W213"] if warned else [])
    if warned:
        assert f"and {warned}" in found[0].message


def test_plan_tells_the_warnings_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf_recipe(tmp_path, "{quantize: [Q4_K_M]}")
    monkeypatch.setenv("SPARK_RECIPES_CACHE", str(tmp_path / "cache"))
    assert main(("plan", str(tmp_path / "r.yaml"))) == 0
    said = capsys.readouterr()
    assert "warning[W213]: Q4_K_M packs 256" in said.err
    assert said.out.startswith("fetch ")
    assert "W213" not in said.out


def test_every_type_that_needs_a_matrix_is_refused_without_one(tmp_path: Path) -> None:
    needing = [name for name, kind in KINDS.items() if kind.matrix is Matrix.NEEDED]
    gguf_recipe(tmp_path, "{quantize: [Q8_0]}")
    path = tmp_path / "r.yaml"
    path.write_text(path.read_text().replace("[Q8_0]", f"[{', '.join(needing)}, Q2_K]"))
    recipe, found = check_recipe(path)
    assert recipe is None
    assert [each.message.split()[0] for each in found if each.code == "E234"] == needing
