"""``pipeline check-proof``: every proof of a folder replayed, and held against the report that they were written with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.checker.proof import Checked, check, manifest
from pipeline.errors import Contradiction, UsageError
from pipeline.results import Report, Verdict, read, read_samples
from pipeline.system.regular_file import open_regular


def check_proof(model: Path, folder: Path, *, report: Path | None = None) -> Iterator[Checked]:
    """What came of each proof. Raises InputRejected (3) for what the checker cannot read, UsageError (2) for no file.

    With a ``report``, raises Contradiction (5) where the proofs are not those whose digest it states, or are about another model,
    arithmetic, sample, label or eps than it certifies.
    """
    try:
        with open_regular(model) as file:
            content = file.read()
    except OSError as error:
        raise UsageError(
            f"No model {str(model)!r}: {error.strerror}. Name the ONNX file that was certified."
        ) from error
    if report is not None:
        _agrees(read(report), report if report.is_dir() else report.parent, *manifest(folder))
    yield from check(content, folder)


def _agrees(report: Report, folder: Path, told: dict[str, Any], sha256: str) -> None:
    result = report.result
    samples = None if result.samples is None else read_samples(folder / result.samples.file, result.samples)
    said: dict[int, tuple[int, str]] = {}
    for level in range(0 if samples is None else len(samples.eps)):
        assert samples is not None
        for row in (samples.verdict[level] == Verdict.CERTIFIED).nonzero()[0]:
            said[int(samples.index[row])] = (int(samples.label[row]), samples.eps[level])
    proved = {entry["index"]: (entry["label"], entry["eps"]) for entry in told["samples"]}
    for wrong, what in (
        (result.proofs is None, "the report states no proofs"),
        (result.proofs is not None and result.proofs.sha256 != sha256, "the report states the digest of other proofs"),
        (result.model.sha256 != told["model_sha256"], "the report is about another model"),
        (result.method.arithmetic != told["arithmetic"], "the report is about another arithmetic"),
        (list(result.threat.range) != told["range"], "the report is about another range of pixels"),
        (
            not proved.items() <= said.items(),
            "a proof is about a sample, label or eps that the report does not certify",
        ),
    ):
        if wrong:
            raise Contradiction(f"{what}; the folder of proofs and the report do not belong together. Certify again.")
