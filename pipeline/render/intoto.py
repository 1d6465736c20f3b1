"""A report as an in-toto statement: these tests were run on the model of this digest, with this outcome."""

from __future__ import annotations

import json
import shlex
from typing import Any

from pipeline.render.checks import checks
from pipeline.render.threat import sentence
from pipeline.results.result import Report
from pipeline.results.text import clean

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"


def statement(report: Report) -> str:
    """The statement, unsigned, as JSON in ASCII (in-toto Attestation Framework v1, predicate test-result v0.1).

    PASSED is said only of a whole report whose gates all passed; without a gate, or with samples left undecided, WARNED.
    """
    result, outcomes = report.result, checks(report)
    named = {
        state: [case.name for case in outcomes if case.state == state] for state in ("passed", "failed", "undecided")
    }
    failed = bool(named["failed"]) or result.verdict != "pass"
    unsure = result.partial or not result.gates
    files = ((result.model.file, result.model.sha256), *((f.name, f.sha256) for f in result.model.external_data))
    predicate: dict[str, Any] = {
        "result": "FAILED" if failed else "WARNED" if unsure else "PASSED",
        "configuration": [
            {
                "name": clean(result.data.uri),
                "digest": {"sha256": result.data.sha256},
                "annotations": {
                    "part": clean(result.data.part),
                    "samples": result.data.n_evaluated,
                    "norm": result.threat.norm,
                    **({"radii": sentence(result.threat)} if result.threat.features else {}),
                    "eps": [level.eps for level in result.levels],
                    "arithmetic": result.method.arithmetic,
                },
            }
        ],
        "passedTests": named["passed"],
        "warnedTests": [],
        "failedTests": named["failed"] + named["undecided"],
        "byproducts": [{"name": "result of report.json", "digest": {"sha256": report.result_sha256}}],
    }
    whole = {
        "_type": STATEMENT,
        "subject": [{"name": clean(name), "digest": {"sha256": sha256}} for name, sha256 in files],
        "predicateType": PREDICATE,
        "predicate": predicate,
    }
    return json.dumps(whole, indent=2) + "\n"


def signing(path: str) -> str:
    """The command that signs the statement at `path` as it stands (cosign 2.6 or newer)."""
    return f"cosign attest-blob --yes --statement {shlex.quote(path)} --bundle {shlex.quote(path + '.sigstore.json')}"
