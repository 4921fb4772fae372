"""A run as a CycloneDX 1.6 bill of materials: the tuned model with its card, base, data, packages.

The tuned model is the subject; the base model is its ancestor. Packages carry every hash that
their lock takes for them. No clock, and a serial number that is a function of the manifest.

https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runner.attest.inputs import environments_of, inputs_of
from runner.attest.packages import packages_of

if TYPE_CHECKING:
    from runner.attest.finished import Finished
    from runner.attest.inputs import Input
    from runner.attest.packages import Package

PAYLOAD_TYPE = "application/vnd.cyclonedx+json"
SPEC_VERSION = "1.6"
MARKS = {"bomFormat": "CycloneDX", "specVersion": SPEC_VERSION}
NAMESPACE = uuid.UUID("a3b1c7de-4f9b-5d0e-9a53-2c0f6e1d8b47")  # of our serial numbers
MODEL, BASE = "model", "base-model"  # references inside of the document
# What of the evaluation belongs into the card: results, not speeds or memory.
METRICS = (
    "loss_base",
    "loss_tuned",
    "perplexity_base",
    "perplexity_tuned",
    "questions",
    "score_base",
    "score_tuned",
    "preference_accuracy_base",
    "preference_accuracy_tuned",
    "preference_margin_change",
)


def document(about: Finished, *, times: bool) -> dict[str, Any]:
    """The bill as JSON data. `times` adds when the run ended. Raises LockStale (E842)."""
    inputs = inputs_of(about)
    data = [each for each in inputs if each.kind == "data"]
    libraries = _libraries(about)
    used = [
        *(_data(each) for each in data),
        *(_file(each) for each in inputs if each.kind == "file"),
        *libraries,
        *(_tool(each) for each in inputs if each.kind == "tool"),
    ]
    record = about.run.record
    metadata: dict[str, Any] = {"timestamp": about.clock("ended")} if times else {}
    metadata |= {
        "tools": {
            "components": [
                {"type": "application", "name": "spark-recipes", "version": record["runner"]}
            ]
        },
        "component": _model(about, inputs, data),
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, str(record['manifest_sha256']))}",
        "version": 1,
        "metadata": metadata,
        "components": used,
        "dependencies": [{"ref": MODEL, "dependsOn": sorted(each["bom-ref"] for each in used)}],
    }


def has_times(document: Mapping[str, Any]) -> bool:
    """Does a bill say when the run ended? Any JSON object is taken."""
    metadata = document.get("metadata")
    return isinstance(metadata, Mapping) and "timestamp" in metadata


def _model(about: Finished, inputs: list[Input], data: list[Input]) -> dict[str, Any]:
    """What the run made: the tuned model, its files below it."""
    resolved = about.run.record["resolved"]
    made: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": resolved["name"],
        "version": str(about.run.record["manifest_sha256"]),
    }
    if resolved.get("description"):
        made["description"] = resolved["description"]
    return {
        **made,
        "components": [
            {
                "type": "file",
                "bom-ref": f"made:{path}",
                "name": path,
                "hashes": [_hash(facts["sha256"])],
            }
            for path, facts in about.artifacts().items()
        ],
        "pedigree": {"ancestors": [_base(resolved["model"], inputs)]},
        "modelCard": _card(about, data),
        "properties": _properties(
            {
                "platform": about.run.record["platform"]["name"],
                "seed": resolved["seed"],
                **_training(resolved["train"]),
            }
        ),
    }


def _training(train: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: train[name] for name in ("backend", "method")}
    return {f"train.{name}": value for name, value in found.items()} | {
        "train.adapter.type": train["adapter"]["type"]
    }


def _base(model: Mapping[str, Any], inputs: list[Input]) -> dict[str, Any]:
    """The base model: where it came from, and every file of it as it was used."""
    sources = [each for each in inputs if each.kind == "source"]
    used = [each for each in inputs if each.kind == "model"]
    base: dict[str, Any] = {"type": "machine-learning-model", "bom-ref": BASE}
    if recipe := model.get("recipe"):
        base |= {"name": recipe["name"], "components": [_file(each) for each in used]}
        return {**base, "pedigree": {"ancestors": [_first_model(recipe["model"], sources)]}}
    if path := model.get("path"):
        return {**base, "name": path, "components": [_file(each) for each in [*sources, *used]]}
    (source,) = sources
    return {**base, **_published(source), "components": [_file(each) for each in used]}


def _first_model(model: Mapping[str, Any], sources: list[Input]) -> dict[str, Any]:
    """The model that the first recipe of a chain starts from; its files are in that one's run."""
    while recipe := model.get("recipe"):
        model = recipe["model"]
    first: dict[str, Any] = {"type": "machine-learning-model"}
    if path := model.get("path"):
        return {**first, "name": path, "components": [_file(each) for each in sources]}
    (source,) = sources
    return {**first, **_published(source)}


def _published(source: Input) -> dict[str, Any]:
    """A model of an index or the hub."""
    named = {"name": source.name, "version": source.version, "purl": source.uri}
    return {**named, **_hashes(source)}


def _card(about: Finished, data: list[Input]) -> dict[str, Any]:
    train, facts = about.run.record["resolved"]["train"], about.lock["facts"]
    parameters: dict[str, Any] = {
        "approach": {"type": _APPROACH.get(train["method"], "supervised")},
        "task": _TASK.get(train["method"], "text-generation"),
        "datasets": [{"ref": _reference(each)} for each in data],
        "inputs": [{"format": "text"}],
        "outputs": [{"format": "text"}],
    }
    if facts.get("model_type"):
        parameters["architectureFamily"] = facts["model_type"]
    if facts.get("architectures"):
        parameters["modelArchitecture"] = facts["architectures"][0]
    card: dict[str, Any] = {"modelParameters": parameters}
    if metrics := list(_metrics(about)):
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    return card


_APPROACH = {"ppo": "reinforcement-learning", "grpo": "reinforcement-learning"}
_TASK = {"reward": "text-classification"}


def _metrics(about: Finished) -> Iterator[dict[str, str]]:
    """What the stage `evaluate` found, on held-out rows and questions."""
    for stage in about.run.record["stages"]:
        if stage["name"] == "evaluate":
            measures = stage["measures"]
            yield from (
                {"type": name, "value": str(measures[name])}
                for name in METRICS
                if measures.get(name) is not None
            )


def _libraries(about: Finished) -> list[dict[str, Any]]:
    """Each package once, with the environments that have it."""
    roles: dict[Package, list[str]] = {}
    for role, digest in environments_of(about).items():
        for package in packages_of(about, role, digest):
            roles.setdefault(package, []).append(role)
    merged: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for package, names in roles.items():
        hashes, used = merged.setdefault((package.name, package.version), (set(), set()))
        hashes.update(package.hashes)
        used.update(names)
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version.replace('+', '%2B')}",
            "hashes": [_hash(each) for each in sorted(hashes)],
            "properties": [
                {"name": "spark-recipes:environment", "value": role} for role in sorted(used)
            ],
        }
        for (name, version), (hashes, used) in sorted(merged.items())
    ]


def _data(item: Input) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "data",
        "bom-ref": _reference(item),
        "name": item.name,
        **_hashes(item),
        "data": [{"type": "dataset", "name": item.name}],
    }
    if item.version:
        found["version"] = item.version
    if item.uri:
        found["data"][0]["contents"] = {"url": item.uri}
    return found


def _file(item: Input) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": _reference(item),
        "name": item.name,
        **_hashes(item),
    }


def _tool(item: Input) -> dict[str, Any]:
    return {
        "type": "application",
        "bom-ref": _reference(item),
        "name": item.name,
        "version": item.version,
        "purl": item.uri,
        "properties": _properties({"identity": item.identity}),
    }


def _reference(item: Input) -> str:
    return f"{item.kind}:{item.name}"


def _hashes(item: Input) -> dict[str, list[dict[str, str]]]:
    """The member `hashes`. A commit is no hash of a file: it stands in the version and the URL."""
    sha256 = item.digests.get("sha256")
    return {} if sha256 is None else {"hashes": [_hash(sha256)]}


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}


def _properties(values: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": f"spark-recipes:{name}", "value": str(v)} for name, v in values.items()]
