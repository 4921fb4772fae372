"""A real run states what it made and from what: by both formats, twice the same, and checkable."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from tests.chain import Checkout


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, make_tiny: Callable[[Path], Checkout]
) -> Checkout:
    """The tiny recipe, run once."""
    checkout = make_tiny(tmp_path_factory.mktemp("attested"))
    result = checkout.recipe("run", "tiny.yaml")
    assert result.returncode == 0, result.stderr
    return checkout


def attest(checkout: Checkout, *options: str) -> str:
    result = checkout.recipe("attest", "runs/tiny", *options)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_both_formats_are_read_by_their_own_libraries(finished: Checkout) -> None:
    statement = Statement.copy_from_pb(
        json_format.Parse(attest(finished), statement_pb2.Statement())
    )
    statement.validate()
    json_format.ParseDict(json_format.MessageToDict(statement.pb.predicate), Provenance())
    bill = attest(finished, "--format", "cyclonedx")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None


def test_the_subjects_are_what_sha256sum_finds_in_the_runs_folder(finished: Checkout) -> None:
    data: dict[str, Any] = json.loads(attest(finished))
    names = [each["name"] for each in data["subject"]]
    folder = finished.folder / "runs" / "tiny" / "latest"
    found = subprocess.run(
        ["sha256sum", *names], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    stated = "".join(f"{each['digest']['sha256']}  {each['name']}\n" for each in data["subject"])
    assert found == stated
    assert "merged/model/model.safetensors" in names
    inputs = data["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"rows.jsonl", "model/model.safetensors", "environments/native.txt"} <= {
        each["name"] for each in inputs
    }


def test_the_card_has_what_the_evaluation_found(finished: Checkout) -> None:
    bill = json.loads(attest(finished, "--format", "cyclonedx"))
    card = bill["metadata"]["component"]["modelCard"]
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    assert {"loss_base", "loss_tuned"} <= {each["type"] for each in metrics}
    assert card["modelParameters"]["modelArchitecture"] == "LlamaForCausalLM"
    packages = {each["name"]: each for each in bill["components"] if each["type"] == "library"}
    python = finished.env["SPARK_RECIPES_CACHE"]
    assert packages["torch"]["version"] in attest(finished)  # part of the platform
    record = json.loads((finished.folder / "runs/tiny/latest/run.json").read_text())
    identity = record["environments"]["native"]
    (site,) = Path(python, "environments", f"native-{identity[:16]}").glob("lib/*/site-packages")
    installed = {path.name.split("-")[0].lower() for path in site.glob("*.dist-info")}
    native = {
        name.replace("-", "_").replace(".", "_")
        for name, each in packages.items()
        if {"name": "spark-recipes:environment", "value": "native"} in each["properties"]
    }
    assert {name.replace(".", "_") for name in installed} == native


def test_another_run_of_the_same_recipe_states_the_same(
    finished: Checkout, tmp_path: Path, make_tiny: Callable[[Path], Checkout]
) -> None:
    """In another checkout, with another store and home, at another time."""
    other = make_tiny(tmp_path)
    assert other.recipe("run", "tiny.yaml").returncode == 0
    for style in ("intoto", "cyclonedx"):
        assert attest(other, "--format", style) == attest(finished, "--format", style)
    assert attest(other, "--times") != attest(finished, "--times")


def test_a_changed_file_of_the_run_is_named(finished: Checkout, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    attest(finished, "--output", str(file))
    assert "none" in attest(finished, "--check", str(file))
    run = tmp_path / "run"
    shutil.copytree((finished.folder / "runs" / "tiny" / "latest").resolve(), run)
    weights = run / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    result = finished.recipe("attest", str(run), "--check", str(file))
    assert result.returncode == 7
    assert f"{weights} has sha256" in result.stderr
