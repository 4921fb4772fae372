"""What `recipe attest` writes: valid by the formats' own libraries, complete, always the same."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from packageurl import PackageURL

from runner.attest.check import compare, read_attestation
from runner.attest.finished import finished
from runner.attest.formats import FORMATS, text_of
from runner.attest.packages import read_packages
from runner.cli.main import main
from runner.errors import LockStale, NotReproduced, UsageError
from runner.store.store import Store
from tests.finished_runs import COMMIT, MODELS, change_record, write_finished_run

BOTH = pytest.mark.parametrize("kind", list(FORMATS))
ALL_MODELS = pytest.mark.parametrize("model", list(MODELS))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARK_RECIPES_STORE", str(tmp_path / "store"))
    return write_finished_run(tmp_path / "project")


def written(run: Path, kind: str, *, times: bool = False) -> bytes:
    about = finished(run, Store(run.parents[3] / "store"))
    return text_of(FORMATS[kind].document(about, times=times))


def data_of(run: Path, kind: str, **options: bool) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(written(run, kind, **options))
    return found


# --- by the formats' own libraries


def read_statement(text: bytes) -> tuple[Statement, Any]:
    """Parsed by the generated code of the published protocol buffers: an unknown field fails."""
    statement = Statement.copy_from_pb(json_format.Parse(text, statement_pb2.Statement()))
    statement.validate()
    predicate = json_format.MessageToDict(statement.pb.predicate)
    return statement, json_format.ParseDict(predicate, Provenance())


@ALL_MODELS
@pytest.mark.parametrize("times", [False, True])
def test_the_statement_is_in_totos_and_slsas(tmp_path: Path, model: str, times: bool) -> None:
    run = write_finished_run(tmp_path / "project", model)
    statement, provenance = read_statement(written(run, "intoto", times=times))
    assert statement.pb.predicate_type == "https://slsa.dev/provenance/v1"
    assert provenance.run_details.builder.id.startswith("urn:")
    assert provenance.build_definition.build_type.startswith("urn:")
    assert provenance.run_details.HasField("metadata") == times
    for each in provenance.build_definition.resolved_dependencies:
        ResourceDescriptor.copy_from_pb(each).validate()
        assert each.uri or each.digest, each.name


def test_the_statements_reader_notices_what_is_not_of_the_format(run: Path) -> None:
    """The control."""
    data = data_of(run, "intoto")
    for change in ({"subjects": []}, {"subject": []}, {"subject": [{"name": "x"}]}):
        with pytest.raises((json_format.ParseError, ValueError)):
            read_statement(json.dumps(data | change).encode())
    data["predicate"]["runDetails"]["host"] = "x"
    with pytest.raises(json_format.ParseError):
        read_statement(json.dumps(data).encode())


@ALL_MODELS
@pytest.mark.parametrize("times", [False, True])
def test_the_bill_is_cyclonedxs(tmp_path: Path, model: str, times: bool) -> None:
    text = written(write_finished_run(tmp_path / "project", model), "cyclonedx", times=times)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.decode()) is None
    newer = text.decode().replace('"specVersion": "1.6"', '"specVersion": "1.7"')
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(newer) is None


def test_the_bills_reader_notices_what_is_not_of_the_format(run: Path) -> None:
    """The control."""
    bill = data_of(run, "cyclonedx")
    bill["metadata"]["component"]["modelCard"]["modelParameters"]["approach"]["type"] = "guessing"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is not None


def components(bill: dict[str, Any]) -> list[dict[str, Any]]:
    """Every component of a bill, however deep."""
    found: list[dict[str, Any]] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "type" in value and "bom-ref" in value:
                found.append(value)
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(bill)
    return found


@ALL_MODELS
def test_references_of_a_bill_are_unique_and_lead_somewhere(tmp_path: Path, model: str) -> None:
    bill = data_of(write_finished_run(tmp_path / "project", model), "cyclonedx")
    names = [each["bom-ref"] for each in components(bill)]
    assert len(names) == len(set(names))
    (needs,) = bill["dependencies"]
    assert {needs["ref"], *needs["dependsOn"]} <= set(names)
    card = bill["metadata"]["component"]["modelCard"]["modelParameters"]
    assert {each["ref"] for each in card["datasets"]} <= set(names)
    purls = [each["purl"] for each in components(bill) if "purl" in each]
    assert [PackageURL.from_string(purl).to_string() for purl in purls] == purls


# --- what is in them


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_subjects_are_the_runs_files(run: Path) -> None:
    subjects = {each["name"]: each["digest"] for each in data_of(run, "intoto")["subject"]}
    assert list(subjects) == [
        "adapter/adapter_model.safetensors",
        "evaluation/answers.jsonl",
        "merged/model/model.safetensors",
        "prepared/train.tokens.safetensors",
        "trace.jsonl",
    ]
    for name, digest in subjects.items():
        assert digest == {"sha256": sha256(run / name)}


def dependencies(statement: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    return {each["name"]: each for each in found}


def test_the_dependencies_are_what_the_lock_pins_under_the_recipes_names(run: Path) -> None:
    found = dependencies(data_of(run, "intoto"))
    project = run.parents[2]
    for name in ("base/config.json", "base/model.safetensors", "rows.jsonl"):
        assert found[name]["digest"] == {"sha256": sha256(project / name)}
    assert found["acme/rows/data/train.jsonl"]["digest"]["gitCommit"] == COMMIT
    assert found["acme/rows/data/train.jsonl"]["uri"] == (
        f"hf://datasets/acme/rows@{COMMIT}/data/train.jsonl"
    )
    assert {name for name in found if name.startswith("fetch/")} == {
        "fetch/model/config.json",
        "fetch/model/model.safetensors",
    }
    used = {"data", "native", "evaluate", "export"}
    assert {n for n in found if n.startswith("environments/")} == {
        f"environments/{role}.txt" for role in used
    }


@pytest.mark.parametrize(
    ("model", "name", "uri", "digest"),
    [
        ("hub", "acme/tiny", f"pkg:huggingface/acme/tiny@{COMMIT}", {"gitCommit": COMMIT}),
        ("wheel", "acme-tiny", "pkg:pypi/acme-tiny@1.2", {"sha256": "a" * 64}),
    ],
)
def test_where_the_base_model_came_from(
    tmp_path: Path, model: str, name: str, uri: str, digest: dict[str, str]
) -> None:
    run = write_finished_run(tmp_path / "project", model)
    found = dependencies(data_of(run, "intoto"))[name]
    assert (found["uri"], found["digest"]) == (uri, digest)
    (base,) = data_of(run, "cyclonedx")["metadata"]["component"]["pedigree"]["ancestors"]
    assert (base["name"], base["purl"]) == (name, uri)


def test_tools_are_named_with_what_pins_them(tmp_path: Path) -> None:
    run = write_finished_run(tmp_path / "project")
    text = (run / "recipe.lock.yaml").read_text()
    pin = "tools:\n  llama.cpp: {version: 0.3.36, sha256: " + "b" * 64 + "}\n"
    assert "tools: {}\n" in text
    (run / "recipe.lock.yaml").write_text(text.replace("tools: {}\n", pin))
    found = dependencies(data_of(run, "intoto"))["llama.cpp"]
    assert found["annotations"] == {"kind": "tool", "identity": "b" * 64}
    (tool,) = [c for c in components(data_of(run, "cyclonedx")) if c["bom-ref"] == "tool:llama.cpp"]
    assert (tool["version"], tool["purl"]) == ("0.3.36", "pkg:generic/llama.cpp@0.3.36")
    read_statement(written(run, "intoto"))


def test_the_card_has_the_model_its_data_and_what_was_measured(run: Path) -> None:
    model = data_of(run, "cyclonedx")["metadata"]["component"]
    card = model["modelCard"]
    assert (model["name"], model["description"]) == ("x", "Tells tales.")
    assert model["version"] == sha256(run / "manifest.json")
    assert card["modelParameters"]["modelArchitecture"] == "LlamaForCausalLM"
    assert [each["ref"] for each in card["modelParameters"]["datasets"]] == [
        "data:rows.jsonl",
        "data:acme/rows/data/train.jsonl",
    ]
    # No memory and no speed; a score of zero is a score.
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [
        {"type": "loss_base", "value": "4.25"},
        {"type": "loss_tuned", "value": "2.5"},
        {"type": "score_tuned", "value": "0"},
    ]


def test_every_package_has_the_hashes_of_its_lock_and_its_environments(run: Path) -> None:
    found = {c["name"]: c for c in data_of(run, "cyclonedx")["components"] if "purl" in c}
    numpy = found["numpy"]
    lock = (Path(__file__).parents[2] / "environments" / "native.txt").read_text()
    entry = lock[lock.index(f"\nnumpy=={numpy['version']} ") :].split("    # via", 1)[0]
    assert len(numpy["hashes"]) > 10
    assert all(f"--hash=sha256:{each['content']}" in entry for each in numpy["hashes"])
    assert [each["value"] for each in numpy["properties"]] == [
        "data", "evaluate", "export", "native"
    ]  # fmt: skip
    assert {"torch", "transformers", "peft", "trl"} <= set(found)


LOCK = """# comment
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:{a} \\
    --hash=sha256:{b}
    # via a test
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:{c}
extras[one,two]==1.0+local \\
    --hash=sha256:{c}
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:{c}
"""


@pytest.mark.parametrize(("python", "numpy"), [("3.11.7", "2.4.6"), ("3.12.0", "2.5.5")])
def test_only_the_packages_that_the_machine_had(python: str, numpy: str) -> None:
    text = LOCK.format(a="a" * 64, b="b" * 64, c="c" * 64)
    found = list(read_packages(text, {"python_full_version": python, "sys_platform": "linux"}))
    assert [(each.name, each.version) for each in found] == [
        ("numpy", numpy),
        ("extras", "1.0+local"),
    ]
    assert found[0].hashes == (("a" * 64, "b" * 64) if numpy == "2.4.6" else ("c" * 64,))


def test_what_a_base_image_supplied_has_no_hash_of_the_lock(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    record["environments"]["native"] = "another identity: a base with torch of its own"
    change_record(run, environments=record["environments"], platform={
        **record["platform"], "torch": "2.14.0a0+nv25.11"})  # fmt: skip
    found = data_of(run, "cyclonedx")["components"]
    torches = {c["version"]: c for c in found if c["name"] == "torch"}
    assert torches["2.14.0a0+nv25.11"]["hashes"] == []
    assert PackageURL.from_string(torches["2.14.0a0+nv25.11"]["purl"]).version == "2.14.0a0+nv25.11"
    assert [p["value"] for p in torches["2.13.0"]["properties"]] == ["evaluate", "export"]
    text = written(run, "cyclonedx").decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


# --- the same every time


@BOTH
def test_neither_clock_nor_host_nor_path_is_in_them(run: Path, kind: str) -> None:
    before = written(run, kind)
    for secret in (b"secret-host", str(run.parents[2]).encode(), b"2026-01-01", b"20260101"):
        assert secret not in before
    change_record(run, id="other", started="2027-02-03T00:00:00+00:00",
                  ended="2027-02-03T01:00:00+00:00", recipe_file="/elsewhere/x.yaml")  # fmt: skip
    assert written(run, kind) == before
    elsewhere = run.parents[2].with_name("moved")
    shutil.copytree(run.parents[2], elsewhere)
    assert written(elsewhere / "runs" / "x" / "1", kind) == before


def test_times_are_told_on_request(run: Path) -> None:
    details = data_of(run, "intoto", times=True)["predicate"]["runDetails"]
    assert details["metadata"] == {
        "invocationId": "20260101-120000",
        "startedOn": "2026-01-01T12:00:00Z",
        "finishedOn": "2026-01-01T12:30:00Z",
    }
    bill = data_of(run, "cyclonedx", times=True)
    assert bill["metadata"]["timestamp"] == "2026-01-01T12:30:00Z"


def test_a_run_that_ended_early_says_so(run: Path) -> None:
    assert "until" not in data_of(run, "intoto")["predicate"]["buildDefinition"][
        "externalParameters"]  # fmt: skip
    change_record(run, until="merge")
    parameters = data_of(run, "intoto")["predicate"]["buildDefinition"]["externalParameters"]
    assert parameters["until"] == "merge"


@BOTH
def test_nothing_is_written_into_the_run(run: Path, kind: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    written(run, kind)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


# --- what cannot be attested


def test_a_damaged_file_is_named_and_nothing_is_stated(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "trace.jsonl").write_text("train: trace.jsonL")
    assert main(["attest", str(run)]) == 7
    out, err = capsys.readouterr()
    assert out == ""
    assert "error[E841]" in err
    assert f"{run / 'trace.jsonl'} has sha256" in err


def test_another_lock_than_the_manifests_is_noticed(run: Path) -> None:
    lock = run / "recipe.lock.yaml"
    digest = json.loads((run / "manifest.json").read_text())["stages"]["fetch"][
        "model/config.json"]["sha256"]  # fmt: skip
    lock.write_text(lock.read_text().replace(digest, "f" * 64))
    with pytest.raises(NotReproduced, match="pins another base model") as caught:
        written(run, "intoto")
    assert caught.value.code == "E841"


def only_inputs(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"] = {"fetch": manifest["stages"]["fetch"]}
    (run / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda run: change_record(run, shrink={"/model": 1}), "shrunken twin"),
        (lambda run: (run / "recipe.lock.yaml").unlink(), "it has no recipe.lock.yaml"),
        (lambda run: (run / "recipe.lock.yaml").write_text("lock: ["), "is damaged"),
        (lambda run: (run / "recipe.lock.yaml").write_text("lock: 1"), "is damaged"),
        (only_inputs, "it made nothing"),
    ],
)
def test_some_runs_cannot_be_attested(run: Path, change: Callable[[Path], Any], why: str) -> None:
    change(run)
    with pytest.raises(UsageError, match=why) as caught:
        written(run, "intoto")
    assert caught.value.code == "E840"


def test_an_unfinished_run_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "manifest.json").unlink()
    assert main(["attest", str(run)]) == 2
    assert "error[E701]" in capsys.readouterr().err


def test_packages_of_another_lock_are_not_guessed(run: Path) -> None:
    lock = run / "recipe.lock.yaml"
    text = lock.read_text()
    at = text.index("  native: ") + len("  native: ")
    lock.write_text(text[:at] + "f" * 64 + text[at + 64 :])
    assert "environments/native.txt" in written(run, "intoto").decode()
    with pytest.raises(LockStale, match="is not the one that the run was made with") as caught:
        written(run, "cyclonedx")
    assert (caught.value.code, caught.value.exit_code) == ("E842", 5)


# --- checked again


def check(run: Path, file: Path) -> None:
    compare(read_attestation(file, None), finished(run, Store(run.parents[3] / "store")), file)


@BOTH
@pytest.mark.parametrize("times", [False, True])
def test_what_was_written_is_about_the_run(
    run: Path, tmp_path: Path, kind: str, times: bool
) -> None:
    (tmp_path / "a.json").write_bytes(written(run, kind, times=times))
    check(run, tmp_path / "a.json")


@BOTH
def test_one_changed_digest_is_named(run: Path, tmp_path: Path, kind: str) -> None:
    digest = sha256(run / "trace.jsonl")
    text = written(run, kind).decode()
    assert digest in text
    (tmp_path / "a.json").write_text(text.replace(digest, "0" * 64))
    with pytest.raises(NotReproduced) as caught:
        check(run, tmp_path / "a.json")
    assert caught.value.code == "E847"
    (entry,) = caught.value.entries
    assert "trace.jsonl" in entry


def test_one_subject_less_is_one_line(run: Path, tmp_path: Path) -> None:
    data = data_of(run, "intoto")
    del data["subject"][0]
    (tmp_path / "a.json").write_bytes(text_of(data))
    with pytest.raises(NotReproduced) as caught:
        check(run, tmp_path / "a.json")
    (entry,) = caught.value.entries
    assert entry.startswith("subject.adapter/adapter_model.safetensors: (none)")


def test_the_same_data_in_other_bytes_is_not_the_same(run: Path, tmp_path: Path) -> None:
    """A second `subject` that a reader may take for the first."""
    text = written(run, "intoto").decode()
    (tmp_path / "a.json").write_text('{\n  "subject": [],' + text[1:])
    with pytest.raises(NotReproduced, match="written with other bytes"):
        check(run, tmp_path / "a.json")


def test_many_differences_are_counted(run: Path, tmp_path: Path) -> None:
    data = data_of(run, "cyclonedx")
    for component in data["components"]:
        component["name"] += "x"
    (tmp_path / "a.json").write_bytes(text_of(data))
    with pytest.raises(NotReproduced) as caught:
        check(run, tmp_path / "a.json")
    assert len(caught.value.entries) == 21
    assert caught.value.entries[-1] == f"and {len(data['components']) - 20} more"


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b"{}", b'{"_type": "https://in-toto.io/Statement/v1"}', b"\xff", b"[" * 100_000,
     b'{"predicate": 1, "metadata": 2}'],
)  # fmt: skip
def test_what_is_no_attestation_is_told(run: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UsageError, match="is no attestation of a run") as caught:
        check(run, tmp_path / "a.json")
    assert caught.value.code == "E846"


@BOTH
@pytest.mark.parametrize("part", [1, None, [], {"runDetails": 2}])
def test_an_attestation_with_odd_parts_is_another_one(
    run: Path, tmp_path: Path, kind: str, part: Any
) -> None:
    data = data_of(run, kind) | {"predicate": part, "metadata": part}
    (tmp_path / "a.json").write_bytes(text_of(data))
    with pytest.raises(NotReproduced):
        check(run, tmp_path / "a.json")


def test_a_missing_file_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        check(run, tmp_path / "none.json")


# --- the command


@BOTH
def test_the_command_prints_writes_and_checks(
    run: Path, tmp_path: Path, kind: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    file = tmp_path / "a.json"
    assert main(["attest", str(run.parent.parent / "x" / "1"), "--format", kind]) == 0
    printed = capfdbinary.readouterr().out
    assert printed == written(run, kind)
    assert main(["attest", str(run), "--format", kind, "--output", str(file)]) == 0
    assert capfdbinary.readouterr().out == b""
    assert file.read_bytes() == printed
    assert main(["attest", str(run), "--check", str(file)]) == 0
    said = capfdbinary.readouterr().out.decode()
    assert "5 files of the run are as recorded and as attested" in said
    assert "signature   none" in said


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--output", "none/a.json"], "E845"),
        (["--output", "RUN/a.json"], "E845"),
        (["--output", "RUN"], "E845"),
        (["--check", "a.json", "--format", "intoto"], "E002"),
        (["--check", "a.json", "--times"], "E002"),
        (["--public-key", "a.pem"], "E002"),
        (["--check", "a.json"], "E846"),
    ],
)
def test_wrong_command_lines(
    run: Path,
    tmp_path: Path,
    options: list[str],
    code: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["attest", str(run), *(each.replace("RUN", str(run)) for each in options)]) == 2
    said = capsys.readouterr().err
    assert f"error[{code}]" in said
    assert "next: " in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_signature_that_is_asked_for_must_be_there(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(written(run, "intoto"))
    assert main(["attest", str(run), "--check", str(file), "--public-key", "any.pem"]) == 7
    assert "error[E848]" in capsys.readouterr().err
    file.write_text('{"payload": "", "payloadType": "x", "signatures": []}')
    assert main(["attest", str(run), "--check", str(file)]) == 2
    assert "error[E849]" in capsys.readouterr().err
