"""``pipeline verify``: checks a report against its digest, its files, its model and its data."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.audit.audit import audit
from pipeline.audit.findings import Findings
from pipeline.commands.events import Note
from pipeline.errors import UsageError
from pipeline.progress import Progress
from pipeline.results.write import parse

if TYPE_CHECKING:
    from pipeline.data import Dataset

NOT_SIGNED = "digests say that nothing was changed, not who made it: sign report.json for that"


def verify(
    report: Path,
    *,
    model: Path | None = None,
    data: str | Dataset | None = None,
    property_file: Path | None = None,
    recheck: int | None = None,
    seed: int | None = None,
    layout: str | None = None,
    download: bool = False,
) -> Iterator[Note | Progress | Findings]:
    """Check a report against its files, model and data, and certify ``recheck`` samples again; the last event is ``Findings``.

    The samples to certify again are drawn at random, or by ``seed`` to repeat a draw. Raises UsageError (2) for options that do
    not apply to the report, InputRejected (3) for files that cannot be read.
    """
    if seed is not None and (recheck is None or seed < 0):
        raise UsageError("--seed repeats a draw of --recheck, and is a whole number from 0.")
    text, raw = parse(report)
    if raw.get("kind") == "property":
        if data is not None:
            raise UsageError("--data is about samples; this report is about a property: name --property.")
        if recheck is not None and (model is None or property_file is None or recheck < 1):
            raise UsageError("--recheck decides a property again, at least once, and needs --model and --property.")
        from pipeline.commands.verify_property import verify_property

        yield from verify_property(
            report, text, raw, model=model, property_file=property_file, recheck=recheck is not None
        )
        return
    if property_file is not None:
        raise UsageError("--property belongs to the report of a property; this one is about samples: name --data.")
    if recheck is not None and (model is None or data is None or recheck < 1):
        raise UsageError("--recheck N proves N samples again, at least one, and needs --model and --data.")
    findings = Findings()
    folder = report if report.is_dir() else report.parent
    audited, samples, points = audit(folder, text, raw, findings)
    if audited is None or samples is None or findings.faults:
        findings.skip("the model, the data and the proofs: the report itself is broken")
        yield findings
        return
    result = audited.result
    pixels = subject = None
    if data is None:
        findings.skip("the data: name them with --data")
    if model is None:
        findings.skip("the model: name it with --model")
    if data is not None or model is not None:
        # Imported here, since nothing before needs tensors or a runtime.
        from pipeline.commands.reopen import pixels_of, subject_of
        from pipeline.commands.verify_samples import check_points

        pixels = None if data is None else pixels_of(result, samples, data, layout, download, findings)
        subject = None if model is None else subject_of(result, model, findings)
        if points is not None:
            check_points(result, samples, points, pixels, subject, findings)
    if points is not None and pixels is None:
        findings.skip("whether counterexamples lie in their balls: that takes --data")
    if points is not None and subject is None:
        findings.skip("the labels of counterexamples: that takes --model")
    if recheck is None or pixels is None or subject is None:
        findings.skip("the proofs: --recheck N with --model and --data makes N of them again")
    else:
        from pipeline.commands.verify_samples import recheck as prove_again

        yield from prove_again(
            audited, samples, pixels, subject, recheck, secrets.randbits(63) if seed is None else seed, findings
        )
    findings.skip("figures of parity, and warnings: they were measured while certifying")
    if result.training is not None:
        findings.skip("the training, and the accuracies of the file before it")
    if any(gate.baseline for gate in result.gates):
        findings.skip("the baseline that a gate compared with: `pipeline compare` reads both")
    findings.skip(f"report.html and other renderings of report.json; {NOT_SIGNED}")
    yield findings
