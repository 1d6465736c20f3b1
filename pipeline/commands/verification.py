"""``pipeline verify``: whether a report is what it was, says what its files say, and holds of the model and the data."""

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

ALONE = "digests say that nothing was changed, not who made it: sign report.json for that"


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
    """Check a report against itself, its model, its data, and by proving some samples again; the last event is ``Findings``.

    Which samples are proved again is drawn by chance, or by ``seed``, to repeat a draw. Raises UsageError (2) for options that
    do not belong to the report, InputRejected (3) for what cannot be read.
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
    found = Findings()
    folder = report if report.is_dir() else report.parent
    made, samples, points = audit(folder, text, raw, found)
    if made is None or samples is None or found.faults:
        found.skip("the model, the data and the proofs: the report itself is broken")
        yield found
        return
    result = made.result
    pixels = subject = None
    if data is None:
        found.skip("the data: name them with --data")
    if model is None:
        found.skip("the model: name it with --model")
    if data is not None or model is not None:
        # Only here are tensors and a runtime needed.
        from pipeline.commands.reopen import pixels_of, subject_of
        from pipeline.commands.verify_samples import check_points

        pixels = None if data is None else pixels_of(result, samples, data, layout, download, found)
        subject = None if model is None else subject_of(result, model, found)
        if points is not None:
            check_points(result, samples, points, pixels, subject, found)
    if points is not None and pixels is None:
        found.skip("whether counterexamples lie in their balls: that takes --data")
    if points is not None and subject is None:
        found.skip("whether counterexamples are any: that takes --model")
    if recheck is None or pixels is None or subject is None:
        found.skip("the proofs: --recheck N with --model and --data makes N of them again")
    else:
        from pipeline.commands.verify_samples import recheck as prove_again

        yield from prove_again(
            made, samples, pixels, subject, recheck, secrets.randbits(63) if seed is None else seed, found
        )
    found.skip("figures of parity, and warnings: they were taken while certifying")
    if result.training is not None:
        found.skip("how it was trained, and what the file was worth before")
    if any(gate.baseline for gate in result.gates):
        found.skip("the baseline that a gate compared with: `pipeline compare` reads both")
    found.skip(f"report.html and whatever else was rendered from report.json; {ALONE}")
    yield found
