"""``pipeline check-proof``: every proof of a folder replayed, and held against the report that they were written with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.audit.findings import Findings
from pipeline.checker.proof import Checked, arrays_of, check, manifest
from pipeline.errors import Contradiction, UsageError
from pipeline.results import Result, Samples, Verdict, read, read_samples
from pipeline.system.regular_file import open_regular

if TYPE_CHECKING:
    from pipeline.data import Dataset

APART = "the folder of proofs and the report do not belong together. Certify again."


@dataclass(frozen=True)
class Unproved:
    """A sample that a report certifies up to ``eps``, and of which there is no proof at that eps."""

    index: int
    label: int
    eps: str
    proof: None = None


def check_proof(
    model: Path,
    folder: Path,
    *,
    report: Path | None = None,
    data: str | Dataset | None = None,
    download: bool = False,
) -> Iterator[Checked | Unproved]:
    """What came of each proof. Raises InputRejected (3) for what the checker cannot read, UsageError (2) for no file.

    With a ``report``, its certified samples without a proof come last, and it raises Contradiction (5) where the proofs are not
    those whose digest it states, or are about another model, arithmetic, sample, label or eps than it certifies; with the
    ``data`` too, where the samples are not theirs.
    """
    try:
        with open_regular(model) as file:
            content = file.read()
    except OSError as error:
        raise UsageError(
            f"No model {str(model)!r}: {error.strerror}. Name the ONNX file that was certified."
        ) from error
    if data is not None and report is None:
        raise UsageError("--data are compared as a report has selected them; name it with --report.")
    unproved: list[Unproved] = []
    if report is not None:
        result, (contents, sha256) = read(report).result, manifest(folder)
        stored = (
            None if result.samples is None else (report if report.is_dir() else report.parent) / result.samples.file
        )
        samples = None if stored is None or result.samples is None else read_samples(stored, result.samples)
        _require_same(result, samples, contents, sha256)
        if data is not None and samples is not None:
            _require_pixels(result, samples, contents, folder, data, download)
        unproved = [] if samples is None else without_proof(samples, contents["about"])
    yield from check(content, folder)
    yield from unproved


def without_proof(samples: Samples, proofs: list[Checked]) -> list[Unproved]:
    """A proof at some eps covers every smaller one: the largest at which a sample is certified must be proved."""
    proved = {(one.index, one.eps) for one in proofs}
    certified, found = samples.verdict == Verdict.CERTIFIED, []
    for row in np.flatnonzero(certified.any(0)):
        index, levels = int(samples.index[row]), np.flatnonzero(certified[:, row])
        if (index, eps := samples.eps[levels[-1]]) not in proved:
            found.append(Unproved(index, int(samples.label[row]), eps))
    return found


def _require_same(result: Result, samples: Samples | None, contents: dict[str, Any], sha256: str) -> None:
    certified_at: dict[int, set[tuple[int, str]]] = {}
    for level in range(0 if samples is None else len(samples.eps)):
        assert samples is not None
        for row in np.flatnonzero(samples.verdict[level] == Verdict.CERTIFIED):
            certified_at.setdefault(int(samples.index[row]), set()).add((int(samples.label[row]), samples.eps[level]))
    strange = [one for one in contents["about"] if (one.label, one.eps) not in certified_at.get(one.index, ())]
    for wrong, what in (
        (result.proofs is None, "the report states no proofs"),
        (result.proofs is not None and result.proofs.sha256 != sha256, "the report states the digest of other proofs"),
        (result.model.sha256 != contents["model_sha256"], "the report is about another model"),
        (result.method.arithmetic != contents["arithmetic"], "the report is about another arithmetic"),
        (list(result.threat.range) != contents["range"], "the report is about another range of pixels"),
        (result.threat.norm != "linf" or result.threat.features is not None, "the report is about another region"),
        (
            _normalisation(result) != [part.ravel().tolist() for part in contents["normalise"]],
            "the report normalises otherwise",
        ),
        (strange, "a proof is about a sample, label or eps that the report does not certify"),
    ):
        if wrong:
            raise Contradiction(f"{what}; {APART}")


def _normalisation(result: Result) -> list[list[float]]:
    """Mean and deviation in float32, where a report says that the deployment applies them before the file."""
    stated = (result.preprocessing.mean, result.preprocessing.std)
    return [np.array(part, np.float32).tolist() for part in stated if part is not None]


def _require_pixels(
    result: Result, samples: Samples, contents: dict[str, Any], folder: Path, data: str | Dataset, download: bool
) -> None:
    from pipeline.commands.reopen import pixels_of

    found = Findings()
    pixels = pixels_of(result, samples, data, None, download, found)
    if pixels is None:
        raise Contradiction(" ".join(found.faults))
    rows = {int(index): row for row, index in enumerate(samples.index)}
    for about, entry in zip(contents["about"], contents["samples"], strict=True):
        try:
            stored = arrays_of(folder, about, entry)["x"]
        except Exception:  # the replay says of it what is wrong
            continue
        if not np.array_equal(stored.ravel(), pixels[rows[about.index]].ravel()):
            raise Contradiction(
                f"the proof of sample {about.index} is about other pixels than those of the data; {APART}"
            )
