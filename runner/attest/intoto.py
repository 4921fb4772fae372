"""A run as an in-toto Statement v1 with the SLSA provenance v1 predicate.

Subjects are the artifacts by their paths in the run's folder. Without `times` equal runs of one
recipe on one platform give the same statement, byte for byte.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, https://slsa.dev/spec/v1.1/provenance
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner.attest.inputs import inputs_of

if TYPE_CHECKING:
    from runner.attest.finished import Finished
    from runner.attest.inputs import Input

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
MARKS = {"_type": STATEMENT, "predicateType": PREDICATE}
# Names, not addresses; docs/reproducibility.md says what they stand for.
BUILD_TYPE = "urn:spark-recipes:run:1"
BUILDER = "urn:spark-recipes:own-machine"


def document(about: Finished, *, times: bool) -> dict[str, Any]:
    """The statement as JSON data. `times` adds the run's id and when it began and ended."""
    record = about.run.record
    external = {"recipe": record["resolved"]}
    if until := record["until"]:
        external["until"] = until
    details: dict[str, Any] = {
        "builder": {"id": BUILDER, "version": {"spark-recipes": record["runner"]}},
        "byproducts": [
            {"name": "manifest.json", "digest": {"sha256": str(record["manifest_sha256"])}}
        ],
    }
    if times:
        details["metadata"] = {
            "invocationId": record["id"],
            "startedOn": about.clock("started"),
            "finishedOn": about.clock("ended"),
        }
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": path, "digest": {"sha256": facts["sha256"]}}
            for path, facts in about.artifacts().items()
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": external,
                "internalParameters": {
                    "platform": record["platform"],
                    "stages": about.lock["stages"],
                },
                "resolvedDependencies": [_descriptor(each) for each in inputs_of(about)],
            },
            "runDetails": details,
        },
    }


def has_times(document: Mapping[str, Any]) -> bool:
    """Does a statement of ours say when the run was? Any JSON object is taken."""
    found: Any = document
    for name in ("predicate", "runDetails"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return isinstance(found, Mapping) and "metadata" in found


def _descriptor(item: Input) -> dict[str, Any]:
    """An in-toto ResourceDescriptor; what an input lacks is left out."""
    found: dict[str, Any] = {"name": item.name}
    if item.uri:
        found["uri"] = item.uri
    if item.digests:
        found["digest"] = dict(item.digests)
    found["annotations"] = {"kind": item.kind}
    if item.identity:
        found["annotations"]["identity"] = item.identity
    return found
