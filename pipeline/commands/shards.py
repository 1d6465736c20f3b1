"""Opens the reports of a run's shards: each is checked against its own files, and all against each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import results as reports
from pipeline.audit.audit import audit, differing
from pipeline.audit.findings import Findings
from pipeline.commands import reopen
from pipeline.errors import Contradiction, Incomplete, InputRejected
from pipeline.results.write import parse

FOUND = {
    *("levels", "per_class", "samples", "counterexamples", "largest_eps"),
    *("gates", "verdict", "partial", "parity", "warnings", "shard"),
}
"""The fields of a result about its own samples; all others are about the run, and are the same in every shard."""


@dataclass(frozen=True, eq=False)
class ShardReport:
    """The report of one shard, checked against its own files."""

    path: Path
    report: reports.Report
    samples: reports.Samples
    shard: reports.Shard

    @property
    def result(self) -> reports.Result:
        return self.report.result


def open_shard(path: Path) -> ShardReport:
    """The report of a shard. Raises Contradiction (5) where its files contradict it, InputRejected (3) for other reports."""
    text, raw = parse(path)
    if raw.get("kind") != "certification" or not isinstance(raw.get("result"), dict) or not raw["result"].get("shard"):
        raise InputRejected(
            f"merge takes reports of shards; {str(path)!r} is of something else, or of a whole run. Certify with --shard I/N."
        )
    findings = Findings()
    report, samples, points = audit(path if path.is_dir() else path.parent, text, raw, findings)
    if findings.faults or report is None or samples is None or report.result.shard is None:
        raise Contradiction(
            f"{path}: {(findings.faults or ['it is no report of a shard.'])[0]} Certify that shard again."
        )
    shard = report.result.shard
    if not np.array_equal(samples.index, reopen.selected(report.result)):
        raise Contradiction(f"{path}: its samples are not those of shard {shard} of its run. Certify that shard again.")
    return ShardReport(path, report, replace(samples, counterexamples=points), shard)


def require_one_run(parts: Sequence[ShardReport]) -> None:
    """Raise InputRejected (3) or Incomplete (4), naming a shard, unless these are all shards of one run, each once."""
    first = parts[0]
    for part in parts[1:]:
        if other := _other_run(first, part):
            raise InputRejected(
                f"Shards are of one run; {part.path} differs from {first.path} in {other}. Certify all with the same command but "
                "for --shard."
            )
    for one, two in itertools.pairwise(parts):
        if one.shard.number == two.shard.number:
            raise InputRejected(
                f"Every shard is merged once; {one.path} and {two.path} are both shard {one.shard}. Leave one out."
            )
    there = {part.shard.number for part in parts}
    if missing := [str(number) for number in range(1, first.shard.of + 1) if number not in there]:
        some = ", ".join(missing[:20]) + (", ..." if len(missing) > 20 else "")
        raise Incomplete(
            f"A run is whole with all of its {first.shard.of} shards; {len(missing)} are missing: {some}. Certify them with "
            f"--shard I/{first.shard.of}, and merge again."
        )


def _other_run(first: ShardReport, part: ShardReport) -> str:
    """The first field in which two shards show different runs, with both values; empty where there is none."""
    one, two = (_of_run(p) for p in (first, part))
    for where, a, b in differing(one, two, ""):
        return f"{where.lstrip('.')}: {b} and {a}"
    return ""


def _of_run(part: ShardReport) -> dict[str, Any]:
    """The fields of a shard about its run; the digest of everything that verdicts depend on comes last."""
    result, host = part.result.model_dump(mode="json", exclude=FOUND), part.report.run.host
    del result["data"]["n_evaluated"]
    shard = part.shard.model_dump(mode="json", exclude={"number", "blind", "run_sha256"})
    versions = {name: host.get(name) for name in ("torch", "numpy", "onnxruntime")}
    return {
        "model": result.pop("model"),
        "data": result.pop("data"),
        "tool": result.pop("tool"),
        "versions": versions,
        **{f"of {name}": value for name, value in sorted(result.items())},
        **{f"shard {name}": value for name, value in sorted(shard.items())},
        "the digest of settings, program and device": part.shard.run_sha256,
    }
